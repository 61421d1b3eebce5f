"""Length of the tokens themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from repshift.registry import register
from repshift.scores.base import Score, Snapshots

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@register
@dataclass(frozen=True)
class StreamNorm(Score):
    """L2 norm of each token in the residual stream: the shift from nothing."""

    name: ClassVar[str] = "stream-norm"

    def __call__(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        dtype = torch.promote_types(snapshot.tokens.dtype, torch.float32)
        return torch.linalg.vector_norm(snapshot.tokens, dim=-1, dtype=dtype)
