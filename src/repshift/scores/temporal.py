"""What changed since the frame before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn import functional as F

from repshift.errors import InputError
from repshift.registry import register
from repshift.scores.base import Need, Score, Snapshots

if TYPE_CHECKING:
    from jaxtyping import Float


@register
@dataclass(frozen=True)
class Temporal(Score):
    """One minus the cosine of a token and that of the same cell a frame earlier.

    As Efficient Video Sampling (arXiv 2510.14624). The first frame of a video, and an image, stays.
    """

    name: ClassVar[str] = "temporal"
    needs: ClassVar[frozenset[Need]] = frozenset({"frame before"})

    def __call__(self, snapshot: Snapshots) -> Float[torch.Tensor, "B N"]:
        if snapshot.frame_before is None:
            raise InputError("temporal compares the frames of a prompt's video; use it in Keep")
        now, before = (
            F.normalize(one.to(torch.promote_types(one.dtype, torch.float32)), dim=-1)
            for one in (snapshot.tokens, snapshot.frame_before)
        )
        return 1 - (now * before).sum(-1)
