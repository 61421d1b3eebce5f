"""Class numbers of a directory of images."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from repshift.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor


def read_labels(directory: Path, paths: list[Path], classes: int) -> Int[Tensor, " N"]:
    """The label of each path, from 0 to ``classes`` - 1.

    From ``labels.csv`` (columns ``file``, a path below the directory, and ``label``) if it is
    there; otherwise from the names of the folders the images lie in, in alphabetical order, as
    torchvision's ImageFolder does.
    """
    table = directory / "labels.csv"
    names = [path.relative_to(directory).as_posix() for path in paths]
    labels = _from_table(table, names) if table.is_file() else _from_folders(directory, names)
    if not 0 <= min(labels) <= max(labels) < classes:
        raise InputError(f"the labels run from {min(labels)} to {max(labels)}; the model has "
                         f"{classes} classes, 0 to {classes - 1}")  # fmt: skip
    return torch.tensor(labels)


def _from_table(table: Path, names: list[str]) -> list[int]:
    try:
        with table.open(newline="", encoding="utf-8") as file:
            known = {row["file"]: int(row["label"]) for row in csv.DictReader(file)}
    except (KeyError, ValueError, TypeError, UnicodeDecodeError) as error:
        raise InputError(
            f"{table} needs the columns file and label (a whole number): {error!r}"
        ) from None
    if missing := [name for name in names if name not in known]:
        raise InputError(f"{table} has no label for {len(missing)} images, the first {missing[0]}")
    return [known[name] for name in names]


def _from_folders(directory: Path, names: list[str]) -> list[int]:
    folders = sorted(child.name for child in directory.iterdir() if child.is_dir())
    if any("/" not in name for name in names):
        raise InputError(
            f"--labels needs {directory / 'labels.csv'} (columns file, label) or one folder a class"
        )
    return [folders.index(name.partition("/")[0]) for name in names]
