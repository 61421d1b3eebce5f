"""The test clips as video files with annotations, like any other data set."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from repshift.errors import InputError
from repshift.evaluation.data.annotations import (
    QuestionLayout,
    QuestionSet,
    RetrievalLayout,
    RetrievalSet,
)
from repshift.evaluation.zoo.clips.language import ANSWERS, caption, question
from repshift.evaluation.zoo.clips.render import render
from repshift.evaluation.zoo.clips.scene import draw_scene, twin
from repshift.files import replacing, write_text

if TYPE_CHECKING:
    from pathlib import Path

    from repshift.evaluation.zoo.clips.scene import Scene

CLIPS = 500
_FRAMES, _RATE, _EDGE = 32, 16, 160  # two seconds
_RETRIEVAL = RetrievalLayout("ret_test.json", "pair", 26)
_QUESTIONS = QuestionLayout("qa_test.json", "answers.json", True, question_length=12)


def retrieval_clips(folder: Path) -> RetrievalSet:
    """The test clips in ``folder``, made if they are not there, with a caption each."""
    write_clips(folder)
    return _RETRIEVAL.read(folder)


def question_clips(folder: Path) -> QuestionSet:
    """The test clips in ``folder``, made if they are not there, with two questions each."""
    write_clips(folder)
    return _QUESTIONS.read(folder)


def clip_scenes() -> list[Scene]:
    """The same 500 each time, none of which was trained on; every second the twin of its last."""
    generator = np.random.default_rng([0])
    scenes = []
    for _ in range(CLIPS // 2):
        one = draw_scene(generator)
        scenes += [one, twin(one, generator)]
    return scenes


def write_clips(folder: Path) -> None:
    """Render what is missing: H.264 files of two seconds, then the annotations."""
    captions, questions = [], []
    scenes = clip_scenes()
    for number, scene in enumerate(tqdm(scenes, desc="rendering clips", leave=False)):
        name = f"clip{number:03}.mp4"
        if not (path := folder / "videos" / name).exists():
            with replacing(path) as temporary:
                encode(scene, temporary)
        generator = np.random.default_rng(scene.seed)
        captions.append({"video": name, "caption": caption(scene, generator)})
        for asked in range(2):
            text, answer = question(scene, generator)
            entry = {"video": name, "question": text, "answer": answer}
            questions.append({**entry, "question_id": 2 * number + asked})
    write_text(folder / _RETRIEVAL.file, json.dumps(captions, indent=1))
    write_text(folder / _QUESTIONS.file, json.dumps(questions, indent=1))
    write_text(folder / _QUESTIONS.answer_file, json.dumps(ANSWERS))


def encode(scene: Scene, path: Path) -> None:
    """One scene as an H.264 file."""
    try:
        import av
    except ImportError:
        raise InputError(
            "clips are written by the package av (PyAV), which is not installed; install it "
            "with: pip install repshift[umt]"
        ) from None
    frames = render(scene, np.linspace(0, 1, _FRAMES), _EDGE)
    # With x264's macroblock tree, the same frames are another file in every run.
    options = {"crf": "20", "threads": "1", "x264-params": "mbtree=0"}
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=_RATE, options=options)
        stream.width = stream.height = _EDGE
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            picture = av.VideoFrame.from_ndarray(frame.transpose(1, 2, 0), format="rgb24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
