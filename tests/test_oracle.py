"""The slow truth: a token that left after block l is a token that later attention cannot see.

The dense model runs with its dropped keys masked in ``F.scaled_dot_product_attention``. Which keys,
is worked out here, image by image, from the dense model's own stream.
"""

import math
import re
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from models import FAMILIES, build, images, plan_for
from repshift import ClassAttention, ColumnAttention, Plan, Shift, compress

FORMULAS = {
    Shift(): lambda at: (at.exit - at.middle - at.middle).norm(dim=-1),
    Shift("mlp", "l1", "update"): lambda at: (at.exit - at.middle).abs().sum(-1),
    Shift("attention"): lambda at: (at.middle - at.entry - at.entry).norm(dim=-1),
    Shift("attention", "cosine", "update"): lambda at: (
        1 - (at.middle * at.entry).sum(-1) / at.middle.norm(dim=-1) / at.entry.norm(dim=-1)
    ),
    Shift("block"): lambda at: (at.exit - at.entry).norm(dim=-1),
    ClassAttention(): lambda at: at.attention[:, :, 0].mean(1),
    ColumnAttention(): lambda at: (at.attention * at.stays[:, None, :, None]).sum((1, 2)),
}


class Blindfold:
    """Runs a dense timm model and hides, after each block of the plan, the tokens that left."""

    def __init__(self, model, plan, monkeypatch):
        self.plan, self.prefix = plan, model.num_prefix_tokens
        self.fused = F.scaled_dot_product_attention
        self.dropped, self.blocks = None, []
        monkeypatch.setattr(F, "scaled_dot_product_attention", self.attend)
        for index, block in enumerate(model.blocks):
            block.register_forward_pre_hook(self.enter)
            for name, part in block.named_modules():
                if re.fullmatch(r"drop_path1|attns\.\d\.drop_path", name):
                    part.register_forward_hook(self.add_branch)
            block.register_forward_hook(lambda _, __, out, index=index: self.leave(index, out))

    def enter(self, block, args):
        if self.dropped is None:
            self.dropped = torch.zeros(args[0].shape[:2], dtype=torch.bool)
        self.blocks.append(
            SimpleNamespace(entry=args[0], middle=args[0], stays=~self.dropped, attention=None)
        )

    def attend(self, q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False):
        hidden = self.dropped[:, None, None, -k.shape[-2] :]
        mask = torch.zeros(hidden.shape, dtype=q.dtype).masked_fill(hidden, -math.inf)
        if is_causal:
            attn_mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            mask = mask.expand(-1, -1, *attn_mask.shape).masked_fill(~attn_mask, -math.inf)
        elif attn_mask is not None:
            mask = mask + attn_mask
        logits = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
        self.blocks[-1].attention = (logits + mask).softmax(-1)
        return self.fused(q, k, v, attn_mask=mask)

    def add_branch(self, module, args, branch):
        self.blocks[-1].middle = self.blocks[-1].middle + branch

    def leave(self, index, out):
        at, amount = self.blocks[-1], self.plan.drop.get(index, 0)
        at.exit = out
        scores = FORMULAS[self.plan.score](at).tolist() if amount else ()
        for dropped, row in zip(self.dropped, scores, strict=False):
            patches = [token for token in range(self.prefix, len(row)) if not dropped[token]]
            count = math.floor(amount * len(patches)) if amount < 1 else amount
            dropped[sorted(patches, key=row.__getitem__)[:count]] = True

    def survivors(self):
        return torch.stack([(~dropped).nonzero().squeeze(1) for dropped in self.dropped])


def assert_masked_equals_dropped(family, plan, monkeypatch, **forward):
    model, photos = build(family, torch.float64), images(dtype=torch.float64)
    with compress(model, plan) as compression, torch.no_grad():
        features = model.forward_features(photos, **forward)
        output = model(photos, **forward)
    dense = Blindfold(model, plan, monkeypatch)
    with torch.no_grad():
        expected = model.forward_features(photos, **forward)
        assert torch.equal(compression.kept, dense.survivors())
        at = compression.kept.unsqueeze(-1).expand_as(features)
        torch.testing.assert_close(features, expected.gather(1, at), atol=1e-9, rtol=0)
        if model.global_pool != "avg":
            expected_output = model.forward_head(expected)
            torch.testing.assert_close(output, expected_output, atol=1e-9, rtol=0)


# timm 1.0.17 does not run rope mixed in double precision.
IN_DOUBLE = [
    pytest.param(family, marks=() if family.startswith("rope mixed") else pytest.mark.lowest)
    for family in FAMILIES
]


@pytest.mark.parametrize("family", IN_DOUBLE)
def test_dropping_equals_hiding(family, monkeypatch):
    plan = plan_for(family, {0: 0.3, 1: 3, 2: 0.25})
    assert_masked_equals_dropped(family, plan, monkeypatch)


@pytest.mark.parametrize("score", FORMULAS, ids=str)
@pytest.mark.parametrize("family", ["dinov2 registers", "eva02", "rope mixed"])
def test_every_score_drops_the_tokens_its_formula_ranks_lowest(family, score, monkeypatch):
    assert_masked_equals_dropped(family, Plan({0: 0.3, 2: 5}, score), monkeypatch)


def a_mask(kind, tokens):
    blocked = torch.rand(tokens, tokens) < 0.3
    blocked.fill_diagonal_(False)
    if kind == "boolean":
        return ~blocked
    mask = torch.randn(tokens, tokens, dtype=torch.float64).masked_fill(blocked, -math.inf)
    return mask if kind == "additive" else mask + torch.randn(3, 2, 1, 1, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["boolean", "additive", "by image and head"])
@pytest.mark.parametrize("family", ["deit", "parallel things", "eva02"])
def test_a_mask_of_the_caller_follows_the_tokens(family, kind, monkeypatch):
    mask = a_mask(kind, tokens=36)
    assert_masked_equals_dropped(family, plan_for(family), monkeypatch, attn_mask=mask)


@pytest.mark.parametrize("family", ["siglip", "dinov3"])
def test_causal_attention_stays_causal(family, monkeypatch):
    assert_masked_equals_dropped(family, plan_for(family), monkeypatch, is_causal=True)


@pytest.mark.parametrize("score", [ClassAttention(), ColumnAttention()], ids=str)
@pytest.mark.parametrize(
    "family", ["deit distilled", "parallel scaling", "eva02 post-norm", "pe core"]
)
def test_attention_scores_read_the_map_that_fused_attention_uses(family, score, monkeypatch):
    model, photos = build(family, torch.float64), images(dtype=torch.float64)
    plan, real, seen = Plan({1: 0.2}, score), type(score).__call__, []
    monkeypatch.setattr(type(score), "__call__", lambda *args: seen.append(real(*args)) or seen[0])
    with compress(model, plan), torch.no_grad():
        model(photos)
    dense = Blindfold(model, plan, monkeypatch)
    with torch.no_grad():
        model(photos)
    attention = dense.blocks[1].attention
    received = attention[:, :, 0] if isinstance(score, ClassAttention) else attention.mean(2)
    torch.testing.assert_close(seen, [received.mean(1)])
