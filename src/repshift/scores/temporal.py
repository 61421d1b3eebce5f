"""What changed since the frame before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from repshift.errors import InputError
from repshift.registry import register
from repshift.scores.base import Need, Score, Snapshots
from repshift.sequence.similarity import directions

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@register
@dataclass(frozen=True)
class Temporal(Score):
    """One minus the cosine of a token and that of the same cell a frame earlier.

    As Efficient Video Sampling (arXiv 2510.14624). The first frame of a video, and an image, stays.
    """

    name: ClassVar[str] = "temporal"
    needs: ClassVar[frozenset[Need]] = frozenset({"frame before"})

    def __call__(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        if snapshot.frame_before is None:
            raise InputError("temporal compares the frames of a prompt's video; use it in Keep")
        return 1 - (directions(snapshot.tokens) * directions(snapshot.frame_before)).sum(-1)
