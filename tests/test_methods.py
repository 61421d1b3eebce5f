"""Every score with every reduction, and merging against a model written out in slow steps.

A new score or reduction enters by being registered.
"""

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F

from models import build, images
from repshift import (
    ColumnAttention,
    InputError,
    Merge,
    Plan,
    Prune,
    Reverse,
    Shift,
    ToMe,
    VidTLDR,
    compress,
)
from repshift.measure.flops import count_flops
from repshift.reductions import Reduction
from repshift.registry import registered
from repshift.resnet.reductions import GridReduction
from repshift.runtime.attention import EagerAttention
from repshift.runtime.attention_kernels import AttentionCall, bias_as_channel, proportional
from repshift.scores import Score

# What needs a grid is tested with ResNets, what needs a mixer with Vision Mamba, and what reads a
# prompt with vision-language models.
ELSEWHERE = {"grid", "activation", "cells", "frame before", "text", "last query"}
METHODS = [
    Plan({}, score(), reduction())
    for score in registered(Score).values()
    for reduction in registered(Reduction).values()
    if (reduction.scored or score is Shift)
    and not issubclass(reduction, GridReduction)
    and not score().required() & ELSEWHERE
]
MERGING = [Merge(), Merge("plain"), Merge(length="kept"), ToMe(), ToMe("plain"), VidTLDR()]
FAMILIES = ("deit distilled", "dinov2 registers", "eva02", "average pooling", "siglip")


def with_drop(plan, drop):
    return Plan(drop, plan.score, plan.reduction)


def fits(plan, model):
    return "class token" not in plan.required() or getattr(model, "cls_token", None) is not None


@pytest.mark.parametrize("method", METHODS, ids=lambda plan: plan.method)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_method_keeps_its_promises(family, method):
    model, photos = build(family), images(batch=4)
    if not fits(method, model):
        pytest.skip("no class token")
    prefix, drop = model.num_prefix_tokens, {0: 0.3, 2: 4}
    with torch.no_grad():
        dense = model(photos)
        with compress(model, with_drop(method, {})):
            assert torch.equal(model(photos), dense)
        with compress(model, with_drop(method, {0: 0.0, 1: 0})):
            assert torch.equal(model(photos), dense)
        with compress(model, with_drop(method, drop)) as compression:
            features = model.forward_features(photos)
            output = model(photos)
            kept, sizes = compression.kept, compression.sizes
            assert compression.counts == [prefix + n for n in (25, 25, 21, 21)]
            assert output.isfinite().all()
            assert kept[:, :prefix].tolist() == [list(range(prefix))] * 4
            assert all(len(set(row)) == len(row) for row in kept.tolist())
            assert compression.restore(features).shape == (4, prefix + 35, features.shape[-1])
            # Of the survivors, restoring gives back each its own.
            at = kept[..., None].expand_as(features)
            assert torch.equal(compression.restore(features).gather(1, at), features)
            alone = model(photos[2:3])
            assert torch.equal(compression.kept, kept[2:3])
            torch.testing.assert_close(alone, output[2:3])
        assert torch.equal(model(photos), dense)
    if method.reduction in (Merge(), ToMe()):
        torch.testing.assert_close(sizes.sum(1), torch.full((4,), prefix + 35.0))
    elif str(method.reduction) == "prune":
        assert (sizes == 1).all()


# A graph holds a score and then a reduction: each of both once, all pairs take minutes.
EACH_ONCE = [
    pytest.param(
        plan,
        id=plan.method,
        marks=[] if plan.score == Shift() or plan.reduction == Merge() else pytest.mark.slow,
    )
    for plan in METHODS
]


