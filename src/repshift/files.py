"""Text files: read as people save them; results appear whole or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from repshift.errors import InputError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence


@contextmanager
def replacing(path: Path) -> Generator[Path]:
    """A temporary path beside ``path`` that takes its name when the block ends without an error."""
    with replacing_all([path]) as [temporary]:
        yield temporary


@contextmanager
def replacing_all(paths: Sequence[Path]) -> Generator[list[Path]]:
    """A temporary path beside each of ``paths``; all take their names when the block ends well.

    Otherwise none does. What the disk refuses is an ``InputError``. Two processes give names one
    after the other, so that files of the same names are all of one of them.
    """
    temporaries: list[Path] = []
    try:
        for path in paths:
            with _refusals(path):
                temporaries.append(_temporary(path))
        more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
        with _refusals(f"{paths[0]}{more}"):
            yield temporaries
            for temporary in temporaries:
                temporary.chmod(0o644)
            with _turn(paths[0].parent):
                _rename(list(zip(temporaries, paths, strict=True)))
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def read_text(path: Path, expected: str) -> str:
    """A text in UTF-8, with the mark before it that Excel and Windows write, or without.

    ``expected`` says in an error what the file should hold.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}; expected {expected}") from None
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = content.count(b"\n", 0, error.start) + 1
        kind = "; it looks like UTF-16" if content[:2] in (b"\xff\xfe", b"\xfe\xff") else ""
        raise InputError(
            f"{path} is not UTF-8 (line {place}, byte 0x{content[error.start]:02x}{kind}); save it "
            "as UTF-8 (in Excel: CSV UTF-8)"
        ) from None


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def check_writable(path: Path) -> None:
    """``InputError`` if ``path`` cannot be written; nothing is made or changed."""
    with _refusals(path):
        _check_place(path)
        folder = path.parent
        while not os.path.lexists(folder):
            folder = folder.parent
        # The names of directories to be made, and of the temporary file, may be too long.
        made = [folder / part for part in path.relative_to(folder).parts]
        for name in (*made, path.with_name(f".12345678{path.suffix}")):
            with suppress(FileNotFoundError):
                name.lstat()
        with tempfile.TemporaryFile(dir=folder):
            pass


def _temporary(path: Path) -> Path:
    _check_place(path)
    with suppress(FileExistsError):  # no directory: what follows says so
        path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=path.suffix)
    os.close(handle)
    return Path(name)


def _check_place(path: Path) -> None:
    """Only a file gives way to another: no directory, and no device such as /dev/null."""
    if os.path.isdir(path):
        raise InputError(f"cannot write {path}: it is a directory; pass the name of a file")
    if os.path.exists(path) and not os.path.isfile(path):
        raise InputError(f"cannot write {path}: it is not a regular file; pass the name of one")


def _rename(pairs: list[tuple[Path, Path]]) -> None:
    """Give all their names; once the first has its own, the others follow through an interrupt."""
    try:
        for temporary, path in pairs:
            temporary.replace(path)
    except (KeyboardInterrupt, SystemExit):
        left = [pair for pair in pairs if pair[0].exists()]
        for temporary, path in left if len(left) < len(pairs) else []:
            temporary.replace(path)
        raise


@contextmanager
def _turn(folder: Path) -> Generator[None]:
    """Alone among the processes that have come here with the same folder."""
    if fcntl is None:
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some file systems have no locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextmanager
def _refusals(what: Path | str) -> Generator[None]:
    """The disk is full, a directory is not there or not the user's: an ``InputError``."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write {what}: {error.strerror or error}") from None
