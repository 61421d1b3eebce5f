"""Merging weighted by saliency (vid-TLDR, CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from repshift.reductions.base import Merging
from repshift.reductions.bipartite import match
from repshift.registry import register
from repshift.sequence.token_map import Step

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from repshift.scores import Snapshots


@register
@dataclass(frozen=True)
class VidTLDR(Merging):
    """Match tokens by the residual stream; what joins another counts by its saliency.

    The merging of vid-TLDR (CVPR 2024). Saliency is the score without its background (see
    ``foreground``); vid-TLDR's own is ``attention-entropy``. With a Representation Shift in its
    place (arXiv 2508.00367, Table 3) no attention map is needed. Tokens leave between attention and
    MLP where the score is known there, after the MLP otherwise. At most half of the patch tokens
    leave at once. Of the kept tokens those at even places come first, then those at odd ones, each
    in their order.
    """

    name: ClassVar[str] = "vid-tldr"
    before_mlp: ClassVar[bool] = True
    at_most_half: ClassVar[bool] = True
    reorders: ClassVar[bool] = True

    def __call__(self, snapshot: Snapshots, scores: Float[Tensor, "B N"], drop: int) -> Step:
        kept, dropped, target = match(
            snapshot.tokens,
            scores,
            drop,
            snapshot.prefix,
            ascending=True,
            padding=snapshot.padding,
        )
        return Step(kept, dropped, target, foreground(scores).gather(1, dropped))


def foreground(scores: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
    """Background removal and sharpening: relu(s - mean) / max(s - mean), per image, in [0, 1].

    vid-TLDR first scales the scores to [0, 1]; mean and maximum scale with them, so that changes
    nothing. Infinite scores, of tokens that are no patches, count as background.
    """
    patch = scores.isfinite()
    mean = scores.where(patch, 0).sum(1, keepdim=True) / patch.sum(1, keepdim=True)
    above = (scores - mean).where(patch, 0).clamp_min(0)
    # Where all scores are equal there is no foreground, and nothing to divide by.
    return above / above.amax(1, keepdim=True).clamp_min(torch.finfo(above.dtype).tiny)
