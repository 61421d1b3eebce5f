"""Drop the lowest scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from repshift.reductions.base import Reduction
from repshift.registry import register
from repshift.sequence.order import descending
from repshift.sequence.similarity import most_similar
from repshift.sequence.token_map import Step, gather

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from repshift.scores import Snapshots


@register
@dataclass(frozen=True)
class Prune(Reduction):
    """Keep the highest scores, per image, in their order; the others leave.

    The most similar survivor stands for a token that left, to restore dense outputs.
    """

    name: ClassVar[str] = "prune"

    def __call__(self, snapshot: Snapshots, scores: Float[Tensor, "B N"], drop: int) -> Step:
        kept, dropped = highest(scores, drop)
        return Step(kept, dropped, nearest(snapshot, kept, dropped))


def highest(
    scores: Float[Tensor, "B N"], drop: int
) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B D"]]:
    """The indices of all but the ``drop`` lowest scores, in order, and those of the lowest."""
    order = descending(scores)  # of equal scores the earlier token stays
    stay = scores.shape[1] - drop
    return order[:, :stay].sort(dim=1).values, order[:, stay:]


def nearest(
    snapshot: Snapshots, kept: Int[Tensor, "B K"], dropped: Int[Tensor, "B D"]
) -> Int[Tensor, "B D"]:
    """The position among the survivors of the one most similar to each token that leaves."""
    protected = None if snapshot.protected is None else snapshot.protected.gather(1, kept)
    left, stayed = gather(snapshot.tokens, dropped), gather(snapshot.tokens, kept)
    return most_similar(left, stayed, snapshot.prefix, protected)
