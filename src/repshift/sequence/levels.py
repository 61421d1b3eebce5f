"""A budget per image: the scores decide how many tokens leave, not a number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from repshift.sequence.segments import Packing
from repshift.sequence.similarity import most_similar
from repshift.sequence.token_map import TokenMap, gather

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from repshift.scores import Score, Snapshots


@dataclass(frozen=True)
class PackedStep:
    """One reduction, decided per image: the way from a padded batch to a shorter one and back.

    ``rows`` says where each token that stays stands in the stream [B, N, C] or [1, T, C] that it
    leaves, ``packing`` how many stay of each image; ``map`` holds padded batches on both sides.
    """

    rows: Int[Tensor, " T"]
    packing: Packing
    map: TokenMap

    def apply(
        self, tokens: Float[Tensor, "B N C"], size: Float[Tensor, "B N"] | None
    ) -> Float[Tensor, "1 T C"]:
        """The tokens that stay, image after image; ``size`` does not matter to them."""
        return tokens.flatten(0, 1).index_select(0, self.rows)[None]


def leave_by_level(
    snapshot: Snapshots, level: Float[Tensor, "B N"], drop: float, packing: Packing | None
) -> PackedStep:
    """Let all tokens leave whose level is at most ``drop``; -inf is padding.

    ``packing`` is that of the stream, None where all images are of one length.
    """
    stays = ~(level <= drop)  # what is NaN stays, and turns the output to NaN
    after = Packing(stays.sum(1))
    # Survivors, what leaves, padding, each in the order of the sequence.
    order = (level.isneginf().int() - stays.int()).argsort(dim=1, stable=True)
    shortest = min(after.counts)
    kept, others = order[:, : after.longest], order[:, shortest:]
    # Among the survivors: what is padding, and what stands for no other.
    protected = after.padding
    if snapshot.protected is not None:
        protected = protected | snapshot.protected.gather(1, kept)
    target = most_similar(
        gather(snapshot.tokens, others), gather(snapshot.tokens, kept), snapshot.prefix, protected
    )
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    target = torch.cat((places[:, :shortest], target), dim=1)
    parent = places.where(places < after.lengths[:, None], target)
    whole = TokenMap(kept, torch.empty_like(parent).scatter(1, order, parent))
    rows = stays.flatten() if packing is None else packing.pack(stays)[0]
    return PackedStep(rows.nonzero().flatten(), after, whole)


def levels(scores: Float[Tensor, "B N"], score: Score) -> Float[Tensor, "B N"]:
    """What is compared with a plan's ``drop``, in the order of the scores, which are 0 or more.

    An absolute score itself. Of another, the share of the image's total that a token and all with
    lower scores hold, in (0, 1]. The highest score never leaves: its level is inf, as is that of
    scores of inf; -inf stays what it is.
    """
    counted = scores.isfinite()
    # In ascending order, padding last, so that the running sums of an image do not depend on how
    # much of it there is. Of equal scores the later token counts as the lower one, as in Prune.
    last = scores.shape[1] - 1
    order = last - scores.where(counted, torch.inf).flip(1).argsort(dim=1, stable=True)
    level = scores
    if not score.comparable_across_images:
        held = scores.where(counted, 0).gather(1, order).cumsum(1)
        share = (held / held[:, -1:]).where(held[:, -1:] > 0, 1)
        level = torch.empty_like(held).scatter(1, order, share)
    highest = order.gather(1, (counted.sum(1, keepdim=True) - 1).clamp_min(0))
    return level.scatter(1, highest, torch.inf).where(counted, scores)
