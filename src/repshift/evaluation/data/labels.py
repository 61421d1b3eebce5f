"""Class numbers of a directory of images."""

from __future__ import annotations

import csv
import io
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from repshift.errors import InputError
from repshift.evaluation.data.images import is_hidden
from repshift.files import read_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jaxtyping import Int
    from torch import Tensor


@dataclass(frozen=True)
class Labels:
    """The class number of each image; ``classes`` are the folders that were numbered, if any."""

    numbers: Int[Tensor, " N"]
    classes: tuple[str, ...] = ()


def read_labels(directory: Path, paths: list[Path], classes: int) -> Labels:
    """The label of each path, from 0 to ``classes`` - 1.

    From ``labels.csv`` (columns ``file``, a path below the directory, and ``label``) if it is
    there; otherwise from the names of the folders the images lie in, in alphabetical order, as
    torchvision's ImageFolder does. There must then be one folder for each class of the model.
    """
    table = directory / "labels.csv"
    names = [path.relative_to(directory).as_posix() for path in paths]
    if not table.is_file():
        return _from_folders(directory, names, classes)
    labels = _from_table(table, names)
    if not 0 <= min(labels) <= max(labels) < classes:
        raise InputError(
            f"the labels of {table} run from {min(labels)} to {max(labels)}; the model has "
            f"{classes} classes, 0 to {classes - 1}"
        )
    return Labels(torch.tensor(labels))


def _from_table(table: Path, names: list[str]) -> list[int]:
    text = read_text(table, "the columns file and label")
    known: dict[str, tuple[int, int]] = {}
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = reader.fieldnames or []
        rows = [(reader.line_num, row) for row in reader]
    except csv.Error as error:
        raise InputError(f"{table}, line {reader.line_num + 1}: {error}") from None
    if not {"file", "label"} <= set(columns):
        raise InputError(
            f"{table} needs the columns file and label, separated by a comma; its first line is "
            f"{','.join(columns)!r}"
        )
    for line, row in rows:
        place = f"{table}, line {line}"
        if None in row or None in row.values():
            raise InputError(f"{place} has not as many values as the first line has columns")
        file = os.path.normpath(row["file"])
        if not row["file"].strip() or os.path.isabs(file) or file.split(os.sep)[0] in ("..", "."):
            raise InputError(f"{place}: file is {row['file']!r}; expected a path below the folder "
                             f"{table.parent}")  # fmt: skip
        try:
            label = int(row["label"])
        except ValueError:
            raise InputError(
                f"{place}: label is {row['label']!r}; expected a whole number"
            ) from None
        name = file.replace(os.sep, "/")
        if name in known:
            raise InputError(f"{place}: {name} is on line {known[name][1]} already; list each "
                             "file once")  # fmt: skip
        known[name] = label, line
    if missing := [name for name in names if name not in known]:
        raise InputError(f"{table} has no label for {len(missing)} images, the first {missing[0]}")
    return [known[name][0] for name in names]


def _from_folders(directory: Path, names: list[str], classes: int) -> Labels:
    if any("/" not in name for name in names):
        raise InputError(
            f"--labels needs {directory / 'labels.csv'} (columns file, label) or one folder a class"
        )
    table = f"or give the numbers in {directory / 'labels.csv'} (columns file, label)"
    folders = sorted(
        child.name for child in directory.iterdir() if child.is_dir() and not is_hidden(child)
    )
    places = [name.partition("/")[0] for name in names]
    if empty := sorted(set(folders) - set(places)):
        raise InputError(
            f"{directory}: {len(empty)} of {len(folders)} class folders hold no image, the first "
            f"{empty[0]}; remove them, {table}"
        )
    if len(folders) != classes:
        raise InputError(
            f"{directory} has {len(folders)} class folders ({first_and_last(folders)}) and the "
            f"model {classes} classes; make one folder for each class, {table}"
        )
    number = {folder: index for index, folder in enumerate(folders)}
    return Labels(torch.tensor([number[place] for place in places]), tuple(folders))


def first_and_last(classes: Sequence[str]) -> str:
    """The classes with their numbers; of many, the first three and the last."""
    said = [f"{number} {name}" for number, name in enumerate(classes)]
    return ", ".join([*said[:3], "...", said[-1]] if len(said) > 5 else said)
