"""A budget per image: packed runs against runs image by image, rules against slow ones."""

import itertools
import json
import math
import pickle
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
import torchvision
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from models import FAMILIES, build, images
from repshift import (
    ClassAttention,
    ColumnAttention,
    InputError,
    KeyNorm,
    Level,
    Merge,
    Plan,
    Random,
    Redundancy,
    Reverse,
    Shift,
    ToMe,
    VidTLDR,
    adapt,
    compress,
    search_plan,
)
from repshift.reductions import Prune
from repshift.runtime.attention_kernels import (
    AttentionCall,
    varlen_attention,
    varlen_attention_kernel,
)
from repshift.scores import Snapshots
from repshift.sequence.levels import levels
from repshift.sequence.quota import Quota
from repshift.sequence.segments import Segments

# Those whose pooling takes the same number of tokens of every image.
REFUSED = ("siglip", "pe core")
SHARES = {0: 0.15, 2: 0.3}


def unlike(count, dtype=torch.float64, side=(40, 56)):
    """Photos of which more and more is black, so that they need fewer and fewer tokens."""
    photos = torch.randn(count, 3, *side, dtype=dtype)
    for number, photo in enumerate(photos):
        photo[:, :, : number * side[1] // (count + 1)] = 0
    return photos


def adaptive(score, drop=None):
    drop = drop or SHARES
    return Plan({block: Level(value) for block, value in drop.items()}, score)


def slow_levels(scores, comparable_across_images):
    """Row by row, as the docstring says it."""
    result = []
    for row in scores.tolist():
        finite = [(value, -place) for place, value in enumerate(row) if math.isfinite(value)]
        total = sum(value for value, _ in finite)
        level = list(row)
        for value, place in finite:
            held = sum(other[0] for other in finite if other <= (value, place))
            level[-place] = (
                value if comparable_across_images else held / total if total > 0 else 1.0
            )
        if finite:
            level[-max(finite)[1]] = math.inf
        result.append(level)
    return torch.tensor(result)


rows = st.lists(
    st.sampled_from([0.0, 0.25, 0.5, 1.0, 3.0, math.inf, -math.inf]), min_size=6, max_size=6
)


@given(st.lists(rows, min_size=1, max_size=4), st.booleans())
def test_levels_are_what_they_say(table, comparable_across_images):
    scores = torch.tensor(table)
    score = Redundancy() if comparable_across_images else Shift()
    torch.testing.assert_close(levels(scores, score), slow_levels(scores, comparable_across_images))


def test_levels_do_not_depend_on_padding():
    scores = torch.rand(3, 50)
    padded = F.pad(scores, (0, 13), value=-math.inf)
    assert torch.equal(levels(padded, Shift())[:, :50], levels(scores, Shift()))


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5))
def test_a_stream_is_undone_by_a_batch(lengths):
    segments = Segments.pack(torch.tensor(lengths))
    batch = torch.rand(len(lengths), max(lengths), 3)
    if len(lengths) > 1:
        batch[segments.padding] = 0
    stream = segments.stream(batch)
    assert torch.equal(
        stream[0], torch.cat([row[:n] for row, n in zip(batch, lengths, strict=True)])
    )
    assert torch.equal(segments.batch(stream), batch)
    if len(lengths) > 1:
        cu_seqlens = [sum(lengths[:n]) for n in range(len(lengths) + 1)]
        assert segments.cu_seqlens.tolist() == cu_seqlens


REDUCTIONS = [Prune(), Merge(), VidTLDR(), ToMe()]


