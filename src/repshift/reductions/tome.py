"""Token merging (ToMe, ICLR 2023)."""

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

    from repshift.scores import Need, Snapshots


@register
@dataclass(frozen=True)
class ToMe(Merging):
    """Merge the pairs with the most similar keys, between attention and MLP (arXiv 2210.09461).

    No score is asked. At most half of the patch tokens leave at once; a larger number is cut to
    that, as in the paper.

    What the next matching finds depends on the order of the survivors, which is that of the paper's
    code: first the tokens at even places that are left, then those at odd ones. The even ones stay
    in the order of the sequence where there is a class token, and otherwise in that of their
    likeness, the most alike first.
    """

    name: ClassVar[str] = "tome"
    needs: ClassVar[frozenset[Need]] = frozenset({"keys"})
    scored: ClassVar[bool] = False
    before_mlp: ClassVar[bool] = True
    at_most_half: ClassVar[bool] = True
    reorders: ClassVar[bool] = True

    def __call__(self, snapshot: Snapshots, scores: Float[Tensor, "B N"], drop: int) -> Step:
        assert snapshot.keys is not None
        kept, dropped, target = match(
            snapshot.keys.mean(1),
            scores,
            drop,
            snapshot.prefix,
            ascending=snapshot.class_token,
            padding=snapshot.padding,
        )
        share = scores.gather(1, dropped).isneginf().logical_not()
        return Step(
            kept, dropped, target, share.to(torch.promote_types(scores.dtype, torch.float32))
        )
