"""What the library promises of any model, on one of every kind, with odd counts."""

import copy
import subprocess
import sys

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import repshift
from models import DEPTH, PATCHES, SAMPLE, build, images, plan_for, score_for
from repshift import ColumnAttention, InputError, Plan, Random, compress

each_family = pytest.mark.parametrize("family", SAMPLE)


def each_input(test):
    for name, values in {
        "batch": [1, 5],
        "dtype": [torch.float32, torch.bfloat16],
    }.items():
        test = pytest.mark.parametrize(name, values, ids=str)(test)
    return test


def trace(model):
    """All that the modules of a model hold, themselves included."""
    return {
        (path, key): dict(value) if isinstance(value, dict) else value
        for path, module in model.named_modules()
        for key, value in vars(module).items()
    }


def row_keys(indices):
    """Indices that differ between images too."""
    return indices + 1000 * torch.arange(len(indices))[:, None]


@torch.no_grad()
def run(model, photos, plan):
    with compress(model, plan) as compression:
        return model(photos), compression


@each_family
@each_input
def test_a_plan_that_drops_nothing_leaves_the_output_bit_equal(family, batch, dtype):
    model, photos = build(family, dtype), images(batch, dtype)
    with torch.no_grad():
        dense = model(photos)
    for drop in ({}, {0: 0.0, 2: 0}, {1: 0.9 / PATCHES}):
        output, compression = run(model, photos, plan_for(family, drop))
        assert torch.equal(output, dense)
        assert compression.counts == [model.num_prefix_tokens + PATCHES] * DEPTH


@each_family
@each_input
def test_the_planned_number_leaves_and_the_rest_keeps_its_order(family, batch, dtype):
    model, photos = build(family, dtype), images(batch, dtype)
    prefix = model.num_prefix_tokens
    with compress(model, plan_for(family, {0: 0.3, 2: 4})) as compression, torch.no_grad():
        features = model.forward_features(photos)
    assert compression.counts == [prefix + patches for patches in (25, 25, 21, 21)]
    assert features.shape == (batch, prefix + 21, 32)
    kept = compression.kept
    assert (kept.diff(dim=1) > 0).all()
    assert torch.equal(kept[:, :prefix], torch.arange(prefix).expand(batch, -1))
    assert kept.max() < prefix + PATCHES
    for block, count in enumerate(compression.counts):
        earlier = compression.kept_after(block)
        assert earlier.shape == (batch, count)
        assert torch.isin(row_keys(kept), row_keys(earlier)).all()


@each_family
@each_input
def test_restore_puts_the_survivors_back_in_place(family, batch, dtype):
    model, photos = build(family, dtype), images(batch, dtype)
    with compress(model, plan_for(family)) as compression, torch.no_grad():
        features = model.forward_features(photos)
    dense = compression.restore(features)
    assert dense.shape == (batch, model.num_prefix_tokens + PATCHES, 32)
    at = compression.kept.unsqueeze(-1).expand_as(features)
    assert torch.equal(dense.gather(1, at), features)
    assert (dense[:, :, None] == features[:, None]).all(-1).any(-1).all()


@each_family
def test_a_single_patch_may_be_left(family):
    model = build(family)
    output, compression = run(model, images(), plan_for(family, {1: 1 - 0.5 / PATCHES}))
    assert compression.counts[-1] == model.num_prefix_tokens + 1
    assert output.isfinite().all()


@each_family
def test_the_weights_and_their_names_stay(family):
    model = build(family)
    before = dict(model.state_dict(keep_vars=True))
    with compress(model, plan_for(family)):
        assert dict(model.state_dict(keep_vars=True)) == before


@each_family
@pytest.mark.parametrize("attention", [False, True])
def test_detach_leaves_no_trace(family, attention):
    model, photos = build(family), images()
    with torch.no_grad():
        before, dense = trace(model), model(photos)
    score = ColumnAttention() if attention else score_for(family)
    output, _ = run(model, photos, Plan({0: 0.3, 2: 4}, score))
    assert not torch.equal(output, dense)
    assert trace(model) == before
    with torch.no_grad():
        assert torch.equal(model(photos), dense)


def test_an_error_inside_the_with_block_detaches_too():
    model = build("deit")
    before = trace(model)
    with pytest.raises(KeyError), compress(model, plan_for("deit")):
        raise KeyError
    assert trace(model) == before


