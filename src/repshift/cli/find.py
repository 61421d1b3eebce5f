"""``repshift find``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from repshift.cli import options
from repshift.cli.outputs import check_outputs, check_suffix


@dataclass
class Find:
    """Search what repshift index has embedded, by a text or by an image file."""

    table: Annotated[Path, tyro.conf.Positional]
    """The table that repshift index has made."""
    query: Annotated[str, tyro.conf.Positional]
    """An image or video file, or a text ('a red car in the snow') where the model reads texts."""
    top: int = 10
    """Files to show."""
    imports: options.Imports = ()
    """A module or a .py file with scores or reductions of your own, imported first; repeatable."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    out: Path = Path("found.html")
    """The page with thumbnails."""

    def run(self) -> None:
        from repshift.evaluation.collection.finding import open_finder
        from repshift.evaluation.report.hits import print_hits, write_found

        check_suffix("--out", self.out, ".html")
        check_outputs(self, [("--out", self.out)])
        options.positive("--top", self.top)
        finder = open_finder(self.table, options.device(self.device))
        hits = finder.by_query(self.query, self.top)
        write_found(self.query, self.table, hits, self.out)
        print_hits(hits)
        print(f"page: {self.out}")
