"""Prompts: the words of a question before or after what is seen, and the pixels of that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from repshift.evaluation.zoo.scenes.model import MERGE, PATCH, WORDS
from repshift.evaluation.zoo.scenes.scene import CELL, FRAMES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Float, UInt8
    from torch import Tensor

ASK = ":"  # the last word of every prompt


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


def patches(images: UInt8[Tensor, "B 3 H W"]) -> Float[Tensor, "B N P"]:
    """Pixels from -1 to 1, patch by patch in the order of Qwen-VL: those that merge together."""
    cut = images.unflatten(3, (-1, MERGE, PATCH)).unflatten(2, (-1, MERGE, PATCH))
    # B 3 rows merge patch columns merge patch
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(5).flatten(1, 4)
    return cut.float() / 127.5 - 1