@each_family
def test_attaching_twice_replaces(family):
    model, photos = build(family), images()
    before = trace(model)
    alone, _ = run(model, photos, plan_for(family))
    first = compress(model, Plan({0: 0.5, 1: 0.5}, ColumnAttention()))
    second = compress(model, plan_for(family))
    with torch.no_grad():
        assert torch.equal(model(photos), alone)
        first.detach()
        assert torch.equal(model(photos), alone)
    second.detach()
    assert trace(model) == before


def test_a_compression_and_a_plan_say_what_they_are():
    compression = compress(build("deit"), Plan({0: 0.2, 3: 20}))
    said = "a VisionTransformer: shift(mlp, l2) at 0:0.2,3:20>"
    assert repr(compression) == f"<Compression attached to {said}"
    compression.detach()
    assert repr(compression) == f"<Compression detached from {said}"
    assert str(Plan({})) == "shift(mlp, l2) at no block"
    assert eval(repr(Plan({0: 0.2})), vars(repshift)) == Plan({0: 0.2})


@pytest.mark.parametrize("ended", ["left", "detached", "replaced"])
def test_a_compression_that_is_no_longer_attached_cannot_be_entered(ended):
    model = build("deit")
    compression = compress(model, plan_for("deit"))
    if ended == "left":
        with compression:
            pass
    elif ended == "detached":
        compression.detach()
    else:
        compress(model, Plan({}))
    with pytest.raises(InputError, match=r"would run dense; call compress\(model, plan\) again"):
        compression.__enter__()


@torch.no_grad()
def test_no_with_block_ends_up_dense():
    model, photos = build("deit"), images()
    with compress(model, plan_for("deit")) as compression:
        expected = model(photos)
        with pytest.raises(InputError, match="stands inside another of the same compression"):
            compression.__enter__()
        with pytest.raises(InputError, match="leave that block first"):
            compress(model, Plan({}))
        assert torch.equal(model(photos), expected)
        twin = copy.deepcopy(model)
    with compress(twin, Plan({})):  # a copy stands inside no `with` block
        assert torch.equal(twin(photos), model(photos))


@each_family
def test_what_an_image_keeps_does_not_depend_on_its_neighbours(family):
    model, photos = build(family, torch.float64), images(5, torch.float64)
    together, compression = run(model, photos, plan_for(family))
    for image in range(5):
        alone, single = run(model, photos[image : image + 1], plan_for(family))
        assert torch.equal(single.kept[0], compression.kept[image])
        torch.testing.assert_close(alone[0], together[image])


def test_random_dropping_is_the_same_for_every_image_and_differs_between_seeds_and_blocks():
    model, photos = build("siglip"), images()
    kept = {}
    for seed in (0, 1):
        for block in (0, 1):
            _, compression = run(model, photos, Plan({block: 0.5}, Random(seed)))
            assert (compression.kept == compression.kept[:1]).all()
            kept[tuple(compression.kept[0].tolist())] = seed, block
    assert len(kept) == 4


class LargestTensor(TorchDispatchMode):
    """The most elements that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        result = op(*args, **(kwargs or {}))
        for item in result if isinstance(result, tuple | list) else (result,):
            if isinstance(item, torch.Tensor):
                self.elements = max(self.elements, item.numel())
        return result


def largest_tensor(family, side, score):
    model = build(family, img_size=(8 * side, 8 * side), mlp_ratio=1)
    photo, plan = torch.randn(1, 3, 8 * side, 8 * side), Plan({0: 0.3, 2: 0.3}, score)
    with compress(model, plan), torch.no_grad(), LargestTensor() as largest:
        model.forward_features(photo)
    return largest.elements


@each_family
def test_no_attention_map_is_formed_by_the_shift(family):
    small, large = (largest_tensor(family, side, score_for(family)) for side in (15, 30))
    assert large < 900**2
    assert large < 4.2 * small  # four times the tokens


def test_the_attention_scores_do_form_it():
    assert largest_tensor("deit", 15, ColumnAttention()) >= 2 * 225**2


def test_importing_loads_torch_alone_and_changes_nothing():
    code = """
import logging, sys, warnings
import torch
from torch.nn import functional as F
def state():
    return (F.scaled_dot_product_attention, torch.nn.Module.__call__, torch.get_default_dtype(),
            torch.get_num_threads(), torch.is_grad_enabled(), torch.initial_seed(),
            torch.get_float32_matmul_precision(), torch.backends.cuda.flash_sdp_enabled(),
            list(warnings.filters), list(logging.root.handlers), logging.root.level)
before, loaded = state(), set(sys.modules)
import repshift
assert state() == before
new = {name.partition(".")[0] for name in set(sys.modules) - loaded}
print(*sorted(new - set(sys.stdlib_module_names)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["repshift"]
