"""The chunked scan against the recurrence word for word."""

import sys
import types

import pytest
import torch

from repshift.evaluation.models.vim import scan
from repshift.measure.flops import count_flops
from repshift.measure.memory import peak_memory
from vim_models import step_by_step


def inputs(batch=2, length=7, width=3, state=4, dtype=torch.float64):
    """Steps from almost none to some that forget everything."""
    shapes = [(batch, length, width), (batch, length, width), (width, state)]
    shapes += [(batch, length, state)] * 2
    x, delta, decay, write, read = (torch.randn(shape, dtype=dtype) for shape in shapes)
    return x, (3 * delta).exp(), -decay.exp(), write, read


@pytest.fixture
def chunk(copies, monkeypatch):
    """Sets how many states are held at once."""

    def entries(count):
        for module in copies(scan.__name__):
            monkeypatch.setitem(module.CHUNK, "cpu", count)

    return entries


def close(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("tokens_a_chunk", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("length", [1, 7])
def test_chunks_of_any_length_are_the_recurrence(chunk, tokens_a_chunk, length):
    values = [value.requires_grad_() for value in inputs(length=length)]
    chunk(tokens_a_chunk * 2 * 3 * 4)
    output, expected = scan.selective_scan(*values), step_by_step(*values)
    close(output, expected)
    grad = torch.randn_like(output)
    for found, wanted in zip(
        torch.autograd.grad(output, values, grad),
        torch.autograd.grad(expected, values, grad),
        strict=True,
    ):
        close(found, wanted)


def test_the_gradient_is_that_of_finite_differences(chunk):
    chunk(2 * 2 * 3 * 4)
    x, delta, *rest = inputs(length=5)
    values = [value.requires_grad_() for value in (x, delta.clamp(0.1, 1), *rest)]
    assert torch.autograd.gradcheck(scan.selective_scan, values)


def test_long_memory_does_not_drift_in_float32():
    x, _, decay, write, read = inputs(1, 4000, 2, 4, torch.float64)
    delta = torch.full_like(x, 1e-3)
    exact = step_by_step(x, delta, decay, write, read)
    rounded = scan.selective_scan(*(v.float() for v in (x, delta, decay, write, read)))
    assert (rounded - exact).abs().max() < 1e-4 * exact.abs().max()


def test_a_step_that_forgets_everything_is_no_nan():
    x, delta, decay, write, read = inputs()
    output = scan.selective_scan(x, delta + 1e4, decay, write, read)
    close(output, step_by_step(x, delta + 1e4, decay, write, read))
    assert output.isfinite().all()


@pytest.mark.parametrize("backward", [False, True])
def test_memory_does_not_hold_the_states_of_all_tokens(chunk, backward):
    values = inputs(2, 512, 64, 64, torch.float32)
    states = 4 * 2 * 512 * 64 * 64
    chunk(16 * 2 * 64 * 64)

    def run():
        if not backward:
            return scan.selective_scan(*values)
        return torch.ops.repshift.selective_scan_backward(values[0], *values)

    assert peak_memory(run, torch.device("cpu")) < states / (2 if backward else 5)


def test_three_multiply_adds_an_entry_of_the_state_are_counted_on_any_device():
    for device in ("cpu", "meta"):
        values = [value.to(device) for value in inputs(2, 7, 3, 4)]
        assert count_flops(lambda v=values: scan.selective_scan(*v))[0] == 3 * 2 * 7 * 3 * 4


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_the_operator_keeps_what_it_promises_to_compilers():
    values = [value.requires_grad_() for value in inputs()]
    torch.library.opcheck(torch.ops.repshift.selective_scan.default, values)


def test_the_kernel_of_mamba_ssm_gets_its_own_layout(monkeypatch):
    def selective_scan_fn(u, delta, A, B, C):  # noqa: N803, the names of mamba-ssm
        """Channels, then tokens, as mamba-ssm documents it."""
        assert all(part.is_contiguous() for part in (u, delta, B, C))
        state, outputs = u.new_zeros(*u.shape[:2], A.shape[1]), []
        for t in range(u.shape[2]):
            fed = torch.einsum("bd,bn->bdn", delta[..., t] * u[..., t], B[..., t])
            state = torch.exp(torch.einsum("bd,dn->bdn", delta[..., t], A)) * state + fed
            outputs.append(torch.einsum("bdn,bn->bd", state, C[..., t]))
        return torch.stack(outputs, dim=2)

    module = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    module.selective_scan_fn = selective_scan_fn
    monkeypatch.setitem(sys.modules, module.__name__, module)
    values = inputs()
    close(scan.kernel(*values), step_by_step(*values))
