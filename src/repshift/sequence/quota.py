"""How many rows of a batch are dropped where segments drop different numbers of tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn import functional as F

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True)
class Quota:
    """A reduction drops ``drop`` rows of every segment in a batch of ``rows`` rows.

    ``each`` says how many of them are tokens; padding makes up the rest. None: all are tokens.
    """

    rows: int
    drop: int
    each: Int[Tensor, " S"] | None = None

    @classmethod
    def ragged(cls, lengths: Int[Tensor, " S"], each: Int[Tensor, " S"]) -> Quota:
        """The smallest batch in which segments of ``lengths`` can drop ``each``.

        It has room for the tokens that the longest keeps and for the most that one drops. Asking
        for both costs a GPU a wait.
        """
        drop = int(each.max())
        return cls(drop + int((lengths - each).max()), drop, each)

    def even(self, scores: Float[Tensor, "S N"]) -> Float[Tensor, "S M"]:
        """Scores of all rows by which every segment drops its own number of tokens.

        Padding is -inf where it is dropped, the last first, and inf where it is kept.
        """
        if self.each is None:
            return scores
        scores = F.pad(scores, (0, self.rows - scores.shape[1]), value=-math.inf)
        padding = scores.isneginf()
        from_end = padding.long().flip(1).cumsum(1).flip(1)
        dropped = self.drop - self.each.to(scores.device)
        return scores.masked_fill(padding & (from_end > dropped[:, None]), math.inf)
