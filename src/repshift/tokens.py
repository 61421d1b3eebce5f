"""Who stays, and who stands for those that left: index tensors, decided once, then applied."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from repshift.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int, Shaped
    from torch import Tensor


@dataclass(frozen=True)
class TokenMap:
    """The way from N tokens to K survivors and back.

    ``kept`` [B, K] is the index of every survivor among the N, ascending. ``home`` [B, N] is, for
    every one of the N, the position among the survivors of the token that stands for it; a survivor
    stands for itself.
    """

    kept: Int[Tensor, "B K"]
    home: Int[Tensor, "B N"]

    def apply(self, tokens: Shaped[Tensor, "B N C"]) -> Shaped[Tensor, "B K C"]:
        """The survivors of any [B, N, C], in order."""
        return gather(tokens, self.kept)

    def restore(self, tokens: Shaped[Tensor, "B K C"]) -> Shaped[Tensor, "B N C"]:
        """Put the survivors back in place; a token that left gets the value of its stand-in."""
        if tokens.shape[:2] != self.kept.shape:
            raise InputError(
                f"restore: got features of shape {list(tokens.shape)}, expected "
                f"[{self.kept.shape[0]}, {self.kept.shape[1]}, C], the survivors of the last call"
            )
        return gather(tokens, self.home)

    def then(self, later: TokenMap) -> TokenMap:
        """Follow this map by ``later``, whose N is this one's K."""
        return TokenMap(self.kept.gather(1, later.kept), later.home.gather(1, self.home))

    @staticmethod
    def identity(batch: int, count: int, device: torch.device) -> TokenMap:
        """The map that keeps all ``count`` tokens."""
        every = torch.arange(count, device=device).expand(batch, -1)
        return TokenMap(every, every)


def most_similar(
    left: Float[Tensor, "B D C"], stayed: Float[Tensor, "B K C"], prefix: int
) -> Int[Tensor, "B D"]:
    """For each token that left, the position of the survivor most like it (cosine).

    Prefix tokens, the first ``prefix``, stand for no other. Measured on saliency-vit-s14 against
    the nearest position and the token's own last value (docs/results/restore.md), the most similar
    survivor draws the best maps.
    """
    # The length of the token that left does not change which survivor is nearest in angle.
    patches = F.normalize(stayed[:, prefix:].detach(), dim=-1).transpose(1, 2)
    # C rows at a time: memory stays linear in N.
    best = [(rows @ patches).argmax(-1) for rows in left.detach().split(left.shape[-1], dim=1)]
    return torch.cat(best, dim=1) + prefix


def gather(tokens: Shaped[Tensor, "B M C"], index: Int[Tensor, "B J"]) -> Shaped[Tensor, "B J C"]:
    """The tokens at ``index``, per image."""
    batch, count, width = tokens.shape
    # Whole rows of [B * M, C]: some ten times faster on CPU than Tensor.gather, value by value.
    rows = index + count * torch.arange(batch, device=index.device).unsqueeze(1)
    return tokens.reshape(-1, width).index_select(0, rows.flatten()).view(*index.shape, width)


def follow(
    table: Shaped[Tensor, "..."], kept: Int[Tensor, "B K"], dense: int, dims: tuple[int, ...]
) -> Shaped[Tensor, "..."]:
    """Give a positional table or a mask the same survivors as the tokens.

    ``table`` broadcasts against [B, H, N, N] or [B, H, N, D] (attention masks, rotary tables) and
    is gathered along ``dims``. One that is shorter than the ``dense`` sequence has no entries for
    the prefix tokens, which never leave. Returns a table with a batch axis.
    """
    table = table[(None,) * (4 - table.ndim)]
    for dim in dims:
        length = table.shape[dim]
        if length == 1:
            continue
        prefix = dense - length
        if not 0 <= prefix < kept.shape[1]:
            raise InputError(f"a positional table has {length} entries for {dense} tokens")
        index = (kept[:, prefix:] - prefix)[:, None, None, :]
        index = index if dim == -1 else index.transpose(-1, dim)
        table = table.expand(kept.shape[0], -1, -1, -1)
        others = [size if axis != 4 + dim else -1 for axis, size in enumerate(table.shape)]
        table = table.gather(dim, index.expand(others))
    return table
