"""Gradient checkpointing: blocks that run again inside the backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from repshift.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from repshift.runtime.trace import ForwardTrace


def check_place(call: ForwardTrace, block: int, tokens: Tensor, again: bool) -> None:
    """Whether a block that runs again belongs to the last call, whose positions are known."""
    # Checkpointing hands a block the very tensor it got before.
    taped = torch.is_grad_enabled() and not torch.compiler.is_compiling()
    place = tokens.data_ptr() if taped else 0
    if not again:
        call.places[block] = place
    elif call.places.get(block) != place:
        raise InputError(
            "gradient checkpointing runs the blocks of an earlier forward again, whose token "
            "positions are gone; run backward before the next forward"
        )


def replays(block: nn.Module) -> bool:
    """Whether transformers' checkpointing will run the forward of the block again by itself."""
    return block.training and bool(getattr(block, "gradient_checkpointing", False))


def recomputing() -> bool:
    """Whether gradient checkpointing is running a block again, inside the backward pass."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
