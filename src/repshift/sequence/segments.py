"""Images of different lengths in one sequence, end to end, so that nothing is spent on padding."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, Shaped
    from torch import Tensor


@dataclass(frozen=True)
class Packing:
    """``lengths`` [B] tokens of each image in one sequence [1, T, ...], T their sum.

    The same in a batch [B, K, ...], K the longest, has padding at the end of the shorter images.
    """

    lengths: Int[Tensor, " B"]

    @cached_property
    def counts(self) -> list[int]:
        """The lengths on the host, which costs a synchronisation on a GPU."""
        return self.lengths.tolist()

    @property
    def longest(self) -> int:
        return max(self.counts)

    @property
    def padding(self) -> Bool[Tensor, "B K"]:
        """Marks what is no token in a padded batch."""
        places = torch.arange(self.longest, device=self.lengths.device)
        return places >= self.lengths[:, None]

    @cached_property
    def rows(self) -> Int[Tensor, " T"]:
        """Where each token of the sequence stands in a padded batch [B * K]."""
        return (~self.padding).flatten().nonzero().flatten()

    @cached_property
    def cu_seqlens(self) -> Int[Tensor, " E"]:
        """Where each image ends in the sequence, 0 before the first (``cu_seqlens``)."""
        return torch.nn.functional.pad(self.lengths.cumsum(0), (1, 0)).int()

    def pack(self, batch: Shaped[Tensor, "B K ..."]) -> Shaped[Tensor, "1 T ..."]:
        """A batch padded at the end as one sequence."""
        return batch.flatten(0, 1).index_select(0, self.rows)[None]

    def unpack(self, sequence: Shaped[Tensor, "1 T ..."]) -> Shaped[Tensor, "B K ..."]:
        """The sequence as a batch, zero at the end of images shorter than the longest."""
        shape = (len(self.counts) * self.longest, *sequence.shape[2:])
        batch = sequence.new_zeros(shape).index_copy(0, self.rows, sequence[0])
        return batch.unflatten(0, (len(self.counts), self.longest))
