"""Bring a table up to date with the files: new ones in, changed ones anew, removed ones out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tqdm import tqdm

from repshift.evaluation.collection.table import Row
from repshift.evaluation.data.signals import signals_held

if TYPE_CHECKING:
    from collections.abc import Generator

    from repshift.evaluation.collection.places import Found
    from repshift.evaluation.collection.table import Table

_ROWS, _SECONDS = 2_000, 10.0  # after so much a piece of the table is written


@dataclass(frozen=True)
class Done:
    """A file that an engine has read: its rows, or why it cannot be used."""

    file: Found
    rows: Sequence[Row] = ()
    reason: str | None = None


# Reads and embeds files, in any order.
Engine = Callable[[Sequence["Found"]], "Generator[Done, None, None]"]


@dataclass
class Outcome:
    """What was done: files by what became of them; ``skipped`` says why each cannot be used."""

    added: int = 0
    changed: int = 0
    removed: int = 0
    unchanged: int = 0
    rows: int = 0
    seconds: float = 0.0
    skipped: list[str] = field(default_factory=list)

    @property
    def worked(self) -> bool:
        """Whether the table is another than before."""
        return bool(self.added or self.changed or self.removed)


def bring_up_to_date(table: Table, files: Sequence[Found], engine: Engine) -> Outcome:
    """Embed what is not in the table yet; killed at any moment, the next call goes on.

    A file is in the table with all its rows or with none.
    """
    outcome = Outcome()
    before, now = table.files(), {file.path: file for file in files}
    removed = [path for path in before if path not in now]
    changed = {
        path
        for path, known in before.items()
        if path in now and known != (now[path].size, now[path].modified)
    }
    table.remove([*removed, *changed])
    due = [file for file in files if file.path not in before or file.path in changed]
    outcome.removed, outcome.unchanged = len(removed), len(files) - len(due)
    start = time.monotonic()
    with (
        closing(engine(due)) as done,
        tqdm(total=len(due), desc="files", unit=" files", leave=False, delay=1) as bar,
    ):
        for one in _written(table, done):
            bar.update()
            if one.reason is not None:
                outcome.skipped.append(one.reason)
                continue
            outcome.rows += len(one.rows)
            if one.file.path in changed:
                outcome.changed += 1
            else:
                outcome.added += 1
    outcome.seconds = time.monotonic() - start
    if outcome.worked:
        table.finish()
    return outcome


def _written(table: Table, done: Iterator[Done]) -> Iterator[Done]:
    """Each file as it is done; its rows are in the table when the next one comes, or soon after."""
    rows: list[Row] = []
    last = time.monotonic()
    try:
        for one in done:
            rows += one.rows
            if len(rows) >= _ROWS or time.monotonic() - last > _SECONDS:
                due, rows, last = rows, [], time.monotonic()
                _add(table, due)
            yield one
    finally:
        _add(table, rows)


def _add(table: Table, rows: Sequence[Row]) -> None:
    """Write them once: what is interrupted may be written nevertheless."""
    with signals_held():
        table.add(rows)
