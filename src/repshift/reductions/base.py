"""What a reduction is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, get_args

from repshift.errors import InputError
from repshift.method import Method, check_choice
from repshift.reductions.faults import fault_of
from repshift.scores import Need, Score, Shift

if TYPE_CHECKING:
    from typing import Any

    from jaxtyping import Float
    from torch import Tensor

    from repshift.scores import Snapshots
    from repshift.sequence.token_map import Step

Weighing = Literal["proportional", "plain"]


@dataclass(frozen=True)
class Reduction(Method):
    """Decides which tokens leave, and what becomes of them.

    It touches no token: it returns a ``Step``, which is then applied to the stream, to sizes,
    positions and masks, and back to the dense sequence. A subclass is a frozen dataclass with a
    ``name`` and ``__call__``; with ``@register`` labels, plan files and the command line find it.

    Attributes:
        name: What stands in labels and plan files: letters, digits, ``-`` and ``_``.
        needs: What it looks at itself, besides the scores and ``tokens`` (see ``Need``).
        scored: False if it asks no score: all finite ones are then 0.
        before_mlp: True if its tokens leave between attention and MLP. Where the plan's score is
            known only after the MLP (it needs ``exit``), they leave after the block all the same.
        at_most_half: True if no more than half of the patch tokens can leave at once; a plan's
            larger numbers are cut to that.
        reorders: Whether kept tokens go on in another order than they stood in. Where attention is
            causal, and in Mamba blocks, they are put back in theirs.
        default_score: The score of a plan that names none.
    """

    kind: ClassVar[str] = "reduction"
    default_score: ClassVar[Score] = Shift()
    needs: ClassVar[frozenset[Need]] = frozenset()
    scored: ClassVar[bool] = True
    before_mlp: ClassVar[bool] = False
    at_most_half: ClassVar[bool] = False
    reorders: ClassVar[bool] = False

    @property
    def proportional_attention(self) -> bool:
        """Whether later attention adds log(size) to the logits of a key, size as ``Step`` says."""
        return False

    def most(self, patches: Any, protected: int = 0) -> Any:
        """How many of ``patches`` can be dropped at once, a number or a tensor of them.

        ``protected`` tokens behind the prefix, not among the patches, may stand at places where
        tokens can be dropped.
        """
        return (patches - protected) // 2 if self.at_most_half else patches

    def check(self, score: Score, adaptive: bool) -> None:
        """``InputError`` if it asks no score, or one of the two needs what is nothing."""
        if not self.scored and adaptive:
            raise InputError(f"a level is one of scores, and {self} asks none")
        if not self.scored and score != self.default_score:
            raise InputError(f"{self} asks no score; leave {score} out")
        for method, needs in ((score, score.required()), (self, self.needs)):
            if unknown := needs - set(get_args(Need)):
                raise InputError(
                    f"{method} needs {', '.join(sorted(map(repr, unknown)))}, which is nothing "
                    f"that can be captured; a need is one of {', '.join(get_args(Need))}"
                )

    def __call__(self, snapshot: Snapshots, scores: Float[Tensor, "B N"], drop: int) -> Step:
        """Decide which tokens of each image are dropped.

        Args:
            snapshot: What the block did; ``tokens`` is the stream that they are dropped from.
            scores: [B, N]; inf for a token that is never dropped and no target (prefix, inner and
                suffix tokens), -inf for padding, which is dropped first and merged into nothing.
            drop: Number of tokens of each image to drop, padding among them.

        Returns:
            The step (see ``Step``) with D = ``drop``; the prefix first among the kept tokens, and
            as a rule all of them ascending; a share of 0 for padding.
        """
        raise NotImplementedError

    def decide(
        self, snapshot: Snapshots, scores: Float[Tensor, "B N"], drop: int, verify: bool
    ) -> Step:
        """The step; ``InputError`` if it is none of these tokens.

        ``verify`` looks at its indices, too, which costs a synchronisation on a GPU.
        """
        step = self(snapshot, scores, drop)
        if fault := fault_of(step, scores, drop, snapshot.prefix, verify):
            raise InputError(f"the reduction {self}, which was to drop {drop} tokens, {fault}")
        return step


@dataclass(frozen=True)
class Merging(Reduction):
    """A reduction after which a token may stand for several.

    ``attention`` says how later blocks see them: ``proportional`` adds log(size) to the logits of
    their keys (ToMe, arXiv 2210.09461, eq. 1), ``plain`` does not.
    """

    attention: Weighing = "proportional"

    def __post_init__(self) -> None:
        check_choice(self.name, self.attention, Weighing)

    def _label_values(self) -> list[Any]:
        return [] if self.attention == "proportional" else [self.attention]

    @property
    def proportional_attention(self) -> bool:
        return self.attention == "proportional"
