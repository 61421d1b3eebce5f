"""A finished comparison: files for machines and people, and the table on the terminal."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from repshift.evaluation.report.page import write_page
from repshift.evaluation.report.plot import plot_pareto
from repshift.evaluation.report.table import print_table, to_csv
from repshift.files import check_writable, replacing_all

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.figure import Figure

    from repshift.evaluation.tasks.bench import Bench


@dataclass(frozen=True)
class ResultFiles:
    """What a comparison leaves behind; ``copy`` is a further name for the JSON."""

    figures: Path
    table: Path
    plot: Path
    page: Path
    copy: Path | None = None

    @classmethod
    def below(cls, folder: Path, copy: Path | None = None) -> ResultFiles:
        """Those of a bench of images."""
        figures, table = folder / "bench.json", folder / "bench.csv"
        return cls(figures, table, folder / "pareto.png", folder / "report.html", copy)

    @property
    def written(self) -> list[tuple[str, Path]]:
        """The files, each beside the option by which a command names it."""
        own = [("--out", path) for path in (self.figures, self.table, self.plot, self.page)]
        return own if self.copy is None else [*own, ("--json", self.copy)]

    def check(self) -> None:
        """``InputError`` if one of them cannot be written."""
        for _, path in self.written:
            check_writable(path)


def write_results(
    bench: Bench,
    files: ResultFiles,
    pictures: Sequence[tuple[str, Figure]] = (),
) -> None:
    """Write all ``files`` or none. ``pictures`` have a heading each."""
    text = json.dumps(bench.to_dict(), indent=2)
    names = [path for _, path in files.written]
    with replacing_all(names) as [figures, table, plot, page, *copies]:
        for copy in (figures, *copies):
            copy.write_text(text, encoding="utf-8")
        table.write_text(to_csv(bench.rows), encoding="utf-8")
        plot_pareto(bench, plot)
        write_page(bench, plot, pictures, page)


def show_results(bench: Bench, files: ResultFiles) -> None:
    """Print the table, and where the rest is."""
    print_table(bench)
    print(f"report: {files.page}")
