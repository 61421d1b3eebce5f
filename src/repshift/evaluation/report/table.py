"""The rows of a bench as people read them: terminal, CSV, HTML."""

from __future__ import annotations

import csv
import html
import io
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from repshift.evaluation.report.names import plain
from repshift.evaluation.report.pareto import winners

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from repshift.evaluation.tasks.bench import Bench


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f} %"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}x"


def _recalls(*values: float) -> str:
    return "/".join(f"{value:.1f}" for value in values)


# Heading, fields of a row, and how they are written. A column without values is left out.
COLUMNS: list[tuple[str, str, Callable[..., str]]] = [
    ("method", "method", str),
    ("plan", "plan", lambda plan: plan or "-"),
    ("attention", "kernel", lambda kernel: "-" if kernel == "none" else kernel),
    ("tokens", "tokens", str),
    ("GFLOPs", "gflops", lambda value: f"{value:.3g}" if value < 100 else f"{value:.1f}"),
    ("peak MB", "peak_mb", lambda value: f"{value:.3g}"),
    ("images/s", "images_per_s", lambda value: f"{value:.4g}"),
    ("videos/s", "videos_per_s", lambda value: f"{value:.3g}"),
    ("spread", "spread", lambda value: f"{100 * value:.0f} %"),
    ("vs eager", "speedup_vs_eager", _times),
    ("vs fused", "speedup_vs_fused", _times),
    ("of FLOPs' gain", "flop_share", lambda value: f"{100 * value:.0f} %"),
    ("fidelity", "fidelity", lambda value: f"{value:.4f}"),
    ("KL", "kl", lambda value: "-" if value is None else f"{value:.3f}"),
    ("accuracy", "accuracy", _percent),
    ("T2V R@1/5/10", "t2v_r1 t2v_r5 t2v_r10", _recalls),
    ("V2T", "v2t_r1 v2t_r5 v2t_r10", _recalls),
    ("mean", "mean_r1 mean_r5 mean_r10", _recalls),
    ("median rank", "median_rank", lambda value: f"{value:.3g}"),
    ("published", "published", str),
]


def cells(rows: Sequence[Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and the text of every cell."""
    shown = [
        (head, [plain(write(*(getattr(row, name) for name in names.split()))) for row in rows])
        for head, names, write in COLUMNS
        if hasattr(rows[0], names.split()[0])
    ]
    shown = [(head, column) for head, column in shown if set(column) != {"-"}]
    if rows[0].kernel == "none":
        shown = [("vs dense" if head == "vs fused" else head, column) for head, column in shown]
    return [head for head, _ in shown], [
        list(line) for line in zip(*(column for _, column in shown), strict=True)
    ]


# What a heading means that does not say so itself.
NOTES = {
    "tokens": "how many are kept after the last block, the class token among them",
    "spread": "the interquartile range of the times, as a share of their median",
    "vs fused": "in turn: every round times each row once, so that a busy machine is fair to all",
    "of FLOPs' gain": "how much of the speed-up that fewer FLOPs promise was reached",
}


def notes(rows: Sequence[Any]) -> list[str]:
    """A line for each heading of the table that needs one."""
    heads, _ = cells(rows)
    return [f"{head}: {NOTES[head]}" for head in heads if head in NOTES]


def print_table(bench: Bench) -> None:
    """Show the table on the terminal, or as wide text where there is none."""
    heads, lines = cells(bench.rows)
    table = Table(title=plain(bench.title), title_justify="left", title_style="")
    for head in heads:
        left = head in {"method", "plan", "attention"}
        # A long name goes on in the next line, with no letter lost; figures stay in one.
        wrap = head in {"method", "plan"}
        justify: Any = "left" if left else "right"
        table.add_column(head, justify=justify, no_wrap=not wrap, overflow="fold")
    for line in lines:
        table.add_row(*line)
    settings: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
    console = Console(**settings)
    if not console.is_terminal:
        console = Console(width=230, **settings)
    console.print(table)
    for line in notes(bench.rows):
        console.print(line)
    console.print(f"Best at each speed-up over {bench.reference}:")
    for line in winners(bench):
        console.print(f"  {plain(line)}")
    for line in bench.skipped:
        console.print(f"skipped: {plain(line)}", style="yellow")


def to_csv(rows: Sequence[Any]) -> str:
    """All figures of all rows, unrounded."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(asdict(rows[0])), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        values = asdict(row).items()
        writer.writerow({key: plain(v) if isinstance(v, str) else v for key, v in values})
    return text.getvalue()


def to_html(rows: Sequence[Any]) -> str:
    """The table as an HTML element."""
    heads, lines = cells(rows)
    head = "".join(f"<th>{html.escape(name)}</th>" for name in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>"
        for line in lines
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
