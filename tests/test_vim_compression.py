"""Tokens leave Vim: both streams, in order, the class token followed wherever it goes."""

import copy
import math
import pickle

import pytest
import torch

from models import build
from repshift import (
    ClippedActivation,
    EncoderSpec,
    InputError,
    Merge,
    Plan,
    Random,
    Reverse,
    Shift,
    VidTLDR,
    compress,
)
from repshift.evaluation.models.vim import mixer as mixer_module
from repshift.evaluation.models.vim.adapter import describe
from repshift.scores import Score
from vim_models import CLASS_PLACE, TOKENS, overlapping, step_by_step, vim

SCHEDULE = {0: 0.25, 2: 3}
PRINTED, UPDATE = Shift("mixer"), Shift("mixer", definition="update")
aligned_or_not = pytest.mark.parametrize("aligned", [False, True], ids=["plain", "aligned"])


def images(batch=3):
    return torch.randn(batch, 3, 64, 64)


def activations(block, x, positions):
    seen = []
    hook = block.mixer.out_proj.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    block.mixer(block.norm(x), positions)
    hook.remove()
    return seen[0]


SCORES = {
    PRINTED: lambda block, hidden, residual, positions: (hidden - residual).norm(dim=-1),
    UPDATE: lambda block, hidden, residual, positions: hidden.norm(dim=-1),
    ClippedActivation(): lambda block, hidden, residual, positions: sum(
        channel.clamp(min=0) for channel in activations(block, residual, positions).unbind(-1)
    ),
}


def image_by_image(model, image, score, aligned, class_place):
    """The reference's pair (hidden, residual) written out; every removal takes from both."""
    seen = []
    first = model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    model(image[None])
    first.remove()
    residual, hidden = seen[0], torch.zeros_like(seen[0])
    places = list(range(model.pos_embed.shape[1]))
    for number, block in enumerate(model.layers):
        residual = residual + hidden
        positions = torch.tensor([places]) if aligned else None
        hidden = block.mixer(block.norm(residual), positions)
        amount = SCHEDULE.get(number, 0)
        drop = math.floor(amount * (len(places) - 1)) if isinstance(amount, float) else amount
        if drop:
            value = SCORES[score](block, hidden, residual, positions)[0].tolist()
            patches = [at for at, place in enumerate(places) if place != class_place]
            dropped = sorted(patches, key=lambda at: value[at])[:drop]
            stay = [at for at in range(len(places)) if at not in dropped]
            residual, hidden = residual[:, stay], hidden[:, stay]
            places = [places[at] for at in stay]
    tokens = model.norm_f(residual + hidden)
    return model.head(tokens[:, places.index(class_place)]), places


@aligned_or_not
@pytest.mark.parametrize("score", SCORES, ids=str)
@pytest.mark.parametrize(
    ("make", "class_place", "counts"),
    [(vim, CLASS_PLACE, [13, 13, 10, 10]), (overlapping, 24, [38, 38, 35, 35])],
)
def test_removal_equals_the_pair_written_out(make, class_place, counts, score, aligned):
    model, photos = make(torch.float64), images().double()
    with compress(model, Plan(SCHEDULE, score), describe(model, aligned)) as compression:
        logits = model(photos)
    for row, photo in enumerate(photos):
        expected, places = image_by_image(model, photo, score, aligned, class_place)
        assert compression.kept[row].tolist() == places
        torch.testing.assert_close(logits[row : row + 1], expected, atol=1e-12, rtol=1e-12)
    assert compression.counts == counts


class LowClass(Score):
    """The class token lowest in every image, then the first patches."""

    name = "low-class"

    def __call__(self, seen):
        scores = torch.arange(seen.tokens.shape[1]).repeat(len(seen.tokens), 1).float()
        return scores.masked_fill(scores == CLASS_PLACE, -1e9)


def test_the_class_token_stays_in_every_image_and_is_the_one_that_is_read():
    model, photos = vim(), images(4)
    with compress(model, Plan({0: 14}, LowClass())) as compression:
        tokens, logits = model.forward_features(photos), None
        assert compression.kept.tolist() == [[CLASS_PLACE, 15, 16]] * 4
        logits = model(photos)
    torch.testing.assert_close(logits, model.head(tokens[:, 0]))


@aligned_or_not
def test_a_plan_that_drops_nothing_leaves_the_output_bit_equal(aligned):
    model, photos = vim(), images()
    dense = model(photos)
    for drop in ({}, {0: 0.0}, {1: 0.9 / (TOKENS - 1)}):
        with compress(model, Plan(drop, PRINTED), describe(model, aligned)):
            assert torch.equal(model(photos), dense)
    assert torch.equal(model(photos), dense)


def across_gaps(values, gaps):
    """The scan over a sequence with ``gaps`` filled: the later token's step, nothing to take up."""
    x, delta, decay, write, read = values
    source = [at for at, gap in enumerate(gaps) for _ in range(gap + 1)]
    last = [at for at in range(len(source)) if source[at + 1 : at + 2] != [source[at]]]
    taken = torch.zeros_like(x[:, source])
    taken[:, last] = x
    filled = (taken, delta[:, source], decay, write[:, source], read[:, source])
    return step_by_step(*filled)[:, last]


