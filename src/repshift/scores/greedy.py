"""Highest scores first, others discounted by their likeness to what was taken."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional as F

from repshift.errors import InputError
from repshift.registry import register
from repshift.scores.base import Need, Score, Snapshots
from repshift.scores.redundancy import Redundancy

if TYPE_CHECKING:
    from jaxtyping import Float


_DEFAULT = Redundancy("tokens")


@register
@dataclass(frozen=True)
class Greedy(Score):
    """Take the highest score; discount the others by their cosine to what was taken; again.

    Scores are brought to [0, 1] image by image, and ``diversity`` times the largest cosine to a
    token that was taken is subtracted. 0 is the plain order; a score that is the same for all gives
    the farthest token each time (as DivPrune, CVPR 2025). Tokens are compared, never all pairs at
    once: memory is linear.
    """

    name: ClassVar[str] = "greedy"
    score: Score = _DEFAULT
    diversity: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.score, Score):
            raise InputError(f"greedy takes a score, got {self.score!r}")
        if not 0 <= self.diversity < math.inf:
            raise InputError(f"greedy: the diversity is {self.diversity}; expected 0 or more")

    def required(self) -> frozenset[Need]:
        return self.score.required()

    def __call__(self, snapshot: Snapshots) -> Float[torch.Tensor, "B N"]:
        scores = snapshot.guard(self.score(snapshot).detach())
        batch, count = scores.shape
        free = scores.isfinite()
        low = scores.where(free, math.inf).amin(1, keepdim=True)
        high = scores.where(free, -math.inf).amax(1, keepdim=True)
        span = (high - low).clamp_min(torch.finfo(scores.dtype).tiny)
        worth = ((scores - low) / span).where(free, scores)
        direction = F.normalize(snapshot.tokens.detach().to(scores.dtype), dim=-1)
        rows = torch.arange(batch, device=scores.device)
        value, order = worth.clone(), torch.zeros_like(worth)
        steps = count if snapshot.keep is None else int(snapshot.keep.max())
        for step in range(steps):
            best = value.argmax(1, keepdim=True)
            # The first place counts: where nothing is left, the first token is met again.
            rank = torch.full_like(worth[:, :1], count - step)
            order.scatter_reduce_(1, best, rank, "amax")
            cosine = (direction @ direction[rows, best[:, 0], :, None])[..., 0]
            value = value.minimum(worth - self.diversity * cosine)
            value.scatter_(1, best, -math.inf)
        return order
