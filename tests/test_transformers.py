"""Encoders of transformers: each family against the masked dense model, and the ways to run them."""

import copy
import math

import pytest
import torch
import transformers
from torch.nn import functional as F

from repshift import ClassAttention, InputError, Merge, Plan, Shift, ToMe, compress
from repshift.adapters import describe
from transformers_models import AVERAGES, FAMILIES, HEADS, REFUSED, build, inputs

PLAN = Plan({0: 0.3, 1: 3})
MERGES = [Plan({1: 3}, reduction=ToMe()), Plan({1: 3}, reduction=Merge())]


def run(model, **given):
    with torch.no_grad():
        return model(**(inputs(model) | given))


def first(output):
    """The logits of a head, or the tokens of an encoder."""
    return output["logits"] if "logits" in output else output["last_hidden_state"]


def survivors_of(tokens, kept):
    return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))


def hide(spec, kept, monkeypatch):
    """Run the dense model: from each block on, hide the keys that had left the block before."""
    fused, hidden = F.scaled_dot_product_attention, []

    def attend(q, k, v, attn_mask=None, **others):
        mask = torch.zeros(k.shape[0], 1, 1, k.shape[2], dtype=q.dtype)
        if hidden and k.shape[2] == hidden[-1].shape[1]:
            mask = mask.masked_fill(hidden[-1][:, None, None], -math.inf)
        if attn_mask is not None:
            mask = mask + torch.zeros_like(mask).masked_fill(~attn_mask, -math.inf)
        return fused(q, k, v, attn_mask=mask, **others)

    def leave(index, output):
        tokens = output[0] if isinstance(output, tuple) else output
        gone = torch.ones(tokens.shape[:2], dtype=torch.bool)
        hidden.append(gone.scatter(1, kept[index], False))

    monkeypatch.setattr(F, "scaled_dot_product_attention", attend)
    return [
        block.register_forward_hook(lambda _, __, output, index=index: leave(index, output))
        for index, block in enumerate(spec.blocks)
    ]


def assert_masked_equals_dropped(model, given, monkeypatch, plan=PLAN, atol=1e-9):
    spec, outputs, streams = describe(model), [], []
    spec.blocks[-1].register_forward_hook(lambda _, __, output: streams.append(output))
    with compress(model, plan) as compression, torch.no_grad():
        outputs.append(model(**given))
        kept = [compression.kept_after(block) for block in range(4)]
    assert len(set(compression.counts)) == 2
    handles = hide(spec, kept, monkeypatch)
    with torch.no_grad():
        outputs.append(model(**given))
    for handle in handles:
        handle.remove()
    left, dense = (stream[0] if isinstance(stream, tuple) else stream for stream in streams)
    torch.testing.assert_close(left, survivors_of(dense, kept[-1]), atol=atol, rtol=0)
    return outputs


@pytest.mark.parametrize("family", FAMILIES)
def test_dropping_equals_hiding(family, monkeypatch):
    model = build(FAMILIES[family], torch.float64)
    # The norms of these compute in single precision.
    atol = 1e-5 if family in ("aimv2", "sapiens2") else 1e-9
    assert_masked_equals_dropped(model, inputs(model), monkeypatch, atol=atol)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_reads_the_same_class_token(head, monkeypatch):
    model = build(HEADS[head], torch.float64)
    compressed, masked = assert_masked_equals_dropped(model, inputs(model), monkeypatch)
    torch.testing.assert_close(compressed.logits, masked.logits, atol=1e-9, rtol=0)


@pytest.mark.parametrize("family", ["vit", "dinov2", "beit", "ast"])
def test_a_padding_mask_follows_the_tokens(family, monkeypatch):
    model = build(FAMILIES[family], torch.float64)
    given = inputs(model)
    seen = torch.rand(2, run(model, **given).last_hidden_state.shape[1]) < 0.8
    seen[:, :2] = True
    assert_masked_equals_dropped(model, {**given, "attention_mask": seen}, monkeypatch)


def test_scores_other_than_the_shift_drop_the_same_way(monkeypatch):
    model = build(FAMILIES["dinov3"], torch.float64)
    for score in (Shift("block", "cosine"), ClassAttention()):
        assert_masked_equals_dropped(model, inputs(model), monkeypatch, Plan({0: 0.3, 1: 3}, score))
        monkeypatch.undo()


@pytest.mark.parametrize("family", FAMILIES)
def test_eager_attention_gives_what_fused_attention_gives(family):
    fused = build(FAMILIES[family], attn_implementation="sdpa")
    eager = build(FAMILIES[family], attn_implementation="eager")
    eager.load_state_dict(fused.state_dict())
    given = inputs(fused)
    with compress(fused, PLAN) as one, compress(eager, PLAN) as other:
        expected, got = run(fused, **given), run(eager, **given)
        assert one.kept.equal(other.kept)
    torch.testing.assert_close(first(got), first(expected), atol=1e-4, rtol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="flash attention runs on a GPU")
@pytest.mark.parametrize("family", ["vit", "dinov3", "vjepa 2"])
def test_flash_attention(family):
    pytest.importorskip("flash_attn")
    fused = build(FAMILIES[family], torch.float16).cuda()
    flash = build(FAMILIES[family], torch.float16, attn_implementation="flash_attention_2").cuda()
    flash.load_state_dict(fused.state_dict())
    given = {name: value.cuda() for name, value in inputs(fused).items()}
    with compress(fused, PLAN), compress(flash, PLAN):
        torch.testing.assert_close(
            first(run(flash, **given)), first(run(fused, **given)), atol=0.05, rtol=0.05
        )


