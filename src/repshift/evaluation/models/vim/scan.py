"""The selective scan of Mamba (arXiv 2312.00752, algorithm 2) in plain PyTorch.

The state of every channel d has N entries that decay and take up the input, token by token:

    h_t[n, d] = exp(delta_t[d] A[d, n]) h_{t-1}[n, d] + delta_t[d] x_t[d] B_t[n],   h_{-1} = 0
    y_t[d]    = sum_n C_t[n] h_t[n, d]

One operator ``repshift::selective_scan``, so that it counts, compiles and differentiates the same
wherever it runs. Some tokens at a time are discretised and read out together, only the recurrence
goes token by token; memory does not grow with the sequence but for inputs, output and, in the
backward pass, one state a chunk. Where mamba-ssm is installed, its kernel serves CUDA tensors.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.flop_counter import flop_registry

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

# Values in a chunk of states: some megabytes, where the cache of one core still helps; on a GPU
# enough to keep it busy.
CHUNK = {"cpu": 2**19, "cuda": 2**25}


def selective_scan(
    x: Float[Tensor, "B L E"],
    delta: Float[Tensor, "B L E"],
    decay: Float[Tensor, "E N"],
    write: Float[Tensor, "B L N"],
    read: Float[Tensor, "B L N"],
) -> Float[Tensor, "B L E"]:
    """Y as above, where ``decay`` is A (negative), ``write`` is B and ``read`` is C.

    All of one floating dtype, float32 at least.
    """
    return torch.ops.repshift.selective_scan(x, delta, decay, write, read)


@torch.library.custom_op(
    "repshift::selective_scan",
    mutates_args=(),
    schema="(Tensor x, Tensor delta, Tensor decay, Tensor write, Tensor read) -> Tensor",
)
def _scan(x: Tensor, delta: Tensor, decay: Tensor, write: Tensor, read: Tensor) -> Tensor:
    if x.is_cuda and find_spec("mamba_ssm"):
        return kernel(x, delta, decay, write, read)
    x, delta, write, read = (part.transpose(0, 1).contiguous() for part in (x, delta, write, read))
    output, state = torch.empty_like(x), None
    chunks, room = _chunks(x, decay, 2)
    for chunk in chunks:
        _, states = _states(x[chunk], delta[chunk], decay, write[chunk], state, room)
        torch.matmul(read[chunk, :, None], states, out=output[chunk, :, None])
        state = states[-1].clone()  # the room is used again
    return output.transpose(0, 1).contiguous()


@_scan.register_fake
def _(x: Tensor, *_: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


@torch.library.custom_op(
    "repshift::selective_scan_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor x, Tensor delta, Tensor decay, Tensor write, Tensor read)"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
def _backward(
    grad: Tensor, x: Tensor, delta: Tensor, decay: Tensor, write: Tensor, read: Tensor
) -> tuple[Tensor, ...]:
    if x.is_cuda and find_spec("mamba_ssm"):
        with torch.enable_grad():
            inputs = [part.detach().requires_grad_() for part in (x, delta, decay, write, read)]
            grads = torch.autograd.grad(kernel(*inputs), inputs, grad)
        return tuple(part.contiguous() for part in grads)
    grad, x, delta, write, read = (
        part.transpose(0, 1).contiguous() for part in (grad, x, delta, write, read)
    )
    chunks, room = _chunks(x, decay, 3)
    # The state before every chunk; those inside are found again when their turn comes.
    before: list[Tensor | None] = [None]
    for chunk in chunks[:-1]:
        _, states = _states(x[chunk], delta[chunk], decay, write[chunk], before[-1], room)
        before.append(states[-1].clone())

    d_x, d_delta, d_write, d_read = (torch.empty_like(p) for p in (x, delta, write, read))
    d_decay, later = torch.zeros_like(decay), torch.zeros_like(room[0, 0])
    for chunk, state in zip(reversed(chunks), reversed(before), strict=True):
        step = delta[chunk]
        fade, states = _states(x[chunk], step, decay, write[chunk], state, room)
        d_read[chunk] = (states @ grad[chunk, :, :, None])[..., 0]
        # The gradient of every state: what is read from it, and what its successor keeps of it.
        d_states = room[2, : len(step)]
        torch.mul(read[chunk, :, :, None], grad[chunk, :, None], out=d_states)
        for one, kept in zip(reversed(d_states.unbind()), reversed(fade.unbind()), strict=True):
            one.add_(later)
            torch.mul(kept, one, out=later)
        d_taken = (write[chunk, :, None] @ d_states)[:, :, 0]
        d_write[chunk] = (d_states @ (step * x[chunk])[..., None])[..., 0]
        # exp(delta A) met the state before: of the first token the one before the chunk.
        fade[1:].mul_(states[:-1])
        fade[0] = 0 if state is None else fade[0] * state
        d_exponent = fade.mul_(d_states)
        # Products in rooms that are free now, then sums: einsum copies these layouts.
        d_decay += torch.mul(d_exponent, step[:, :, None], out=d_states).sum((0, 1)).T
        d_delta[chunk] = torch.mul(d_exponent, decay.T, out=states).sum(2) + d_taken * x[chunk]
        d_x[chunk] = d_taken * step
    d_x, d_delta, d_write, d_read = (
        part.transpose(0, 1).contiguous() for part in (d_x, d_delta, d_write, d_read)
    )
    return d_x, d_delta, d_decay, d_write, d_read


@_backward.register_fake
def _(grad: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(p, memory_format=torch.contiguous_format) for p in inputs)


def _setup(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _differentiate(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    return torch.ops.repshift.selective_scan_backward(grad, *ctx.saved_tensors)


_scan.register_autograd(_differentiate, setup_context=_setup)


def _chunks(x: Tensor, decay: Tensor, rooms: int) -> tuple[list[slice], Tensor]:
    """Ranges of tokens of ``x`` [L, B, E], at least one each, and room [rooms, T, B, N, E] for
    the values that belong to their states.
    """
    length, batch, width = x.shape
    chunk = CHUNK.get(x.device.type, CHUNK["cpu"])
    size = min(length, max(1, chunk // (batch * decay.numel())))
    chunks = [slice(start, min(start + size, length)) for start in range(0, length, size)]
    return chunks, x.new_empty(rooms, size, batch, decay.shape[1], width)


def _states(
    x: Float[Tensor, "T B E"],
    delta: Float[Tensor, "T B E"],
    decay: Float[Tensor, "E N"],
    write: Float[Tensor, "T B N"],
    state: Float[Tensor, "B N E"] | None,
    room: Float[Tensor, "R S B N E"],
) -> tuple[Float[Tensor, "T B N E"], Float[Tensor, "T B N E"]]:
    """exp(delta A) and the states after every token, from the ``state`` before the first.

    Channels come last: long rows of equal steps are what vector units are fast at.
    """
    fade, states = room[:2, : len(x)]
    torch.mul(delta[:, :, None], decay.T.contiguous(), out=fade).exp_()
    torch.mul((delta * x)[:, :, None], write[..., None], out=states)
    for now, kept in zip(states.unbind(), fade.unbind(), strict=True):
        if state is not None:
            now.addcmul_(kept, state)
        state = now
    return fade, states


def kernel(x: Tensor, delta: Tensor, decay: Tensor, write: Tensor, read: Tensor) -> Tensor:
    """The same by mamba-ssm, which puts the tokens last."""
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn  # type: ignore

    x, delta, write, read = (part.transpose(1, 2).contiguous() for part in (x, delta, write, read))
    return selective_scan_fn(x, delta, decay, write, read).transpose(1, 2).contiguous()


def _flops(x: Tensor, delta: Tensor, decay: Tensor, *_: Any, **__: Any) -> int:
    """Three multiply-adds an entry of the state: it fades, takes up the input, is read.

    exp(delta A) counts as an activation, that is, not.
    """
    return 2 * 3 * x.numel() * decay.shape[1]


flop_registry[torch.ops.repshift.selective_scan] = _flops
