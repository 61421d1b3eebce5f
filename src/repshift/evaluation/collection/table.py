"""The table of a collection: a vector for every photograph and for every piece of a video."""

from __future__ import annotations

import ast
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repshift.errors import InputError
from repshift.evaluation.imports import needed
from repshift.plan import Plan

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable, Sequence

    import numpy as np
    from jaxtyping import Float

INDEXED = 50_000  # rows from which an approximate index is searched; below it all are compared
_DELETED_AT_ONCE = 500
_APART = 0.1  # between vectors of length 1; devices and precisions differ by less
_OTHER = "{} was made with {}; choose another --out, or delete the table"
_KEY = b"repshift"  # of what the table was made by, among the metadata of its schema


@dataclass(frozen=True)
class Row:
    """A photograph, or what is seen of a video from ``second`` on."""

    path: str
    second: float | None
    size: int
    modified: int
    kept: int
    thumbnail: bytes
    vector: Float[np.ndarray, " D"]


@dataclass(frozen=True)
class Hit:
    """A row that was found; ``likeness`` is the cosine with what was asked for."""

    path: str
    second: float | None
    kept: int
    thumbnail: bytes
    likeness: float


class Table:
    """A LanceDB table in the folder ``path``; ``made_by`` is what all its vectors come from."""

    def __init__(self, path: Path, table: Any) -> None:
        self.path, self._table = path, table
        metadata = table.schema.metadata or {}
        if _KEY not in metadata:
            raise InputError(f"{path} was not made by repshift index; choose another name")
        self.made_by: dict[str, Any] = json.loads(metadata[_KEY])

    def __len__(self) -> int:
        return self._table.count_rows()

    def files(self) -> dict[str, tuple[int, int]]:
        """The size and the time of change of every file, by its path."""
        known = self._table.search().select(["path", "size", "modified"]).to_arrow().to_pylist()
        return {row["path"]: (row["size"], row["modified"]) for row in known}

    def add(self, rows: Iterable[Row]) -> None:
        """Write rows, all of them or none."""
        import pyarrow as pa

        listed = [vars(row) for row in rows]
        if not listed:
            return
        try:
            self._table.add(pa.Table.from_pylist(listed, schema=self._table.schema))
        except (OSError, RuntimeError) as error:  # of LanceDB, such as a full disk
            raise InputError(f"cannot write {self.path}: {str(error).splitlines()[0]}") from None

    def remove(self, paths: Sequence[str]) -> None:
        """Take out the rows of these files."""
        for start in range(0, len(paths), _DELETED_AT_ONCE):
            quoted = ("'" + path.replace("'", "''") + "'"
                      for path in paths[start : start + _DELETED_AT_ONCE])  # fmt: skip
            self._table.delete(f"path IN ({', '.join(quoted)})")

    def finish(self) -> None:
        """Put the pieces that were written together, and keep the index, if one is due, whole."""
        from lancedb.index import IvfPq

        if len(self) >= INDEXED and not self._table.list_indices():
            self._table.create_index("vector", config=IvfPq(distance_type="cosine"))
        self._table.optimize()

    def nearest(self, vector: Float[np.ndarray, " D"], count: int) -> list[Hit]:
        """The ``count`` files with the rows that are most like it, each at its best row.

        ``InputError`` if by now another table stands there, of other vectors.
        """
        if json.loads(self._table.schema.metadata[_KEY]) != self.made_by:
            raise InputError(f"{self.path} was made anew, by something else; open it again")
        asked = 4 * count
        while True:
            search = self._table.search(vector, vector_column_name="vector")
            search = search.distance_type("cosine").limit(asked)
            if self._table.list_indices():
                search = search.nprobes(40).refine_factor(10)
            columns = ["path", "second", "kept", "thumbnail", "_distance"]
            rows = search.select(columns).to_arrow().to_pylist()
            best: dict[str, Hit] = {}
            for row in rows:
                row["likeness"] = 1 - row.pop("_distance")
                best.setdefault(row["path"], Hit(**row))
            if len(best) >= count or len(rows) < asked:
                return list(best.values())[:count]
            asked *= 4

    def holds(self, path: str, second: float | None) -> bool:
        """Whether there is such a row."""
        quoted = path.replace("'", "''")
        when = "second IS NULL" if second is None else f"second = {second!r}"
        return self._table.count_rows(f"path = '{quoted}' AND {when}") > 0

    @contextmanager
    def alone(self) -> Generator[None]:
        """``InputError`` if another process is inside with the same table."""
        if fcntl is None:
            yield
            return
        handle = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            raise InputError(f"another process is writing {self.path}; wait for its end") from None
        except OSError:  # some file systems have no locks
            pass
        try:
            yield
        finally:
            os.close(handle)


