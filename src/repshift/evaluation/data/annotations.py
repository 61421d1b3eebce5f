"""Captions, questions and answers of video data sets, read from their annotation files.

A data set is a directory with the JSON files that UMT is fine-tuned and tested with (VindLU's
layout) and a folder ``videos``, which the files name their videos relative to. Everything is
checked on opening; what a video file holds is found out when it is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from repshift.errors import InputError
from repshift.evaluation.data.annotation_file import AnnotationFile, Entry, read_answers


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

    But for ``caption``, a path that comes again is another video with the same frames: the model
    cannot tell them apart, and finds the one that counts as right by chance. A few of them the
    published sets may have; more are an error.
    """

    file: str
    entry: Literal["pair", "caption", "captions", "paragraph", "videos"]
    text_length: int
    first_seconds: float | None = None

    def read(self, root: Path, videos: Path | None = None) -> RetrievalSet:
        """The data set under ``root``; its videos are in ``videos``, by default root/videos."""
        file = AnnotationFile(root / self.file, videos or root / "videos")
        paths: list[Path] = []
        texts: list[str] = []
        texts_of: list[list[int]] = []
        videos_of: list[list[int]] = []
        known: dict[Path, int] = {}
        for entry in file.entries():
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
        if len(paths) - len(known) > _REPEATED * len(paths):
            raise InputError(
                f"{file.path} names {len(paths)} videos, but these are only {len(known)} files; "
                f"{_INSTEAD[self.entry]}"
            )
        return RetrievalSet(
            file.path.stem, paths, texts, texts_of, videos_of, self.text_length,
            self.first_seconds,
        )  # fmt: skip

    def _read(self, entry: Entry) -> tuple[list[Path], list[str]]:
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
        answer_list = read_answers(root / self.answer_file)
        file = AnnotationFile(root / self.file, videos or root / "videos")
        listed = set(answer_list)
        known: dict[Path, int] = {}
        video_of: list[int] = []
        questions: list[str] = []
        answers: list[str] = []
        ids: dict[int | str, int] = {}
        for entry in file.entries():
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
                f"{file.path}: none of its answers is in {self.answer_file}, whose first is "
                f"{answer_list[0]!r}; the two files do not belong together"
            )
        return QuestionSet(
            file.path.stem, list(known), video_of, questions, answers, list(ids), answer_list,
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
        file = AnnotationFile(root / self.file, videos or root / "videos")
        known: dict[Path, int] = {}
        video_of: list[int] = []
        options: list[list[str]] = []
        answers: list[int] = []
        for entry in file.entries():
            video_of.append(known.setdefault(entry.path("video"), len(known)))
            options.append(entry.texts("caption"))
            if len(options[-1]) != self.options:
                entry.fail("caption", f"a list of {self.options} texts")
            answers.append(entry.below("answer", self.options))
        return ChoiceSet(file.path.stem, list(known), video_of, options, answers, self.text_length)


_REPEATED = 0.05  # the share of paths that may come again
_INSTEAD = {
    "pair": "it has several captions of a video, each an entry, so that it needs the layout "
    "caption (that of msrvtt-train9k and msrvtt-train7k), or captions (that of msvd): one entry a "
    "video, with a list of captions",
    "captions": "list all captions of a video in one entry, or use the layout caption (that of "
    "msrvtt-train9k and msrvtt-train7k): one caption an entry",
    "paragraph": "list all sentences of a video in one entry, or use the layout caption (that of "
    "msrvtt-train9k and msrvtt-train7k): each a query of its own",
    "videos": "name each video in one entry alone, or use the layout caption (that of "
    "msrvtt-train9k and msrvtt-train7k): one video and one of its captions an entry",
}

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
