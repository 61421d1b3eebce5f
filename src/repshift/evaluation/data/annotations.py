"""Captions, questions and answers of video data sets, read from their annotation files.

A data set is a directory with the JSON files that UMT is fine-tuned and tested with (VindLU's
layout) and a folder ``videos``, which the files name their videos relative to. Everything is
checked on opening; what a video file holds is found out when it is decoded.
"""

from __future__ import annotations

import json
import os
import reprlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NoReturn, TypeGuard

from repshift.errors import InputError


@dataclass(frozen=True)
class RetrievalSet:
    """Videos, texts, and which belong together.

    ``texts_of[v]`` are the texts of video v, ``videos_of[x]`` the videos of text x, as indices.
    Texts are as in the file (sentences of a paragraph joined), not cleaned.
    """

    name: str
    videos: list[Path]
    texts: list[str]
    texts_of: list[list[int]]
    videos_of: list[list[int]]
    text_length: int
    """Word pieces of a text that the model reads, with [CLS]."""
    first_seconds: float | None
    """The part of each video that is seen; None: all of it."""


@dataclass(frozen=True)
class QuestionSet:
    """Questions about videos, each with its answer and its number.

    ``video_of[q]`` is the video, as an index, that question q is about. ``unlisted`` counts the
    answers that the list does not hold: no ranking of the list can give them.
    """

    name: str
    videos: list[Path]
    video_of: list[int]
    questions: list[str]
    answers: list[str]
    question_ids: list[int | str]
    answer_list: list[str]
    unlisted: int
    question_length: int
    answer_length: int


@dataclass(frozen=True)
class ChoiceSet:
    """Videos with several captions each, and which of them is right.

    ``video_of[c]`` is the video of choice c, ``options[c]`` its captions, ``answers[c]`` the index
    of the right one.
    """

    name: str
    videos: list[Path]
    video_of: list[int]
    options: list[list[str]]
    answers: list[int]
    text_length: int


@dataclass(frozen=True)
class RetrievalLayout:
    """One text and its videos, or one video and its texts, an entry of a JSON list.

    ``entry`` says what ``video`` and ``caption`` hold:

    - ``pair``: a path; a text. Every entry is a video of its own, as in the reference.
    - ``caption``: the same, but a video comes again for each of its captions.
    - ``captions``: a path; several texts, each a query of its own.
    - ``paragraph``: a path; sentences that make one text, joined by spaces.
    - ``videos``: one path or several; a text that fits all of them.
    """

    file: str
    entry: Literal["pair", "caption", "captions", "paragraph", "videos"]
    text_length: int
    first_seconds: float | None = None

    def read(self, root: Path, videos: Path | None = None) -> RetrievalSet:
        """The data set under ``root``; its videos are in ``videos``, by default root/videos."""
        reader = _Reader(root / self.file, videos or root / "videos")
        paths: list[Path] = []
        texts: list[str] = []
        texts_of: list[list[int]] = []
        videos_of: list[list[int]] = []
        known: dict[Path, int] = {}
        for entry in reader.entries():
            own_paths, own_texts = self._read(entry)
            text_indices = list(range(len(texts), len(texts) + len(own_texts)))
            video_indices = []
            for path in own_paths:
                video = known.get(path) if self.entry == "caption" else None
                if video is None:
                    video = known[path] = len(paths)
                    paths.append(path)
                    texts_of.append([])
                video_indices.append(video)
                texts_of[video] += text_indices
            texts += own_texts
            videos_of += [list(video_indices) for _ in own_texts]
        return RetrievalSet(
            reader.file.stem, paths, texts, texts_of, videos_of, self.text_length,
            self.first_seconds,
        )  # fmt: skip

    def _read(self, entry: _Entry) -> tuple[list[Path], list[str]]:
        match self.entry:
            case "videos":
                return entry.paths("video"), [entry.text("caption")]
            case "captions":
                return [entry.path("video")], entry.texts("caption")
            case "paragraph":
                return [entry.path("video")], [entry.paragraph("caption")]
            case _:
                return [entry.path("video")], [entry.text("caption")]


@dataclass(frozen=True)
class QuestionLayout:
    """One question an entry of a JSON list, and a JSON list of all answers that are ranked.

    ``complete``: the list holds every answer, and one that it does not hold is an error. The lists
    of the published data sets are not: they hold the answers frequent in training, and a question
    with another answer counts as answered wrongly.
    """

    file: str
    answer_file: str
    complete: bool
    question_length: int = 25
    answer_length: int = 5

    def read(self, root: Path, videos: Path | None = None) -> QuestionSet:
        """The data set under ``root``; its videos are in ``videos``, by default root/videos."""
        answer_list = _read_answers(root / self.answer_file)
        reader = _Reader(root / self.file, videos or root / "videos")
        listed = set(answer_list)
        known: dict[Path, int] = {}
        video_of: list[int] = []
        questions: list[str] = []
        answers: list[str] = []
        ids: dict[int | str, int] = {}
        for entry in reader.entries():
            video_of.append(known.setdefault(entry.path("video"), len(known)))
            questions.append(entry.text("question"))
            answers.append(entry.text("answer"))
            if self.complete and answers[-1] not in listed:
                entry.fail("answer", f"one of the {len(listed)} answers of {self.answer_file}")
            number = entry.identifier("question_id")
            if number in ids:
                entry.fail("question_id", f"a number of its own; entry {ids[number]} has the same")
            ids[number] = entry.index
        unlisted = sum(answer not in listed for answer in answers)
        if unlisted == len(answers):
            raise InputError(
                f"{reader.file}: none of its answers is in {self.answer_file}, whose first is "
                f"{answer_list[0]!r}; the two files do not belong together"
            )
        return QuestionSet(
            reader.file.stem, list(known), video_of, questions, answers, list(ids), answer_list,
            unlisted, self.question_length, self.answer_length,
        )  # fmt: skip