@pytest.mark.parametrize("reduction", REDUCTIONS, ids=str)
@pytest.mark.parametrize("class_token", [True, False])
@given(st.integers(0, 99), st.lists(st.integers(3, 9), min_size=1, max_size=4), st.data())
def test_a_step_is_that_of_each_segment_alone(reduction, class_token, seed, lengths, data):
    """Whatever each drops: the same tokens kept, in the same order, merged into the same ones."""
    torch.manual_seed(seed)
    longest, count = max(lengths), len(lengths)
    padding = torch.arange(longest) >= torch.tensor(lengths)[:, None]
    tokens, keys = torch.randn(count, longest, 4), torch.randn(count, 2, longest, 4)
    tokens[padding] = 0
    most = [(n - 1) // 2 if reduction.at_most_half else n - 2 for n in lengths]
    each = [data.draw(st.integers(0, drop)) for drop in most]
    seen = Snapshots(
        0, 1, tokens, keys=keys, protected=padding, padding=padding, class_token=class_token
    )
    scores = seen.guard(torch.rand(tokens.shape[:2]))
    quota = Quota.ragged(torch.tensor(lengths), torch.tensor(each))
    step = reduction(seen.padded_to(quota.rows), quota.even(scores), quota.drop)
    step = replace(step, rows=longest)
    left, sizes = step.apply(tokens, None), step.share is not None and step.resize(None)
    for row, (length, drop) in enumerate(zip(lengths, each, strict=True)):
        alone = Snapshots(
            0, 1, tokens[row : row + 1, :length], keys=keys[row : row + 1, :, :length],
            class_token=class_token,
        )  # fmt: skip
        slow = reduction(alone, scores[row : row + 1, :length], drop)
        stays = length - drop
        assert torch.equal(step.map.kept[row, :stays], slow.kept[0])
        assert torch.equal(step.map.parent[row, :length], slow.map.parent[0])
        torch.testing.assert_close(left[row, :stays], slow.apply(alone.tokens, None)[0])
        if step.share is not None:
            torch.testing.assert_close(sizes[row, :stays], slow.resize(None)[0])


def test_what_is_nan_stays():
    tokens, scores = torch.randn(2, 6, 4), torch.rand(2, 6)
    scores[1, 3] = math.nan
    each = Level(0.9).reached(levels(scores, Shift()))
    quota = Quota.ragged(torch.tensor([6, 6]), each)
    seen = Snapshots(0, 0, tokens).padded_to(quota.rows)
    step = Prune()(seen, quota.even(scores), quota.drop)
    assert 3 in step.kept[1, : 6 - each[1]]


@pytest.mark.parametrize("family", FAMILIES)
def test_each_image_runs_as_it_does_alone(family):
    model, photos = build(family, torch.float64), unlike(4)
    fixed = Plan({0: 0.2, 2: 0.3}, Redundancy("block"))
    if family in REFUSED:
        with pytest.raises(InputError, match="level does not go with this model"):
            adapt(model, fixed, photos)
        return
    plan = adapt(model, fixed, photos)
    with compress(model, plan) as compression, torch.no_grad():
        together, features = model(photos), model.forward_features(photos)
        kept, lengths = compression.kept, compression.lengths.tolist()
        counts = compression.counts
        restored = compression.restore(features)
    assert len(set(lengths)) > 1
    assert counts[-1] == round(sum(lengths) / 4)
    for row in range(4):
        with compress(model, plan) as compression, torch.no_grad():
            alone = model(photos[row : row + 1])
            drops = [
                int(compression.lengths_after(block - 1)) - int(compression.lengths_after(block))
                for block in (1, 2)
            ]
            first = model.num_prefix_tokens + 35 - int(compression.lengths_after(0))
            own = compression.kept
        torch.testing.assert_close(together[row : row + 1], alone)
        assert torch.equal(kept[row, : lengths[row]], own[0])
        assert (kept[row, lengths[row] :] == -1).all()
        # The slow truth: the fixed plan that drops as many of this image.
        assert drops[0] == 0
        fixed = Plan({0: first, 2: drops[1]}, plan.score)
        with compress(model, fixed) as compression, torch.no_grad():
            torch.testing.assert_close(alone, model(photos[row : row + 1]))
            assert torch.equal(compression.kept, own)
            whole = compression.restore(model.forward_features(photos[row : row + 1]))
        torch.testing.assert_close(restored[row : row + 1], whole)


@pytest.mark.parametrize("score", [Redundancy("keys"), KeyNorm(), Random()], ids=str)
def test_an_image_does_not_depend_on_its_neighbours(score):
    model, photos = build("deit", img_size=(96, 96)), unlike(4, torch.float32, (96, 96))
    with compress(model, adaptive(score)) as compression, torch.no_grad():
        features, lengths = model.forward_features(photos), compression.lengths.tolist()
        for some in ([1, 3], [2, 0, 1]):
            fewer = model.forward_features(photos[some])
            assert compression.lengths.tolist() == [lengths[row] for row in some]
            for place, row in enumerate(some):
                count = lengths[row]
                assert torch.equal(fewer[place, :count], features[row, :count])


MERGING = [
    (Redundancy("block"), Merge()),
    (Redundancy("keys"), Merge("plain")),
    (ClassAttention(), Prune()),
    (ClassAttention(), Merge()),
    (Redundancy("mlp"), VidTLDR()),
    (Redundancy("keys"), VidTLDR()),  # before the MLP
]


@pytest.mark.parametrize(("score", "reduction"), MERGING, ids=str)
@pytest.mark.parametrize("family", ["deit", "average pooling", "eva02", "dinov3"])
@torch.no_grad()
def test_whatever_becomes_of_dropped_tokens_each_image_runs_as_alone(family, score, reduction):
    model, photos = build(family, torch.float64), unlike(4)
    if isinstance(score, ClassAttention) and family == "average pooling":
        score = ColumnAttention()
    plan = adapt(model, Plan({0: 0.2, 2: 0.3}, score, reduction), photos)
    with compress(model, plan) as compression:
        together, features = model(photos), model.forward_features(photos)
        lengths, sizes = compression.lengths.tolist(), compression.sizes
        restored = compression.restore(features)
        assert len(set(lengths)) > 1 or not score.comparable_across_images
        for row, length in enumerate(lengths):
            alone = model(photos[row : row + 1])
            torch.testing.assert_close(together[row : row + 1], alone)
            assert compression.lengths.tolist() == [length]
            torch.testing.assert_close(sizes[row, :length], compression.sizes[0])
            assert not sizes[row, length:].any()
            whole = compression.restore(model.forward_features(photos[row : row + 1]))
            torch.testing.assert_close(restored[row], whole[0])
    # The slow truth of one image: the plan of counts that drops as many of it.
    left = [int(n) for n in lengths[-1:]]
    with compress(model, plan) as compression:
        alone = model(photos[-1:])
        counts = [int(compression.lengths_after(block)) for block in range(4)]
    dense = model.forward_features(photos[-1:]).shape[1]
    drop = {0: dense - counts[0], 2: counts[1] - counts[2]}
    with compress(model, Plan(drop, score, reduction)) as compression:
        torch.testing.assert_close(alone, model(photos[-1:]))
        assert compression.counts[-1:] == left


@pytest.mark.parametrize("score", [Shift(), Redundancy("keys")], ids=str)
def test_multihead_attention_keeps_images_apart(score):
    model = torchvision.models.VisionTransformer(40, 8, 4, 2, 32, 64, num_classes=7).eval().double()
    torch.nn.init.normal_(model.heads.head.weight)
    photos = unlike(3, side=(40, 40))
    with compress(model, adaptive(score)) as compression, torch.no_grad():
        together, lengths = model(photos), compression.lengths.tolist()
        assert len(set(lengths)) > 1
        alone = torch.cat([model(photo[None]) for photo in photos])
    torch.testing.assert_close(together, alone)


def test_one_kernel_for_all_lengths_is_told_the_same(monkeypatch):
    """The CUDA kernel is another's; what it is handed must mean what the loop computes."""

    def kernel(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale, window_size):
        # Of PyTorch 2.11, whose kernel knows no groups of queries either.
        assert query.shape == key.shape == value.shape
        assert cu_seq_q.dtype == torch.int32
        assert torch.equal(cu_seq_q, cu_seq_k)
        cu_seqlens = cu_seq_q.tolist()
        assert max_q == max_k == max(b - a for a, b in pairwise(cu_seqlens))
        parts = [
            F.scaled_dot_product_attention(
                *(part[a:b].transpose(0, 1) for part in (query, key, value)),
                scale=scale,
                is_causal=window_size == (-1, 0),
            ).transpose(0, 1)
            for a, b in pairwise(cu_seqlens)
        ]
        return torch.cat(parts)

    def newer(*args, num_splits, **rest):
        assert num_splits == 1
        return kernel(*args, **rest)

    varlen = pytest.importorskip("torch.nn.attention.varlen")
    segments = Segments.pack(torch.tensor([3, 7, 1]))
    for version in (kernel, newer):
        monkeypatch.setattr(varlen, "varlen_attn", version)
        for causal, groups in itertools.product((False, True), (1, 2)):
            query, key, value = torch.randn(3, 1, 4, 11, 4).double()
            key, value = key[:, ::groups], value[:, ::groups]
            call = AttentionCall(query, key, value, None, 0.0, causal, 0.3, groups > 1)
            torch.testing.assert_close(
                varlen_attention_kernel(call, segments), varlen_attention(call, segments)
            )


def test_gradients_pass_and_checkpointing_gives_the_same():
    model, photos = build("deit", torch.float64).train(), unlike(3)

    def learn():
        model.zero_grad()
        model(photos).square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    plan = adapt(model, Plan({0: 0.2, 2: 0.3}, Redundancy("block")), photos)
    with compress(model, plan) as compression:
        plain, lengths = learn(), compression.lengths
        assert len(lengths.unique()) > 1
        model.set_grad_checkpointing()
        torch.testing.assert_close(learn(), plain)
        assert torch.equal(compression.lengths, lengths)


def test_a_plan_whose_levels_nothing_reaches_leaves_the_output_as_it_is():
    model, photos = build("deit"), images(3)
    with torch.no_grad():
        dense = model(photos)
        with compress(model, adaptive(Shift(), {1: 1e-9})) as compression:
            torch.testing.assert_close(model(photos), dense)
    assert compression.counts == [36] * 4


def test_adapt_lets_as_many_leave_on_average():
    model, photos = build("deit"), unlike(12, torch.float32)
    for score, alike in ((Shift(), True), (Redundancy("keys"), False)):
        fixed = Plan({0: 0.2, 1: 0.01, 2: 6}, score)
        plan = adapt(model, fixed, photos, batch_size=5)
        assert (plan.score, plan.adaptive, list(plan.drop)) == (score, True, [0, 2])
        assert Plan.from_json(plan.to_json()) == plan
        with torch.no_grad(), compress(model, fixed) as compression:
            model(photos)
            counts = compression.counts
        with torch.no_grad(), compress(model, plan) as compression:
            model(photos)
            assert compression.counts == counts
            assert (len(compression.lengths.unique()) == 1) is alike


@pytest.mark.usefixtures("unchecked")  # as every search, in test_search.py
def test_a_search_may_end_in_a_budget_per_image():
    model, photos = build("deit"), images(8)
    found = search_plan(model, photos, flops=0.8, budget="adaptive", batch_size=4)
    assert found.plan.adaptive
    facts = json.loads(found.to_json())["provenance"]
    assert facts["flops"] == pytest.approx(0.8, abs=0.05)
    assert facts["held_out, fixed budget"].keys() == facts["held_out"].keys()
    assert "with the same number of tokens in every image" in found.summary()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Plan({0: Level(0.2)}, reduction=ToMe()), "tome asks none"),
        (lambda: adapt(build("deit"), adaptive(Shift()), images()), "has levels already"),
        (lambda: adaptive(Shift()).entering(4, 35), "only the images tell"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("value", [5, 1.0, -0.1, math.nan, "0.2"])
def test_a_level_that_is_none_is_refused(plain, value):
    message = f"a level is {value!r}; expected a number from 0.0 to below 1"
    with pytest.raises(plain.InputError, match=message):
        plain.Plan.from_json(json.dumps({"drop": {"0": {"level": value}}}))


def test_an_adaptive_plan_of_the_first_version_is_read_as_levels():
    old = '{"drop": {"0": 0.2, "3": 0.1}, "score": {"name": "key-norm"}, "budget": "adaptive"}'
    plan = Plan.from_json(old)
    assert plan == Plan({0: Level(0.2), 3: Level(0.1)}, KeyNorm())
    assert Plan.from_schedule(plan.schedule).drop == plan.drop
    assert plan != Plan({0: 0.2, 3: 0.1}, KeyNorm())


def test_an_unknown_budget_is_named(plain):
    with pytest.raises(plain.InputError, match="budget is 'often'; expected fixed or adaptive"):
        plain.Plan.from_json('{"drop": {}, "budget": "often"}')


def test_negative_scores_have_no_shares():
    model = build("deit")
    with compress(model, adaptive(Reverse(Shift()))), pytest.raises(InputError, match="negative"):
        model(images())


@pytest.mark.parametrize("pool", ["max", "avgmax"])
def test_heads_that_would_read_padding_are_refused(pool):
    model = build("deit", global_pool=pool)
    with pytest.raises(InputError, match="after the last block"):
        compress(model, adaptive(Shift()))


@torch.no_grad()
def test_outputs_of_transformers_are_reduced_too():
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=4, num_attention_heads=2, intermediate_size=64,
        image_size=40, patch_size=8,
    )  # fmt: skip
    model = transformers.ViTModel(config).eval().double()
    photos = unlike(3, side=(40, 40))
    plan = adapt(model, Plan({0: 0.2, 2: 0.3}, Redundancy("block")), photos)
    with compress(model, plan) as compression:
        together, lengths = model(photos), compression.lengths.tolist()
        assert len(set(lengths)) > 1
        for row, photo in enumerate(photos):
            alone = model(photo[None])
            tokens = together.last_hidden_state[row, : lengths[row]]
            torch.testing.assert_close(tokens, alone.last_hidden_state[0])
            torch.testing.assert_close(together.pooler_output[row], alone.pooler_output[0])


