"""Which columns of the prompt go on, and what follows them: positions, masks, sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.sequence.order import descending

if TYPE_CHECKING:
    from jaxtyping import Bool, Int, Shaped
    from torch import Tensor


@dataclass(frozen=True)
class Columns:
    """The K of N columns that go on; rows of the batch that keep fewer have ``closed`` ones.

    Closed columns fill a row up: the row's own padding first, then tokens that left, put in front.
    No query sees them.
    """

    index: Int[Tensor, "B K"]
    closed: Bool[Tensor, "B K"] | None = None


def columns_of(stays: Bool[Tensor, "B N"], real: Bool[Tensor, "B N"] | None) -> Columns:
    """The columns that ``stay``, of those that are ``real`` (no padding; None: all)."""
    count = stays.shape[1]
    kept = stays if real is None else stays & real
    numbers = kept.sum(1)
    longest = int(numbers.max())
    rank = 2 * kept.int()
    if real is not None:
        rank = rank + (~real).int()
    chosen = descending(rank)[:, :longest]
    # Tokens that left go in front, where a recurrent layer has no state yet that could fade.
    fills = rank.gather(1, chosen) == 0
    index = (chosen - count * fills.long()).sort(dim=1).values % count
    closed = ~kept.gather(1, index)
    return Columns(index, closed if bool(closed.any()) else None)


def gather_last(table: Shaped[Tensor, "..."], index: Int[Tensor, "B K"]) -> Shaped[Tensor, "..."]:
    """The entries at ``index`` along the last axis; the batch is the axis before it."""
    table = table.expand(*table.shape[:-2], len(index), table.shape[-1])
    return table.gather(-1, index.expand(*table.shape[:-2], *index.shape))


def gather_rotary(
    table: Shaped[Tensor, "... N D"], index: Int[Tensor, "B K"]
) -> Shaped[Tensor, "... K D"]:
    """The rows of a table of cosines or sines [..., B, N, D]."""
    table = table.expand(*table.shape[:-3], len(index), *table.shape[-2:])
    places = index[..., None].expand(*table.shape[:-2], index.shape[1], table.shape[-1])
    return table.gather(-2, places)


def follow(
    mask: Any,
    rows: Int[Tensor, "B Q"] | None,
    columns: Int[Tensor, "B K"] | None,
    closed: Bool[Tensor, "B K"] | None,
) -> Any:
    """A mask of the ``rows`` (queries) and ``columns`` (keys) alone, without the closed ones.

    None stays None, a dict is followed entry by entry; [B, K] and [B, H, Q, K] are gathered.
    """
    if isinstance(mask, dict):
        return {name: follow(one, rows, columns, closed) for name, one in mask.items()}
    if mask is None:
        return None
    if not isinstance(mask, torch.Tensor) or mask.ndim not in (2, 4):
        raise InputError(
            f"an attention mask of {type(mask).__name__} cannot follow the kept tokens; load the "
            'model with attn_implementation="sdpa"'
        )
    if mask.ndim == 2:
        if columns is not None:
            mask = gather_last(mask, columns)
        return mask if closed is None else mask.masked_fill(closed, 0)
    index = next((index for index in (rows, columns, closed) if index is not None), None)
    if index is None:
        return mask
    mask = mask.expand(len(index), -1, -1, -1)
    if rows is not None:
        places = rows[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3])
        mask = mask.gather(2, places)
    if columns is not None:
        places = columns[:, None, None].expand(-1, mask.shape[1], mask.shape[2], -1)
        mask = mask.gather(3, places)
    return mask if closed is None else mask.masked_fill(closed[:, None, None], _shut(mask.dtype))


def weighed(mask: Tensor, size: Tensor, dtype: torch.dtype) -> Tensor:
    """A mask [B, H, Q, K] that also adds log(size) to the logits of each key."""
    bias = size.log().to(dtype)[:, None, None]
    if mask.dtype == torch.bool:
        return torch.where(mask, bias, _shut(dtype))
    return mask + bias.to(mask.dtype)


def causal(queries: int, closed: Bool[Tensor, "B K"]) -> Bool[Tensor, "B 1 Q K"]:
    """The mask of the last ``queries`` columns, each of which sees those up to itself."""
    count = closed.shape[1]
    places = torch.arange(count, device=closed.device)
    sees = places <= places[count - queries :, None]
    return sees & ~closed[:, None, None]


def _shut(dtype: torch.dtype) -> float | bool:
    return False if dtype == torch.bool else torch.finfo(dtype).min
