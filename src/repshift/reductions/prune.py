"""Drop the lowest scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from repshift.reductions.base import Reduction
from repshift.tokens import TokenMap, gather, most_similar

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class Prune(Reduction):
    """Keep the highest scores, per image, in their order; the others leave."""

    name: ClassVar[str] = "prune"

    def __call__(
        self, tokens: Float[Tensor, "B N C"], scores: Float[Tensor, "B N"], drop: int, prefix: int
    ) -> tuple[Float[Tensor, "B K C"], TokenMap]:
        patches = scores[:, prefix:]
        stay = patches.shape[1] - drop
        # A stable sort: of equal scores the earlier token stays, on every device.
        order = patches.argsort(dim=1, descending=True, stable=True) + prefix
        best, gone = order[:, :stay].sort(dim=1).values, order[:, stay:]
        leading = torch.arange(prefix, device=best.device).expand(best.shape[0], -1)
        kept = torch.cat((leading, best), dim=1)
        stayed = gather(tokens, kept)
        places = torch.arange(kept.shape[1], device=kept.device).expand(kept.shape[0], -1)
        home = kept.new_empty(scores.shape).scatter(1, kept, places)
        home = home.scatter(1, gone, most_similar(gather(tokens, gone), stayed, prefix))
        return stayed, TokenMap(kept, home)
