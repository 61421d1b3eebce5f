"""What the library must know of a ResNet: where it keeps its stages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import nn


@dataclass(frozen=True)
class Stage:
    """One stage of a ResNet: feature maps [B, C, H, W] of one size, after which rows and
    columns may leave.

    ``first`` and ``last`` are its outer blocks. What ``branch`` gives is added to the shortcut of
    the last block, which is what ``shortcut`` gives, or where that is None the block's input.
    """

    first: nn.Module
    last: nn.Module
    branch: nn.Module
    shortcut: nn.Module | None = None


@dataclass(frozen=True)
class ResNetSpec:
    """Where a ResNet keeps its stages, in the order in which they run.

    Each of them takes what the one before gave, at full or at half the rows and columns, and what
    follows the last one takes feature maps of any size.
    """

    stages: Sequence[Stage]

    def __post_init__(self) -> None:
        if not self.stages:
            raise InputError("a spec names at least one stage")

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks that rows and columns leave."""
        return [stage.last for stage in self.stages]
