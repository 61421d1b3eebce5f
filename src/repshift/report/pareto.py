"""Which method wins at each speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from repshift.tasks.bench import AnyRow, Bench


def pareto(bench: Bench[AnyRow]) -> list[AnyRow]:
    """The rows that no other beats in both speed and quality, the slowest first."""
    front: list[AnyRow] = []
    for row in sorted(bench.rows, key=lambda r: (-r.speedup_vs_fused, -bench.percent(r))):
        if not front or bench.percent(row) > bench.percent(front[-1]):
            front.append(row)
    return front[::-1]


def winners(bench: Bench) -> list[str]:
    """One line for each speed at which another method becomes the best."""
    lines: list[str] = []
    for row in pareto(bench):
        plan = f" with {row.plan}" if row.plan else ""
        quality = f"{bench.criterion.partition(' (')[0]} {bench.percent(row):.1f} %"
        lines.append(f"up to {row.speedup_vs_fused:.2f}x: {row.method}{plan}, {quality}")
    return lines
