"""Tokens that are dropped together, as a connector merges them afterwards."""

from dataclasses import replace

import pytest
import torch

from models import build
from repshift import (
    InputError,
    Level,
    MeanDistance,
    Merge,
    Plan,
    Prune,
    Shift,
    ToMe,
    adapt,
    compress,
)
from repshift.adapters import describe

UNIT = 4


def encoder(img_size=(48, 64)):
    model = build("average pooling", torch.float64, class_token=False, img_size=img_size)
    return model, replace(describe(model), unit=UNIT, prefix_tokens=0)


def photos(count=3):
    return torch.randn(count, 3, 48, 64, dtype=torch.float64)  # 48 patches of 8 x 8


def whole(places):
    """The units of ``places``, which must come in whole ones."""
    units = places.view(-1, UNIT)
    assert torch.equal(units, units[:, :1] + torch.arange(UNIT))
    assert (units[:, 0] % UNIT == 0).all()
    return (units[:, 0] // UNIT).tolist()


@torch.no_grad()
@pytest.mark.parametrize("amount", [0.3, 14, 17], ids=str)
def test_the_units_of_the_lowest_mean_are_dropped(amount):
    model, spec = encoder()
    with compress(model, Plan({1: amount}, Shift("block")), spec) as compression:
        features = model.forward_features(photos())
        scores, kept = compression.scores[1], compression.kept
        restored = compression.restore(features)
    drop = 3 if amount == 0.3 else amount // UNIT
    for image in range(3):
        means = [scores[image, start : start + UNIT].mean() for start in range(0, 48, UNIT)]
        ranked = sorted(range(12), key=lambda unit: means[unit])
        left = whole(kept[image])
        assert left == sorted(ranked[drop:])
        # A dropped unit is restored row by row from one that was kept.
        found = (restored[image][:, None] == features[image]).all(-1).int().argmax(1)
        assert (found % UNIT == torch.arange(48) % UNIT).all()


@torch.no_grad()
@pytest.mark.parametrize("reduction", [Merge(), ToMe()], ids=str)
def test_rows_are_merged_with_those_of_another_unit(reduction):
    model, spec = encoder()
    score = {"score": Shift("block")} if reduction.scored else {}
    plan = Plan({0: 0.3, 1: 0.3}, **score, reduction=reduction)
    with compress(model, plan, spec) as compression:
        model(photos())
        kept, sizes = compression.kept, compression.sizes
    assert (sizes.sum(1) == 48).all()
    for image in range(3):
        whole(kept[image])
        units = sizes[image].view(-1, UNIT)
        assert torch.equal(units, units[:, :1].expand(-1, UNIT))


@torch.no_grad()
@pytest.mark.parametrize("reduction", [None, Merge()], ids=str)
def test_with_levels_each_image_runs_as_alone(reduction):
    model, spec = encoder()
    given = photos()
    given[1, :, :, 16:] = 0
    fixed = Plan({0: 0.3, 1: 0.3}, MeanDistance(), reduction or Prune())
    plan = adapt(model, fixed, given, spec=spec)
    assert all(isinstance(amount, Level) for amount in plan.drop.values())
    with compress(model, plan, spec) as compression:
        together, lengths, kept = model(given), compression.lengths.tolist(), compression.kept
        assert len(set(lengths)) > 1
        for row, length in enumerate(lengths):
            torch.testing.assert_close(together[row : row + 1], model(given[row : row + 1]))
            assert torch.equal(kept[row, :length], compression.kept[0])
            whole(compression.kept[0])


def test_what_does_not_come_in_units_is_refused():
    model, spec = encoder((40, 56))
    odd = torch.randn(1, 3, 40, 56, dtype=torch.float64)  # 35 patches
    with (
        compress(model, Plan({0: 0.3}), spec),
        pytest.raises(InputError, match="35 tokens, no whole number of units of 4"),
    ):
        model(odd)
