"""The files that a command writes, checked before it works: a run must not end in vain."""

from __future__ import annotations

import os
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repshift.errors import InputError
from repshift.files import check_writable

if TYPE_CHECKING:
    from collections.abc import Sequence

OUTPUTS = ("json", "out")  # the options that name a result; all others are read


def check_names(command: Any) -> None:
    """``InputError`` if the system refuses the very name of a file, such as one too long."""
    for path in _paths(command):
        try:
            path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}") from None


def check_outputs(
    command: Any, written: Sequence[tuple[str, Path]], also_read: Sequence[Path] = ()
) -> None:
    """``InputError`` if one of the files that are ``written`` cannot be, or must not be.

    Each stands beside the option it comes from. Two must not be the same, and none a file that the
    command reads, nor a further image among its images.
    """
    taken: dict[str, str] = {}
    for flag, path in written:
        check_writable(path)
        place = os.path.realpath(path)
        if place in taken:
            raise InputError(f"{taken[place]} and {flag} both write {path}; choose another name")
        taken[place] = flag
    read = [path for path in (*_paths(command), *also_read) if os.path.isfile(path)]
    for path in read:
        if flag := taken.get(os.path.realpath(path)):
            raise InputError(f"{flag} would overwrite {path}, which is read; choose another name")
    _check_images(getattr(command, "images", None), written)


def check_suffix(flag: str, path: Path | None, suffix: str) -> None:
    """``InputError`` if the name does not say what will be in the file."""
    if path is not None and path.suffix.lower() != suffix:
        raise InputError(f"{flag} is {path}; what is written is named *{suffix}")


def _check_images(images: Path | None, written: Sequence[tuple[str, Path]]) -> None:
    if images is None:
        return
    folder = Path(os.path.realpath(images))
    for flag, path in written:
        if path.suffix == ".png" and folder in Path(os.path.realpath(path)).parents:
            raise InputError(
                f"{path} would be taken for one of the images in {images} from now on; choose "
                f"another place by {flag}"
            )


def _paths(command: Any) -> list[Path]:
    """What the options name that may be a file: paths, and texts where a file has that name."""
    found: list[Path] = []
    for field in fields(command):
        value = getattr(command, field.name)
        values = value if isinstance(value, tuple) else (value,)
        found += [one for one in values if isinstance(one, Path) and field.name not in OUTPUTS]
        found += [Path(one) for one in values if isinstance(one, str) and os.path.isfile(one)]
    return found
