"""How the rows of a stream belong to images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, Shaped
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Segments:
    """``count`` segments (images, texts) of at most ``longest`` rows, in one of three ways.

    *Uniform*, a stream [S, L, C]: all have L rows. *Padded*, [S, L, C]: the rows that ``padding``
    marks are none. *Packed*, [1, T, C]: segments of ``lengths`` rows lie end to end, so that
    nothing is computed for padding. What decides which rows are dropped sees a batch [S, L, ...] in
    all three; of packed segments it has padding at the end of the shorter ones.
    """

    count: int
    longest: int
    padding: Bool[Tensor, "S L"] | None = None
    packed: bool = False

    @classmethod
    def pack(cls, lengths: Int[Tensor, " S"]) -> Segments:
        """Packed segments; a single one is uniform. Asking their lengths costs a GPU a wait."""
        longest = int(lengths.max())
        if len(lengths) == 1:
            return cls(1, longest)
        places = torch.arange(longest, device=lengths.device)
        return cls(len(lengths), longest, places >= lengths[:, None], packed=True)

    @property  # cached, it could not be compiled by PyTorch 2.8 on Python 3.11
    def lengths(self) -> Int[Tensor, " S"]:
        """How many rows each segment has."""
        if self.padding is None:
            return torch.full((self.count,), self.longest)
        return (~self.padding).sum(1)

    @cached_property
    def counts(self) -> list[int]:
        """The lengths on the host."""
        return self.lengths.tolist()

    @cached_property
    def starts(self) -> Int[Tensor, " S"]:
        """Where each segment begins, if all lie end to end."""
        return self.cu_seqlens[:-1].long()

    @cached_property
    def rows(self) -> Int[Tensor, " T"]:
        """Where each row of a packed stream stands in the batch [S * L]."""
        assert self.padding is not None
        return (~self.padding).flatten().nonzero().flatten()

    @cached_property
    def cu_seqlens(self) -> Int[Tensor, " E"]:
        """Where each segment of a packed stream ends, 0 before the first."""
        return F.pad(self.lengths.cumsum(0), (1, 0)).int()

    def stream(self, batch: Shaped[Tensor, "S L ..."]) -> Shaped[Tensor, "..."]:
        """The rows of a batch as they lie in the stream."""
        if not self.packed:
            return batch
        return batch.flatten(0, 1).index_select(0, self.rows.to(batch.device))[None]

    def batch(self, stream: Shaped[Tensor, "..."]) -> Shaped[Tensor, "S L ..."]:
        """The stream as a batch; zero where shorter segments of a packed one have no rows."""
        if not self.packed:
            return stream
        shape = (self.count * self.longest, *stream.shape[2:])
        batch = stream.new_zeros(shape).index_copy(0, self.rows.to(stream.device), stream[0])
        return batch.unflatten(0, (self.count, self.longest))
