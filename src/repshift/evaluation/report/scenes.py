"""The comparison on scenes-vlm as people read it: tables, plot, pictures, one page of all."""

from __future__ import annotations

import json
from html import escape
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from repshift.evaluation.report.names import legend, save, title
from repshift.evaluation.report.page import STYLE, embed, headed
from repshift.evaluation.tasks.vlm_bench import ORDERS
from repshift.evaluation.zoo.scenes.language import KINDS
from repshift.files import replacing_all
from repshift.measure.environment import in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repshift.evaluation.report.results import ResultFiles
    from repshift.evaluation.tasks.vlm_bench import Outcome, SceneBench

WHERE = {"after": "The question stands after what is seen", "before": "The question stands first"}
HEADS = ("method", "tokens", "GFLOPs", "agrees", "KL", "all", *KINDS)


def write_scenes(
    bench: SceneBench, files: ResultFiles, pictures: Sequence[tuple[str, Figure]]
) -> None:
    """Write all ``files`` or none; print the tables."""
    tables = markdown(bench)
    text = json.dumps(bench.to_dict(), indent=1)
    with replacing_all([path for _, path in files.written]) as [figures, table, plot, page, *more]:
        for copy in (figures, *more):
            copy.write_text(text, encoding="utf-8")
        table.write_text(tables, encoding="utf-8")
        drawn = curves(bench)
        save(drawn, plot, 110)
        page.write_text(_html(bench, drawn, pictures), encoding="utf-8")
    print(tables)
    print(f"report: {files.page}")


def markdown(bench: SceneBench) -> str:
    """A table for each order of the prompt."""
    parts = [in_words(bench.environment) + "\n"]
    for order in ORDERS:
        lines = [HEADS, ["---", *["---:"] * (len(HEADS) - 1)], *_lines(bench, order)]
        parts.append(f"## {WHERE[order]}\n")
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n")
    return "\n".join(parts)


def curves(bench: SceneBench) -> Figure:
    """Accuracy against the share of tokens, a panel for each kind, the question last."""
    figure = Figure(figsize=(15, 7.5), layout="constrained")
    methods: dict[str, list[Outcome]] = {}
    for outcome in bench.outcomes:
        check = "warning" in outcome.label or "after layer" in outcome.label
        if 0 < outcome.share < 1 and not check:
            methods.setdefault(outcome.label, []).append(outcome)
    shares = sorted({one.share for same in methods.values() for one in same})
    panels = figure.subplots(2, 5).flat
    for axes, kind in zip(panels, ("all", *KINDS), strict=True):
        for number, (label, same) in enumerate(methods.items()):
            points = [
                (one.share, 100 * one.figures["after"].accuracy[kind][0])
                for one in same
                if kind in one.figures["after"].accuracy
            ]
            if points:
                style = ("-", "--", ":")[number // 10]
                axes.plot(*zip(*points, strict=True), style, marker=".", label=label)
        dense = bench.outcomes[0].figures["after"].accuracy[kind][0]
        axes.axhline(100 * dense, color="0.6", linewidth=0.8)
        axes.set(xscale="log", ylim=(0, 103))
        axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        title(axes, kind, 10)
    legend(figure.axes[0], 6)
    figure.supxlabel("share of the visual tokens")
    figure.supylabel("accuracy, %")
    return figure


def _lines(bench: SceneBench, order: str) -> list[list[str]]:
    return [
        [
            _name(outcome),
            str(outcome.tokens),
            f"{outcome.gflops:.3f}",
            f"{100 * outcome.figures[order].agreement:.1f} %",
            f"{outcome.figures[order].kl:.3f}",
            *(_percent(outcome.figures[order].accuracy.get(kind)) for kind in ("all", *KINDS)),
        ]
        for outcome in bench.outcomes
    ]


def _name(outcome: Outcome) -> str:
    return outcome.label if outcome.share in (0, 1) else f"{outcome.label}, {outcome.share:.0%}"


def _percent(value: tuple[float, float, float] | None) -> str:
    if value is None:
        return "-"
    mean, low, high = (100 * one for one in value)
    return f"{mean:.1f} ±{(high - low) / 2:.1f}"


def _html(bench: SceneBench, plot: Figure, pictures: Sequence[tuple[str, Figure]]) -> str:
    tables = "".join(
        f"<h2>{WHERE[order]}</h2><div class='wide'><table><tr>"
        + "".join(f"<th>{escape(head)}</th>" for head in HEADS)
        + "</tr>"
        + "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>"
            for line in _lines(bench, order)
        )
        + "</table></div>"
        for order in ORDERS
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>scenes-vlm</title>'
        f"<style>{STYLE}</style><h1>scenes-vlm</h1><p>{escape(in_words(bench.environment))}</p>"
        f"{tables}<h2>Accuracy against tokens</h2><img alt='curves' src='{embed(plot)}'>"
        f"<h2>What is kept, and what is answered</h2>{headed(pictures)}</html>\n"
    )
