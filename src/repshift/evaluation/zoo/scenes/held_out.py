"""The questions that scenes-vlm is judged by; none of their scenes was trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from repshift.evaluation.zoo.scenes.language import ask_crowd, ask_film, ask_pair, ask_scene
from repshift.evaluation.zoo.scenes.scene import draw_crowd, draw_film, draw_scene

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
    items = []
    for number in range(count):
        draw = np.random.default_rng([0, number])
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
    return items


def _one(questions: list[Question], generator: Generator) -> Question:
    return questions[int(generator.integers(len(questions)))]
