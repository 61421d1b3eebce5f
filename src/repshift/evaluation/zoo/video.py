"""A video model by its name on the command line, with its data and its tokenizer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from repshift.errors import InputError
from repshift.evaluation.data.annotations import (
    LAYOUTS,
    QuestionLayout,
    QuestionSet,
    RetrievalLayout,
    RetrievalSet,
)
from repshift.evaluation.data.videos import Sampling
from repshift.evaluation.models.umt.answering import AnsweringModel
from repshift.evaluation.models.umt.checkpoint import load_answering, load_retrieval
from repshift.evaluation.models.umt.config import CONFIGS
from repshift.evaluation.models.umt.retrieval import RetrievalModel
from repshift.evaluation.models.umt.tokenizer import Tokenizer

if TYPE_CHECKING:
    from collections.abc import Callable

OFFLINE = "clips-umt"
Model = TypeVar("Model", RetrievalModel, AnsweringModel)
Data = TypeVar("Data", RetrievalSet, QuestionSet)
Layout = TypeVar("Layout", RetrievalLayout, QuestionLayout)


@dataclass(frozen=True)
class VideoTask(Generic[Model, Data]):
    """A model for a task, the data it is tested on, and how both are fed.

    ``dataset`` and ``size`` (b16, l16) are what papers print figures for; None for other models.
    ``candidates`` are ranked again.
    """

    name: str
    dataset: str | None
    size: str | None
    model: Model
    read: Callable[[], Data]
    tokenizer: Tokenizer
    sampling: Sampling
    candidates: int = 128

    @cached_property
    def data(self) -> Data:
        """The data set; generated clips are made when it is asked for, which takes a minute."""
        return self.read()


@dataclass(frozen=True)
class Files:
    """What a user gives: weights, vocabulary, annotations; ``frames`` of each video are seen."""

    checkpoint: Path | None
    vocab: Path | None
    data: str | None
    root: Path | None
    videos: Path | None
    frames: int = 12


def open_retrieval(
    name: str, files: Files, folder: Path
) -> VideoTask[RetrievalModel, RetrievalSet]:
    """A model and data set for retrieval; ``folder`` is where the generated clips are kept."""
    if name == OFFLINE:
        from repshift.evaluation.zoo.clips.files import retrieval_clips
        from repshift.evaluation.zoo.clips.model import load_clips_retrieval

        return _offline(files, load_clips_retrieval, retrieval_clips, folder)
    layout, root = _layout(name, files, RetrievalLayout)
    data = layout.read(root, files.videos)
    checkpoint = _checkpoint(name, files)
    return _published(
        name, files, load_retrieval(name, checkpoint, pool="all"), data, data.first_seconds
    )


def open_answering(name: str, files: Files, folder: Path) -> VideoTask[AnsweringModel, QuestionSet]:
    """The same for question answering."""
    if name == OFFLINE:
        from repshift.evaluation.zoo.clips.files import question_clips
        from repshift.evaluation.zoo.clips.model import load_clips_answering

        return _offline(files, load_clips_answering, question_clips, folder)
    layout, root = _layout(name, files, QuestionLayout)
    data = layout.read(root, files.videos)
    return _published(name, files, load_answering(name, _checkpoint(name, files)), data)


def _offline(
    files: Files, load: Callable[[], Model], clips: Callable[[Path], Data], folder: Path
) -> VideoTask[Model, Data]:
    from repshift.evaluation.zoo.clips.model import SAMPLING, tokenizer

    given = [files.checkpoint, files.vocab, files.data, files.root, files.videos]
    if any(one is not None for one in given):
        raise InputError(
            f"{OFFLINE} brings its own weights and clips; --checkpoint, --vocab, --data, --root "
            "and --videos are for umt-b16 and umt-l16"
        )
    return VideoTask(
        OFFLINE, None, None, load(), lambda: clips(folder), tokenizer(), SAMPLING, candidates=32
    )


def _published(
    name: str, files: Files, model: Model, data: Data, first_seconds: float | None = None
) -> VideoTask[Model, Data]:
    if files.vocab is None:
        raise InputError(
            "UMT needs --vocab FILE: vocab.txt of https://huggingface.co/google-bert/"
            "bert-base-uncased"
        )
    words = Tokenizer(files.vocab, CONFIGS[name].vocabulary)
    sampling = Sampling(files.frames, first_seconds=first_seconds)
    size = name.removeprefix("umt-")
    return VideoTask(name, files.data, size, model, lambda: data, words, sampling)


def _checkpoint(name: str, files: Files) -> Path:
    if files.checkpoint is None:
        raise InputError(
            f"{name} needs --checkpoint FILE: weights fine-tuned for this data set, from the model "
            "zoo of https://github.com/OpenGVLab/unmasked_teacher (multi_modality/MODEL_ZOO.md)"
        )
    return files.checkpoint


def _layout(name: str, files: Files, kind: type[Layout]) -> tuple[Layout, Path]:
    """The layout and the directory that were asked for."""
    if name not in CONFIGS:
        raise InputError(f"unknown model {name!r}; there are {OFFLINE}, {', '.join(CONFIGS)}")
    known = {name: layout for name, layout in LAYOUTS.items() if isinstance(layout, kind)}
    if files.data not in known:
        raise InputError(f"--data is {files.data}; expected one of {', '.join(known)}")
    if files.root is None:
        raise InputError(
            f"{files.data} needs --root DIR, a directory with {known[files.data].file} and the "
            "folder videos"
        )
    return known[files.data], files.root
