"""A pooling by attention weighs merged tokens by their size, as a mean does."""

import pytest
import torch

from models import build, images
from repshift import Merge, Plan, Shift, ToMe, compress
from transformers_models import FAMILIES, inputs
from transformers_models import build as build_transformers

MERGES = [Plan({0: 0.3, 2: 0.3}, Shift(), Merge()), Plan({1: 9}, reduction=ToMe())]


def pooled_by_repetition(pool, tokens, sizes):
    """What the pooling gives if every merged token stood there as often as its size says."""
    rows = []
    for row, counts in zip(tokens, sizes, strict=True):
        rows.append(pool(row.repeat_interleave(counts.long(), 0)[None]))
    return torch.cat(rows)


@torch.no_grad()
@pytest.mark.parametrize("plan", MERGES, ids=str)
@pytest.mark.parametrize("family", ["siglip", "pe core"])
def test_of_timm(family, plan):
    model, seen = build(family, torch.float64), {}
    pool = model.attn_pool
    handles = [
        model.norm.register_forward_hook(lambda _, __, tokens: seen.update(tokens=tokens)),
        pool.register_forward_hook(lambda _, __, pooled: seen.update(pooled=pooled)),
    ]
    with compress(model, plan) as compression:
        model(images(3, torch.float64))
        sizes = compression.sizes
    for handle in handles:
        handle.remove()
    assert sizes.max() > 1
    expected = pooled_by_repetition(pool, seen["tokens"], sizes)
    torch.testing.assert_close(seen["pooled"], expected, atol=1e-9, rtol=1e-9)


@torch.no_grad()
@pytest.mark.parametrize("plan", MERGES, ids=str)
@pytest.mark.parametrize("family", ["siglip", "aimv2"])
def test_of_transformers(family, plan):
    model = build_transformers(FAMILIES[family], torch.float64)
    given = inputs(model)
    with compress(model, plan) as compression:
        output = model(**given)
        sizes = compression.sizes
    assert sizes.max() > 1
    expected = pooled_by_repetition(model.head, output.last_hidden_state, sizes)
    torch.testing.assert_close(output.pooler_output, expected, atol=1e-6, rtol=1e-6)
