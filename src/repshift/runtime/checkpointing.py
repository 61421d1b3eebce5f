"""Gradient checkpointing: blocks that run again inside the backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

import torch
from torch.multiprocessing.reductions import StorageWeakRef

if TYPE_CHECKING:
    from torch import Tensor, nn

    from repshift.runtime.trace import ForwardTrace


class Recomputed:
    """Finds the trace of the forward to which a block that runs again belongs.

    Checkpointing hands a block the tokens it got before, in the same storage. A weak reference
    tells it from a later one at the same address. The backward pass may run in a thread of its own.
    """

    def __init__(self) -> None:
        self._traces: WeakValueDictionary[tuple[int, StorageWeakRef, int], ForwardTrace]
        self._traces = WeakValueDictionary()

    def remember(self, block: int, tokens: Tensor, trace: ForwardTrace) -> None:
        """``tokens`` enter ``block`` in a forward that may run again."""
        taped = torch.is_grad_enabled() and not torch.compiler.is_compiling()
        if taped and (place := _place(tokens)) is not None:
            self._traces[block, *place] = trace

    def find(self, block: int, tokens: Tensor) -> ForwardTrace | None:
        """The trace of that forward; None if a later one has taken its place."""
        place = _place(tokens)
        return None if place is None else self._traces.get((block, *place))

    def __deepcopy__(self, _: object) -> Recomputed:
        return Recomputed()

    def __reduce__(self) -> tuple[type[Recomputed], tuple[()]]:
        return Recomputed, ()


def _place(tokens: Tensor) -> tuple[StorageWeakRef, int] | None:
    try:
        return StorageWeakRef(tokens.untyped_storage()), int(tokens.storage_offset())
    except RuntimeError:  # tensors of torch.func have no memory of their own
        return None


def replays(block: nn.Module) -> bool:
    """Whether transformers' checkpointing will run the forward of the block again by itself."""
    taped = block.training and torch.is_grad_enabled()
    return taped and bool(getattr(block, "gradient_checkpointing", False))


def recomputing() -> bool:
    """Whether gradient checkpointing is running a block again, inside the backward pass."""
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1
