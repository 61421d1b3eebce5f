"""Another score, whose values someone wants to see as they are given."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from repshift.scores.base import Need, Score, Snapshots

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Watched(Score):
    """The scores of ``inner``; ``tell`` is told them and what they were made from."""

    name: ClassVar[str] = "watched"
    inner: Score
    tell: Callable[[Snapshots, Float[Tensor, "B N"]], None]

    def __str__(self) -> str:
        return str(self.inner)

    @property
    def comparable_across_images(self) -> bool:
        return self.inner.comparable_across_images

    def required(self) -> frozenset[Need]:
        return self.inner.required()

    def __call__(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        scores = self.inner(snapshot)
        self.tell(snapshot, scores)
        return scores
