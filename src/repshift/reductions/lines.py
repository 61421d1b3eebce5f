"""Rows and columns of a feature map leave: Representation Shift in a ResNet (section 4.2).

The paper's D(F(x), x) over a stage needs a reading, since entry and exit differ in shape. On the
ResNet-20 for CIFAR-10 (benchmarks/cifar.py, 2,000 test images, training-free, three counts) whole
lines by any reading keep more accuracy than random lines: by 6.0 points for the update of the last
block's branch, 5.5 for that block, D(exit, entry), 4.5 for the branch as printed and 3.3 for the
norm over the stage; on half a run of ResNet-32 the last of these was the best. The block is the
default though it is not the first: the gap is within the noise of 2,000 images, it is the paper's
formula as it stands, and it needs no copy of the branch. On digits-resnet no more accuracy is kept
by it than by random lines.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from repshift.lines import LineMap
from repshift.reductions.base import Reduction
from repshift.reductions.prune import highest
from repshift.scores import Score, Shift

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class LineReduction(Reduction):
    """Decides which rows and columns of a feature map leave, for each image by itself.

    What leaves a convolution must be a rectangle again, so that a ResNet loses rows and columns
    where a transformer loses tokens.
    """

    usual: ClassVar[Score] = Shift("block")

    def choose(self, scores: Float[Tensor, "B H W"], rows: int, columns: int) -> LineMap:
        """Let ``rows`` rows and ``columns`` columns leave."""
        raise NotImplementedError


@dataclass(frozen=True)
class Lines(LineReduction):
    """The lowest rows and columns leave, by the mean of their scores (the paper's line-wise)."""

    name: ClassVar[str] = "lines"

    def choose(self, scores: Float[Tensor, "B H W"], rows: int, columns: int) -> LineMap:
        kept_rows, _ = highest(scores.mean(2), rows)
        kept_columns, _ = highest(scores.mean(1), columns)
        return LineMap(kept_columns[:, None], kept_rows[:, :, None], *scores.shape[1:])


@dataclass(frozen=True)
class LineTokens(LineReduction):
    """The lowest positions of each row leave, then those of each column (the paper's token-wise).

    The rest moves together, so that a column of what is left is none of the image. The paper does
    not say which come first, rows or columns.
    """

    name: ClassVar[str] = "line-tokens"

    def choose(self, scores: Float[Tensor, "B H W"], rows: int, columns: int) -> LineMap:
        batch, height, width = scores.shape
        across, _ = highest(scores.flatten(0, 1), columns)
        across = across.view(batch, height, width - columns)
        left = scores.gather(2, across).mT.flatten(0, 1)
        down, _ = highest(left, rows)
        down = down.view(batch, width - columns, height - rows).mT
        return LineMap(across, down, height, width)
