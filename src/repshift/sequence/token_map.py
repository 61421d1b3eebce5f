"""Which tokens are kept, and the target of each other one: decided once, then applied."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from repshift.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped
    from torch import Tensor


@dataclass(frozen=True)
class TokenMap:
    """The way from N tokens to the K that are kept, and back.

    Attributes:
        kept: [B, K], the index of every kept token among the N, in the order of the stream:
            ascending, except after a matching (ToMe, vid-TLDR).
        parent: [B, N], for each of the N, at which place of ``kept`` its features are restored
            from: its own, or its target's.
    """

    kept: Int[Tensor, "B K"]
    parent: Int[Tensor, "B N"]

    def apply(self, tokens: Shaped[Tensor, "B N C"]) -> Shaped[Tensor, "B K C"]:
        """The kept tokens of any [B, N, C], in the order of ``kept``."""
        return gather(tokens, self.kept)

    def restore(self, tokens: Shaped[Tensor, "B K C"]) -> Shaped[Tensor, "B N C"]:
        """Put the kept tokens back in their places; a dropped one gets the value of its target."""
        if tokens.shape[:2] != self.kept.shape:
            raise InputError(
                f"restore: got features of shape {list(tokens.shape)}, expected "
                f"[{self.kept.shape[0]}, {self.kept.shape[1]}, C], the tokens that were kept"
            )
        return gather(tokens, self.parent)

    def then(self, later: TokenMap) -> TokenMap:
        """Follow this map by ``later``, whose N is this one's K."""
        return TokenMap(self.kept.gather(1, later.kept), later.parent.gather(1, self.parent))

    def to(self, device: torch.device) -> TokenMap:
        """The same on another device: the blocks of a model may be spread over several."""
        return TokenMap(self.kept.to(device), self.parent.to(device))

    @staticmethod
    def identity(batch: int, count: int, device: torch.device) -> TokenMap:
        """The map that keeps all ``count`` tokens."""
        every = torch.arange(count, device=device).expand(batch, -1)
        return TokenMap(every, every)


