"""A compressed model under torch.compile on a GPU, also with CUDA graphs, against eager."""

import copy

import pytest
import timm
import torch

from repshift import Merge, Plan, Redundancy, ToMe, compress

pytestmark = pytest.mark.gpu


@pytest.fixture
def model(device):
    torch._dynamo.reset()
    model = timm.create_model("deit_tiny_patch16_224", img_size=64, depth=3, num_classes=7)
    torch.nn.init.normal_(model.head.weight, std=0.2)
    # Of two models of one class, the second would else get the code of the first.
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False):
        yield model.eval().to(device)


DROP = {0: 0.3, 1: 2}
each_method = pytest.mark.parametrize(
    "plan",
    [Plan(DROP), Plan(DROP, Redundancy("mlp"), Merge()), Plan(DROP, reduction=ToMe())],
    ids=lambda plan: plan.method,
)


@torch.inference_mode()
def compare(model, plan, mode, device):
    photos = torch.randn(2, 3, 64, 64).to(device)
    twin = copy.deepcopy(model)
    with compress(twin, plan) as reference:
        expected, kept = twin(photos), reference.kept
    with compress(model, plan) as compression:
        # A compiler for the CPU would only take time: it is tested elsewhere.
        how = {"mode": mode} if device.type == "cuda" else {"backend": "aot_eager"}
        compiled = torch.compile(model, fullgraph=True, **how)
        for number in range(4):
            found = compiled(photos if number < 3 else photos.flip(0))
            if number < 3:
                assert torch.equal(compression.kept, kept)
                torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found, expected.flip(0), atol=1e-3, rtol=1e-3)


@each_method
def test_compiled_is_eager(model, device, plan):
    compare(model, plan, "default", device)


@each_method
def test_cuda_graphs_are_eager(model, cuda, plan):
    compare(model, plan, "reduce-overhead", cuda)
