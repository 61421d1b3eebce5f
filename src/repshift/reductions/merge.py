"""Merge the lowest scores into what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from repshift.method import check_choice
from repshift.reductions.base import Merging
from repshift.reductions.prune import highest, nearest
from repshift.registry import register
from repshift.sequence.token_map import Step

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from repshift.scores import Snapshots

Length = Literal["mean", "kept"]


@register
@dataclass(frozen=True)
class Merge(Merging):
    """Keep the highest scores; each of the others joins its most similar survivor.

    A survivor becomes the mean of what it took up, weighted by size. The less alike tokens are, the
    shorter is their mean, and the further a layer turns it. With the length ``kept`` it is made as
    long as they were on average (after Token Fusion, arXiv 2312.01026, which takes the longest).
    """

    name: ClassVar[str] = "merge"
    length: Length = "mean"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice(self.name, self.length, Length)

    def _label_values(self) -> list[Any]:
        plain = super()._label_values()
        return plain if self.length == "mean" else [self.attention, self.length]

    def __call__(self, snapshot: Snapshots, scores: Float[Tensor, "B N"], drop: int) -> Step:
        kept, dropped = highest(scores, drop)
        share = scores.gather(1, dropped).isneginf().logical_not().to(scores.dtype)
        target = nearest(snapshot, kept, dropped)
        return Step(kept, dropped, target, share, keep_length=self.length == "kept")
