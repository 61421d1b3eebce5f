"""The plans that a search tried: how far from dense each is, at what cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from repshift.evaluation.report.names import label, legend, save, title
from repshift.evaluation.report.pareto import front
from repshift.input_size import input_in_words

if TYPE_CHECKING:
    from pathlib import Path

    from repshift.plan import Plan
    from repshift.search.search_plan import SearchResult


def plot_tried(found: SearchResult, path: Path) -> None:
    """Loss against the share of the dense cost, by method, with the Pareto front (PNG)."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    facts = found.provenance
    for name in dict.fromkeys(_name(trial.plan) for trial in found.tried):
        same = [trial for trial in found.tried if _name(trial.plan) == name]
        points = [trial.share for trial in same], [trial.loss for trial in same]
        axes.scatter(*points, s=18, label=label(name))
    best = front(found.tried, lambda trial: trial.share, lambda trial: trial.loss)
    axes.plot(
        [trial.share for trial in best],
        [trial.loss for trial in best],
        color="0.6",
        linestyle=":",
        zorder=0,
        label="Pareto front",
    )
    here = next((trial for trial in found.tried if trial.plan == found.plan), None)
    if here is not None:
        axes.scatter(
            [here.share], [here.loss], s=160, facecolors="none", edgecolors="k", label="the plan"
        )
    cost = "time" if "speedup" in facts["target"] else "FLOPs"
    loss = "KL from the dense model (nats)" if facts["objective"] == "kl" else "1 - feature cosine"
    axes.set(xlabel=f"share of the dense {cost}", ylabel=loss)
    title(axes, facts["model"])
    axes.set_yscale("symlog", linthresh=1e-4)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    legend(axes, 8)
    save(figure, path, 130)


def _name(plan: Plan) -> str:
    """The method, and the size of the input where it is not the model's own."""
    size = f", {words}" if (words := input_in_words(plan)) else ""
    return f"{plan.method if plan.acting else 'dense'}{size}"