@dataclass(frozen=True)
class ChoiceLayout:
    """One video an entry of a JSON list, with ``options`` captions and the index of the right."""

    file: str
    options: int
    text_length: int

    def read(self, root: Path, videos: Path | None = None) -> ChoiceSet:
        """The data set under ``root``; its videos are in ``videos``, by default root/videos."""
        reader = _Reader(root / self.file, videos or root / "videos")
        known: dict[Path, int] = {}
        video_of: list[int] = []
        options: list[list[str]] = []
        answers: list[int] = []
        for entry in reader.entries():
            video_of.append(known.setdefault(entry.path("video"), len(known)))
            options.append(entry.texts("caption"))
            if len(options[-1]) != self.options:
                entry.fail("caption", f"a list of {self.options} texts")
            answers.append(entry.below("answer", self.options))
        return ChoiceSet(
            reader.file.stem, list(known), video_of, options, answers, self.text_length
        )


Layout = RetrievalLayout | QuestionLayout | ChoiceLayout

# Files and text lengths are those of UMT's fine-tuning configurations: what each is tested on, and
# the two training splits of MSRVTT. DiDeMo's videos are annotated in their first half minute.
LAYOUTS: dict[str, Layout] = {
    "msrvtt": RetrievalLayout("msrvtt_ret_test1k.json", "pair", 32),
    "msrvtt-train9k": RetrievalLayout("msrvtt_ret_train9k.json", "caption", 32),
    "msrvtt-train7k": RetrievalLayout("msrvtt_ret_train7k.json", "caption", 32),
    "msvd": RetrievalLayout("msvd_ret_test.json", "captions", 64),
    "activitynet": RetrievalLayout("anet_ret_val.json", "paragraph", 150),
    "didemo": RetrievalLayout("didemo_ret_test.json", "paragraph", 64, first_seconds=30.0),
    "lsmdc": RetrievalLayout("lsmdc_ret_test_1000.json", "pair", 96),
    "ssv2-label": RetrievalLayout("ssv2_ret_label_val_small.json", "videos", 25),
    "ssv2-template": RetrievalLayout("ssv2_ret_template_val_small.json", "videos", 25),
    "msrvtt-qa": QuestionLayout(
        "msrvtt_qa_test.json", "msrvtt_qa_answer_list.json", complete=False
    ),
    "msvd-qa": QuestionLayout("msvd_qa_test.json", "msvd_qa_answer_list.json", complete=False),
    "activitynet-qa": QuestionLayout(
        "anet_qa_test.json", "anet_qa_answer_list.json", complete=False
    ),
    "msrvtt-mc": ChoiceLayout("msrvtt_mc_test.json", options=5, text_length=32),
}


def layout(name: str) -> Layout:
    """The layout of a data set by its name."""
    if name not in LAYOUTS:
        raise InputError(f"no data set is called {name!r}; known are {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


class _Reader:
    """An annotation file: a JSON list of objects."""

    def __init__(self, file: Path, videos: Path) -> None:
        self.file, self.videos = file, videos

    def entries(self) -> list[_Entry]:
        values = _read_list(self.file)
        if not self.videos.is_dir():
            raise InputError(f"{self.videos} is not a directory; expected the videos that "
                             f"{self.file.name} names in it")  # fmt: skip
        entries = [_Entry(self, index, value) for index, value in enumerate(values)]
        for entry in entries:
            if not isinstance(entry.value, dict):
                raise InputError(f"{entry.place} is {reprlib.repr(entry.value)}; expected an "
                                 "object with the key video")  # fmt: skip
        return entries


@dataclass(frozen=True)
class _Entry:
    """One entry; a value that is not what it should be is named with file, entry and key."""

    reader: _Reader
    index: int
    value: Any

    @property
    def place(self) -> str:
        return f"{self.reader.file}, entry {self.index} (from 0)"

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
            self.fail(key, f"a path below {self.reader.videos}")
        return self.reader.videos / normal


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and bool(value.strip())


def _read_answers(file: Path) -> list[str]:
    answers = _read_list(file)
    for index, answer in enumerate(answers):
        if not _is_text(answer):
            raise InputError(f"{file}, entry {index} (from 0) is {reprlib.repr(answer)}; expected "
                             "an answer, a text that is not empty")  # fmt: skip
    return answers


def _read_list(file: Path) -> list[Any]:
    try:
        value = json.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}; expected the annotations, "
                         "a JSON list") from None  # fmt: skip
    except (ValueError, RecursionError) as error:  # both what is no text and what is no JSON
        raise InputError(f"{file} is not JSON: {error}") from None
    if not isinstance(value, list) or not value:
        raise InputError(f"{file} holds {reprlib.repr(value)}; expected a list of one entry or "
                         "more")  # fmt: skip
    return value
