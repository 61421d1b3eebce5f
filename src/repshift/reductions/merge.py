"""Merge the lowest scores into what is left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from repshift.reductions.base import Merging
from repshift.reductions.prune import highest, nearest
from repshift.registry import register
from repshift.sequence.token_map import Step

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from repshift.scores import Snapshots


@register
@dataclass(frozen=True)
class Merge(Merging):
    """Keep the highest scores; each of the others joins its most similar survivor.

    A survivor becomes the mean of what it took up, weighted by size.
    """

    name: ClassVar[str] = "merge"

    def __call__(self, snapshot: Snapshots, scores: Float[Tensor, "B N"], drop: int) -> Step:
        kept, dropped = highest(scores, drop)
        share = scores.gather(1, dropped).isneginf().logical_not().to(scores.dtype)
        return Step(kept, dropped, nearest(snapshot, kept, dropped), share)
