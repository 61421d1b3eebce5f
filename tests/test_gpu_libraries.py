"""Models of every library on a GPU, against themselves in float64 on the CPU."""

import copy

import pytest
import torch

import resnet_models
import text_models
import transformers_models
import umt_models
import vim_models
from repshift import Merge, Plan, Random, Shift, compress

pytestmark = pytest.mark.gpu
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
NEAR = {torch.float32: 1e-3, torch.bfloat16: 0.06, torch.float16: 0.02}
DROP = {0: 0.3, 2: 2}


def moved(given, device, dtype=None):
    """Tensors on the device, those of floats in the precision."""
    return {
        name: value.to(device, dtype if value.is_floating_point() else None)
        for name, value in given.items()
    }


@torch.no_grad()
def compare(model, given, plan, device, dtype, read=lambda output: output):
    """The compressed model on the device gives what it gives in float64, but for rounding."""
    twin = copy.deepcopy(model).to(device, dtype)
    with compress(model, plan) as reference:
        expected = read(model(**given))
    with compress(twin, plan) as compression:
        found = read(twin(**moved(given, device, dtype)))
    assert compression.counts == reference.counts
    assert torch.equal(compression.kept.cpu(), reference.kept)
    error = (found.cpu().double() - expected).abs().max() / expected.abs().max()
    assert error < NEAR[dtype]


@pytest.mark.parametrize(
    "family", ["vit", "clip", "siglip", "siglip 2", "dinov2 registers", "dinov3", "sapiens2"]
)
@each_dtype
def test_transformers(device, family, dtype):
    model = transformers_models.build(transformers_models.FAMILIES[family], torch.float64)
    given = transformers_models.inputs(model)
    compare(model, given, Plan(DROP, Random()), device, dtype, transformers_models.first)


@pytest.mark.parametrize("family", ["bert", "distilbert", "modernbert"])
@pytest.mark.parametrize("reduction", [None, Merge()], ids=str)
def test_texts_with_padding(device, family, reduction):
    model, given = text_models.build(family), text_models.sentences((20, 11, 16))
    drop = {0: 0.3, 2: 2}
    plan = Plan(drop, Random()) if reduction is None else Plan(drop, Shift("block"), reduction)
    with compress(model, plan) as compression, torch.no_grad():
        model(**given)
        places = compression.kept
    compare(
        model, given, plan, device, torch.float32, lambda output: output.last_hidden_state[:, 0]
    )
    assert places.shape[1] < 20


@each_dtype
def test_torchvision(device, dtype):
    vit = pytest.importorskip("torchvision.models.vision_transformer")
    model = vit.VisionTransformer(40, 8, 4, 2, 32, 64, num_classes=7).eval().double()
    torch.nn.init.normal_(model.heads.head.weight, std=0.2)
    given = {"x": torch.randn(3, 3, 40, 40, dtype=torch.float64)}
    compare(model, given, Plan(DROP, Random()), device, dtype)


@each_dtype
def test_umt(device, dtype):
    model = umt_models.retrieval_model("all").vision_encoder
    given = {"video": torch.randn(2, 4, 3, 64, 64, dtype=torch.float64)}
    plan = Plan({0: 0.3, 1: 2}, Random())
    compare(model, given, plan, device, dtype, lambda output: output[1])


@pytest.mark.parametrize("dtype", DTYPES[:2], ids=str)
def test_vision_mamba(device, dtype):
    model = vim_models.vim(torch.float64)
    given = {"images": torch.randn(2, 3, 64, 64, dtype=torch.float64)}
    compare(model, given, Plan(DROP, Random()), device, dtype)


@each_dtype
def test_resnets(device, dtype):
    model = resnet_models.build("timm bottleneck", torch.float64)
    plan = resnet_models.plan_for(score=Random())
    compare(model, {"x": resnet_models.images(3, torch.float64)}, plan, device, dtype)
