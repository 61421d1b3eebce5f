"""Bipartite soft matching: every second token may join one of the others (ToMe, ICLR 2023)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from repshift.sequence.order import descending

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor


def match(
    metric: Float[Tensor, "B N D"],
    scores: Float[Tensor, "B N"],
    drop: int,
    prefix: int,
    ascending: bool,
    padding: Bool[Tensor, "B N"] | None = None,
) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B R"], Int[Tensor, "B R"]]:
    """Drop the ``drop`` tokens at even places that are most similar to one at an odd place.

    Similarity is the cosine of ``metric`` (arXiv 2210.09461, section 3); each is merged into the
    token at an odd place that is most similar to it. The order of the kept tokens matters, for the
    next matching depends on it: the prefix, then the even ones, then the odd ones.

    Args:
        metric: What similarity is measured on.
        scores: Tokens of infinite scores are no target; those of inf are never dropped, those of
            -inf first.
        drop: Number of tokens to drop.
        prefix: How many tokens at the beginning stay where they are.
        ascending: Whether the kept even ones are in the order of the sequence; otherwise the most
            similar come first, those of scores inf last.
        padding: Marks padding, which may stand at odd places too; it comes last among the kept.

    Returns:
        The indices of the kept tokens, those of the dropped ones, and the place among the kept of
        each one's target.
    """
    count = metric.shape[1]
    direction = F.normalize(metric, dim=-1)
    # Contiguous, so that no exported graph depends on whether the number of tokens is even.
    left, right = direction[:, 0::2].contiguous(), direction[:, 1::2].contiguous()
    likeness = left @ right.transpose(1, 2)
    likeness = likeness.masked_fill(scores[:, None, 1::2].isinf(), -math.inf)
    value, partner = likeness.max(-1)
    even = scores[:, 0::2]
    value = torch.where(even.isinf(), -even, value)
    even_prefix, odd_prefix = (prefix + 1) // 2, prefix // 2
    if padding is not None:
        return _among_all(value, partner, scores, drop, prefix, ascending, padding)
    order = descending(value[:, even_prefix:]) + even_prefix
    dropped, stay = order[:, :drop], order[:, drop:]
    if ascending:
        stay = stay.sort(dim=1).values

    odd = torch.arange(1, count, 2, device=stay.device).expand(stay.shape[0], -1)
    leading = torch.arange(prefix, device=stay.device).expand(stay.shape[0], -1)
    kept = torch.cat((leading, 2 * stay, odd[:, odd_prefix:]), dim=1)
    # An odd token keeps its order behind all others; as the odd prefix tokens are joined by none,
    # the partner's position counts from the first odd patch.
    first = kept.shape[1] - odd.shape[1]
    return kept, 2 * dropped, partner.gather(1, dropped) + first


def _among_all(
    value: Float[Tensor, "B E"],
    partner: Int[Tensor, "B E"],
    scores: Float[Tensor, "B N"],
    drop: int,
    prefix: int,
    ascending: bool,
    padding: Bool[Tensor, "B N"],
) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B R"], Int[Tensor, "B R"]]:
    """The same where padding at odd places is dropped as that at even ones is.

    So a text among longer ones is matched as it is alone.
    """
    batch, count = scores.shape
    places = torch.arange(count, device=scores.device)
    every = torch.where(scores.isneginf(), math.inf, -math.inf).to(value.dtype)
    every = every.index_copy(1, places[0::2], value)
    order = descending(every[:, prefix:]) + prefix
    dropped, stay = order[:, :drop], order[:, drop:]
    # Even places first, in their order or as ranked, then the odd ones in theirs, then padding.
    rank = stay if ascending else places[: stay.shape[1]].expand_as(stay)
    rank = torch.where(stay % 2 == 0, rank, count + stay)
    rank = rank + 2 * count * padding.gather(1, stay)
    stay = stay.gather(1, rank.argsort(dim=1))
    kept = torch.cat((places[:prefix].expand(batch, -1), stay), dim=1)
    stands = torch.zeros_like(scores, dtype=torch.long)
    stands = stands.scatter(1, kept, places[: kept.shape[1]].expand_as(kept))
    whom = 2 * partner.gather(1, dropped // 2) + 1
    return kept, dropped, stands.gather(1, whom)
