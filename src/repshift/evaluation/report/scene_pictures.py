"""A scene, a question about it, the cells that are kept and the answer that is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repshift.evaluation.report.names import title
from repshift.evaluation.report.pictures import side_by_side
from repshift.evaluation.zoo.scenes.model import WORDS
from repshift.evaluation.zoo.scenes.prompt import prompts
from repshift.evaluation.zoo.scenes.render import render
from repshift.evaluation.zoo.scenes.scene import CELL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, UInt8
    from matplotlib.figure import Figure
    from numpy import ndarray
    from torch import Tensor

    from repshift.evaluation.tasks.scenes_exam import ScenesExam
    from repshift.evaluation.tasks.vlm_rows import Row
    from repshift.evaluation.zoo.scenes.held_out import Item
    from repshift.evaluation.zoo.scenes.models import SceneModel
    from repshift.vision_language.compression import VisionLanguageCompression

GREY = 210  # what a cell that left is painted with
_WORDS = list(WORDS)


def scene_pictures(exam: ScenesExam, rows: Sequence[Row]) -> list[tuple[str, Figure]]:
    """For the first question of each kind: what every row keeps, and what it answers."""
    model = exam.model("sdpa")
    first = [next(item for item in exam.items if item.question.kind == kind) for kind in exam.kinds]
    return [_strip(model, exam.asked, item, rows) for item in first]


@torch.inference_mode()
def _strip(model: Any, known: SceneModel, item: Item, rows: Sequence[Row]) -> tuple[str, Figure]:
    frames = np.concatenate([render(scene) for scene in item.scenes])
    figure, places = side_by_side(len(rows), 2.8, 3.2)
    for axes, row in zip(places, rows, strict=True):
        asked = prompts([item], model=known)
        words = asked.answers.shape[1]
        with row.attached(model, row.plans[0] if row.plans else None) as done:
            told = model.generate(
                **asked.inputs, max_new_tokens=words, min_new_tokens=words, do_sample=False
            )
            masks = None if done is None else _masks(done, len(frames))
        answer = " ".join(_WORDS[word] for word in told[0, -words:].tolist())
        axes.imshow(_painted(frames, masks))
        title(axes, row.label, answer, size=8)
    question = f"{item.question.kind}: {' '.join(item.question.words)}?"
    return f"{question} ({' '.join(item.question.answer)})", figure


def _masks(done: VisionLanguageCompression, frames: int) -> list[Bool[Tensor, "h w"]]:
    """The cells of each frame that reached the last layer."""
    whole = [done.kept.mask(image) for image in range(len(done.counts))]
    masks = torch.cat([mask.reshape(-1, *mask.shape[-2:]) for mask in whole])
    return list(masks.view(frames, -1, masks.shape[-1]))


def _painted(
    frames: UInt8[ndarray, "T 3 H W"], masks: list[Bool[Tensor, "h w"]] | None
) -> UInt8[ndarray, "H W 3"]:
    """The frames side by side, four in a line, grey where a cell left."""
    shown = frames.copy()
    for frame, mask in zip(shown, masks or [], strict=False):
        left = np.kron(mask.numpy(), np.ones((CELL, CELL), bool))
        frame[:, ~left] = GREY
    side = min(4, len(shown))
    lines = [np.concatenate(list(shown[at : at + side]), 2) for at in range(0, len(shown), side)]
    return np.concatenate(lines, 1).transpose(1, 2, 0)
