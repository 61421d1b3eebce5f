"""An annotation file, a JSON list, and its entries; what is wrong is named with its place."""

from __future__ import annotations

import json
import os
import reprlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn, TypeGuard

from repshift.errors import InputError
from repshift.files import read_text

_EXPECTED = "the annotations, a JSON list"


class AnnotationFile:
    """A JSON list of objects, which name videos below a directory."""

    def __init__(self, path: Path, videos: Path) -> None:
        self.path, self.videos = path, videos

    def entries(self) -> list[Entry]:
        values = read_list(self.path, _EXPECTED)
        if not self.videos.is_dir():
            raise InputError(f"{self.videos} is not a directory; expected the videos that "
                             f"{self.path.name} names in it")  # fmt: skip
        entries = [Entry(self, index, value) for index, value in enumerate(values)]
        for entry in entries:
            if not isinstance(entry.value, dict):
                raise InputError(f"{entry.place} is {reprlib.repr(entry.value)}; expected an "
                                 "object with the key video")  # fmt: skip
        return entries


@dataclass(frozen=True)
class Entry:
    """One entry; a value that is not what it should be is named with file, entry and key."""

    file: AnnotationFile
    index: int
    value: Any

    @property
    def place(self) -> str:
        return f"{self.file.path}, entry {self.index} (from 0)"

    def fail(self, key: str, expected: str) -> NoReturn:
        found = reprlib.repr(self.value[key]) if key in self.value else "missing"
        raise InputError(f"{self.place}: {key} is {found}; expected {expected}")

    def text(self, key: str) -> str:
        value = self.value.get(key)
        if not _is_text(value):
            self.fail(key, "a text that is not empty")
        return value

    def texts(self, key: str) -> list[str]:
        value = self.value.get(key)
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not values or not all(map(_is_text, values)):
            self.fail(key, "a text or a list of texts, none of them empty")
        return values

    def paragraph(self, key: str) -> str:
        value = self.value.get(key)
        sentences = [value] if isinstance(value, str) else value
        # One sentence of a paragraph may be empty, as long as another is not.
        if not isinstance(sentences, list) or not all(isinstance(s, str) for s in sentences):
            self.fail(key, "a list of sentences")
        paragraph = " ".join(sentences)
        if not paragraph.strip():
            self.fail(key, "sentences that are not all empty")
        return paragraph

    def path(self, key: str) -> Path:
        return self._path(key, self.value.get(key))

    def paths(self, key: str) -> list[Path]:
        value = self.value.get(key)
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list) or not names:
            self.fail(key, "a path or a list of paths")
        return [self._path(key, name) for name in names]

    def identifier(self, key: str) -> int | str:
        value = self.value.get(key)
        if isinstance(value, bool) or not isinstance(value, int | str):
            self.fail(key, "a whole number or a text")
        return value

    def below(self, key: str, limit: int) -> int:
        value = self.value.get(key)
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < limit:
            self.fail(key, f"a whole number from 0 to {limit - 1}")
        return value

    def _path(self, key: str, name: object) -> Path:
        # By its letters alone: a link inside the folder may well lead out of it.
        if not _is_text(name) or "\0" in name:
            self.fail(key, "the path of a video")
        normal = os.path.normpath(name)
        if PurePosixPath(name).is_absolute() or normal.split(os.sep)[0] in ("..", "."):
            self.fail(key, f"a path below {self.file.videos}")
        return self.file.videos / normal


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def read_answers(file: Path) -> list[str]:
    """A JSON list of texts, none of them empty."""
    answers = read_list(file, _EXPECTED)
    for index, answer in enumerate(answers):
        if not _is_text(answer):
            raise InputError(f"{file}, entry {index} (from 0) is {reprlib.repr(answer)}; expected "
                             "an answer, a text that is not empty")  # fmt: skip
    return answers


def read_list(file: Path, expected: str) -> list[Any]:
    """A JSON list of one entry or more; ``expected`` says in an error what the file holds."""
    text = read_text(file, expected)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file} is not JSON: {error}") from None
    if not isinstance(value, list) or not value:
        raise InputError(f"{file} holds {reprlib.repr(value)}; expected a list of one entry or "
                         "more")  # fmt: skip
    return value
