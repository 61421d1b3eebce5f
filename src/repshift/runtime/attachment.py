"""Hooks on a model, and what comes and goes with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

Self = TypeVar("Self", bound="Attachment")  # typing's own is not checked function by function


class Hook:
    """A small callable, so that a compressed model can be pickled, copied and compiled."""

    def __init__(self, compression: Any, action: str, block: int = -1) -> None:
        self.compression = compression
        self.action = action
        self.block = block

    def __call__(self, module: nn.Module, *inputs: Any) -> Any:
        return getattr(self.compression, self.action)(self.block, *inputs)


class Attachment:
    """Something at work on a model in hooks, until it is detached; a context manager."""

    def __init__(self, handles: Iterable[RemovableHandle]) -> None:
        self._verified = False
        self._handles = list(handles)

    def detach(self) -> None:
        """Take every hook off; the model is as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def _verify(self, features: Tensor) -> bool:
        # NaN sorts first, so that what is NaN stays and turns the output to NaN: never silent.
        # Saying so at once costs a synchronisation on a GPU, which only the first call pays.
        if torch.compiler.is_compiling() or features.is_meta:
            return False
        return features.device.type == "cpu" or not self._verified
