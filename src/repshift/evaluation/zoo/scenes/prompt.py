"""Prompts: the words of a question before or after what is seen, and the pixels of that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repshift.evaluation.zoo.scenes.model import MERGE, PATCH, WORDS
from repshift.evaluation.zoo.scenes.render import render
from repshift.evaluation.zoo.scenes.scene import CELL
from repshift.input_size import resize_images

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from jaxtyping import Float, Shaped, UInt8
    from torch import Tensor

    from repshift.evaluation.zoo.scenes.held_out import Item

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


def patches(images: Shaped[Tensor, "B 3 H W"]) -> Float[Tensor, "B N P"]:
    """Pixels from -1 to 1, patch by patch in the order of Qwen-VL: those that merge together."""
    cut = images.unflatten(3, (-1, MERGE, PATCH)).unflatten(2, (-1, MERGE, PATCH))
    # B 3 rows merge patch columns merge patch
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(5).flatten(1, 4)
    return cut.float() / 127.5 - 1


def prompts(
    items: Sequence[Item],
    early: bool = False,
    blind: bool = False,
    smaller: float = 1.0,
    pixels: bool = True,
) -> Prompts:
    """One batch of items of one kind whose questions have the same number of words.

    Args:
        items: What is asked.
        early: Whether the question stands before what is seen.
        blind: Whether nothing is seen: the marks stand, no token between them.
        smaller: By which images are made smaller first, to whole cells.
        pixels: Whether the images are drawn; without, the features must be given to the model.
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
        name, kind = ("video", 2) if film else ("image", 1)
        grid = [count if film else 1, side // PATCH, side // PATCH]
        inputs[f"{name}_grid_thw"] = torch.tensor([grid] * len(items) * (1 if film else count))
        inputs["mm_token_type_ids"] = (tokens == WORDS[f"<{name}>"]).long() * kind
        if pixels:
            images = resize_images(_images(items).float(), side).round().clamp(0, 255)
            inputs["pixel_values_videos" if film else "pixel_values"] = patches(images).flatten(
                0, 1
            )
    return Prompts(items, inputs, torch.tensor([ids(item.question.answer) for item in items]))


def _images(items: Sequence[Item]) -> UInt8[Tensor, "B 3 H W"]:
    drawn = [render(scene) for item in items for scene in item.scenes]
    return torch.from_numpy(np.concatenate(drawn))