@pytest.mark.parametrize("method", EACH_ONCE)
def test_every_method_compiles_to_one_graph(method, plain):
    # What follows a site is the same for every score.
    model, photos = build("deit distilled", depth=2 if method.score == Shift() else 1), images()
    plan = plain.Plan.from_json(with_drop(method, {0: 0.3}).to_json())
    torch._dynamo.reset()
    with plain.compress(model, plan) as compression, torch.no_grad():
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        compiled(photos)
        with torch._dynamo.config.patch(error_on_recompile=True):
            output, kept, sizes = compiled(photos), compression.kept, compression.sizes
        expected = model(photos)
        torch.testing.assert_close(output, expected)
        torch.testing.assert_close(compression.sizes, sizes)
        assert torch.equal(compression.kept, kept)


@pytest.mark.parametrize("method", METHODS, ids=lambda plan: plan.method)
def test_every_method_runs_in_bfloat16(method):
    model, photos = build("dinov2 registers", torch.bfloat16), images(dtype=torch.bfloat16)
    with compress(model, with_drop(method, {0: 0.3, 2: 4})) as compression, torch.no_grad():
        assert model(photos).dtype == torch.bfloat16
    assert compression.counts == [30, 30, 26, 26]


class SlowViT(nn.Module):
    """A timm ViT written out, its tokens merged one by one."""

    def __init__(self, model, plan):
        super().__init__()
        self.model, self.plan, self.prefix = model, plan, model.num_prefix_tokens

    def forward(self, photos):
        return torch.cat([self.one(photo[None]) for photo in photos])

    def one(self, photo):
        model, norm = self.model, nn.Identity()
        x = model.norm_pre(model._pos_embed(model.patch_embed(photo)))
        sizes = [1.0] * x.shape[1]
        for index, block in enumerate(model.blocks):
            branch, keys = self.attend(block, x, sizes)
            x = x + block.ls1(branch)
            drop = self.plan.leaving(index, x.shape[1] - self.prefix)
            if self.plan.before_mlp and drop:
                x, sizes = self.merge_pairs(x, keys, sizes, drop)
            middle, mlp = x, block.ls2(block.mlp(block.norm2(x)))
            x = x + mlp
            if not self.plan.before_mlp and drop:
                scores = (mlp - middle).norm(dim=-1)[0].tolist()
                x, sizes = self.merge_nearest(x, scores, sizes, drop)
        x, weights = model.norm(norm(x))[:, self.prefix :], torch.tensor(sizes[self.prefix :])
        if model.global_pool == "avg":
            pooled = (x * weights[:, None]).sum(1) / weights.sum()
            return model.head(model.fc_norm(pooled))
        return model.forward_head(torch.cat((self.leading, x), 1))

    def attend(self, block, x, sizes):
        attn, y = block.attn, block.norm1(x)
        qkv = attn.qkv(y).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
        bias = torch.tensor(sizes).log() if self.plan.reduction.proportional_attention else 0
        logits = qkv[0] @ qkv[1].transpose(-2, -1) * attn.scale + bias
        return attn.proj((logits.softmax(-1) @ qkv[2]).transpose(1, 2).flatten(2)), qkv[1].mean(1)

    def merge_pairs(self, x, keys, sizes, drop):
        count, keys = x.shape[1], F.normalize(keys[0], dim=-1)
        odd = [j for j in range(1, count, 2) if j >= self.prefix]
        pairs = []
        for i in range(0, count, 2):
            if i >= self.prefix:
                like = [float(keys[i] @ keys[j]) for j in odd]
                pairs.append((max(like), i, odd[like.index(max(like))]))
        pairs.sort(reverse=True)
        # These have no class token: what is left of the even ones stays as alike as it is.
        order = [*range(self.prefix), *(i for _, i, _ in pairs[drop:]), *odd]
        return self.join(x, {i: j for _, i, j in pairs[:drop]}, order, sizes)

    def merge_nearest(self, x, scores, sizes, drop):
        count = x.shape[1]
        ranked = sorted(range(self.prefix, count), key=scores.__getitem__)
        dropped, stay = ranked[:drop], sorted([*range(self.prefix), *ranked[drop:]])
        unit = F.normalize(x[0], dim=-1)
        pairs = {
            i: max(stay[self.prefix :], key=lambda j: float(unit[i] @ unit[j])) for i in dropped
        }
        return self.join(x, pairs, stay, sizes)

    def join(self, x, pairs, order, sizes):
        groups = {j: [j] for j in order}
        for i, j in pairs.items():
            groups[j].append(i)
        merged = [
            sum(sizes[i] * x[0, i] for i in groups[j]) / sum(sizes[i] for i in groups[j])
            for j in order
        ]
        if getattr(self.plan.reduction, "length", "mean") == "kept":
            lengths = [
                sum(sizes[i] * x[0, i].norm() for i in groups[j]) / sum(sizes[i] for i in groups[j])
                for j in order
            ]
            merged = [mean / mean.norm() * n for mean, n in zip(merged, lengths, strict=True)]
        return torch.stack(merged)[None], [sum(sizes[i] for i in groups[j]) for j in order]


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    "score", [plan.score for plan in METHODS if plan.reduction == Prune()], ids=str
)
def test_scores_of_half_precision_tell_the_tokens_apart(score, dtype):
    """Summed up in half precision the entropies of all tokens were one number."""
    model, photos = build("deit"), images(batch=4)
    for block in model.blocks:
        block.attn.qkv.weight.mul_(0.3)  # the attention is nearly even, as it often is
    found = []
    for own in (torch.float32, dtype):
        with compress(model.to(own), Plan({1: 0.5}, score)) as compression:
            model(photos.to(own))
        found.append(compression.scores[1][:, 1:])
    full, half = ([len(row.unique()) for row in scores] for scores in found)
    assert found[1].dtype == torch.float32
    assert all(own >= 0.8 * most for own, most in zip(half, full, strict=True))


