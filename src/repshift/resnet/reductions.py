"""Rows and columns of a feature map leave: Representation Shift in a ResNet (section 4.2).

The paper's D(F(x), x) over a stage needs a reading, since entry and exit differ in shape. On three
ResNets for CIFAR-10 (docs/paper.md: 2,000 test images, training-free, three counts each) whole rows
and columns by any reading keep more accuracy than random ones: by 5.7 points for the last block of
the stage, D(exit, entry), 5.6 for the update of its branch, 5.3 for the norm over the stage and 4.7
for the branch as printed. The block is the default: the best, and it needs no copy of the branch.
Cropping the border gains as much (5.8), a smaller image more. On digits-resnet random ones keep
more than the shift.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from repshift.reductions.base import Reduction
from repshift.reductions.prune import highest
from repshift.registry import register
from repshift.resnet.map import GridMap
from repshift.scores import Score, Shift

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class GridReduction(Reduction):
    """Decides which rows and columns of a feature map leave, for each image by itself.

    What leaves a convolution must be a rectangle again, so that a ResNet loses rows and columns
    where a transformer loses tokens.
    """

    default_score: ClassVar[Score] = Shift("block")

    def choose(self, scores: Float[Tensor, "B H W"], rows: int, columns: int) -> GridMap:
        """Let ``rows`` rows and ``columns`` columns leave."""
        raise NotImplementedError


@register
@dataclass(frozen=True)
class RowsAndColumns(GridReduction):
    """The lowest rows and columns leave, by the mean of their scores.

    The paper's line-wise reduction (arXiv 2508.00367, section 4.2).
    """

    name: ClassVar[str] = "rows-and-columns"

    def choose(self, scores: Float[Tensor, "B H W"], rows: int, columns: int) -> GridMap:
        kept_rows, _ = highest(scores.mean(2), rows)
        kept_columns, _ = highest(scores.mean(1), columns)
        return GridMap(kept_columns[:, None], kept_rows[:, :, None], *scores.shape[1:])


@register
@dataclass(frozen=True)
class PerRowAndColumn(GridReduction):
    """The lowest positions of each row leave, then those of each column.

    The paper's token-wise reduction (arXiv 2508.00367, section 4.2). The rest moves together, so
    that a column of what is left is none of the image. The paper does not say which come first,
    rows or columns.
    """

    name: ClassVar[str] = "per-row-and-column"

    def choose(self, scores: Float[Tensor, "B H W"], rows: int, columns: int) -> GridMap:
        batch, height, width = scores.shape
        across, _ = highest(scores.flatten(0, 1), columns)
        across = across.view(batch, height, width - columns)
        left = scores.gather(2, across).mT.flatten(0, 1)
        down, _ = highest(left, rows)
        down = down.view(batch, width - columns, height - rows).mT
        return GridMap(across, down, height, width)
