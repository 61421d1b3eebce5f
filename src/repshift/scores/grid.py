"""Even spacing over the grid: the baseline that needs no content."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from repshift.errors import InputError
from repshift.registry import register
from repshift.scores.base import Need, Score, Snapshots

if TYPE_CHECKING:
    from jaxtyping import Float


@register
@dataclass(frozen=True)
class Grid(Score):
    """Cells of the grid, evenly spaced along a curve that fills a square before it goes on.

    The curve is Morton's: a quarter of a grid of even sides is one cell of every two by two.
    """

    name: ClassVar[str] = "grid"
    needs: ClassVar[frozenset[Need]] = frozenset({"cells"})

    def __call__(self, snapshot: Snapshots) -> Float[torch.Tensor, "B N"]:
        if snapshot.cells is None or snapshot.keep is None:
            raise InputError("grid spaces the tokens that a prompt keeps; use it in Keep")
        row, column = snapshot.cells.unbind(-1)
        curve = torch.zeros_like(row)
        for bit in range(12):
            curve |= (column >> bit & 1) << 2 * bit | (row >> bit & 1) << 2 * bit + 1
        count = torch.full_like(row[:, :1], row.shape[1])
        if snapshot.padding is not None:
            curve = curve.masked_fill(snapshot.padding, 1 << 30)
            count = (~snapshot.padding).sum(1, keepdim=True)
        place = curve.argsort(dim=1, stable=True).argsort(dim=1, stable=True)
        keep = snapshot.keep[:, None]
        # The first place of each of ``keep`` equal parts of the curve.
        part = place * keep // count
        before = ((place - 1) * keep).div(count, rounding_mode="floor")
        return (part != before).float()
