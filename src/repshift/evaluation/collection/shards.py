"""Pictures inside shards: tar files, as WebDataset has them, and Parquet files, as Hugging Face."""

from __future__ import annotations

import re
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from repshift.errors import InputError
from repshift.evaluation.imports import needed

if TYPE_CHECKING:
    from collections.abc import Iterator

SHARDS = {".parquet", ".tar"}
_PICTURE = re.compile(r"(.+\.(?:parquet|tar))::(.+)", re.IGNORECASE | re.DOTALL)


class Inside(ABC):
    """Where in a shard a picture is."""

    @abstractmethod
    def read(self) -> bytes:
        """The picture's file; ``InputError`` where there is none."""


@dataclass(frozen=True)
class InTar(Inside):
    """A member of a tar file."""

    shard: str
    start: int
    size: int

    def read(self) -> bytes:
        """One range of the shard."""
        system, path = _system(self.shard)
        end = self.start + self.size
        return system.cat_file(path, start=self.start, end=end) if self.size else b""


@dataclass(frozen=True)
class InParquet(Inside):
    """A row of a group of rows; ``changed``: when the shard was."""

    shard: str
    changed: int
    column: str
    group: int
    row: int

    def read(self) -> bytes:
        """Bytes, or those of Hugging Face's ``{bytes, path}``."""
        held = _column_of_group(self.shard, self.changed, self.column, self.group)[self.row].as_py()
        held = held["bytes"] if isinstance(held, dict) else held
        if not held:
            raise InputError("has no bytes")
        return held


@dataclass(frozen=True)
class Nowhere(Inside):
    """What cannot be read, for a ``reason``."""

    reason: str

    def read(self) -> bytes:
        raise InputError(self.reason)


def address(shard: str, key: str) -> str:
    """What a picture is called in a table: ``000.tar::cat.jpg``, ``000.parquet::17``."""
    return f"{shard}::{key}"


def shard_of(path: str) -> str | None:
    """The shard that a picture of this address is in; None of a file of its own."""
    found = _PICTURE.fullmatch(path)
    return found[1] if found else None


def pictures_in(
    shard: str, changed: int, wanted: Callable[[PurePosixPath], bool]
) -> Iterator[tuple[str, Inside]]:
    """The key and the place of each picture; of a tar file the members that are ``wanted``.

    A shard that is damaged gives what there is before the damage, and its own address.
    """
    system, path = _system(shard)
    with system.open(path, "rb") as file:
        if PurePosixPath(shard).suffix.lower() == ".tar":
            yield from _in_tar(shard, file, wanted)
        else:
            yield from _in_parquet(shard, changed, file)


def _in_tar(
    shard: str, file: Any, wanted: Callable[[PurePosixPath], bool]
) -> Iterator[tuple[str, Inside]]:
    found: dict[str, Inside] = {}  # of members of one name the last one counts, as in tar
    end = "not a tar file, or a compressed one"
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                if member.isreg() and wanted(PurePosixPath(member.name)):
                    found[member.name] = InTar(shard, member.offset_data, member.size)
            # tarfile takes anything that is no header for the end.
            file.seek(archive.offset)
            end = "" if file.read(512) == bytes(512) else "damaged, or not whole"
    except tarfile.TarError as error:
        end = f"{end} ({error})" if not found else f"damaged, or not whole ({error})"
    yield from found.items()
    if end:
        yield "", Nowhere(f"is {end}; {len(found)} pictures of it were found")


def _in_parquet(shard: str, changed: int, file: Any) -> Iterator[tuple[str, Inside]]:
    arrow, parquet = needed("pyarrow", "index"), needed("pyarrow.parquet", "index")
    try:
        opened = parquet.ParquetFile(file)
        columns = [field.name for field in opened.schema_arrow if _has_bytes(field.type)]
    except (arrow.ArrowException, OSError) as error:  # OSError of one that is damaged, too
        yield "", Nowhere(f"cannot be read as Parquet: {str(error).splitlines()[0]}")
        return
    column = columns[0] if len(columns) == 1 else "image"
    if column not in columns:
        told = f"several ({', '.join(columns)}), none of them named image" if columns else "none"
        yield "", Nowhere(f"needs a column of bytes, the pictures, and has {told}")
        return
    number = 0
    for group in range(opened.metadata.num_row_groups):
        for row in range(opened.metadata.row_group(group).num_rows):
            yield str(number), InParquet(shard, changed, column, group, row)
            number += 1


def _has_bytes(kind: Any) -> bool:
    types = needed("pyarrow", "index").types
    if types.is_struct(kind):
        return any(field.name == "bytes" and _has_bytes(field.type) for field in kind)
    return types.is_binary(kind) or types.is_large_binary(kind)


@lru_cache(maxsize=1)  # rows come in order, and are read by the group
def _column_of_group(shard: str, changed: int, column: str, group: int) -> Any:
    system, path = _system(shard)
    with system.open(path, "rb") as file:
        opened = needed("pyarrow.parquet", "index").ParquetFile(file)
        return opened.read_row_group(group, columns=[column]).column(0)


def _system(shard: str) -> tuple[Any, str]:
    return needed("fsspec", "index").core.url_to_fs(shard)
