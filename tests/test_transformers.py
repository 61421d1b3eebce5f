"""Encoders of transformers: each family against the masked dense model, merging, refusals."""

import math

import pytest
import torch
from torch.nn import functional as F

from repshift import ClassAttention, InputError, Merge, Plan, Shift, ToMe, compress
from repshift.adapters import describe
from transformers_models import (
    AVERAGES,
    FAMILIES,
    HEADS,
    REFUSED,
    RELEASE,
    build,
    first,
    inputs,
    run,
)

pytestmark = pytest.mark.lowest
PLAN = Plan({0: 0.3, 1: 3})
MERGES = [Plan({1: 3}, reduction=ToMe()), Plan({1: 3}, reduction=Merge())]


def survivors_of(tokens, kept):
    return tokens.gather(1, kept[..., None].expand(-1, -1, tokens.shape[-1]))


def hide(spec, kept, monkeypatch):
    """Run the dense model: from each block on, hide the keys that had left the block before."""
    fused, hidden = F.scaled_dot_product_attention, []

    def attend(q, k, v, attn_mask=None, **others):
        mask = torch.zeros(k.shape[0], 1, 1, k.shape[2], dtype=q.dtype)
        if hidden and k.shape[2] == hidden[-1].shape[1]:
            mask = mask.masked_fill(hidden[-1][:, None, None], -math.inf)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(mask).masked_fill(~attn_mask, -math.inf)
        if attn_mask is not None:
            mask = mask + attn_mask
        return fused(q, k, v, attn_mask=mask, **others)

    def leave(index, output):
        tokens = output[0] if isinstance(output, tuple) else output
        dropped = torch.ones(tokens.shape[:2], dtype=torch.bool)
        hidden.append(dropped.scatter(1, kept[index], False))

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


def test_the_padding_of_siglip_2_follows_into_its_pooling(monkeypatch):
    model = build(FAMILIES["siglip 2"], torch.float64)
    given, plan = inputs(model), Plan({0: 2, 1: 2})
    compressed, masked = assert_masked_equals_dropped(model, given, monkeypatch, plan)
    monkeypatch.undo()
    with compress(model, plan) as compression, torch.no_grad():
        model(**given)
    mask = given["pixel_attention_mask"]
    left = mask.gather(1, compression.kept)
    assert (left.sum(1) == mask.sum(1) - 4).all()
    assert not left.all()  # some padding is still there
    mask = torch.zeros_like(mask).scatter(1, compression.kept, left)
    with torch.no_grad():
        [(head, _)] = describe(model).readers
        pooled = head(masked.last_hidden_state, mask)
    torch.testing.assert_close(compressed.pooler_output, pooled, atol=1e-9, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_norm2_reads_the_stream_to_which_mlp_adds(family):
    model = build(FAMILIES[family])
    spec, streams, exits = describe(model), [], []
    for block, norm2, mlp in zip(spec.blocks, spec.norm2, spec.mlp, strict=True):
        norm2.register_forward_pre_hook(lambda _, args: streams.append(args[0]))
        mlp.register_forward_hook(lambda _, __, branch: torch.zeros_like(branch))
        block.register_forward_hook(
            lambda _, __, output: exits.append(output[0] if isinstance(output, tuple) else output)
        )
    run(model)
    assert len(streams) == 4
    assert all(stream.equal(left) for stream, left in zip(streams, exits, strict=True))


@pytest.mark.parametrize("head", HEADS)
def test_a_head_reads_the_same_class_token(head, monkeypatch):
    model = build(HEADS[head], torch.float64)
    compressed, masked = assert_masked_equals_dropped(model, inputs(model), monkeypatch)
    torch.testing.assert_close(compressed.logits, masked.logits, atol=1e-9, rtol=0)


@pytest.mark.parametrize(
    "family", ["vit", "dinov2", "ast", *(["beit"] if RELEASE >= (5, 0) else [])]
)
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
    if "pixel_attention_mask" not in given:  # padding that leaves counts nowhere
        every = compression.restore(compression.kept[..., None]).shape[1]
        assert (compression.sizes.sum(1) == every).all()


@pytest.mark.parametrize("plan", MERGES, ids=["tome", "merge"])
@pytest.mark.parametrize("head", AVERAGES)
def test_an_average_weighs_merged_tokens_by_their_size(head, plan):
    model = build(AVERAGES[head])
    pooling = describe(model).pooling
    seen = {}
    pooling.tokens.register_forward_hook(
        lambda _, __, out: seen.update(tokens=out[0] if isinstance(out, tuple) else out)
    )
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
    with pytest.raises(InputError, match="was not checked with"):
        describe(model)


def test_what_is_not_supported_is_told_what_is():
    with pytest.raises(InputError, match=r"; supported are ViTModel, .*pass spec=EncoderSpec\("):
        describe(build(REFUSED["unknown"]))


def test_another_version_of_a_class_is_refused():
    model = build(FAMILIES["dinov2"])
    del model.encoder.layer[1].norm2
    with pytest.raises(InputError, match="Dinov2Layer has no norm2"):
        describe(model)


def test_blocks_that_take_positions_in_different_ways_are_refused():
    rotary, plain = build(FAMILIES["dinov3"]), build(FAMILIES["vit"])
    blocks = [describe(model).blocks for model in (rotary, plain)]
    owner = next(part for part in rotary.modules() if blocks[0][1] in part.children())
    name = next(name for name, part in owner.named_children() if part is blocks[0][1])
    setattr(owner, name, blocks[1][1])
    with pytest.raises(InputError, match="in different ways"):
        describe(rotary)
