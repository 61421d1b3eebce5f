"""Ctrl-C at any moment of a forward leaves every model of the process as it was."""

import dis
import sys

import pytest
import torch
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack

from models import build, images
from repshift import ClassAttention, Level, Merge, Plan, Redundancy, Shift, ToMe, compress

DROP = {0: 0.3, 2: 4}
PLANS = {
    "tome": Plan(DROP, reduction=ToMe()),
    "shift + merge": Plan(DROP, Shift(), Merge()),
    "class-attention": Plan(DROP, ClassAttention()),
    "adaptive": Plan({0: Level(0.2), 2: Level(0.2)}, Redundancy("keys")),
}
each_plan = pytest.mark.parametrize("method", PLANS)


def leaves_with(frame):
    """Whether a ``with`` is about to be left: no signal is taken before its ``__exit__`` ran."""
    code = list(dis.get_instructions(frame.f_code))
    at = next(number for number, one in enumerate(code) if one.offset >= frame.f_lasti)
    return [(one.opname, one.argval) for one in code[at : at + 3]] == [("LOAD_CONST", None)] * 3


class InterruptAt:
    """Raises at the ``count``-th line that runs in the given folder."""

    def __init__(self, count, error, folder):
        self.left, self.error, self.folder = count, error, folder

    def __call__(self, frame, event, _):
        if self.folder not in frame.f_code.co_filename:
            return None
        if event == "line":
            self.left -= 1
            if self.left <= 0 and not leaves_with(frame):
                raise self.error
        return self


def lines_of(run, folder):
    counter = InterruptAt(10**9, KeyboardInterrupt, folder)
    sys.settrace(counter)
    try:
        run()
    finally:
        sys.settrace(None)
    return 10**9 - counter.left


@pytest.mark.parametrize(
    ("method", "error"),
    [
        *((plan, KeyboardInterrupt) for plan in PLANS),
        pytest.param("tome", SystemExit, marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("folder", ["repshift", "timm"])
@pytest.mark.parametrize("moments", [12, pytest.param(200, marks=pytest.mark.slow)])
@pytest.mark.usefixtures("unchecked")
@torch.inference_mode()
def test_after_an_interrupt_all_models_work_as_before(method, error, folder, moments):
    model, bystander, photos = build("deit distilled"), build("dinov3"), images(2)
    dense, other = model(photos), bystander(photos)
    with compress(model, PLANS[method]) as compression:
        expected = model(photos)
        count = lines_of(lambda: model(photos), folder)
        for at in sorted({1, 2, *range(5, count, max(1, count // moments)), count}):
            sys.settrace(InterruptAt(at, error, folder))
            try:
                model(photos)
            except error:
                pass
            finally:
                sys.settrace(None)
            assert _get_current_function_mode_stack() == []
            assert torch.equal(bystander(photos), other)
            assert torch.equal(model(photos), expected)
            assert compression.counts[-1] == compression.kept.shape[1] or method == "adaptive"
    assert torch.equal(model(photos), dense)


@each_plan
@torch.inference_mode()
def test_a_mode_of_the_caller_stays_the_callers(method):
    """A default device is such a mode: left in disorder, later tensors would land elsewhere."""
    model, photos = build("deit distilled"), images(2)

    def interrupt(*_):
        raise KeyboardInterrupt

    with compress(model, PLANS[method]):
        handle = model.blocks[1].mlp.register_forward_pre_hook(interrupt)
        with pytest.raises(KeyboardInterrupt), torch.device("cpu"):
            model(photos)
        handle.remove()
        assert _get_current_function_mode_stack() == []
        model(photos)


@each_plan
@torch.inference_mode()
def test_after_detach_nothing_of_an_interrupted_forward_is_left(method):
    model, photos = build("deit distilled"), images(2)
    dense = model(photos)

    def interrupt(*_):
        raise KeyboardInterrupt

    compression = compress(model, PLANS[method])
    handle = model.blocks[2].attn.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        model(photos)
    handle.remove()
    compression.detach()
    assert torch.equal(model(photos), dense)
    q = torch.randn(1, 2, 8, 4)
    assert F.scaled_dot_product_attention(q, q, q).shape == q.shape
