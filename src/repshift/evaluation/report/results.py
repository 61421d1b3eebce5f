"""A finished comparison: files for machines and people, and the table on the terminal."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from repshift.evaluation.report.page import write_page
from repshift.evaluation.report.plot import plot_pareto
from repshift.evaluation.report.table import print_table, to_csv
from repshift.files import write_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from repshift.evaluation.tasks.bench import Bench


def write_results(
    bench: Bench,
    figures: Path,
    plot: Path,
    page: Path,
    pictures: Sequence[tuple[str, Figure]] = (),
    copy: Path | None = None,
) -> None:
    """Write ``figures`` (as .json and .csv), ``plot`` (PNG) and ``page`` (HTML); print the table.

    ``copy`` is a further name for the JSON; ``pictures`` have a heading each.
    """
    text = json.dumps(bench.to_dict(), indent=2)
    write_text(figures.with_suffix(".json"), text)
    write_text(figures.with_suffix(".csv"), to_csv(bench.rows))
    plot_pareto(bench, plot)
    write_page(bench, plot, pictures, page)
    if copy is not None:
        write_text(copy, text)
    print_table(bench)
    print(f"report: {page}")
