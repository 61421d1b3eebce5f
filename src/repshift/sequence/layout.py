"""How the patches of an encoder's input lie: frames end to end, units in cells or windows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from repshift.errors import InputError
from repshift.sequence.segments import Segments

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """The frames of a packed stream, and where in its frame each row belongs.

    ``places`` [S, L] is None where the rows of a frame come in their own order.
    """

    segments: Segments
    places: Int[Tensor, "S L"] | None = None

    @classmethod
    def of_grids(
        cls, grids: Int[Tensor, "I 3"], unit: int, window: int | None, index: Tensor | None = None
    ) -> Layout:
        """That of images of so many frames, rows and columns of patches.

        The units of a frame are put in order by windows of ``window`` x ``window``, or by the
        ``index`` of all units that the model is given itself.
        """
        frames = [(rows, columns) for t, rows, columns in grids.tolist() for _ in range(t)]
        # On the host, where the model asks for them too: no later question waits for a GPU.
        segments = Segments.pack(torch.tensor([rows * columns for rows, columns in frames]))
        if window is None:
            return cls(segments)
        side = math.isqrt(unit)
        shapes = [(rows // side, columns // side) for rows, columns in frames]
        if index is None:
            of_shape = {shape: by_cell(*shape, window) for shape in shapes}
            orders = [of_shape[shape] for shape in shapes]
        else:
            orders = list(index.cpu().split([rows * columns for rows, columns in shapes]))
            orders = [order - order.min() for order in orders]
        places = torch.arange(segments.longest).repeat(segments.count, 1)
        for frame, order in enumerate(orders):
            rows = (order[:, None] * unit + torch.arange(unit)).flatten()
            places[frame, : len(rows)] = rows
        return cls(segments, places)


def by_cell(rows: int, columns: int, side: int) -> Int[Tensor, " N"]:
    """The places of a grid that is read cell by cell, each ``side`` x ``side`` or what is left."""
    place = torch.arange(rows * columns)
    row, column = place // columns, place % columns
    cell = row // side * math.ceil(columns / side) + column // side
    return cell.argsort(stable=True)


def cells_among(kept: Int[Tensor, "B K"], patches: int, side: int) -> Int[Tensor, "B K"]:
    """Where the ``kept`` of a square grid of ``patches`` stand, cell by cell.

    Of every cell either all or none are among them.
    """
    count = math.isqrt(patches)
    if count**2 != patches or count % side:
        raise InputError(
            f"the model merges cells of {side} x {side} patches of a square grid, and {patches} "
            "patches are no such grid"
        )
    rank = by_cell(count, count, side).argsort().to(kept.device)
    return rank[kept].argsort(dim=1)
