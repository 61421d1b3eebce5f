"""What the library promises of any model (docs/design.md), on a GPU in three precisions."""

import copy
import pickle

import pytest
import torch

from models import DEPTH, PATCHES, SAMPLE, build, images, plan_for
from repshift import Merge, Plan, Random, Shift, ToMe, compress

pytestmark = pytest.mark.gpu
each_family = pytest.mark.parametrize("family", SAMPLE)
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
# How far a forward of these small models may be from that in float64.
NEAR = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.05}
DROP = {0: 0.3, 2: 4}


def setup(family, device, dtype=torch.float32, batch=5):
    model, photos = build(family, torch.float64), images(batch, torch.float64)
    return copy.deepcopy(model).to(device, dtype), photos.to(device, dtype), model, photos


@torch.no_grad()
def run(model, photos, plan):
    with compress(model, plan) as compression:
        return model(photos), compression


@each_family
@each_dtype
def test_a_plan_that_drops_nothing_leaves_the_output_bit_equal(family, device, dtype):
    model, photos, _, _ = setup(family, device, dtype)
    with torch.no_grad():
        dense = model(photos)
    output, compression = run(model, photos, plan_for(family, {}))
    assert torch.equal(output, dense)
    assert compression.counts == [model.num_prefix_tokens + PATCHES] * DEPTH


@each_family
@each_dtype
def test_outputs_are_those_of_float64_where_the_same_tokens_are_kept(family, device, dtype):
    model, photos, exact, given = setup(family, device, dtype)
    output, compression = run(model, photos, Plan(DROP, Random()))
    expected, reference = run(exact, given, Plan(DROP, Random()))
    assert torch.equal(compression.kept.cpu(), reference.kept)
    assert compression.kept.device.type == device.type
    assert (output.cpu().double() - expected).abs().max() < NEAR[dtype]


@each_family
@pytest.mark.parametrize("reduction", [None, Merge(), ToMe()], ids=str)
def test_the_same_tokens_are_kept_as_in_float64(family, device, reduction):
    if family == "parallel scaling" and isinstance(reduction, ToMe):
        pytest.skip("ToMe acts between attention and MLP, which run side by side there")
    score = plan_for(family).score
    plan = Plan(DROP, score) if reduction is None else Plan(DROP, score, reduction)
    model, photos, exact, given = setup(family, device)
    output, compression = run(model, photos, plan)
    expected, reference = run(exact, given, plan)
    assert torch.equal(compression.kept.cpu(), reference.kept)
    torch.testing.assert_close(compression.sizes.cpu(), reference.sizes.float())
    assert (output.cpu().double() - expected).abs().max() < NEAR[torch.float32]


@each_family
@each_dtype
def test_restore_puts_the_kept_tokens_back_in_place(family, device, dtype):
    model, photos, _, _ = setup(family, device, dtype)
    with compress(model, plan_for(family)) as compression, torch.no_grad():
        features = model.forward_features(photos)
    dense = compression.restore(features)
    assert dense.shape == (5, model.num_prefix_tokens + PATCHES, 32)
    at = compression.kept.unsqueeze(-1).expand_as(features)
    assert torch.equal(dense.gather(1, at), features)


@each_family
def test_what_an_image_keeps_does_not_depend_on_its_neighbours(family, device):
    model, photos, _, _ = setup(family, device)
    together, compression = run(model, photos, plan_for(family))
    for image in range(len(photos)):
        alone, single = run(model, photos[image : image + 1], plan_for(family))
        assert torch.equal(single.kept[0], compression.kept[image])
        torch.testing.assert_close(alone[0], together[image], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_autocast(device, dtype):
    model, photos, exact, given = setup("dinov2 registers", device)
    with torch.autocast(device.type, dtype):
        output, _ = run(model, photos, Plan(DROP, Random()))
    expected, _ = run(exact, given, Plan(DROP, Random()))
    assert output.dtype == dtype
    assert (output.cpu().double() - expected).abs().max() < NEAR[dtype]


def test_copies_and_pickles(device):
    model, photos, _, _ = setup("deit distilled", device)
    with compress(model, Plan(DROP)), torch.no_grad():
        expected = model(photos)
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(photos), expected)


@pytest.mark.parametrize("reduction", [Merge(), ToMe()], ids=str)
def test_gradients_pass_and_checkpointing_gives_the_same(device, reduction):
    model, photos, _, _ = setup("deit distilled", device)
    model.train()

    def learn():
        model.zero_grad()
        output = model(photos)
        output = output[0] if isinstance(output, tuple) else output
        output.square().sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    with compress(model, Plan(DROP, Shift(), reduction)):
        plain = learn()
        model.set_grad_checkpointing()
        torch.testing.assert_close(learn(), plain, atol=1e-4, rtol=1e-3)


def test_detach_leaves_the_dense_model(device):
    model, photos, _, _ = setup("deit distilled", device)
    with torch.no_grad():
        dense = model(photos)
        run(model, photos, Plan(DROP, reduction=ToMe()))
        assert torch.equal(model(photos), dense)
