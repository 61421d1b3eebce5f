"""An order of tokens: the best first, the others discounted by their likeness to what was taken."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from repshift.sequence.order import descending
from repshift.sequence.token_map import gather

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

PANEL, PICKS = 128, 64


def diverse_order(
    worth: Float[Tensor, "B N"],
    direction: Float[Tensor, "B N C"],
    diversity: float,
    count: Int[Tensor, " B"] | None,
    whole: bool,
) -> Float[Tensor, "B N"]:
    """N for the token that is taken first, N - 1 for the next one; 0 for those that are not taken.

    A token is worth its ``worth`` less ``diversity`` times its largest cosine to one that was
    taken; of equals the earlier is taken. All pairs of tokens are compared at once where there
    are at most twice as many tokens as channels. Of more tokens a panel of 128 is: what a token
    is worth only falls, so the best of the panel are the best of all while they are worth no less
    than the best outside was. What was picked is then told to all tokens in one product.

    Args:
        worth: -inf is never taken.
        direction: The tokens, of length one; cosines are as precise as it is.
        diversity: How much likeness to what was taken counts.
        count: How many are taken of each image; None: all.
        whole: Whether all tokens are one panel, which looks at no value (for graphs).
    """
    tokens = worth.shape[1]
    size = tokens if whole or tokens <= max(PANEL, 2 * direction.shape[2]) else PANEL
    left = (worth != -math.inf).sum(1, keepdim=True)
    left = left if count is None else left.minimum(count[:, None])
    value, order, taken = worth, torch.zeros_like(worth), torch.zeros_like(left)
    most = tokens if whole else int(left.max())
    while most > 0:
        ranked = descending(value)
        # Ascending, so that of equals the earlier leads.
        panel = None if size == tokens else ranked[:, :size].sort(dim=1).values
        picks, seen = _pick(worth, value, direction, diversity, panel, most)
        good = torch.arange(picks.shape[1], device=left.device) < left
        if seen is None:
            return order.scatter_reduce(1, picks, _ranks(order, taken, good), "amax")
        edge = ranked[:, size : size + 1]
        bound = value.gather(1, edge)
        best = (seen > bound) | ((seen == bound) & (picks < edge))
        best[:, 0] = True  # the first of a panel is the first of all
        good &= best.long().cumprod(1).bool()
        longest = int(good.sum(1).max())
        picks, good = picks[:, :longest], good[:, :longest]
        order = order.scatter_reduce(1, picks, _ranks(order, taken, good), "amax")
        cosine = direction @ gather(direction, picks).transpose(1, 2)
        nearest = cosine.to(worth.dtype).masked_fill(~good[:, None], -math.inf).amax(-1)
        value = value.minimum(worth.sub(nearest, alpha=diversity)).masked_fill(order > 0, -math.inf)
        taken, left = taken + good.sum(1, keepdim=True), left - good.sum(1, keepdim=True)
        most = int(left.max())
    return order


def _pick(
    worth: Float[Tensor, "B N"],
    value: Float[Tensor, "B N"],
    direction: Float[Tensor, "B N C"],
    diversity: float,
    panel: Int[Tensor, "B M"] | None,
    most: int,
) -> tuple[Int[Tensor, "B R"], Float[Tensor, "B R"] | None]:
    """The best of a panel one after the other, and what each was worth when it was taken.

    Without a ``panel`` all tokens are one, and what they were worth is not told.
    """
    if panel is not None:
        worth, value = worth.gather(1, panel), value.gather(1, panel)
        direction = gather(direction, panel)
    batch, size = value.shape
    # By pick, what it leaves the others worth at most; itself nothing. In place, for every further
    # matrix of all pairs takes longer than their product.
    pairs = (direction @ direction.transpose(1, 2)).to(worth.dtype)
    rest = pairs.mul_(-diversity).add_(worth[:, None])
    rest = rest.masked_fill_(torch.eye(size, dtype=torch.bool, device=rest.device), -math.inf)
    rest = rest.flatten(0, 1)
    first = size * torch.arange(batch, device=rest.device)
    picks, seen = [], []
    for _ in range(min(most, size if panel is None else PICKS)):
        pick = value.argmax(1)
        picks.append(pick)
        if panel is not None:
            seen.append(value)
        value = value.minimum(rest.index_select(0, first + pick))
    places = torch.stack(picks, dim=1)
    if panel is None:
        return places, None
    worths = torch.stack(seen, dim=1).gather(2, places[..., None])[..., 0]
    return panel.gather(1, places), worths


def _ranks(order: Tensor, taken: Tensor, good: Tensor) -> Float[Tensor, "B R"]:
    """The ranks of picks behind those that were ``taken``; 0 where they are not ``good``."""
    number = torch.arange(good.shape[1], device=good.device)
    return ((order.shape[1] - taken - number) * good).to(order.dtype)
