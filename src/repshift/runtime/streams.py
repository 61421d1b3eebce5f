"""Whether the streams of a block are what a spec says they are."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from repshift.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from repshift.runtime.block_state import BlockState


def check_entry(block: int, given: object, packed: bool) -> Tensor:
    """The tokens that a block is given; ``InputError`` if they are none."""
    if isinstance(given, torch.Tensor) and given.ndim == (2 if packed else 3):
        return given
    if isinstance(given, torch.fx.Proxy):
        raise InputError(
            "torch.fx traces this model symbolically (a feature extractor of torchvision, say), "
            "where no token can be chosen; take features with forward hooks on the blocks and "
            "restore(features, block), or detach() first"
        )
    shape = getattr(given, "shape", None)
    kind = type(given).__name__ if shape is None else f"a tensor of shape {list(shape)}"
    axes = "[T, C]" if packed else "[B, N, C]"
    raise InputError(f"block {block} must take its tokens {axes} as its first argument; got {kind}")


def check_middle(state: BlockState) -> None:
    """``InputError`` if what norm2 reads is no stream of its own."""
    if state.middle is state.entry:
        raise InputError(
            f"norm2 of block {state.block} was given the very tokens that entered the block: it "
            "is the norm before attention, or attention is added in place (x += ...); name "
            "the norm between attention and MLP, and write x = x + ..."
        )


def norms_of(block: nn.Module, norm2: nn.Module) -> list[nn.Module]:
    """The norms of a block whose norm2 is one; what a post-norm block returns comes of the last."""
    norms = [part for part in block.modules() if _is_norm(part)]
    return norms if _is_norm(norm2) else []


def check_exit(state: BlockState, output: Tensor, norm2: nn.Module | None) -> None:
    """``InputError`` if norm2 did not read the stream that the MLP is added to.

    A post-norm block returns what its last norm made. If that is norm2, it read the exit before it
    is normed; otherwise what norm2 made is the stream, not what it read.
    """
    norm, normed = state.normed or (None, None)
    if normed is output and (norm is norm2 or "exit" in state.needs or state.step is not None):
        raise InputError(
            f"block {state.block} is post-norm: it returns what its norm makes, and norm2 does not "
            "read the stream to which the MLP is added; name the first module of the MLP as norm2, "
            "such as layer.linear1, and no mlp, or None for every norm2 and score by shift(block)"
        )


def check_in_place(state: BlockState, tokens: Tensor) -> None:
    """``InputError`` if a stream that is read was overwritten by the next."""
    earlier = {"entry": state.entry, "middle": state.middle}
    seen = [tokens is stream for name, stream in earlier.items() if name in state.needs]
    if "exit" in state.needs and any(seen):
        raise InputError(
            f"block {state.block} changes its tokens in place (x += ...), so that the stream as "
            "it was before is gone; write x = x + ..."
        )


def _is_norm(part: nn.Module) -> bool:
    return "norm" in type(part).__name__.lower() and next(part.children(), None) is None
