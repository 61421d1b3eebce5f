"""How much a plan drops at one place: a share of the tokens, a number of them, or up to a level."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from repshift.errors import InputError
from repshift.numbers import as_real, as_whole

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
        value = as_real(self.value)
        if value is None or not 0 <= value < 1:
            raise InputError(
                f"a level is {self.value!r}; expected a number from 0.0 to below 1, such as the "
                "share of the total score that is dropped (repshift.adapt finds it)"
            )
        object.__setattr__(self, "value", value)

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
    count, share = as_whole(value), as_real(value)
    if count is not None and count >= 0:
        return Count(count)
    if count is not None or share is None or not share >= 0:
        raise InputError(
            f"block {block} drops {value!r}; expected a share from 0 to below 1 or a whole number "
            "(or a Level)"
        )
    if share >= 1:
        raise InputError(
            f"block {block} drops a share of {share}; a share is below 1 (for a number of tokens "
            f"write {math.floor(share) if math.isfinite(share) else 20})"
        )
    return Share(share)


def amounts_of(drop: Any) -> dict[int, Amount]:
    """What a plan drops after each block, in the order in which they run."""
    if not isinstance(drop, Mapping):
        name = "; for a name write Plan.paper(name)" if isinstance(drop, str) else ""
        raise InputError(
            "a plan says how much is dropped after which block, such as Plan({0: 0.2, 3: 40}); got "
            f"{drop!r}{name}"
        )
    amounts: dict[int, Amount] = {}
    for key, value in drop.items():
        block = as_whole(key)
        if block is None or block < 0:
            raise InputError(f"block {key!r} of the plan is not a whole number from 0 up")
        amounts[block] = amount_of(block, value)
    return dict(sorted(amounts.items()))
