"""Calls that are not one whole forward after the other: right, or an error, never wrong."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from models import build, images
from repshift import EncoderSpec, InputError, Merge, Plan, Shift, ToMe, VidTLDR, compress

MERGING = {
    "merge": Plan({0: 4, 1: 4}, Shift(), Merge()),
    "tome": Plan({0: 4, 1: 4}, reduction=ToMe()),
    "vid-tldr": Plan({0: 4, 1: 4}, Shift("attention"), VidTLDR()),
}
each_merging = pytest.mark.parametrize("method", MERGING)


def spec_of(blocks):
    norms, mlps = [block.norm2 for block in blocks], [block.mlp for block in blocks]
    return EncoderSpec(blocks, norms, prefix_tokens=1, class_token=True, mlp=mlps)


class Segments(nn.Module):
    """Two blocks a checkpoint, whose inner tokens are freed after the forward."""

    def __init__(self, blocks):
        super().__init__()
        self.blocks, self.checkpointing = blocks, False

    def forward(self, tokens):
        for start in (0, 2):
            pair = self.blocks[start : start + 2]
            tokens = checkpoint(pair, tokens, use_reentrant=False) if self.checkpointing else (
                pair(tokens)
            )  # fmt: skip
        return tokens


def test_gradients_of_an_earlier_forward_are_right_or_refused():
    model = Segments(build("deit").blocks)
    wrong = 0
    with compress(model, Plan({2: 4}, Shift(), Merge()), spec_of(list(model.blocks))):
        for _ in range(60):
            first, second = (torch.randn(2, 17, 32, requires_grad=True) for _ in range(2))
            model.checkpointing = False
            [expected] = torch.autograd.grad(model(first).square().sum(), first)
            model.checkpointing = True
            loss = model(first).square().sum()
            model(second)
            try:
                [found] = torch.autograd.grad(loss, first)
            except InputError:
                continue
            wrong += not torch.allclose(found, expected, rtol=1e-3, atol=1e-4)
    assert wrong == 0


@pytest.mark.parametrize("method", ["tome", "vid-tldr"])
@pytest.mark.parametrize("which", [slice(None), slice(1, 2)])
@torch.no_grad()
def test_a_norm_that_was_replaced_is_an_error(method, which):
    model = build("deit")
    with compress(model, MERGING[method]):
        for block in list(model.blocks)[which]:
            block.norm2 = copy.deepcopy(block.norm2)
        with pytest.raises(InputError, match="again after a change"):
            model(images())


@each_merging
@pytest.mark.parametrize("place", ["block", "norm2"])
@torch.no_grad()
def test_a_forward_inside_another_is_right_or_an_error(method, place):
    model, photos, others = build("deit"), images(2), images(2)
    with compress(model, MERGING[method]) as compression:
        expected, kept = model(photos), compression.kept
        once = [1]

        def call(*_):
            if once:
                once.pop()
                model(others)

        for number in range(4):
            part = model.blocks[number] if place == "block" else model.blocks[number].norm2
            for register in (part.register_forward_hook, part.register_forward_pre_hook):
                once[:] = [1]
                handle = register(call)
                try:
                    assert torch.equal(model(photos), expected)
                    # After the last block, what is told is of the forward that began last.
                    assert (number, place) == (3, "block") or torch.equal(compression.kept, kept)
                except InputError:
                    pass
                finally:
                    handle.remove()
        assert torch.equal(model(photos), expected)


@torch.no_grad()
def test_blocks_that_run_twice_are_refused():
    class Loop(nn.Module):
        def __init__(self, blocks, order):
            super().__init__()
            self.blocks, self.order = nn.ModuleList(blocks), order

        def forward(self, tokens):
            for number in self.order:
                tokens = self.blocks[number](tokens)
            return tokens

    for order in ((0, 1, 2, 3, 0, 1, 2, 3), (0, 0, 1, 2, 3), (0, 1, 1, 2, 3), (1, 0, 2, 3)):
        blocks = list(build("deit").blocks)
        model = Loop(blocks, order)
        with compress(model, MERGING["merge"], spec_of(blocks)), pytest.raises(InputError):
            model(torch.randn(2, 17, 32))


@each_merging
@torch.no_grad()
def test_a_later_block_by_itself_is_refused(method):
    model = build("deit")
    with compress(model, MERGING[method]) as compression:
        model(images(2))
        sizes, count = compression.sizes, compression.counts[-1]
        for number in (1, 3):
            with pytest.raises(InputError, match="by itself"):
                model.blocks[number](torch.randn(2, count, 32))
        assert torch.equal(compression.sizes, sizes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@torch.no_grad()
def test_another_mean_is_told_also_where_one_channel_is_large(dtype):
    model = build("average pooling", reg_tokens=2)
    model.pos_embed[..., 7] += 400  # as in trained ViTs
    model.to(dtype)
    photos = images(2).to(dtype)
    with compress(model, MERGING["merge"]):
        expected = model(photos)
        assert expected.isfinite().all()
        model.pool_include_prefix = True
        with pytest.raises(InputError, match="mean of other tokens"):
            model(photos)


@each_merging
@pytest.mark.parametrize("family", ["deit", "average pooling"])
def test_no_graph_of_gradients_outlives_the_output(family, method):
    model, held = build(family), []
    with compress(model, MERGING[method]):
        model.blocks[2].register_forward_hook(lambda _, __, out: held.append(weakref.ref(out)))
        output = model(images(2))
        assert held[0]() is not None
        del output
        gc.collect()
        assert held[0]() is None


def test_a_head_that_is_called_after_the_forward_has_gradients_or_says_so():
    model, photos = build("average pooling"), images(2)
    with compress(model, MERGING["merge"]):
        features = model.forward_features(photos)
        for _ in range(2):
            model.forward_head(features).sum().backward(retain_graph=True)
        model(photos)
        with pytest.raises(InputError, match="forward is over"):
            model.forward_head(features)
        with torch.no_grad():
            assert torch.equal(model.forward_head(features), model(photos))


@pytest.mark.parametrize("method", [*MERGING, "class-attention"])
@torch.inference_mode()
def test_nothing_captured_waits_for_the_garbage_collector(method):
    """What a block captured is freed with the block, so that memory does not pile up."""
    plan = MERGING.get(method) or Plan.from_method(method, {0: 4, 1: 4})
    model, held = build("deit"), []
    with compress(model, plan):
        for block in model.blocks:
            block.norm2.register_forward_hook(
                lambda _, args, out: held.append(weakref.ref(args[0]))
            )
        gc.disable()
        try:
            model(images(2))
            assert len(held) == 4
            assert [one for one in held if one() is not None] == []
        finally:
            gc.enable()