@dataclass(frozen=True)
class Step:
    """One reduction, decided, of N = K + D tokens.

    Attributes:
        kept: [B, K], the indices of the kept tokens, in the order in which they go on.
        dropped: [B, D], the indices of the dropped ones.
        target: [B, D], for each dropped token the place in ``kept`` of the one that it is merged
            into, or that it is restored from.
        share: [B, D], how much of it the target takes up in a mean weighted by size, from 0 to 1;
            None prunes.
        rows: How many of the N are rows of the batch; indices from there on are of padding that was
            put behind it. None: all are.
        keep_length: Whether a mean is made as long as its tokens were on average; the less alike
            they are, the shorter it is by itself.
    """

    kept: Int[Tensor, "B K"]
    dropped: Int[Tensor, "B D"]
    target: Int[Tensor, "B D"]
    share: Float[Tensor, "B D"] | None = None
    rows: int | None = None
    keep_length: bool = False

    @property
    def map(self) -> TokenMap:
        """The way there and back, without weights."""
        places = torch.arange(self.kept.shape[1], device=self.kept.device)
        parent = torch.cat((places.expand_as(self.kept), self.target), dim=1)
        order = torch.cat((self.kept, self.dropped), dim=1)
        parent = torch.empty_like(parent).scatter(1, order, parent)
        return TokenMap(self._inside(self.kept), parent[:, : self.rows])

    def by_row(self, unit: int) -> Step:
        """A step of units as one of their ``unit`` rows: those of a dropped unit go row by row."""
        if unit == 1:
            return self
        kept, dropped, target = (
            (index[..., None] * unit + torch.arange(unit, device=index.device)).flatten(1)
            for index in (self.kept, self.dropped, self.target)
        )
        share = None if self.share is None else self.share.repeat_interleave(unit, 1)
        return replace(self, kept=kept, dropped=dropped, target=target, share=share)

    def of_patches(self, rows: Int[Tensor, "B M"], prefix: int) -> Step:
        """A step among ``rows`` of a batch, which are all but its prefix, as one of the batch."""
        first = torch.arange(prefix, device=rows.device).expand(len(rows), -1)
        kept = torch.cat((first, rows.gather(1, self.kept)), dim=1)
        dropped = rows.gather(1, self.dropped)
        return replace(self, kept=kept, dropped=dropped, target=self.target + prefix)

    def in_order(self) -> Step:
        """The same with the kept tokens in the order of the sequence."""
        kept, order = self.kept.sort(dim=1)
        target = order.argsort(dim=1).gather(1, self.target)
        return replace(self, kept=kept, target=target)

    def apply(
        self, tokens: Float[Tensor, "B N C"], size: Float[Tensor, "B N"] | None
    ) -> Float[Tensor, "B K C"]:
        """The kept tokens, each the mean of what it took up, weighted by ``size`` (1 if None)."""
        stayed = gather(tokens, self._inside(self.kept))
        if self.share is None:
            return stayed
        # A sum of weighted tokens, never scatter's own mean: that exports to a wrong ONNX graph.
        own, added = self._weights(size)
        total = own.scatter_add(1, self.target, added)
        weight = added / total.gather(1, self.target)
        taken = gather(tokens, self._inside(self.dropped))
        # Each target moves towards what it takes up: of the many others nothing is computed.
        move = (taken - gather(stayed, self.target)) * weight[..., None]
        rows = _rows(self.target, stayed.shape[1])
        mean = stayed.to(move.dtype, copy=self.keep_length)  # the length before is asked for below
        mean = mean.flatten(0, 1).index_add_(0, rows, move.flatten(0, 1)).view_as(stayed)
        if self.keep_length:
            length = _length(stayed) * (own / total)
            length = length.scatter_add(1, self.target, _length(taken) * weight)
            shorter = _length(mean).clamp_min(torch.finfo(length.dtype).tiny)
            mean = mean * (length / shorter)[..., None]
        return mean.to(tokens.dtype)

    def resize(self, size: Float[Tensor, "B N"] | None) -> Float[Tensor, "B K"]:
        """From how many tokens each kept one is merged, where each of the N was from ``size``."""
        own, added = self._weights(size)
        return own.scatter_add(1, self.target, added)

    def _weights(
        self, size: Float[Tensor, "B N"] | None
    ) -> tuple[Float[Tensor, "B K"], Float[Tensor, "B D"]]:
        """What counts in the mean: the sizes of the kept tokens, and what they take up."""
        assert self.share is not None
        if size is None:
            return self.share.new_ones(self.kept.shape), self.share
        dropped = size.gather(1, self._inside(self.dropped))
        return size.gather(1, self._inside(self.kept)), self.share * dropped

    def _inside(self, index: Int[Tensor, "B J"]) -> Int[Tensor, "B J"]:
        """``index``, of padding behind the batch any row of it: nothing is made of those."""
        return index if self.rows is None else index.clamp_max(self.rows - 1)


def gather(tokens: Shaped[Tensor, "B M C"], index: Int[Tensor, "B J"]) -> Shaped[Tensor, "B J C"]:
    """The tokens at ``index``, per image."""
    _, count, width = tokens.shape
    # Whole rows of [B * M, C]: some ten times faster on CPU than Tensor.gather, value by value.
    rows = _rows(index, count)
    return tokens.reshape(-1, width).index_select(0, rows).view(*index.shape, width)


def _length(tokens: Float[Tensor, "B M C"]) -> Float[Tensor, "B M"]:
    return torch.linalg.vector_norm(tokens, dim=-1)


def _rows(index: Int[Tensor, "B J"], count: int) -> Int[Tensor, "BJ"]:
    """Where ``index`` [B, J] into [B, count] lies in [B * count]."""
    batch = index.shape[0]
    if batch == 1 and not torch.compiler.is_compiling():
        return index[0]
    return (index + count * torch.arange(batch, device=index.device)[:, None]).flatten()
