"""What a reduction is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from repshift.errors import InputError
from repshift.method import Method
from repshift.scores import Score, Shift

if TYPE_CHECKING:
    from typing import Any

    from jaxtyping import Float
    from torch import Tensor

    from repshift.scores import Need, Snapshots
    from repshift.sequence.token_map import Step

Weighing = Literal["proportional", "plain"]


@dataclass(frozen=True)
class Reduction(Method):
    """Decides which tokens leave, and what becomes of them.

    ``needs`` names what it looks at itself; ``scored`` is false if it asks no score, ``before_mlp``
    true if its tokens leave between attention and MLP (where the score can be known there), and
    ``at_most_half`` if no more than half of the patch tokens can leave at once. ``usual`` is the
    score of a plan that names none.
    """

    default_score: ClassVar[Score] = Shift()
    needs: ClassVar[frozenset[Need]] = frozenset()
    scored: ClassVar[bool] = True
    before_mlp: ClassVar[bool] = False
    at_most_half: ClassVar[bool] = False

    @property
    def proportional_attention(self) -> bool:
        """Whether later attention weighs the survivors by their size."""
        return False

    def __call__(self, snapshot: Snapshots, scores: Float[Tensor, "B N"], drop: int) -> Step:
        """Let ``drop`` tokens leave.

        A score of inf never leaves (prefix and suffix tokens); -inf leaves first and is taken up by
        no one (padding).
        """
        raise NotImplementedError


@dataclass(frozen=True)
class Merging(Reduction):
    """A reduction after which a token may stand for several.

    ``attention`` says how later blocks see them: ``proportional`` adds log(size) to the logits of
    their keys (ToMe, arXiv 2210.09461, eq. 1), ``plain`` does not.
    """

    attention: Weighing = "proportional"

    def __post_init__(self) -> None:
        if self.attention not in get_args(Weighing):
            raise InputError(
                f"{self.name}: {self.attention!r} is not one of {', '.join(get_args(Weighing))}"
            )

    def _label_values(self) -> list[Any]:
        return [] if self.attention == "proportional" else [self.attention]

    @property
    def proportional_attention(self) -> bool:
        return self.attention == "proportional"