def open_table(path: Path) -> Table:
    """The table that ``repshift index`` wrote; ``InputError`` if there is none."""
    if not path.is_dir():
        raise InputError(f"{path} is not there; make it with: repshift index PHOTOS --out {path}")
    if path.suffix != ".lance":
        raise InputError(
            f"{path} is a folder and no index of one; make it with: repshift index {path} --out "
            f"{path}.lance"
        )
    try:
        return Table(path, _database(path).open_table(path.stem))
    except (ValueError, RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0][:200]
        raise InputError(f"{path} cannot be read as a table of LanceDB: {reason}") from None


def make_table(path: Path, made_by: dict[str, Any]) -> Table:
    """The table in ``path``, made where it is not there.

    ``InputError`` if what is there was made by something else.
    """
    if path.exists() and any(path.iterdir()):
        table = open_table(path)
        _check(table, made_by)
        return table
    pa = needed("pyarrow", "index")
    schema = pa.schema(
        [
            pa.field("path", pa.string(), False),
            pa.field("second", pa.float64()),
            pa.field("size", pa.int64(), False),
            pa.field("modified", pa.int64(), False),
            pa.field("kept", pa.int32(), False),
            pa.field("thumbnail", pa.binary(), False),
            pa.field("vector", pa.list_(pa.float32(), made_by["dimension"]), False),
        ],
        metadata={_KEY: json.dumps(made_by).encode()},
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    return Table(path, _database(path).create_table(path.stem, schema=schema))


def _database(path: Path) -> Any:
    # Its libraries warn of a table that is not there yet, which is about to be made.
    os.environ.setdefault("LANCE_LOG", "error")
    connect = needed("lancedb", "index").connect
    # What another process has written meanwhile is seen by the next call.
    return connect(str(path.parent), read_consistency_interval=timedelta(0))


def _check(table: Table, made_by: dict[str, Any]) -> None:
    before, now = _told(table.made_by), _told(made_by)
    for name, value in now.items():
        if before[name] != value:
            found = f"{name} {before[name]}, and this is {value}"
            raise InputError(_OTHER.format(table.path, found))
    check_code(table, made_by)


def check_code(table: Table, made_by: dict[str, Any]) -> None:
    """``InputError`` where code that no name tells of is other than that which made the table."""
    before = table.made_by
    if before.get("code", made_by["code"]) != made_by["code"]:  # tables of 0.1 do not say it
        names = ", ".join({**before["code"].get("code", {}), **made_by["code"].get("code", {})})
        raise InputError(_OTHER.format(table.path, f"another version of the code of {names}"))
    known, now = before.get("example", made_by["example"]), made_by["example"]
    apart = sum((one - other) ** 2 for one, other in zip(known, now, strict=False))
    if not apart * made_by["dimension"] <= _APART**2 * len(now):
        changed = f"{before['model']} as it was (its code, its transform or its library)"
        raise InputError(_OTHER.format(table.path, changed))


def settings_of(made_by: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the model, which stand in a table as Python writes them."""
    return {name: _read(value) for name, value in made_by["model_args"].items()}


def _read(value: Any) -> Any:
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):  # tables of 0.1 hold words as they are
        return value


def _told(made_by: dict[str, Any]) -> dict[str, Any]:
    """What decides the vectors, by the words of the command line."""
    plan = Plan.from_json(made_by["plan"])
    return {
        "--model": made_by["model"],
        "--model-args": settings_of(made_by),
        "input size": plan.input_size or "of the model",
        "--plan": str(plan),
        "the method": plan.identity,
        "weights": made_by["weights"],
        "--dtype": made_by["dtype"],
        "--every": made_by["every"],
        "vectors of length": made_by["dimension"],
    }
