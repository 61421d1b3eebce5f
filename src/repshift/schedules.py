"""Closed forms of a schedule: how many tokens leave after each block, without looking at data."""

from __future__ import annotations

from bisect import bisect_left
from typing import TYPE_CHECKING

from repshift.errors import InputError
from repshift.numbers import as_real, finite, whole

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def late(depth: int, power: float | int) -> list[float]:
    """The shape r(l) ~ (l / L)^power over blocks l = 1..L, the last 0: nothing is saved after it.

    Power 0 is ToMe's constant schedule, 2 puts most of the drops into the second half.
    """
    depth = whole(depth, "the depth of a schedule, its number of blocks,", 2)
    power = finite(power, "the power of a late schedule")
    return [(block / depth) ** power for block in range(1, depth)] + [0.0]


def inflected(depth: int, r: float | int, inflection: float | int = 0) -> list[int]:
    """ToMe's numbers of tokens by block: as many more at one end as they are fewer at the other.

    They lie on a straight line from lo = int(r (1 - inflection)) to 2 r - lo and are rounded down:
    r_l = floor(lo + l (2 r - 2 lo) / (L - 1)) for l = 0..L-1. Counted in whole numbers; ToMe's code
    divides first, and where its rounding falls below a whole number, that block has one less.

    Source: the code of ToMe (arXiv 2210.09461), where r may be such a pair; inflection -1 is its
    "decreasing schedule".

    Args:
        depth: How many blocks, L.
        r: How many tokens leave each block on average.
        inflection: -1 from 2 r down to none, 0 the same in every block, 1 from none up to 2 r.

    Returns:
        One number a block; r where there is only one.

    Raises:
        InputError: If ``depth`` is below 1, ``r`` negative or not whole, or ``inflection`` outside
            [-1, 1].
    """
    depth = whole(depth, "the depth of a schedule, its number of blocks,", 1)
    r = whole(int(r) if as_real(r) is not None and r % 1 == 0 else r, "r", 0)
    slope = as_real(inflection)
    if slope is None or not -1 <= slope <= 1:
        raise InputError(
            f"the inflection is {inflection!r}; expected -1 (ever fewer) to 1 (ever more), 0 for "
            "the same number in every block"
        )
    if depth == 1:
        return [r]
    low = int(r * (1 - slope))
    return [low + block * (2 * r - 2 * low) // (depth - 1) for block in range(depth)]


def spread(leaving: int, shape: Sequence[float]) -> dict[int, int]:
    """Split ``leaving`` tokens over blocks in proportion to ``shape``.

    Rounded so that the running total is right within half a token; it nowhere falls when more
    leave.
    """
    leaving, total = whole(leaving, "the number of tokens that leave", 0), sum(shape)
    if not total > 0 or min(shape) < 0:
        raise InputError(f"a schedule's shape needs a positive sum and no negative, got {shape}")
    drop, so_far, before = {}, 0.0, 0
    for block, part in enumerate(shape):
        so_far += part
        gone = round(leaving * so_far / total)
        if gone > before:
            drop[block] = gone - before
        before = gone
    return drop


def fewest(enough: Callable[[int], bool], most: int) -> int | None:
    """The smallest whole number up to ``most`` that is ``enough``; None if none is.

    ``enough`` must stay true once it is.
    """
    count = bisect_left(range(most + 1), True, key=enough)
    return count if count <= most else None


def fewest_for(
    share: float | int, cost: Callable[[int], float], most: int, power: float | int
) -> int:
    """How few tokens must leave, by a late schedule, that ``cost`` is ``share`` of the dense one.

    ``InputError`` if ``most`` are too few.
    """
    if (given := as_real(share)) is None or not 0 < given <= 1:
        raise InputError(f"the share of the FLOPs is {share!r}; expected above 0, at most 1")
    dense = cost(0)
    leaving = fewest(lambda count: cost(count) <= given * dense, most)
    if leaving is None:
        raise InputError(
            f"no late plan of power {power} costs {share} of the dense FLOPs: with one patch "
            f"left it is {cost(most) / dense:.2f}; take a larger share or a lower power"
        )
    return leaving


def block_macs(tokens: int, width: int, mlp_ratio: float | int = 4) -> float:
    """Multiply-adds of one transformer block on ``tokens`` tokens of ``width`` channels.

    Query, key, value and output 4 N C^2, the two products of attention 2 N^2 C, the MLP
    2 ratio N C^2. Norms and activations do not count, nor what the score costs.
    """
    return (4.0 + 2 * mlp_ratio) * tokens * width**2 + 2 * tokens**2 * width
