"""The metric and the score against the formulas written out."""

import pytest
import torch

from repshift import InputError, Shift, representation_shift
from repshift.scores import Snapshots


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_metrics_are_the_formulas(dtype):
    before, after = torch.randn(2, 3, 7, 5, dtype=dtype), torch.randn(2, 3, 7, 5, dtype=dtype)
    a, b = after.double(), before.double()
    truth = {
        "l2": ((a - b) ** 2).sum(-1).sqrt(),
        "l1": (a - b).abs().sum(-1),
        "cosine": 1 - (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1)),
    }
    for metric, expected in truth.items():
        shift = representation_shift(before, after, metric)
        assert shift.dtype == torch.promote_types(dtype, torch.float32)
        tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}[dtype]
        torch.testing.assert_close(shift.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_metric_is_refused():
    with pytest.raises(InputError, match="l2, l1, cosine"):
        representation_shift(torch.ones(1, 2, 3), torch.ones(1, 2, 3), "l3")


def test_sites_and_definitions_follow_the_table_of_the_design():
    entry, middle, end = torch.randn(3, 2, 6, 4).unbind()
    seen = Snapshots(0, 1, end, entry, middle, end)
    attention, mlp = middle - entry, end - middle
    for site, definition, expected in (
        ("mlp", "printed", (mlp - middle).norm(dim=-1)),
        ("mlp", "update", (end - middle).norm(dim=-1)),
        ("attention", "printed", (attention - entry).norm(dim=-1)),
        ("attention", "update", (middle - entry).norm(dim=-1)),
        ("block", "printed", (end - entry).norm(dim=-1)),
        ("block", "update", (end - entry).norm(dim=-1)),
    ):
        torch.testing.assert_close(Shift(site, "l2", definition)(seen), expected)


def test_labels():
    assert str(Shift()) == "shift(mlp, l2)"
    assert str(Shift("block", "l1", "update")) == "shift(block, l1, update)"


@pytest.mark.usefixtures("unchecked")
def test_an_unknown_setting_is_refused():
    with pytest.raises(InputError, match="mlp, attention, block"):
        Shift(site="head")
