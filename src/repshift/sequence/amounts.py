"""How much a plan drops at one place: a share of the tokens, a number of them, or up to a level."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from repshift.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True)
class Share:
    """A share of the patch tokens that are left: ``floor(value * n)`` of n."""

    value: float
    by_level: ClassVar[bool] = False

    def __bool__(self) -> bool:
        return self.value > 0

    def of(self, patches: int) -> int:
        """How many of ``patches`` are dropped."""
        return math.floor(self.value * patches)

    def of_each(self, patches: Int[Tensor, " S"]) -> Int[Tensor, " S"]:
        """The same for several segments."""
        return (patches.double() * self.value).floor().long()


@dataclass(frozen=True)
class Count:
    """A number of patch tokens; of a shorter segment all but one."""

    value: int
    by_level: ClassVar[bool] = False

    def __bool__(self) -> bool:
        return self.value > 0

    def of(self, patches: int) -> int:
        """How many of ``patches`` are dropped."""
        return self.value

    def of_each(self, patches: Int[Tensor, " S"]) -> Int[Tensor, " S"]:
        """The same for several segments."""
        return (patches - 1).clamp(0, self.value)


@dataclass(frozen=True)
class Level:
    """Every image drops what it can spare: all tokens whose level is at most ``value``.

    The level of a token is the share of its image's total score that it and all lower ones hold, or
    the score itself where that means the same in every image, as ``Redundancy`` does.
    ``repshift.adapt`` finds the levels at which as many tokens are dropped on average as by a plan
    of shares and counts.
    """

    value: float
    by_level: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not isinstance(self.value, float) or not 0 <= self.value < 1:
            raise InputError(
                f"a level is {self.value!r}; expected a number from 0.0 to below 1, such as the "
                "share of the total score that is dropped (repshift.adapt finds it)"
            )

    def __bool__(self) -> bool:
        return self.value > 0

    def __str__(self) -> str:
        return f"level({self.value})"

    def of(self, patches: int) -> int:
        """Nobody knows without the images."""
        raise InputError("how many tokens are dropped up to a level, only the images tell")

    def reached(self, levels: Float[Tensor, "S N"]) -> Int[Tensor, " S"]:
        """How many tokens of each segment are dropped; padding has the level -inf."""
        return ((levels <= self.value) & ~levels.isneginf()).sum(1)


Amount = Share | Count | Level


def amount_of(block: int, value: Any) -> Amount:
    """What a plan writes at ``block``: 0.2 is a share, 40 a count."""
    if isinstance(value, Level):
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        raise InputError(
            f"block {block} drops {value!r}; expected a share from 0 to below 1 or a whole number "
            "(or a Level)"
        )
    if isinstance(value, int):
        return Count(value)
    if value >= 1:
        raise InputError(
            f"block {block} drops a share of {value}; a share is below 1 (for a number of tokens "
            f"write {math.floor(value) if math.isfinite(value) else 20})"
        )
    return Share(value)
