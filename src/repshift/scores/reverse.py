"""The opposite of a score: if that is not worse, the score says nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from repshift.errors import InputError
from repshift.registry import register
from repshift.scores.base import Need, Score, Snapshots
from repshift.scores.shift import Shift

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_DEFAULT = Shift()


@register
@dataclass(frozen=True)
class Reverse(Score):
    """Keep what another score drops."""

    name: ClassVar[str] = "reverse"
    score: Score = _DEFAULT

    def __post_init__(self) -> None:
        if isinstance(self.score, Reverse) or not isinstance(self.score, Score):
            raise InputError(f"reverse takes another score, got {self.score}")

    def required(self) -> frozenset[Need]:
        return self.score.required()

    def __call__(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        return -self.score(snapshot)
