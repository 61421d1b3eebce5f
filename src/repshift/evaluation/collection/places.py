"""Where the files of a collection are: a folder, or anything that fsspec reads."""

from __future__ import annotations

import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from repshift.errors import InputError
from repshift.evaluation.data.images import SUFFIXES, files_below, is_hidden
from repshift.evaluation.imports import needed

if TYPE_CHECKING:
    from collections.abc import Iterator

VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
# Under what the file systems of fsspec say when a file was last changed.
_CHANGED = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


@dataclass(frozen=True)
class Found:
    """A file: its path or URL, its bytes, when it was changed (ns; 0 where nobody knows)."""

    path: str
    size: int
    modified: int

    @property
    def is_video(self) -> bool:
        return PurePosixPath(self.path).suffix.lower() in VIDEOS


def find_files(place: str) -> list[Found]:
    """All images and videos below a folder or URL, in order; ``InputError`` if there are none."""
    found = _below_url(place) if is_url(place) else _below_folder(Path(place))
    if not found:
        raise InputError(
            f"{place} holds no images or videos ({', '.join(sorted(SUFFIXES | VIDEOS))})"
        )
    return sorted(found, key=lambda one: one.path)


def is_url(place: str) -> bool:
    """Whether fsspec reads it, and not this machine's own file system."""
    return "://" in place


@contextmanager
def local_file(path: str) -> Iterator[Path]:
    """The file on this machine: what is elsewhere is copied, and deleted afterwards."""
    if not is_url(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="repshift-") as folder:
        copy = Path(folder) / f"file{PurePosixPath(path).suffix}"
        try:
            system, inside = needed("fsspec", "index").core.url_to_fs(path)
            system.get_file(inside, str(copy))
        except InputError:
            raise
        except Exception as error:  # each file system has errors of its own
            raise InputError(f"{path} cannot be fetched: {_line(error)}") from None
        yield copy


def _below_folder(folder: Path) -> list[Found]:
    if not folder.is_dir():
        raise InputError(f"{folder} is not a directory; pass a folder, or a URL such as s3://...")
    try:
        stats = [(path, path.stat()) for path in files_below(folder, SUFFIXES | VIDEOS)]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from None
    return [Found(str(path.absolute()), one.st_size, one.st_mtime_ns) for path, one in stats]


def _below_url(place: str) -> list[Found]:
    fsspec = needed("fsspec", "index")
    try:
        system, root = fsspec.core.url_to_fs(place)
        listed: dict[str, dict[str, Any]] = system.find(root, detail=True)
    except Exception as error:  # of fsspec (no such protocol), or of the file system itself
        raise InputError(f"{place} cannot be listed: {_line(error)}") from None
    found = []
    for inside, facts in listed.items():
        within = PurePosixPath(inside.removeprefix(root))
        hidden = any(is_hidden(Path(part)) for part in within.parts)
        if not hidden and within.suffix.lower() in SUFFIXES | VIDEOS:
            path = system.unstrip_protocol(inside)
            found.append(Found(path, int(facts.get("size") or 0), _changed(facts)))
    return found


def _changed(facts: dict[str, Any]) -> int:
    told = next((facts[key] for key in _CHANGED if facts.get(key)), 0)
    if isinstance(told, str):
        told = datetime.fromisoformat(told)
    seconds = told.timestamp() if isinstance(told, datetime) else told
    return int(seconds * 1e9)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
