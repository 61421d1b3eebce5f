"""Highest scores first, others discounted by their likeness to what was taken."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from repshift.errors import InputError
from repshift.registry import register
from repshift.runtime.attachment import readable
from repshift.scores.base import Need, Score, Snapshots
from repshift.scores.redundancy import Redundancy
from repshift.sequence.diverse import diverse_order
from repshift.sequence.similarity import directions

if TYPE_CHECKING:
    from jaxtyping import Float


_DEFAULT = Redundancy("tokens")


@register
@dataclass(frozen=True)
class Greedy(Score):
    """Take the highest score; discount the others by their cosine to what was taken; again.

    Scores are brought to [0, 1] image by image, and ``diversity`` times the largest cosine to a
    token that was taken is subtracted. 0 is the plain order. From about 10 on the farthest token is
    taken each time (as DivPrune, CVPR 2025), and the score only decides among those about as far.
    Memory is linear: all pairs of tokens are compared at once only where there are at most twice as
    many tokens as channels. Cosines are as precise as the tokens are.
    """

    name: ClassVar[str] = "greedy"
    score: Score = _DEFAULT
    diversity: float = 10.0

    def __post_init__(self) -> None:
        if not isinstance(self.score, Score):
            raise InputError(f"greedy takes a score, got {self.score!r}")
        if not 0 <= self.diversity < math.inf:
            raise InputError(f"greedy: the diversity is {self.diversity}; expected 0 or more")

    def required(self) -> frozenset[Need]:
        return self.score.required()

    def __call__(self, snapshot: Snapshots) -> Float[torch.Tensor, "B N"]:
        scores = snapshot.guard(self.score.rate(snapshot))
        free = scores.isfinite()
        low = scores.where(free, math.inf).amin(1, keepdim=True)
        high = scores.where(free, -math.inf).amax(1, keepdim=True)
        span = (high - low).clamp_min(torch.finfo(scores.dtype).tiny)
        worth = ((scores - low) / span).where(free, scores)
        direction = directions(snapshot.tokens).to(snapshot.tokens.dtype)
        whole = not readable(scores)
        order = diverse_order(worth, direction, self.diversity, snapshot.keep, whole)
        # An order of tokens that are NaN would hide that they are.
        return order.masked_fill(scores.isnan() | direction.sum(-1).isnan(), math.nan)
