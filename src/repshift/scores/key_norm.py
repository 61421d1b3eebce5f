"""Length of the keys."""

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
class KeyNorm(Score):
    """L2 norm of each token's key, mean over heads; it needs no attention map."""

    name: ClassVar[str] = "key-norm"
    needs: ClassVar[frozenset[Need]] = frozenset({"keys"})

    def __call__(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        assert snapshot.keys is not None
        dtype = torch.promote_types(snapshot.keys.dtype, torch.float32)
        return torch.linalg.vector_norm(snapshot.keys, dim=-1, dtype=dtype).mean(1)
