"""Distance from the border: the baseline of cropping, which looks at no image."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from repshift.registry import register
from repshift.scores.base import Need, Score, Snapshots

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@register
@dataclass(frozen=True)
class Border(Score):
    """Rows from the nearest horizontal border plus columns from the nearest vertical one."""

    name: ClassVar[str] = "border"
    needs: ClassVar[frozenset[Need]] = frozenset({"grid"})

    def __call__(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        assert snapshot.grid is not None
        device = snapshot.tokens.device
        down, across = (torch.arange(length, device=device) for length in snapshot.grid)
        down, across = (torch.minimum(axis, axis.flip(0)).float() for axis in (down, across))
        return (down[:, None] + across).flatten().expand(snapshot.tokens.shape[0], -1)
