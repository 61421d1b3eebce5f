"""A score of what a layer did is not asked where the layer is left out at random."""

import pytest
import timm
import torch
import torchvision

from models import build, images
from repshift import InputError, KeyNorm, Plan, Redundancy, RowsAndColumns, Shift, compress
from transformers_models import FAMILIES, inputs
from transformers_models import build as build_transformers

RATE = {"drop_path_rate": 0.5}


def refused(model, given, plan):
    model.train()
    with compress(model, plan), pytest.raises(InputError, match="branches out at random in train"):
        model(**given)
    model.eval()
    with compress(model, plan), torch.no_grad():
        model(**given)


@pytest.mark.parametrize("score", [Shift(), Shift("block", "cosine"), Redundancy("mlp")], ids=str)
def test_of_timm(score):
    model, given = build("deit", **RATE), {"x": images(2)}
    refused(model, given, Plan({1: 0.2}, score))
    model.train()
    with compress(model, Plan({1: 0.2}, KeyNorm())) as compression:
        model(**given)
    assert compression.counts[-1] == 29
    # timm gives the first block the rate 0.
    with compress(model, Plan({0: 0.2}, score)) as compression:
        model(**given)


@pytest.mark.parametrize("family", ["beit", "dinov2", "dinov3"])
def test_of_transformers(family):
    model = build_transformers(FAMILIES[family])
    model.config.drop_path_rate = 0.5
    model = type(model)(model.config)
    refused(model, inputs(model), Plan({2: 0.2}))


def test_of_a_resnet():
    model = timm.create_model("resnet18", drop_path_rate=0.5)
    plan = Plan({1: 0.3}, reduction=RowsAndColumns())
    refused(model, {"x": torch.randn(2, 3, 64, 64)}, plan)


def test_without_it_training_is_as_ever():
    model = torchvision.models.VisionTransformer(40, 8, 4, 2, 32, 64, dropout=0.1).train()
    with compress(model, Plan({1: 0.2})) as compression:
        model(torch.randn(2, 3, 40, 40))
    assert compression.counts[-1] == 21
