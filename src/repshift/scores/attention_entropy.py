"""How sharply a token attends: the saliency of vid-TLDR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from repshift.registry import register
from repshift.scores.base import Need, Score, Snapshots, mean_over_heads

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@register
@dataclass(frozen=True)
class AttentionEntropy(Score):
    """Negative entropy of the mean over heads of the attention a token pays (vid-TLDR, CVPR 2024).

    The sharper, the more important. The reduction ``vid-tldr`` removes the background from it.
    """

    name: ClassVar[str] = "attention-entropy"
    needs: ClassVar[frozenset[Need]] = frozenset({"attention"})

    def __call__(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        assert snapshot.attention is not None
        return -torch.special.entr(mean_over_heads(snapshot.attention)).sum(-1)
