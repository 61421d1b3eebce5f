"""Attention of the class token: the baseline of models that have one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from repshift.registry import register
from repshift.scores.base import Need, Score, Snapshots, mean_over_heads

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@register
@dataclass(frozen=True)
class ClassAttention(Score):
    """Attention the class token pays to each token, mean over heads (EViT, arXiv 2202.07800)."""

    name: ClassVar[str] = "class-attention"
    needs: ClassVar[frozenset[Need]] = frozenset({"attention", "class token"})

    def __call__(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        assert snapshot.attention is not None
        return mean_over_heads(snapshot.attention[:, :, 0])