@torch.no_grad()
def test_a_pickled_copy_works_in_bfloat16():
    model, photos = build("deit", torch.bfloat16), unlike(3, torch.bfloat16)
    compress(model, adaptive(Redundancy("keys"), {0: 0.3, 2: 0.3}))
    output = model(photos)
    assert output.isfinite().all()
    assert torch.equal(pickle.loads(pickle.dumps(model))(photos), output)


@torch.no_grad()
def test_an_empty_batch_stays_empty():
    model = build("deit")
    with compress(model, adaptive(Shift())):
        assert model(images(0)).shape == (0, 7)
    with pytest.raises(InputError, match="an image or more"):
        adapt(model, Plan({0: 0.2}), images(0))


def test_adapt_says_where_a_score_does_not_rank_enough():
    with pytest.raises(InputError, match="more than redundancy.keys. tells apart"):
        adapt(build("deit"), Plan({0: 0.7}, Redundancy("keys")), images(4))


@torch.no_grad()
def test_one_patch_that_is_left_is_like_none():
    model = build("deit distilled")
    with compress(model, adaptive(Redundancy("keys"), dict.fromkeys(range(4), 0.99))):
        assert model(torch.zeros(2, 3, 40, 56)).isfinite().all()


def test_a_search_learns_at_once_that_the_model_does_not_take_it():
    with pytest.raises(InputError, match="level does not go with this model"):
        search_plan(build("siglip"), images(4), flops=0.8, budget="adaptive")


def test_an_adaptive_model_is_not_compiled():
    model = build("deit")
    refused = pytest.raises(Exception, match="no graph can be compiled or exported")
    with compress(model, adaptive(Shift())), torch.no_grad(), refused:
        torch.export.export(model, (images(),))
