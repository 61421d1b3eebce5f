"""Prompts: the words of a question before or after what is seen, and the pixels of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repshift.evaluation.zoo.scenes.model import WORDS
from repshift.evaluation.zoo.scenes.models import SCENES_VLM
from repshift.evaluation.zoo.scenes.render import render
from repshift.evaluation.zoo.scenes.scene import CELL
from repshift.input_size import resize_images

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import UInt8
    from torch import Tensor

    from repshift.evaluation.zoo.scenes.held_out import Item
    from repshift.evaluation.zoo.scenes.models import SceneModel

ASK = ":"  # the last word of every prompt


@dataclass(frozen=True)
class Prompts:
    """Prompts of the same length, as the model takes them, and the words that answer each."""

    items: Sequence[Item]
    inputs: dict[str, Any]
    answers: Tensor


def seen(edges: Iterable[int], film: bool = False) -> list[str]:
    """The words in whose place images of these sides stand, or the frames of one film."""
    mark = "<video>" if film else "<image>"
    words = []
    for at, edge in enumerate(edges):
        words += [f"<{at}>"] if film else []
        words += ["<vision>", *[mark] * (edge // CELL) ** 2, "</vision>"]
    return words


def ids(words: Iterable[str]) -> list[int]:
    """Numbers of words."""
    return [WORDS[word] for word in words]


def prompts(
    items: Sequence[Item],
    early: bool = False,
    blind: bool = False,
    smaller: float = 1.0,
    pixels: bool = True,
    model: SceneModel = SCENES_VLM,
) -> Prompts:
    """One batch of items of one kind whose questions have the same number of words.

    Args:
        items: What is asked.
        early: Whether the question stands before what is seen.
        blind: Whether nothing is seen: the marks stand, no token between them.
        smaller: By which images are made smaller first, to whole cells.
        pixels: Whether the images are drawn; without, the features must be given to the model.
        model: Which one is asked.
    """
    scenes = items[0].scenes
    film, count = scenes[0].frames > 1, sum(scene.frames for scene in scenes)
    side = max(1, round(scenes[0].edge * smaller / CELL)) * CELL
    shown = seen([0 if blind else side] * count, film)
    rows = []
    for item in items:
        words = item.question.words
        rows.append(ids([*words, *shown, ASK] if early else [*shown, *words, ASK]))
    tokens = torch.tensor(rows)
    inputs: dict[str, Any] = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    if not blind:
        images = None
        if pixels:
            images = (
                resize_images(_images(items).float(), side).round().clamp(0, 255).to(torch.uint8)
            )
        entries = len(items) * (1 if film else count)
        grids = torch.tensor([[count if film else 1, side // CELL, side // CELL]] * entries)
        inputs |= model.seen(tokens, film, grids, images)
    return Prompts(items, inputs, torch.tensor([ids(item.question.answer) for item in items]))


def _images(items: Sequence[Item]) -> UInt8[Tensor, "B 3 H W"]:
    drawn = [render(scene) for item in items for scene in item.scenes]
    return torch.from_numpy(np.concatenate(drawn))
