"""What a score is and what it may look at."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from torch.nn import functional as F

from repshift.method import Method

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

Need = Literal[
    "entry", "middle", "exit", "attention", "keys", "class token", "activation", "mixer", "branch",
    "stage entry", "grid",
]  # fmt: skip


@dataclass(frozen=True)
class Snapshots:
    """What one block did: its residual stream at three places, its attention map and its keys.

    In a block whose one branch is a mixer: the stream at entry and exit, and the activations before
    the mixer's last projection.

    ``entry`` is the stream before attention, ``middle`` after it, ``exit`` after the MLP;
    ``tokens`` is the one from which tokens are about to leave (the exit, or the middle for a
    reduction that acts before the MLP). Only what ``needs`` names is there.

    The first ``prefix`` tokens never leave, and ``class_token`` says whether the model has a class
    token; ``protected`` marks further ones that stand for no other (inner and suffix tokens, and
    padding) and ``padding`` those that no query sees, None if there are none.

    Of a ResNet it is the last block of a stage, and the N tokens are the positions of its ``grid``
    of rows and columns, row by row: ``entry`` is what the block adds its ``branch`` to, ``exit``
    what leaves it, and ``stage_entry`` what entered the stage, averaged down to the same grid.
    """

    block: int
    prefix: int
    tokens: Float[Tensor, "B N C"]
    entry: Float[Tensor, "B N C"] | None = None
    middle: Float[Tensor, "B N C"] | None = None
    exit: Float[Tensor, "B N C"] | None = None
    attention: Float[Tensor, "B H N N"] | None = None
    keys: Float[Tensor, "B H N D"] | None = None
    activation: Float[Tensor, "B N E"] | None = None
    protected: Bool[Tensor, "B N"] | None = None
    padding: Bool[Tensor, "B N"] | None = None
    branch: Float[Tensor, "B N C"] | None = None
    stage_entry: Float[Tensor, "B N D"] | None = None
    grid: tuple[int, int] | None = None
    class_token: bool = False

    def guard(self, scores: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        """The scores, inf for what never leaves and -inf for padding, which leaves first."""
        scores = F.pad(scores[:, self.prefix :], (self.prefix, 0), value=math.inf)
        if self.protected is not None:
            scores = scores.masked_fill(self.protected, math.inf)
        return scores if self.padding is None else scores.masked_fill(self.padding, -math.inf)


@dataclass(frozen=True)
class Score(Method):
    """Importance of every token of one block; the highest stay."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    def required(self) -> frozenset[Need]:
        """What must be captured for this score with its settings."""
        return self.needs

    @property
    def comparable_across_images(self) -> bool:
        """Whether a value means the same in every image, so that images can be compared by it."""
        return False

    def __call__(self, snapshot: Snapshots) -> Float[Tensor, "B N"]:
        """Scores of all tokens, prefix tokens included (their scores are not used)."""
        raise NotImplementedError
