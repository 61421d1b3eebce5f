"""Bipartite soft matching: every second token may join one of the others (ToMe, ICLR 2023)."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from repshift.sequence.order import descending

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


def match(
    metric: Float[Tensor, "B N D"],
    scores: Float[Tensor, "B N"],
    drop: int,
    prefix: int,
    ascending: bool,
) -> tuple[Int[Tensor, "B K"], Int[Tensor, "B R"], Int[Tensor, "B R"]]:
    """Let the ``drop`` most alike of the tokens at even places leave (arXiv 2210.09461, section 3).

    Likeness is the cosine of ``metric``; each joins the token at an odd place that is most like it.

    The order of the survivors matters, for the next matching depends on it: the prefix, then the
    even ones left, then the odd ones.

    Args:
        metric: What likeness is measured on.
        scores: Tokens of infinite scores are joined by none; those of inf never leave, those of
            -inf leave first.
        drop: How many tokens leave.
        prefix: How many tokens at the beginning stay where they are.
        ascending: Whether the even ones left stay in the order of the sequence; otherwise in that
            of their likeness, the most alike first (what leaves first is most alike, what never
            leaves least).

    Returns:
        The survivors' indices, those of the tokens that leave, and the position among the
        survivors of the one that each joins.
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
