"""UMT at its published sizes: the names of its weights, what it costs, how many tokens stay."""

import json
import re

import pytest
import torch
from torch import nn

from repshift import Plan, compress
from repshift.evaluation.models.umt.answering import AnsweringModel
from repshift.evaluation.models.umt.config import UMTConfig
from repshift.evaluation.models.umt.retrieval import RetrievalModel
from repshift.measure.flops import count_flops
from umt_models import FIXTURES

KEYS = json.loads((FIXTURES / "umt_keys.json").read_text())
MODELS = {"retrieval": RetrievalModel, "qa": AnsweringModel}


def on_meta(name, task="retrieval", **settings):
    with torch.device("meta"):
        return MODELS[task](UMTConfig.named(name), **settings).eval()


def expand(keys):
    """Shapes by name; ``{0-11}`` stands for each of these numbers."""
    for key, shape in keys.items():
        numbers = re.search(r"\{(\d+)-(\d+)\}", key)
        if numbers is None:
            yield key, tuple(shape)
            continue
        for index in range(int(numbers[1]), int(numbers[2]) + 1):
            yield key.replace(numbers[0], str(index)), tuple(shape)


@pytest.mark.parametrize("which", KEYS)
def test_the_weights_are_those_of_the_reference(which):
    model = on_meta(*which.split())
    found = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    assert found == dict(expand(KEYS[which]))


@pytest.mark.parametrize(("name", "count"), [("umt-b16", 202_411_267), ("umt-l16", 659_747_331)])
def test_the_number_of_parameters(name, count):
    assert sum(p.numel() for p in on_meta(name).parameters()) == count


def giga(encoder, video):
    """Multiply-adds and 5 a LayerNorm element, as the papers' counter does."""
    norms = []
    hooks = [
        module.register_forward_hook(lambda _, __, out: norms.append(5 * out.numel()))
        for module in encoder.modules()
        if isinstance(module, nn.LayerNorm)
    ]
    products, _ = count_flops(lambda: encoder(video))
    for hook in hooks:
        hook.remove()
    return (products + sum(norms)) / 1e9


@pytest.mark.parametrize(
    ("name", "dense", "retrieval", "qa"),
    [("umt-b16", 303.3, 156.4, 217.7), ("umt-l16", 984.6, 478.5, 690.5)],
)
def test_the_cost_is_that_of_the_paper(name, dense, retrieval, qa, monkeypatch):
    # The paper restores nothing, and does not search for the survivor that stands for a token.
    monkeypatch.setattr(
        "repshift.reductions.prune.most_similar",
        lambda left, stayed, prefix, closed: torch.zeros_like(left[..., 0], dtype=torch.long),
    )
    encoder = on_meta(name, pool="all").vision_encoder
    video = torch.empty(1, 12, 3, 224, 224, device="meta")
    assert giga(encoder, video) == pytest.approx(dense, rel=0.005)
    for plan, cost, counts in (
        ("umt-retrieval", retrieval, [1882, 1506, 1205]),
        ("umt-qa", qa, [2117, 1906, 1716]),
    ):
        with compress(encoder, Plan.paper(plan)) as compression:
            assert giga(encoder, video) == pytest.approx(cost, rel=0.005)
        assert compression.counts[:3] == counts
        assert set(compression.counts[3:]) == {counts[-1]}


def test_the_search_that_allows_to_restore_costs_less_than_a_hundredth():
    encoder = on_meta("umt-b16", pool="all").vision_encoder
    with compress(encoder, Plan.paper("umt-retrieval")):
        cost = giga(encoder, torch.empty(1, 12, 3, 224, 224, device="meta"))
    assert 156.4 < cost < 1.01 * 156.4
