"""Attention received from all tokens: the baseline of models without a class token."""

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
class ColumnAttention(Score):
    """Attention that all tokens pay to each token, mean over heads and queries.

    The baseline of Representation Shift for models without a class token (arXiv 2508.00367,
    section 4.1).
    """

    name: ClassVar[str] = "column-attention"
    needs: ClassVar[frozenset[Need]] = frozenset({"attention"})

    def __call__(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        assert snapshot.attention is not None
        attention = mean_over_heads(snapshot.attention)
        if snapshot.padding is not None:
            # What padding attends to is noise, and its length depends on the other texts.
            attention = attention.masked_fill(snapshot.padding[:, :, None], 0)
        return attention.mean(1)
