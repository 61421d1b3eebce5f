"""Several processes on one task."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Ranks:
    """The processes that ``torchrun`` started, and which of them this is; alone without it."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.size > 1 and not torch.distributed.is_initialized():
            torch.distributed.init_process_group("gloo")

    def owns(self, number: int) -> bool:
        """Whether piece ``number`` is this process's share."""
        return number % self.size == self.rank

    def first(self, make: Callable[[], T]) -> T:
        """``make`` in the first process before the others, which find what it left on disk."""
        if self.rank == 0:
            made = make()
            self.wait()
            return made
        self.wait()
        return make()

    def wait(self) -> None:
        """Until all have come here; what they wrote is then on disk."""
        if self.size > 1:
            torch.distributed.barrier()
