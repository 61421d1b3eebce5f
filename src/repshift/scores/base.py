"""What a score is and what it may look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from repshift.method import Method

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

Need = Literal["entry", "middle", "exit", "attention", "keys", "activation", "mixer", "class token"]


@dataclass(frozen=True)
class Snapshots:
    """What one block did: its residual stream at three places, its attention map and its keys.

    In a block whose one branch is a mixer: the stream at entry and exit, and the activations before
    the mixer's last projection.

    ``entry`` is the stream before attention, ``middle`` after it, ``exit`` after the MLP;
    ``tokens`` is the one from which tokens are about to leave (the exit, or the middle for a
    reduction that acts before the MLP). Only what ``needs`` names is there.

    The first ``prefix`` tokens never leave; ``closed`` marks further ones that stand for no other
    (inner and suffix tokens, and padding) and ``padding`` those that no query sees, None if there
    are none.
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
    closed: Bool[Tensor, "B N"] | None = None
    padding: Bool[Tensor, "B N"] | None = None


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
