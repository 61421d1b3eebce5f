"""Where the files of a collection are: folders, shards, or anything that fsspec reads."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path, PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any

from repshift.errors import InputError
from repshift.evaluation.collection.shards import SHARDS, Inside, address, pictures_in, shard_of
from repshift.evaluation.data.images import SUFFIXES, files_below, is_hidden
from repshift.evaluation.imports import needed

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator

VIDEOS = {".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"}
_SEEN = SUFFIXES | VIDEOS
# Under what the file systems of fsspec say when a file was last changed.
_TAGS = ("ETag", "etag", "CRC", "checksum", "md5Hash", "content_md5")
_CHANGED = ("mtime", "LastModified", "last_modified", "updated", "modified", "created")


@dataclass(frozen=True)
class Found:
    """A file: its path or URL, its bytes, when it was changed.

    In ns; of places that do not say it a number that changes with the file, 0 where there is none.

    A picture ``inside`` a shard has the bytes and the time of the shard.
    """

    path: str
    size: int
    modified: int
    inside: Inside | None = None

    @property
    def suffix(self) -> str:
        """Of its own name, not of what it is in: ``zip://a.png::b.zip``, ``b.tar::a.png``."""
        name = self.path
        if self.inside is not None:
            name = name.rpartition("::")[2]
        elif is_url(name):
            name = name.partition("::")[0]
        return PurePosixPath(name).suffix.lower()

    @property
    def is_video(self) -> bool:
        return self.suffix in VIDEOS


def find_files(*places: str) -> list[Found]:
    """All images and videos of folders, shards and URLs; ``InputError`` if there are none.

    They come in order, each once.
    """
    held = {one.path: one for place in places for one in _whole(place)}
    files = [one for path in sorted(held) for one in _pictures(held[path])]
    if not files:
        raise InputError(
            f"{', '.join(places)} holds no images or videos ({', '.join(sorted(_SEEN | SHARDS))})"
        )
    return files


def find_one(path: str) -> Found:
    """The file of a row; ``InputError`` if its shard has it no more."""
    shard = shard_of(path)
    if shard is None:
        return Found(path, 0, 0)
    found = next((_listed(one).get(path) for one in _whole(shard)), None)
    if found is None:
        raise InputError(f"{path} is not there any more; index again")
    return found


@lru_cache(maxsize=4)  # of a shard of that size and time; a page asks for many of its pictures
def _listed(shard: Found) -> dict[str, Found]:
    return {one.path: one for one in _pictures(shard)}


def is_url(place: str) -> bool:
    """Whether fsspec reads it, and not this machine's own file system."""
    return "://" in place


@contextmanager
def local_file(file: Found) -> Generator[Path]:
    """The file on this machine: what is elsewhere is copied, and deleted afterwards."""
    if file.inside is None and not is_url(file.path):
        yield Path(file.path)
        return
    with tempfile.TemporaryDirectory(prefix="repshift-") as folder:
        copy = Path(folder) / f"file{file.suffix}"
        try:
            if file.inside is not None:
                copy.write_bytes(file.inside.read())
            else:
                system, inside = needed("fsspec", "index").core.url_to_fs(file.path)
                system.get_file(inside, str(copy))
        except InputError as error:
            raise InputError(f"{file.path} {error}") from None
        except Exception as error:  # each file system has errors of its own
            raise InputError(f"{file.path} cannot be fetched: {_line(error)}") from None
        yield copy


def _whole(place: str) -> list[Found]:
    """Files and shards of a place, what is in shards not listed."""
    return _below_url(place) if is_url(place) else _below(Path(place))


def _below(place: Path) -> list[Found]:
    if not place.exists():
        raise InputError(f"{place} is not there; pass a folder, a shard, or a URL such as s3://...")
    place = _plain(place)
    try:
        paths = files_below(place, _SEEN | SHARDS) if place.is_dir() else [place]
        seen = [path for path in paths if _is_seen(Path(path.name), SHARDS)]
        # A link to nothing stays among them, to be named with what cannot be read.
        stats = [(path, path.stat() if path.exists() else path.lstat()) for path in seen]
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from None
    return [Found(str(path), one.st_size, one.st_mtime_ns) for path, one in stats]


def _plain(place: Path) -> Path:
    """The same place by its plain name, without ``..``, but where a link leads elsewhere."""
    plain = Path(os.path.abspath(place))
    return plain if plain.exists() and plain.samefile(place) else place.absolute()


def _below_url(place: str) -> list[Found]:
    fsspec = needed("fsspec", "index")
    try:
        system, root = fsspec.core.url_to_fs(place)
        if "*" in root:
            listed: dict[str, dict[str, Any]] = system.glob(root, detail=True)
        else:
            listed = system.find(root, detail=True)
        if list(listed) == [root]:  # a file, of which some systems list the name alone
            listed[root] = system.info(root)
    except Exception as error:  # of fsspec (no such protocol), or of the file system itself
        raise InputError(f"{place} cannot be listed: {_line(error)}") from None
    found, archive = [], place.removeprefix(place.partition("::")[0])
    for inside, facts in listed.items():
        within = PurePosixPath(inside.removeprefix(root) or PurePosixPath(inside).name)
        if facts.get("type") != "directory" and _is_seen(within, SHARDS):
            path = system.unstrip_protocol(inside) + archive
            found.append(Found(path, int(facts.get("size") or 0), _changed(facts)))
    return found


def _is_seen(within: PurePath, also: Collection[str] = ()) -> bool:
    """Whether a file of that name, without what it stands in, is an image or a video."""
    suffix = within.suffix.lower()
    hidden = any(is_hidden(Path(part)) for part in within.parts)
    return not hidden and (suffix in _SEEN or suffix in also)


def _pictures(file: Found) -> Iterator[Found]:
    """The file itself, or those that a shard holds."""
    if file.suffix not in SHARDS:
        yield file
        return
    try:
        for key, inside in pictures_in(file.path, file.modified, _is_seen):
            path = address(file.path, key) if key else file.path
            yield replace(file, path=path, inside=inside)
    except InputError:
        raise
    except Exception as error:  # of the file system: no reason to take out what the table has
        raise InputError(f"{file.path} cannot be read: {_line(error)}") from None


def _changed(facts: dict[str, Any]) -> int:
    told = next((facts[key] for key in _CHANGED if facts.get(key)), 0)
    if not told:  # an archive's sum, a server's tag: no time, but another where the file is
        known = [facts[key] for key in _TAGS if facts.get(key)]
        return int.from_bytes(sha256(str(known[0]).encode()).digest()[:7]) if known else 0
    if isinstance(told, str):
        told = datetime.fromisoformat(told)
    seconds = told.timestamp() if isinstance(told, datetime) else told
    return int(seconds * 1e9)


def _line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