@pytest.mark.parametrize("reduction", MERGING[:5], ids=str)
@pytest.mark.parametrize("family", ["average pooling", "deit3 registers"])
def test_merging_equals_a_model_written_out_in_slow_steps(family, reduction):
    model, photos = build(family, torch.float64), images(2, torch.float64)
    plan = Plan({0: 0.3, 1: 5, 2: 0.2}, reduction=reduction)
    torch.set_default_dtype(torch.float64)
    try:
        with torch.no_grad():
            expected = SlowViT(model, plan)(photos)
            with compress(model, plan):
                output = model(photos)
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(output, expected, atol=1e-10, rtol=0)


MASKS = {
    "no mask": torch.zeros(()).double(),
    "causal": torch.ones(7, 7, dtype=torch.bool).tril(),
    "boolean": torch.tensor([1, 1, 0, 1, 0, 1, 1], dtype=torch.bool),
    "added": torch.linspace(-1, 1, 49, dtype=torch.float64).view(7, 7),
}


@pytest.mark.parametrize("width", [8, 12, 64])
@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("weighed", [proportional, bias_as_channel])
def test_keys_are_weighed_by_their_log_sizes(weighed, name, width):
    query, key, value = torch.randn(3, 2, 3, 7, width, dtype=torch.float64).unbind()
    size, mask = torch.rand(2, 7, dtype=torch.float64) * 9 + 0.1, MASKS[name]

    def call(dtype):
        asked = {"attn_mask": mask.to(dtype) if name == "added" else mask.expand(7, 7)}
        asked = {"no mask": {}, "causal": {"is_causal": True}}.get(name, asked)
        return AttentionCall(*[part.to(dtype) for part in (query, key, value)], **asked)

    added = mask.double().log() if mask.dtype == torch.bool else mask
    bias = added + size.log()[:, None, None]
    expected = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    assert (weighed(call(torch.float64), size) - expected).abs().max() <= 1e-12

    low = [part.bfloat16() for part in (query, key, value)]
    ordinary = F.scaled_dot_product_attention(*low, attn_mask=bias.bfloat16()) - expected
    ours = weighed(call(torch.bfloat16), size) - expected
    assert ours.abs().max() <= ordinary.abs().max() + 1e-2