@pytest.mark.parametrize("asked_before", [False, True])
@pytest.mark.parametrize("family", ["vit", "clip", "dinov2", "data2vec", "videomae"])
def test_hidden_states_show_what_left_each_block(family, asked_before):
    model = build(FAMILIES[family])
    if asked_before:
        run(model, output_hidden_states=True)
    with compress(model, PLAN) as compression:
        states = run(model, output_hidden_states=True).hidden_states
    assert [state.shape[1] for state in states[1:]] == compression.counts
    dense = run(model, output_hidden_states=True).hidden_states
    assert {state.shape[1] for state in dense} == {states[0].shape[1]}


@pytest.mark.parametrize("plan", [*MERGES, Plan({1: 0.4}, reduction=Merge("plain"))], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_merging(family, plan):
    model = build(FAMILIES[family])
    given = inputs(model)
    dense = first(run(model, **given))
    with compress(model, Plan({1: 0}, plan.score, plan.reduction)):
        assert first(run(model, **given)).equal(dense)
    with compress(model, plan) as compression:
        merged = first(run(model, **given))
    assert not merged.equal(dense)
    assert (
        compression.sizes.sum(1).eq(compression.restore(compression.kept[..., None]).shape[1]).all()
    )


@pytest.mark.parametrize("plan", MERGES, ids=["tome", "merge"])
@pytest.mark.parametrize("head", AVERAGES)
def test_an_average_weighs_merged_tokens_by_their_size(head, plan):
    model = build(AVERAGES[head])
    pooling = describe(model).pooling
    seen = {}
    pooling.tokens.register_forward_hook(lambda _, __, tokens: seen.update(tokens=tokens))
    with compress(model, plan) as compression:
        pooling.average.register_forward_hook(lambda _, args, __: seen.update(mean=args[0]))
        run(model)
    tokens, sizes = seen["tokens"], compression.sizes[..., None].clone()
    sizes[:, : pooling.skipped] = 0
    expected = (tokens * sizes).sum(1) / sizes.sum(1)
    torch.testing.assert_close(seen["mean"][:, -tokens.shape[2] :], expected)
    torch.testing.assert_close(
        seen["mean"][:, : -tokens.shape[2]], tokens[:, 0, : seen["mean"].shape[1] - tokens.shape[2]]
    )


@pytest.mark.parametrize("head", AVERAGES)
def test_an_average_of_pruned_tokens_is_their_mean(head):
    model = build(AVERAGES[head])
    with compress(model, PLAN) as compression:
        logits = run(model).logits
    assert logits.shape == (2, 5)
    assert len(set(compression.counts)) == 2


@pytest.mark.parametrize("family", ["vit", "clip", "dinov3"])
def test_compiled_equals_eager(family):
    model = build(FAMILIES[family])
    given = inputs(model)
    with compress(model, PLAN) as compression:
        expected, kept = run(model, **given), compression.kept
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        torch.testing.assert_close(first(run(compiled, **given)), first(expected))
        assert compression.kept.equal(kept)
    torch.compiler.reset()


def test_auto_classes_and_copies():
    model = transformers.AutoModel.from_config(build(FAMILIES["vit"]).config).eval()
    compress(model, PLAN)
    assert run(copy.deepcopy(model)).last_hidden_state.shape[1] == 16


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("image-feature-extraction", FAMILIES["vit"]),
        ("image-classification", HEADS["vit"]),
        ("image-classification", AVERAGES["dinov2"]),
    ],
)
def test_pipelines(task, row):
    from PIL import Image

    model = build(row)
    size = {"height": 40, "width": 40}
    processor = transformers.ViTImageProcessorPil(size=size)
    pipe = transformers.pipeline(task, model=model, image_processor=processor, device="cpu")
    with compress(model, PLAN) as compression:
        result = pipe(Image.new("RGB", (50, 60), "teal"))
    assert len(result[0]) == (compression.counts[-1] if task.endswith("extraction") else 2)


def test_the_vision_tower_of_clip():
    row = ("CLIPModel", *REFUSED["two towers"][1:3])
    model = build(row)
    pixels = inputs(model)["pixel_values"]
    with compress(model.vision_model, PLAN) as compression, torch.no_grad():
        model.get_image_features(pixels)
        model(input_ids=torch.ones(2, 5, dtype=torch.long), pixel_values=pixels)
    assert compression.counts == [19, 16, 16, 16]


def test_class_attention_asks_for_fused_attention():
    plan = Plan({0: 3}, ClassAttention())
    fused = build(FAMILIES["vit"])
    eager = build(FAMILIES["vit"], attn_implementation="eager")
    with compress(fused, plan) as compression:
        run(fused)
    assert compression.counts == [23] * 4
    with compress(eager, plan), pytest.raises(InputError, match='attn_implementation="sdpa"'):
        run(eager)


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_lose_tokens_is_refused(family):
    with pytest.raises(InputError, match=REFUSED[family][3]):
        compress(build(REFUSED[family]), PLAN)


@pytest.mark.parametrize("path", ["", "encoder", "encoder.layer.2", "encoder.layer.2.attention"])
def test_an_override_is_refused(path):
    model = build(FAMILIES["dinov2"])
    part = model.get_submodule(path)
    known = type(part)
    part.__class__ = type("Same", (known,), {})
    describe(model)
    part.__class__ = type(known.__name__, (known,), {"forward": lambda self, *args, **kwargs: 0})
    with pytest.raises(InputError, match="has not read the forward"):
        describe(model)
