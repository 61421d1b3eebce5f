"""What happens in a clip: two shapes, each with one motion, before a textured background."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from numpy.random import Generator

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "diamond", "moon")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "white", "black")
SIZES = {"small": 0.08, "medium": 0.125, "large": 0.19}  # radius as a share of the image's edge
MOTIONS = ("left", "right", "up", "down", "grows", "shrinks", "blinks", "rests")
TEXTURES = ("plain", "striped", "checkered", "dotted", "shaded")

_WAY = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
_LENGTH = 0.36  # of a path, as a share of the edge
_REACH = {"grows": (0.6, 1.4), "shrinks": (1.4, 0.6)}  # radius at the start and at the end


@dataclass(frozen=True)
class Thing:
    """A shape that moves about ``centre``, in shares of the edge from the upper left."""

    shape: str
    colour: str
    size: str
    motion: str
    centre: tuple[float, float]

    def at(self, done: float) -> tuple[float, float, float]:
        """Place (x, y) and radius when the share ``done`` of its motion is over."""
        x, y = _WAY.get(self.motion, (0, 0))
        start, end = _REACH.get(self.motion, (1, 1))
        gone = (done - 0.5) * _LENGTH
        radius = SIZES[self.size] * (start + (end - start) * done)
        return self.centre[0] + x * gone, self.centre[1] + y * gone, radius

    def seen(self, done: float) -> bool:
        """Whether it is visible; one that blinks is gone half of the time, four times."""
        return self.motion != "blinks" or bool(done * 4 % 1 < 0.5)  # NumPy has a bool of its own


@dataclass(frozen=True)
class Scene:
    """Two things that move ``together``, or ``in turn``: the second when the first is done.

    ``seed`` draws what no caption speaks of: tints, noise, where the texture begins.
    """

    first: Thing
    second: Thing
    order: Literal["together", "in turn"]
    texture: str
    seed: int

    def done(self, time: float) -> tuple[float, float]:
        """How much of each motion is over at a time between 0 and 1."""
        if self.order == "together":
            return time, time
        return min(2 * time, 1.0), max(2 * time - 1, 0.0)


def draw_scene(generator: Generator) -> Scene:
    """A scene at random; the two things differ in shape and in colour and never touch."""
    while True:
        order: Literal["together", "in turn"] = (
            "in turn" if generator.random() < 0.6 else "together"
        )
        # What rests has no place in an order.
        motions = MOTIONS if order == "together" else MOTIONS[:-1]
        first, second = (
            Thing(shape, colour, size, str(generator.choice(motions)), (x, y))
            for shape, colour, size, (x, y) in zip(
                generator.permutation(SHAPES)[:2].tolist(),
                generator.permutation(COLOURS)[:2].tolist(),
                generator.choice(list(SIZES), 2).tolist(),
                generator.uniform(0.1, 0.9, (2, 2)).tolist(),
                strict=True,
            )
        )
        texture, seed = str(generator.choice(TEXTURES)), int(generator.integers(2**31))
        drawn = Scene(first, second, order, texture, seed)
        if _fits(drawn):
            return drawn


def twin(scene: Scene, generator: Generator) -> Scene:
    """The scene with the order, the colours or the motions of its two things exchanged.

    Whoever sees what is there but not what belongs together cannot tell the two apart.
    """
    first, second = scene.first, scene.second
    exchanged = [
        (replace(first, colour=second.colour), replace(second, colour=first.colour)),
        (replace(first, motion=second.motion), replace(second, motion=first.motion)),
    ]
    if scene.order == "in turn":
        exchanged.append((second, first))
    seed = int(generator.integers(2**31))
    twins = [replace(scene, first=one, second=other, seed=seed) for one, other in exchanged]
    twins = [other for other in twins if _fits(other) and replace(other, seed=scene.seed) != scene]
    return twins[generator.integers(len(twins))]


def _fits(scene: Scene) -> bool:
    """Whether both stay inside the image and apart, and one of them moves."""
    if scene.first.motion == scene.second.motion == "rests":
        return False
    for time in np.linspace(0, 1, 9).tolist():
        one, other = (
            thing.at(done)
            for thing, done in zip((scene.first, scene.second), scene.done(time), strict=True)
        )
        if any(not r <= x <= 1 - r or not r <= y <= 1 - r for x, y, r in (one, other)):
            return False
        if np.hypot(one[0] - other[0], one[1] - other[1]) < one[2] + other[2] + 0.03:
            return False
    return True
