"""Which method wins at each speed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repshift.tasks.bench import Row


def quality_of(rows: Sequence[Row]) -> str:
    """What a row is judged by: ``accuracy`` where there are labels, ``fidelity`` otherwise."""
    return "accuracy" if rows[0].accuracy is not None else "fidelity"


def pareto(rows: Sequence[Row]) -> list[Row]:
    """The rows that no other beats in both speed and quality, the slowest first."""
    quality = quality_of(rows)
    front: list[Row] = []
    for row in sorted(rows, key=lambda r: (-r.speedup_vs_fused, -getattr(r, quality))):
        if not front or getattr(row, quality) > getattr(front[-1], quality):
            front.append(row)
    return front[::-1]


def winners(rows: Sequence[Row]) -> list[str]:
    """One line for each speed at which another method becomes the best."""
    quality = quality_of(rows)
    lines: list[str] = []
    for row in pareto(rows):
        plan = f" with {row.plan}" if row.plan else ""
        speed, value = row.speedup_vs_fused, 100 * getattr(row, quality)
        lines.append(f"up to {speed:.2f}x: {row.method}{plan}, {quality} {value:.1f} %")
    return lines
