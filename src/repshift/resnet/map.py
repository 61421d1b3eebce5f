"""Which rows and columns of a feature map stay, and the way back to the full grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from repshift.sequence.token_map import gather

if TYPE_CHECKING:
    from jaxtyping import Int, Shaped
    from torch import Tensor


@dataclass(frozen=True)
class GridMap:
    """The way from a grid of ``height`` H by ``width`` W to one of h by w, and back.

    ``columns`` [B, H, w] are the columns that stay of every row; ``rows`` [B, h, w] the rows that
    then stay of every column of what is left. Both ascend. The middle axis of ``columns`` and the
    last of ``rows`` are 1 where the same stay everywhere: whole rows and columns.
    """

    columns: Int[Tensor, "B rows w"]
    rows: Int[Tensor, "B h columns"]
    height: int
    width: int

    @property
    def whole(self) -> bool:
        """Whether whole rows and columns leave."""
        return self.columns.shape[1] == 1 and self.rows.shape[2] == 1

    @property
    def kept(self) -> Int[Tensor, "B h w"]:
        """The place of each survivor in the full grid, counted row by row."""
        columns = self.columns if self.whole else self.columns.gather(1, self.rows)
        return self.rows * self.width + columns

    @property
    def parent(self) -> Int[Tensor, "B H W"]:
        """For each place of the full grid, that of the survivor which stands for it.

        The nearest column of its row, then the nearest row of that column; a survivor stands for
        itself.
        """
        across = _nearest(self.columns, self.width)
        down = _nearest(self.rows.mT, self.height).mT
        if not self.whole:
            down = down.gather(2, across)
        return down * self.columns.shape[2] + across

    def apply(self, features: Shaped[Tensor, "B C H W"]) -> Shaped[Tensor, "B C h w"]:
        """The survivors, in the memory format of the features."""
        return _take(features, self.kept)

    def restore(self, features: Shaped[Tensor, "B C h w"]) -> Shaped[Tensor, "B C H W"]:
        """Put the survivors back in place; what left gets the features of its stand-in."""
        return _take(features, self.parent)

    def strided(self) -> GridMap:
        """The same map after both grids went through a layer of stride 2.

        Position i of such a layer stands where position 2 i of its input stood. Where the columns
        that stay differ from row to row, the first of two rows says which they are: so no two
        positions stand in one place.
        """
        return GridMap(
            self.columns[:, ::2, ::2] // 2,
            self.rows[:, ::2, ::2] // 2,
            -(-self.height // 2),
            -(-self.width // 2),
        )


def _nearest(kept: Int[Tensor, "B L k"], count: int) -> Int[Tensor, "B L count"]:
    """Of each of ``count`` places, which of the ascending ``kept`` is nearest, the first of two."""
    middles = (kept[..., 1:] + kept[..., :-1]) // 2
    places = torch.arange(count, device=kept.device)
    return (middles[..., None, :] < places[:, None]).sum(-1)


def _take(
    features: Shaped[Tensor, "B C H W"], places: Int[Tensor, "B h w"]
) -> Shaped[Tensor, "B C h w"]:
    batch, channels = features.shape[:2]
    height, width = places.shape[1:]
    places = places.flatten(1).to(features.device)
    channels_last = features.is_contiguous(memory_format=torch.channels_last)
    if channels_last and not features.is_contiguous():
        # Whole rows of [B * H * W, C], which is how the features lie in memory.
        taken = gather(features.permute(0, 2, 3, 1).flatten(1, 2), places)
        return taken.view(batch, height, width, channels).permute(0, 3, 1, 2)
    index = places[:, None].expand(-1, channels, -1)
    return features.flatten(2).gather(2, index).view(batch, channels, height, width)
