"""Blocks of one model on two devices, as accelerate spreads them: everything follows the tokens.

Fake tensors of two devices stand in for them: they refuse operations between devices.
"""

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import resnet_models
import text_models
import transformers_models
from models import build
from repshift import ClassAttention, Merge, Plan, Redundancy, Shift, ToMe, compress
from repshift.runtime.attachment import Attachment, ReplacedMethod

FIRST, SECOND = torch.device("cpu"), torch.device("cuda:1")
DROP = {0: 0.3, 2: 4}
PLANS = {
    "shift": Plan(DROP),
    "shift + merge": Plan(DROP, Shift(), Merge()),
    "redundancy(mlp) + merge": Plan(DROP, Redundancy("mlp"), Merge()),
    "tome": Plan(DROP, reduction=ToMe()),
    "class-attention": Plan(DROP, ClassAttention()),
}


def moved(given, device):
    if isinstance(given, torch.Tensor):
        return given.to(device)
    if isinstance(given, tuple | list):
        return type(given)(moved(one, device) for one in given)
    return given


def place(module):
    """Weights and buffers on the second device."""
    for part in module.modules():
        for held in (part._parameters, part._buffers):
            for name, value in held.items():
                if value is not None:
                    fake = torch.empty_like(value, device=SECOND)
                    held[name] = nn.Parameter(fake) if held is part._parameters else fake


def spread(model, blocks):
    """Later half of the blocks on the second device; each moves what it is given, as accelerate."""
    half = len(blocks) // 2
    for block in blocks[half:]:
        place(block)

        def run(forward, args, kwargs):
            args = moved(args, SECOND)
            return forward(*args, **{name: moved(one, SECOND) for name, one in kwargs.items()})

        ReplacedMethod(Attachment(model), block, "forward", run)


@pytest.mark.parametrize("method", PLANS)
@pytest.mark.parametrize("family", ["deit distilled", "dinov3", "average pooling"])
def test_timm(family, method):
    if family == "average pooling" and method == "class-attention":
        pytest.skip("no class token")
    model = build(family)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        spread(model, model.blocks)
        for name, part in model.named_children():
            if name in ("norm", "fc_norm", "head", "head_dist"):
                place(part)
        with compress(model, PLANS[method]) as compression:
            features = model.forward_features(torch.randn(2, 3, 40, 56))
            assert model(torch.randn(2, 3, 40, 56)).device == SECOND
        assert features.device == SECOND
        assert compression.kept.shape == features.shape[:2]
        assert compression.restore(features).shape == (2, model.num_prefix_tokens + 35, 32)
        assert compression.restore(features.to(FIRST)).device == FIRST
        assert compression.counts == [n + model.num_prefix_tokens for n in (25, 25, 21, 21)]


@pytest.mark.parametrize("family", ["vit", "dinov3", "siglip"])
@pytest.mark.parametrize("method", ["shift", "tome"])
def test_transformers(family, method):
    model = transformers_models.build(transformers_models.FAMILIES[family])
    # DINOv3 keeps the coordinates of the patches for all later models: real ones, not fake ones.
    model(**transformers_models.inputs(model))
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        with compress(model, Plan({})) as compression:
            blocks = compression.spec.blocks
        spread(model, blocks)
        for name, part in model.named_modules():
            if name.rpartition(".")[2] in ("layernorm", "norm", "post_layernorm", "head", "pooler"):
                place(part)
        with compress(model, PLANS[method]) as compression:
            model(**transformers_models.inputs(model))
        assert compression.kept.device == SECOND


def test_texts_under_a_mask():
    model = text_models.build("bert", torch.float32)
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        spread(model, model.encoder.layer)
        place(model.pooler)
        with compress(model, Plan({0: 2, 2: 2, 3: 1}, Shift("block"), Merge())) as compression:
            output = model(**text_models.sentences((20, 11, 16)))
        assert output.last_hidden_state.shape[1] == 15
        assert compression.kept.device == SECOND


@pytest.mark.parametrize("score", ["block", "branch", "stage"])
def test_stages_of_a_resnet(score):
    model = resnet_models.build("timm basic")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        for block in (model.layer2[0], model.layer3[0], model.layer4[0]):

            def run(forward, args, kwargs):
                return forward(*moved(args, SECOND), **kwargs)

            ReplacedMethod(Attachment(model), block, "forward", run)
        for part in (model.layer2, model.layer3, model.layer4, model.fc):
            place(part)
        with compress(model, resnet_models.plan_for(score=Shift(score))) as compression:
            output = model(resnet_models.images())
        assert output.device == SECOND
        assert compression.grids == resnet_models.LEFT
        assert compression.kept.shape[1:] == (2, 1)
