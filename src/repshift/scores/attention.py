"""Attention received: the baselines. They need the map that fused attention never forms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from repshift.scores.base import Need, Score, Snapshots

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class ClassAttention(Score):
    """Attention the class token pays to each token, mean over heads (EViT, arXiv 2202.07800)."""

    name: ClassVar[str] = "class-attention"
    needs: ClassVar[frozenset[Need]] = frozenset({"attention", "class token"})

    def __call__(self, seen: Snapshots) -> Float[Tensor, "B N"]:
        assert seen.attention is not None
        return seen.attention[:, :, 0].mean(1)


@dataclass(frozen=True)
class ColumnAttention(Score):
    """Attention that all tokens pay to each token, mean over heads and queries.

    The baseline of Representation Shift for models without a class token (section 4.1).
    """

    name: ClassVar[str] = "column-attention"
    needs: ClassVar[frozenset[Need]] = frozenset({"attention"})

    def __call__(self, seen: Snapshots) -> Float[Tensor, "B N"]:
        assert seen.attention is not None
        return seen.attention.mean((1, 2))
