"""How unlike the mean token a token is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch.nn import functional as F

from repshift.registry import register
from repshift.scores.base import Score, Snapshots

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@register
@dataclass(frozen=True)
class MeanDistance(Score):
    """One minus the cosine of each token and the mean of the image's patch tokens."""

    name: ClassVar[str] = "mean-distance"

    def __call__(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        tokens = snapshot.tokens.float() if snapshot.tokens.itemsize < 4 else snapshot.tokens
        patches = tokens[:, snapshot.prefix :]
        if snapshot.padding is not None:
            # The sum without padding points where the mean does.
            patches = patches.masked_fill(snapshot.padding[:, snapshot.prefix :, None], 0)
        mean = patches.mean(1, keepdim=True)
        return (1 - F.cosine_similarity(tokens, mean, dim=-1)).clamp_min(0)