@pytest.mark.parametrize("reduction", [Merge(), ToMe()], ids=str)
def test_merging_forms_no_map(reduction):
    model, photos = build("deit"), images()
    with compress(model, Plan({0: 5}, reduction=reduction)):
        assert count_flops(lambda: model(photos))[1] == "flash"


def test_attention_is_left_alone_again_after_an_error():
    model, photos = build("deit"), images()
    with torch.no_grad():
        dense = model(photos)
        with (
            compress(model, Plan({0: 5, 1: 99}, ColumnAttention(), Merge())),
            pytest.raises(InputError, match="drops 99"),
        ):
            model(photos)
        assert torch.equal(model(photos), dense)
    assert not torch.overrides._get_current_function_mode_stack()


@pytest.mark.parametrize("family", ["deit", "eva02", "sapiens2", "pe core"])
def test_eager_attention_is_the_same_attention(family):
    model, photos = build(family, torch.float64), images(dtype=torch.float64)
    with torch.no_grad():
        expected = model(photos)
        with EagerAttention():
            torch.testing.assert_close(model(photos), expected)


def test_a_reversed_score_keeps_what_the_score_drops():
    model, photos = build("deit"), images()
    kept = []
    for score in (Shift(), Reverse(Shift())):
        with compress(model, Plan({0: 15}, score)) as compression, torch.no_grad():
            model(photos)
        kept.append(compression.kept_after(0).tolist())
    for best, worst in zip(*kept, strict=True):
        assert len(set(best) & set(worst)) == 1 + 2 * 20 - 35


def test_a_plan_that_merges_more_than_half_is_cut_to_half():
    model, photos = build("deit"), images()
    for reduction in (ToMe(), VidTLDR()):
        with compress(model, Plan({0: 30, 1: 0.9}, reduction=reduction)) as compression:
            model(photos)
        assert compression.counts == [19, 10, 10, 10]


def test_size_weighted_pooling_needs_the_last_features_only():
    model, photos = build("average pooling", torch.float64), images(dtype=torch.float64)
    with compress(model, Plan({0: 9}, reduction=Merge())) as compression, torch.no_grad():
        features, output = model.forward_features(photos), model(photos)
        weights = compression.sizes[..., None] / compression.sizes.sum(1)[:, None, None]
        pooled = (features * weights).sum(1)
        torch.testing.assert_close(output, model.head(model.fc_norm(pooled)))


@pytest.mark.parametrize("reduction", [Merge(), ToMe()])
@pytest.mark.parametrize(
    ("family", "pool"),
    [("siglip", "avgmax"), ("deit", "avgmax"), ("dinov3", "avgmax"), ("siglip", "prr")],
)
def test_every_mean_over_tokens_is_weighed_by_their_size(family, pool, reduction):
    if pool == "prr" and not hasattr(timm.layers, "AttentionPoolPrr"):
        pytest.skip("an earlier timm")
    changes = {"class_token": False} if pool == "prr" else {}
    model = build(family, torch.float64, global_pool=pool, num_classes=0, **changes)
    photos, read = images(2, torch.float64), []
    last = model.norm if pool == "avgmax" else model.attn_pool.post_norm
    last.register_forward_hook(lambda *_: read.append(_[-1]))
    with compress(model, Plan({0: 9}, reduction=reduction)) as compression:
        output, sizes = model(photos), compression.sizes[..., None]
    first = model.num_prefix_tokens
    patches, sizes = read[0][:, first:], sizes[:, first:]
    mean = (patches * sizes).sum(1) / sizes.sum(1)
    assert sizes.max() > 1
    expected = model.fc_norm((mean + patches.amax(1)) / 2 if pool == "avgmax" else mean)
    torch.testing.assert_close(output, expected)
    wanted = torch.autograd.grad(expected.square().sum(), read[0], retain_graph=True)[0]
    found = torch.autograd.grad(output.square().sum(), read[0])[0]
    torch.testing.assert_close(found, wanted)
