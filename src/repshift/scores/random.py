"""Random dropping: the baseline that every score must beat."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, TypeVar

import torch
from torch import Tensor

from repshift.registry import register
from repshift.scores.base import Score, Snapshots

if TYPE_CHECKING:
    from jaxtyping import Float

Mixed = TypeVar("Mixed", int, Tensor)


@register
@dataclass(frozen=True)
class Random(Score):
    """A fixed random order of the positions, one for each seed and block, the same for every image.

    A hash of seed, block and position instead of a generator: it has no state, so it compiles,
    exports and does not depend on the batch or the device.
    """

    name: ClassVar[str] = "random"
    seed: int = 0

    def __call__(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        batch, count, _ = snapshot.tokens.shape
        positions = torch.arange(count, device=snapshot.tokens.device)
        order = _mix(positions + _mix(_mix(self.seed) + snapshot.block + 1))
        return (order >> 8).float().expand(batch, -1)  # 24 bits: exact in float32


def _mix(x: Mixed) -> Mixed:
    """An integer hash of 32 bits (two xor-shift and multiply rounds)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return x ^ (x >> 16)
