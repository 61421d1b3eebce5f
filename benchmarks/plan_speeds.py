"""How fast plans run in turn, as cells of a table and as a plot of quality against speed."""

from contextlib import contextmanager, nullcontext

import torch
from matplotlib.figure import Figure

from harness import in_turn
from repshift import compress
from repshift.evaluation.tasks.smaller_input import LABEL as SMALLER
from repshift.files import replacing
from repshift.measure.speed import speedup
from repshift.runtime.attention import EagerAttention

TIMED = 8  # images in a batch whose speed is measured


def speedups(bench, plans, rival, rounds):
    """Images a second over those of the dense model on fused attention, timed in turn.

    By label: on fused attention, and on eager, where ToMe and the dense model were published.
    """
    if not rounds:
        return {}

    def measured():
        images = bench.meter.batches[0][:TIMED]
        ways = {
            label: lambda plan=plan: compress(bench.model, plan, bench.spec)
            for label, plan in plans.items()
        }
        ways["dense"] = nullcontext
        for label in eager:
            ways[label, "eager"] = lambda plan=plans[label]: on_eager(bench, plan)
        runs = dict.fromkeys(ways, lambda: bench.model(images))
        if rival is not None:
            ways[SMALLER], given = nullcontext, rival.given(images)
            runs[SMALLER] = lambda: rival.model(given)
        times = in_turn(runs, contexts=ways, rounds=rounds, seconds=0.5)
        return {
            way: [speedup(times[w], times["dense"]) for w in (way, (way, "eager")) if w in times]
            for way in ways
            if isinstance(way, str)
        }

    eager = [label for label in plans if label == "dense" or label.startswith("ToMe")]
    names = ", ".join(f"{plan.method} at {plan.schedule}" for plan in plans.values())
    beside = f", and dense on {rival.label}" if rival else ""
    return bench.memo(f"speed in turn, eager too: {names}{beside}", measured)


@contextmanager
def on_eager(bench, plan):
    with EagerAttention(), compress(bench.model, plan, bench.spec):
        yield


def speed_cells(rates):
    """The cells of the speeds on fused attention and on eager."""
    return [*(f"{rate:.2f}x" for rate in rates or ()), "", ""][:2]


def draw(bench, tables, path):
    """Quality against measured speed, a line for each way to choose plans (PNG)."""
    lines = {}
    for rows in tables:
        for label, _, (_, quality, *_), speed in rows:
            lines.setdefault(label.partition(":")[0], []).append((speed[0], quality))
    figure = Figure(figsize=(10, 5), layout="constrained")
    axes = figure.subplots()
    for label, points in lines.items():
        strong = {"linewidth": 3, "color": "black"} if label == "found" else {}
        axes.plot(*zip(*sorted(set(points)), strict=True), marker="o", label=label, **strong)
    axes.set(
        xlabel=f"speed-up over dense on fused attention, batch {TIMED}, "
        f"threads {torch.get_num_threads()}",
        ylabel=bench.names[0],
        title=bench.subject.name,
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=8)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)
