"""The rows of a bench as people read them: terminal, CSV, HTML."""

from __future__ import annotations

import csv
import html
import io
from dataclasses import asdict, fields
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from repshift.report.pareto import winners
from repshift.tasks.bench import Row

if TYPE_CHECKING:
    from collections.abc import Callable

    from repshift.tasks.bench import Bench


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


# Heading and how a row fills it; a column where no row has a value is left out.
COLUMNS: list[tuple[str, Callable[[Row], str]]] = [
    ("method", lambda row: row.method),
    ("plan", lambda row: row.plan or "-"),
    ("attention", lambda row: "-" if row.kernel == "none" else row.kernel),
    ("tokens", lambda row: str(row.tokens)),
    ("GFLOPs", lambda row: f"{row.gflops:.3g}"),
    ("peak MB", lambda row: f"{row.peak_mb:.3g}"),
    ("images/s", lambda row: f"{row.images_per_s:.4g} ±{50 * row.spread:.0f}%"),
    ("vs eager", lambda row: _times(row.speedup_vs_eager)),
    ("vs fused", lambda row: _times(row.speedup_vs_fused)),
    ("of FLOPs' gain", lambda row: f"{100 * row.flop_share:.0f} %"),
    ("fidelity", lambda row: f"{row.fidelity:.4f}"),
    ("KL", lambda row: "-" if row.kl is None else f"{row.kl:.3f}"),
    ("accuracy", lambda row: _percent(row.accuracy)),
]


def cells(rows: list[Row]) -> tuple[list[str], list[list[str]]]:
    """Headings and the text of every cell."""
    shown = [(head, [fill(row) for row in rows]) for head, fill in COLUMNS]
    shown = [(head, column) for head, column in shown if set(column) != {"-"}]
    if rows[0].kernel == "none":
        shown = [("vs dense" if head == "vs fused" else head, column) for head, column in shown]
    return [head for head, _ in shown], [
        list(line) for line in zip(*(column for _, column in shown), strict=True)
    ]


def caption(bench: Bench) -> str:
    """What was measured, on what."""
    facts = bench.environment
    skipped = f", {facts['skipped']} files skipped" if facts["skipped"] else ""
    return (
        f"{facts['model']}, {facts['images']} images{skipped}; batches of {facts['batch_size']} on "
        f"{facts['device']} ({facts['dtype']}, {facts['threads']} threads), median of "
        f"{facts['rounds']} rounds in turn, ± half the interquartile range. Fidelity is "
        f"{facts['fidelity']} with {reference(bench)}; GFLOPs are multiply-adds."
    )


def reference(bench: Bench) -> str:
    """What speed and fidelity are compared with."""
    return "the dense model" + (" on fused attention" if bench.rows[0].kernel != "none" else "")


def print_table(bench: Bench) -> None:
    """Show the table on the terminal, or as wide text where there is none."""
    heads, lines = cells(bench.rows)
    table = Table(title=caption(bench), title_justify="left", title_style="")
    for head in heads:
        left = head in {"method", "plan", "attention"}
        table.add_column(head, justify="left" if left else "right", no_wrap=head != "method")
    for line in lines:
        table.add_row(*line)
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)
    console.print(table)
    console.print(f"Best at each speed-up over {reference(bench)}:")
    for line in winners(bench.rows):
        console.print(f"  {line}", markup=False, highlight=False)
    for line in bench.skipped:
        console.print(f"skipped: {line}", style="yellow", markup=False)


def to_csv(rows: list[Row]) -> str:
    """All figures of all rows, unrounded."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue()


def to_html(rows: list[Row]) -> str:
    """The table as an HTML element."""
    heads, lines = cells(rows)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>"
        for line in lines
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
