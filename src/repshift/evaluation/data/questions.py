"""Questions about a user's own images, read from a JSON file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from repshift.errors import InputError
from repshift.evaluation.data.annotation_file import AnnotationFile, Entry, read_list

if TYPE_CHECKING:
    from typing import Any

_KEYS = ("image", "images", "question", "answer", "kind")
_EXAMPLE = '{"image": "a.jpg", "question": "What is on the table?"}'


@dataclass(frozen=True)
class Asked:
    """A question about one image or several; ``answer`` is None where the file has none."""

    images: tuple[Path, ...]
    question: str
    answer: str | None
    kind: str


def read_questions(path: Path) -> list[Asked]:
    """The questions of a file: a JSON list of objects with ``image`` and ``question``.

    ``images`` takes the place of ``image`` where a question is about several; ``answer`` and
    ``kind`` may be left out. Images are named relative to the file. ``InputError`` that names file,
    entry and key where something is not as it should be.
    """
    expected = f"a JSON list of questions such as {_EXAMPLE}"
    file = AnnotationFile(path, path.parent)
    return [
        _asked(Entry(file, index, value)) for index, value in enumerate(read_list(path, expected))
    ]


def _asked(entry: Entry) -> Asked:
    value: Any = entry.value
    if not isinstance(value, dict):
        raise InputError(f"{entry.place} is {str(value)[:40]!r}; expected such as {_EXAMPLE}")
    if extra := value.keys() - set(_KEYS):
        raise InputError(
            f"{entry.place} has unknown keys {', '.join(sorted(extra))}; it takes "
            f"{', '.join(_KEYS)}"
        )
    if ("image" in value) == ("images" in value):
        held = "both" if "image" in value else "neither"
        raise InputError(f"{entry.place} has {held} of image and images; give one of them")
    names = [entry.text("image")] if "image" in value else entry.texts("images")
    folder = entry.file.path.parent
    images = tuple(folder / name for name in names)
    for image in images:
        if not image.is_file():
            raise InputError(
                f"{entry.place}: there is no image {image}; images are named relative to the file"
            )
    return Asked(
        images,
        entry.text("question"),
        entry.text("answer") if value.get("answer") is not None else None,
        entry.text("kind") if "kind" in value else "question",
    )
