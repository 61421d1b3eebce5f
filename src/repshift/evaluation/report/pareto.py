"""Which method wins at each speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from repshift.evaluation.tasks.bench import AnyRow, Bench

T = TypeVar("T")


def front(tried: Iterable[T], cost: Callable[[T], float], loss: Callable[[T], float]) -> list[T]:
    """Those that no other beats in both cost and loss, the cheapest first."""
    best: list[T] = []
    for one in sorted(tried, key=lambda one: (cost(one), loss(one))):
        if not best or loss(one) < loss(best[-1]):
            best.append(one)
    return best


def pareto(bench: Bench[AnyRow]) -> list[AnyRow]:
    """The rows that no other beats in both speed and quality, the slowest first."""
    speed_first = front(
        bench.rows, lambda row: -row.speedup_vs_fused, lambda row: -bench.percent(row)
    )
    return speed_first[::-1]


def winners(bench: Bench) -> list[str]:
    """One line for each speed at which another method becomes the best."""
    lines: list[str] = []
    for row in pareto(bench):
        plan = f" with {row.plan}" if row.plan else ""
        quality = f"{bench.criterion.partition(' (')[0]} {bench.percent(row):.1f} %"
        lines.append(f"up to {row.speedup_vs_fused:.2f}x: {row.method}{plan}, {quality}")
    return lines
