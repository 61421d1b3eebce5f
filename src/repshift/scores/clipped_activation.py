"""What a token brought out of the scan: the baseline of state-space models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from repshift.registry import register
from repshift.scores.base import Need, Score, Snapshots

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@register
@dataclass(frozen=True)
class ClippedActivation(Score):
    """Sum over channels of max(0, y), y the mixer's activations (ToP-ViM, arXiv 2409.18962).

    The activations are those that the last projection reads: gated, both directions averaged, in
    the order of the tokens. ToP-ViM's released code takes the backward direction while it is still
    flipped, so that it scores each token by its mirror image, and spares the class token of the
    first image of a batch alone; neither is repeated here.
    """

    name: ClassVar[str] = "clipped-activation"
    needs: ClassVar[frozenset[Need]] = frozenset({"activation", "mixer"})

    def __call__(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        assert snapshot.activation is not None
        dtype = torch.promote_types(snapshot.activation.dtype, torch.float32)
        return snapshot.activation.clamp_min(0).sum(-1, dtype=dtype)
