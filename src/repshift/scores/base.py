"""What a score is and what it may look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from repshift.method import Method

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Need = Literal["entry", "middle", "attention", "class token"]


@dataclass(frozen=True)
class Snapshots:
    """What one block did: its residual stream at three places, and its attention map.

    ``entry`` is the stream before attention, ``middle`` after it, ``exit`` after the MLP. Only what
    the score's ``needs`` names is there, and ``exit`` always.
    """

    block: int
    prefix: int
    exit: Float[Tensor, "B N C"]
    entry: Float[Tensor, "B N C"] | None = None
    middle: Float[Tensor, "B N C"] | None = None
    attention: Float[Tensor, "B H N N"] | None = None


@dataclass(frozen=True)
class Score(Method):
    """Importance of every token of one block; the highest stay."""

    needs: ClassVar[frozenset[Need]] = frozenset()

    def required(self) -> frozenset[Need]:
        """What must be captured for this score with its settings."""
        return self.needs

    def __call__(self, seen: Snapshots) -> Float[Tensor, "B N"]:
        """Scores of all tokens, prefix tokens included (their scores are not used)."""
        raise NotImplementedError
