"""One HTML file with the table, the plot and the pictures inside it; no network needed."""

from __future__ import annotations

import base64
import io
import json
from html import escape
from typing import TYPE_CHECKING

from repshift.evaluation.report.names import plain, save
from repshift.evaluation.report.pareto import winners
from repshift.evaluation.report.table import notes, to_html

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from repshift.evaluation.tasks.bench import Bench

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 75rem }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #ddd; padding: .3rem .6rem; text-align: right }
td { white-space: nowrap }
th:first-child, td:first-child { text-align: left }
.wide { overflow-x: auto } img { max-width: 100% } pre { font-size: 12px; color: #555 }
"""
PICTURES = """
<h2>What the score sees and what stays</h2>
<p>The photo, the score of every token at the first reduction (brighter stays), and the tokens kept
after each reduction.</p>
"""


def write_page(
    bench: Bench, plot: Path, pictures: Sequence[tuple[str, Figure]], path: Path
) -> None:
    """Write ``path``, one HTML file; ``plot`` is a PNG file, ``pictures`` have a heading each."""
    skipped = "".join(f"<li>{escape(plain(line))}</li>" for line in bench.skipped)
    best = "".join(f"<li>{escape(plain(line))}</li>" for line in winners(bench))
    facts = escape(json.dumps(bench.environment, indent=2))
    encoded = base64.b64encode(plot.read_bytes()).decode()
    path.write_text(
        f"""<!doctype html><html lang="en"><meta charset="utf-8">
<title>repshift: {escape(plain(bench.environment["model"]))}</title><style>{STYLE}</style>
<h1>{escape(plain(bench.environment["model"]))}</h1>
<p>{escape(plain(bench.title))}</p>
<div class="wide">{to_html(bench.rows)}</div>
<ul>{"".join(f"<li>{escape(line)}</li>" for line in notes(bench.rows))}</ul>
{f"<p>Files that were skipped:</p><ul>{skipped}</ul>" if skipped else ""}
<h2>Quality against speed</h2>
<p>Best at each speed-up over {bench.reference}:</p><ul>{best}</ul>
<img alt="Pareto plot" src="data:image/png;base64,{encoded}">
{PICTURES + headed(pictures) if pictures else ""}
<h2>Environment</h2><pre>{facts}</pre></html>
""",
        encoding="utf-8",
    )


def headed(pictures: Sequence[tuple[str, Figure]]) -> str:
    """Each picture in HTML, under its heading."""
    return "".join(
        f"<h3>{escape(plain(title))}</h3><img alt='{escape(plain(title))}' src='{embed(figure)}'>"
        for title, figure in pictures
    )


def embed(figure: Figure) -> str:
    """A figure as the source of an image in HTML."""
    buffer = io.BytesIO()
    save(figure, buffer, 90)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
