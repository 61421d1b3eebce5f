"""The level of a token, by which every image drops what it can spare."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from repshift.scores import Score


def levels(scores: Float[Tensor, "B N"], score: Score) -> Float[Tensor, "B N"]:
    """What a plan's ``Level`` is compared with, in the order of the scores, which are 0 or more.

    A score that is comparable across images itself. Of another, the share of the image's total that
    a token and all with lower scores hold, in (0, 1]. The highest score is never dropped: its level
    is inf, as is that of scores of inf; the level of padding is -inf, as its score.
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