def test_alignment_fades_the_state_as_if_silent_tokens_had_passed(monkeypatch):
    mixer, tokens = vim(torch.float64).layers[1].mixer, torch.randn(2, 6, 48, dtype=torch.float64)
    positions = torch.tensor([0, 1, 4, 5, 9, 16])
    aligned = mixer(tokens, positions[None])
    assert not torch.allclose(aligned, mixer(tokens), atol=1e-4)
    gaps = [[0, 0, 2, 0, 3, 6], [0, 6, 3, 0, 2, 0]]  # read forwards, and backwards
    monkeypatch.setattr(
        mixer_module, "selective_scan", lambda *values: across_gaps(values, gaps.pop(0))
    )
    torch.testing.assert_close(aligned, mixer(tokens), atol=1e-12, rtol=1e-12)


def test_an_image_does_not_depend_on_its_neighbours():
    model, photos = vim(), images(4)
    with compress(model, Plan(SCHEDULE, PRINTED)) as compression:
        together, kept = model(photos), compression.kept
        for row in range(4):
            torch.testing.assert_close(model(photos[row : row + 1])[0], together[row])
            assert torch.equal(compression.kept[0], kept[row])


def test_maps_go_back_to_the_full_sequence():
    model, photos = vim(), images()
    with compress(model, Plan(SCHEDULE, PRINTED)) as compression:
        tokens = model.forward_features(photos)
        dense = compression.restore(tokens)
    assert dense.shape == (3, TOKENS, 48)
    for row in range(3):
        assert torch.equal(dense[row, compression.kept[row]], tokens[row])
    # No patch that left is filled from the class token.
    left = [at for at in range(TOKENS) if at not in compression.kept[0].tolist()]
    place = compression.kept[0].tolist().index(CLASS_PLACE)
    assert not any(torch.equal(dense[0, at], tokens[0, place]) for at in left)


def test_copies_gradients_and_half_precision():
    model, photos = vim(), images()
    with compress(model, Plan(SCHEDULE, PRINTED), describe(model, aligned=True)):
        logits = model(photos)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(photos), logits)
        model.requires_grad_()
        model(photos).sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        half = model.bfloat16()(photos.bfloat16())
    assert half.dtype == torch.bfloat16
    assert half.isfinite().all()


def test_merging_keeps_the_class_token_pure():
    model, photos = vim(), images()
    with compress(model, Plan({1: 8}, PRINTED, Merge("plain"))) as compression:
        assert model(photos).isfinite().all()
    at = (compression.kept == CLASS_PLACE).int().argmax(1, keepdim=True)
    assert compression.sizes.gather(1, at).eq(1).all()
    assert compression.sizes.sum(1).eq(TOKENS).all()


@torch.no_grad()
def test_a_matching_leaves_the_order_in_which_the_scan_reads():
    model = vim()
    with compress(model, Plan({0: 4}, PRINTED, VidTLDR("plain"))) as compression:
        model(images())
    kept = compression.kept
    assert torch.equal(kept, kept.sort(dim=1).values)


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan({0: 1}), "Mamba blocks have neither; use the site mixer"),
        (Plan({0: 1}, Shift("attention")), "Mamba blocks have neither; use the site mixer"),
        (Plan.from_method("class-attention", {0: 1}), "called scaled_dot_product_attention 0 time"),
        (Plan.from_method("tome", {0: 1}), "use merge or prune"),
        (Plan({0: 1}, PRINTED, Merge()), 'or merge with attention="plain"'),
    ],
)
def test_what_needs_attention_is_refused(plan, message):
    model = vim()
    with pytest.raises(InputError, match=message), compress(model, plan):
        model(images())


@pytest.mark.parametrize("score", [PRINTED, ClippedActivation(), Reverse(ClippedActivation())])
def test_a_transformer_has_no_mixer(score):
    with pytest.raises(InputError, match="needs Mamba blocks, and those of this model are none"):
        compress(build("deit"), Plan({0: 1}, score))


def test_a_spec_counts_its_tokens_and_mixers():
    model = vim()
    blocks = list(model.layers)
    with pytest.raises(InputError, match="got 1 for 4 blocks"):
        EncoderSpec(blocks, [None] * 4, 0, mixers=[model.head])
    with pytest.raises(InputError, match="prefix_tokens is 0; expected 1 or more"):
        EncoderSpec(blocks, [None] * 4, 0, class_token=True)
    with (
        compress(model, Plan({0: 16}, Random())),
        pytest.raises(InputError, match="drops 16 of the 16 patch tokens"),
    ):
        model(images())


@pytest.mark.slow
def test_it_compiles_in_one_graph(plain):
    from repshift.evaluation.models.vim.model import VisionMamba
    from vim_models import SMALL, WEIGHTS

    model = VisionMamba(SMALL).eval()
    model.load_state_dict(WEIGHTS)
    photos = images()
    plan = plain.Plan(SCHEDULE, plain.Shift("mixer"))
    with torch.no_grad(), plain.compress(model, plan):
        expected = model(photos)
        compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(photos), expected)
