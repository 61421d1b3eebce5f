"""The comparison on a vision-language model as people read it: tables, plot, pictures, a page."""

from __future__ import annotations

import json
import math
from collections import Counter
from html import escape
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from repshift.evaluation.report.names import legend_beside, save, title
from repshift.evaluation.report.page import STYLE, embed, headed
from repshift.files import replacing_all
from repshift.measure.environment import in_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from repshift.evaluation.report.results import ResultFiles
    from repshift.evaluation.tasks.vlm_bench import Outcome, VisionLanguageBench

WHERE = {"after": "The question stands after what is seen", "before": "The question stands first"}
COSTS = (
    "method", "tokens", "GFLOPs", "tower ms", "prefill ms", "first word ms", "word ms",
    "key-value MB",
)  # fmt: skip
LEGEND = (
    "Of a prompt: tokens of what is seen in the last layer; GFLOPs of tower and prefill; "
    "milliseconds of the prompts at once that are timed, all rows in turn; key-value memory "
    "behind the prompt. agrees: answers that are those of the dense model; KL: of the first word, "
    "from the dense model's, in nats; then right answers in %, with half of Wilson's 95 % interval."
)


def write_vision_language(
    bench: VisionLanguageBench, files: ResultFiles, pictures: Sequence[tuple[str, Figure]] = ()
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


def markdown(bench: VisionLanguageBench) -> str:
    """What a prompt costs, and a table of answers for each order of the prompt."""
    parts = [in_words(bench.environment), LEGEND]
    for heading, lines in _tables(bench):
        rule = ["---", *["---:"] * (len(lines[0]) - 1)]
        rows = "\n".join(f"| {' | '.join(line)} |" for line in (lines[0], rule, *lines[1:]))
        parts += [f"## {heading}", rows]
    parts += [f"{label} does not run here: {reason}" for label, reason in bench.refused.items()]
    return "\n\n".join(parts) + "\n"


def curves(bench: VisionLanguageBench) -> Figure:
    """Right answers against the share of tokens, a panel for each kind, the question last."""
    methods: dict[str, list[Outcome]] = {}
    dense = bench.outcomes[0]
    for outcome in bench.outcomes:
        check = "warning" in outcome.label or "after layer" in outcome.label
        if 0 < outcome.tokens < dense.tokens and not check:
            methods.setdefault(outcome.label, []).append(outcome)
    # Ticks at the budgets that most methods have.
    budgets = Counter(one.share for same in methods.values() for one in same)
    shares = sorted(share for share, count in budgets.items() if 2 * count > len(methods))
    kinds = ("all", *bench.kinds) if len(bench.kinds) > 1 else ("all",)
    high = math.ceil(len(kinds) / 5)
    figure = Figure(figsize=(4 + 3 * min(5, len(kinds)), 4.2 * high), layout="constrained")
    panels = figure.subplots(high, min(5, len(kinds)), squeeze=False).flat
    for axes, kind in zip(panels, kinds, strict=False):
        for number, (label, same) in enumerate(methods.items()):
            points = [
                (one.tokens / dense.tokens, 100 * one.figures["after"].accuracy[kind][0])
                for one in sorted(same, key=lambda one: one.tokens)
                if kind in one.figures["after"].accuracy
            ]
            if points:
                style = ("-", "--", ":")[number // 10 % 3]
                axes.plot(*zip(*points, strict=True), style, marker=".", label=label)
        level = dense.figures["after"].accuracy[kind][0]
        axes.axhline(100 * level, color="0.6", linewidth=0.8)
        axes.set(xscale="log", ylim=(0, 103))
        axes.set_xticks(shares, [f"{share:.0%}" for share in shares])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        title(axes, kind, size=10)
    if methods:
        legend_beside(figure, 8)
    figure.supxlabel("share of the visual tokens in the last layer")
    figure.supylabel("right answers, %")
    return figure


def _tables(bench: VisionLanguageBench) -> list[tuple[str, list[list[str]]]]:
    """Each with its heading; the first line is that of the heads."""
    costs = [list(COSTS), *(_cost(outcome) for outcome in bench.outcomes)]
    tables = [("What a prompt costs", costs)]
    kinds = ("all", *bench.kinds) if len(bench.kinds) > 1 else ("all",)
    for order in bench.outcomes[0].figures:
        lines = [["method", "tokens", "agrees", "KL", *kinds]]
        for outcome in bench.outcomes:
            figures = outcome.figures[order]
            agreement, far = f"{100 * figures.agreement:.1f} %", f"{figures.kl:.3f}"
            right = [_percent(figures.accuracy.get(kind)) for kind in kinds]
            lines.append([_name(outcome), str(outcome.tokens), agreement, far, *right])
        tables.append((WHERE[order], lines))
    return tables


def _cost(outcome: Outcome) -> list[str]:
    taken = outcome.milliseconds
    each = (taken.tower, taken.prefill, taken.first, taken.word)
    milliseconds = [f"{one:.3g}" for one in each]
    tokens, gflops = str(outcome.tokens), f"{outcome.gflops:.3g}"
    return [_name(outcome), tokens, gflops, *milliseconds, f"{outcome.cache_mb:.3g}"]


def _name(outcome: Outcome) -> str:
    return outcome.label if outcome.share in (0, 1) else f"{outcome.label}, {outcome.share:.0%}"


def _percent(value: tuple[float, float, float] | None) -> str:
    if value is None:
        return "-"
    mean, low, high = (100 * one for one in value)
    return f"{mean:.1f} ±{(high - low) / 2:.1f}"


def _html(bench: VisionLanguageBench, plot: Figure, pictures: Sequence[tuple[str, Figure]]) -> str:
    tables = "".join(
        f"<h2>{heading}</h2><div class='wide'><table><tr>"
        + "".join(f"<th>{escape(head)}</th>" for head in lines[0])
        + "</tr>"
        + "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in line) + "</tr>"
            for line in lines[1:]
        )
        + "</table></div>"
        for heading, lines in _tables(bench)
    )
    name = escape(str(bench.environment["model"]))
    shown = f"<h2>What is kept, and what is answered</h2>{headed(pictures)}" if pictures else ""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title>'
        f"<style>{STYLE}</style><h1>{name}</h1><p>{escape(in_words(bench.environment))}</p>"
        f"<p>{escape(LEGEND)}</p>{tables}<h2>Accuracy against tokens</h2>"
        f"<img alt='curves' src='{embed(plot)}'>{shown}</html>\n"
    )
