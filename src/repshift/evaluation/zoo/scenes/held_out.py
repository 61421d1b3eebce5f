"""Questions about scenes that scenes-vlm was not trained on; by some of them it is judged."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from repshift.evaluation.zoo.scenes.language import (
    ask_close,
    ask_crowd,
    ask_film,
    ask_pair,
    ask_scene,
)
from repshift.evaluation.zoo.scenes.scene import draw_close, draw_crowd, draw_film, draw_scene

if TYPE_CHECKING:
    from numpy.random import Generator

    from repshift.evaluation.zoo.scenes.language import Question
    from repshift.evaluation.zoo.scenes.scene import Scene

COUNT = 300  # of each kind


@dataclass(frozen=True)
class Item:
    """A question and what it is about: an image, two, or a film."""

    question: Question
    scenes: tuple[Scene, ...]


def held_out(count: int = COUNT) -> list[Item]:
    """The first ``count`` questions of each kind, always the same."""
    return [item for number in range(count) for item in _asked(np.random.default_rng([0, number]))]


def others(count: int, seed: int) -> list[Item]:
    """``count`` questions about scenes that are neither judged by nor trained on."""
    items: list[Item] = []
    while len(items) < count:
        items += _asked(np.random.default_rng([2, seed, len(items)]))
    return items[:count]


def _asked(draw: Generator) -> list[Item]:
    """A question of each kind."""
    items = []
    scene, crowd, film = draw_scene(draw), draw_crowd(draw), draw_film(draw)
    asked = ask_scene(scene, draw)
    # Of the kinds that were asked twice, one.
    for kind in dict.fromkeys(question.kind for question in asked):
        same = [question for question in asked if question.kind == kind]
        items.append(Item(_one(same, draw), (scene,)))
    items.append(Item(_one(ask_crowd(crowd), draw), (crowd,)))
    items.append(Item(_one(ask_film(film), draw), (film,)))
    other = draw_scene(draw)
    while not (asked := ask_pair(scene, other, draw)):  # both may show the same things
        other = draw_scene(draw)
    items.append(Item(_one(asked, draw), (scene, other)))
    close = draw_close(draw)
    items.append(Item(_one(ask_close(close, draw), draw), (close,)))
    return items


def _one(questions: list[Question], generator: Generator) -> Question:
    return questions[int(generator.integers(len(questions)))]
