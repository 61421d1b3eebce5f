"""What the benchmarks share: a command line, facts, tables that grow on disk, ways timed in turn.

A benchmark is a function. Its parameters are the options, the docstring of its file is the help.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from string import Formatter
from typing import Any, Literal

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

# What a way to run a model costs: by heading, how a row says it.
COSTS = {
    "model": "{model}",
    "batch": "{batch}",
    "method": "{method}",
    "attention": "{kernel}",
    "tokens": "{tokens}",
    "GFLOPs": "{gflops:.2f}",
    "peak MB": "{peak_mb:.1f}",
    "images/s": "{images_per_s:.3g}",
    "spread": "{spread:.1%}",
    "vs eager": "{speedup_vs_eager:.2f}",
    "vs fused": "{speedup_vs_fused:.2f}",
    "of FLOPs' gain": "{flop_share:.0%}",
}


def command(benchmark: Callable[..., None]) -> None:
    """Run a benchmark with the options of the command line; what cannot be is one line."""
    import tyro  # which a machine that runs only gpu.py may lack

    try:
        told = sys.modules[benchmark.__module__].__doc__
        tyro.cli(benchmark, description=told, config=(tyro.conf.OmitArgPrefixes,))
    except InputError as error:
        sys.exit(f"{Path(sys.argv[0]).name}: {error}")


def cell(form: str, row: Mapping[str, Any]) -> str:
    """``form`` filled in from a row; nothing where the row does not have it."""
    names = [name for _, name, _, _ in Formatter().parse(form) if name]
    return "" if any(row.get(name) is None for name in names) else form.format_map(row)


def cells(columns: Mapping[str, str], rows: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    return [[cell(form, row) for form in columns.values()] for row in rows]


def table(heads: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Markdown; columns of numbers stand to the right."""
    heads, rows = list(heads), [[str(cell) for cell in row] for row in rows]
    columns = zip(*rows, strict=True) if rows else [["-"]] * len(heads)
    rule = ["---:" if all(map(NUMBER.fullmatch, column)) else "---" for column in columns]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))


@dataclass(frozen=True)
class Setting:
    """Where ways to run a model are timed in turn, and how often; ``tiny`` inputs take seconds."""

    device: torch.device
    dtype: torch.dtype
    rounds: int
    seconds: float = 0.5
    tiny: bool = False

    @property
    def brief(self):
        """For what takes long, and varies little."""
        return replace(self, rounds=min(3, self.rounds))

    def random(self, *shape):
        return torch.randn(*shape, device=self.device, dtype=self.dtype)

    def in_turn(self, runs, contexts=None, seconds=None):
        """Seconds of each of ``runs``, by name, measured in turn (inside its context)."""
        with tqdm(total=self.rounds * len(runs), desc="in turn", leave=False) as bar:
            return interleave(
                contexts or dict.fromkeys(runs, nullcontext), runs, device=self.device,
                rounds=self.rounds, seconds=seconds or self.seconds, progress=bar.update,
            )  # fmt: skip

    def costs(self, model, rows, inputs, where):
        """What each way to run the model costs: a row each, which begins with ``where``."""
        found = measure_costs(
            model, describe(model), rows, inputs, rounds=self.rounds, seconds=self.seconds
        )
        return [where | {"method": row.label} | asdict(cost) for row, cost in found.items()]


class Report:
    """``OUT.md``: the facts, then texts and tables, written whole each time that one is added.

    ``OUT.json`` beside it holds figures: rows, or a memo by which a stopped run goes on.
    """

    def __init__(self, out: Path, *libraries: str, device="cpu", dtype="float32", **facts):
        self.out = Path(str(out).removesuffix(".md"))
        self.device, self.dtype = torch.device(device), getattr(torch, dtype)
        self.facts = facts | environment(self.device, self.dtype, *libraries)
        self.parts = [in_words(self.facts)]

    def setting(self, rounds: int, seconds: float = 0.5) -> Setting:
        if rounds < 2:
            raise InputError(f"--rounds is {rounds}; a median and its spread take 2 or more")
        return Setting(self.device, self.dtype, rounds, seconds)

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

    def rows(self, columns: Mapping[str, str], rows: Iterable[dict]) -> list[dict]:
        """A table of rows, a column for each form, and the rows in full as JSON."""
        held = []

        def lines():
            for row in rows:
                held.append(row)
                whole = {"rows": held, "environment": self.facts}
                write_text(self.file(".json"), json.dumps(whole, indent=1))
                yield from cells(columns, [row])

        self.table(columns, lines())
        return held

    def _write(self) -> None:
        write_text(self.file(".md"), "\n\n".join(self.parts) + "\n")
