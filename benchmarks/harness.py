"""What the benchmarks share: a command line, facts, tables that grow on disk, ways timed in turn.

A benchmark is a function. Its parameters are the options, the docstring of its file is the help.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import torch
from tqdm import tqdm

from repshift import InputError
from repshift.adapters import describe
from repshift.evaluation.tasks.costs import measure_costs
from repshift.files import write_text
from repshift.measure.environment import environment, in_words
from repshift.measure.speed import interleave
from repshift.search.memo import Memo

NUMBER = re.compile(r"[-+]?[\d.]*e?[-+]?\d*( ?(%|x|ms|MB))?")
Dtype = Literal["float32", "bfloat16", "float16"]


def command(benchmark: Callable[..., None]) -> None:
    """Run a benchmark with the options of the command line; what cannot be is one line."""
    import tyro  # which a machine that runs only gpu.py may lack

    try:
        told = sys.modules[benchmark.__module__].__doc__
        tyro.cli(benchmark, description=told, config=(tyro.conf.OmitArgPrefixes,))
    except InputError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Markdown; columns of numbers stand to the right."""
    heads, rows = list(heads), [[str(cell) for cell in row] for row in rows]
    columns = zip(*rows, strict=True) if rows else [["-"]] * len(heads)
    rule = ["---:" if all(map(NUMBER.fullmatch, column)) else "---" for column in columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))


class Report:
    """``OUT.md``: the facts, then texts and tables, written whole each time that one is added.

    ``OUT.json`` beside it holds figures: rows, or a memo by which a stopped run goes on.
    """

    def __init__(self, out: Path, *libraries: str, device="cpu", dtype="float32", **facts):
        self.out = Path(str(out).removesuffix(".md"))
        self.device, self.dtype = torch.device(device), getattr(torch, dtype)
        self.facts = facts | environment(self.device, self.dtype, *libraries)
        self.parts = [in_words(self.facts)]

    def file(self, ending: str) -> Path:
        return self.out.with_name(self.out.name + ending)

    def memo(self) -> Memo:
        return Memo(self.file(".json"), self.facts)

    def add(self, *parts: str) -> None:
        self.parts += parts
        self._write()
        print(*parts, sep="\n\n", flush=True)

    def table(self, heads: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
        """A table that is written anew with each row."""
        heads, held = list(heads), []
        self.parts.append("")
        for row in rows:
            held.append(list(row))
            self.parts[-1] = table(heads, held)
            self._write()
            print(*held[-1], sep=" | ", flush=True)

    def rows(self, columns: Mapping[str, Callable[[dict], object]], rows: Iterable[dict]) -> list:
        """A table of rows, a column for each function of one, and the rows in full as JSON."""
        held = []

        def cells():
            for row in rows:
                held.append(row)
                form = {"rows": held, "environment": self.facts}
                write_text(self.file(".json"), json.dumps(form, indent=1))
                yield [cell(row) for cell in columns.values()]

        self.table(columns, cells())
        return held

    def _write(self) -> None:
        write_text(self.file(".md"), "\n\n".join(self.parts) + "\n")


def in_turn(runs, *, rounds, seconds, contexts=None, title="in turn", device=None):
    """Seconds of each of ``runs``, by name, measured in turn (inside its context)."""
    with tqdm(total=rounds * len(runs), desc=title, leave=False) as bar:
        return interleave(
            contexts or dict.fromkeys(runs, nullcontext), runs, device=device, rounds=rounds,
            seconds=seconds, progress=bar.update,
        )  # fmt: skip


def costs(model, rows, images, where, *, rounds, seconds=0.5):
    """What each way to run the model costs, in turn: a row each, which begins with ``where``."""
    found = measure_costs(model, describe(model), rows, images, rounds=rounds, seconds=seconds)
    return [where | {"method": row.label} | asdict(cost) for row, cost in found.items()]


# The columns of such rows.
COSTS = {
    "model": lambda row: row["model"],
    "batch": lambda row: row["batch"],
    "method": lambda row: row["method"],
    "attention": lambda row: row["kernel"],
    "tokens": lambda row: row["tokens"],
    "GFLOPs": lambda row: f"{row['gflops']:.2f}",
    "peak MB": lambda row: f"{row['peak_mb']:.1f}",
    "images/s": lambda row: f"{row['images_per_s']:.3g}",
    "spread": lambda row: f"{row['spread']:.1%}",
    "vs eager": lambda row: optional(row["speedup_vs_eager"]),
    "vs fused": lambda row: f"{row['speedup_vs_fused']:.2f}",
    "of FLOPs' gain": lambda row: f"{row['flop_share']:.0%}",
}


def optional(ratio):
    return "" if ratio is None else f"{ratio:.2f}"
