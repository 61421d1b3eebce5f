"""Fidelity against measured speed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from matplotlib.figure import Figure

from repshift.evaluation.report.names import label, legend, save, title
from repshift.evaluation.report.pareto import pareto
from repshift.evaluation.tasks.smaller_input import LABEL
from repshift.evaluation.tasks.variants import DENSE, DENSE_FUSED

if TYPE_CHECKING:
    from pathlib import Path

    from repshift.evaluation.tasks.bench import Bench


def plot_pareto(bench: Bench, path: Path) -> None:
    """Write speed-up over dense-fused against quality (PNG).

    The dense model on smaller inputs is one curve with the dense model, in black: what lies below
    it is not worth its trouble.
    """
    rows = bench.rows
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for method in dict.fromkeys(row.method for row in rows):
        same = sorted((r for r in rows if r.method == method), key=lambda r: r.speedup_vs_fused)
        style: dict[str, Any] = {"marker": "o" if same[0].plan else "s"}
        if method == LABEL:
            whole = [row for row in rows if row.method in (DENSE.label, DENSE_FUSED.label)]
            same = [*whole, *same]
            style |= {"marker": "s", "color": "black", "linewidth": 2}
        axes.plot(
            [row.speedup_vs_fused for row in same],
            [bench.percent(row) for row in same],
            label=label(method),
            **style,
        )
    front = pareto(bench)
    axes.plot(
        [row.speedup_vs_fused for row in front],
        [bench.percent(row) for row in front],
        color="0.6",
        linestyle=":",
        zorder=0,
        label="Pareto front",
    )
    axes.set(xlabel=f"speed-up over {bench.reference}", ylabel=f"{bench.criterion}, %")
    title(axes, bench.environment["model"])
    axes.grid(alpha=0.3)
    legend(axes, 8)
    save(figure, path, 130)
