"""What is in a scene: things, a label, crowds, close-ups, films in which things come and go.

Every scene is built so that some question of each kind has one answer, and so that nothing but the
picture tells it: what is asked for is drawn uniformly, whatever the question says.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from repshift.evaluation.zoo.clips.scene import TEXTURES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy import ndarray
    from numpy.random import Generator

SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
EDGE, CELL = 224, 28  # of an image and of one visual token, in pixels
FILM_EDGE, FRAMES = 112, 8
CARD = (59, 29)  # width and height of a label
_SMALL, _LARGE, _CLOSE = (10, 13), (18, 23), (40, 55)  # radii
_MARGIN = 5  # pixels between a thing's centre and the edge of its cell, so that places are certain
_TRIES = 200


@dataclass(frozen=True)
class Thing:
    """A shape about ``x``, ``y``, seen in the frames from ``start`` up to ``end`` of a film."""

    shape: str
    colour: str
    x: int
    y: int
    radius: int
    start: int = 0
    end: int = FRAMES

    @property
    def cell(self) -> tuple[int, int]:
        """Row and column of the visual token in which its centre is."""
        return self.y // CELL, self.x // CELL


@dataclass(frozen=True)
class Label:
    """Three digits on a card with its upper left corner at ``x``, ``y``."""

    digits: str
    x: int
    y: int


@dataclass(frozen=True)
class Scene:
    """Things on a ground, a texture or a photograph; ``seed`` draws what no question is about.

    Attributes:
        counted: The word whose things may be counted, and how many there are.
        shared: A word only one thing has, and the one that shares the other word of that thing.
        named: Words that only one thing has.
        frames: 1, or those of a film.
    """

    things: tuple[Thing, ...]
    texture: str
    seed: int
    labels: tuple[Label, ...] = ()
    counted: tuple[str, int] | None = None
    shared: tuple[str, str] | None = None
    named: tuple[str, ...] = ()
    frames: int = 1

    @property
    def edge(self) -> int:
        """Pixels a side."""
        return EDGE if self.frames == 1 else FILM_EDGE


def draw_scene(generator: Generator) -> Scene:
    """Four to nine things and a label."""
    # One of the two, colours or shapes, is what is counted and shared; the other tells apart.
    swap = generator.random() < 0.5
    alike, apart = (SHAPES, COLOURS) if swap else (COLOURS, SHAPES)
    a, b = generator.permutation(alike).tolist(), generator.permutation(apart).tolist()
    many = int(generator.integers(5))
    pairs = [(a[0], b[0]), (a[0], b[1])]
    pairs += [(a[1], b[1 + int(at)]) for at in generator.permutation(5)[:many]]
    others = generator.permutation(20)[: int(generator.integers(2, 4))]
    pairs += [(a[2 + int(at) // 5], b[1 + int(at) % 5]) for at in others]
    words = [(second, first) if swap else (first, second) for first, second in pairs]
    single = [one for one in (*a, *b) if sum(one in pair for pair in pairs) == 1]
    while True:
        taken = _Taken(EDGE)
        left, top = (int(generator.integers(3, EDGE - side - 3)) for side in CARD)
        taken.card(left, top)
        radii = [
            int(generator.integers(*(_SMALL if generator.random() < 0.5 else _LARGE)))
            for _ in words
        ]
        if places := taken.scatter(radii, generator):
            break
    return Scene(
        _things(words, places, radii),
        *_ground(generator),
        labels=(Label("".join(map(str, generator.integers(0, 10, 3))), left, top),),
        counted=(a[1], many),
        shared=(b[0], b[1]),
        named=tuple(generator.permutation(single).tolist()),
    )


def draw_crowd(generator: Generator) -> Scene:
    """Fifteen small things, three of which have a word of their own."""
    swap = generator.random() < 0.5
    alike, apart = (SHAPES, COLOURS) if swap else (COLOURS, SHAPES)
    b = generator.permutation(apart).tolist()
    pairs = [(str(generator.choice(alike)), b[at]) for at in range(3)]
    pairs += [(alike[int(at) // 3], b[3 + int(at) % 3]) for at in generator.permutation(18)[:12]]
    words = [(second, first) if swap else (first, second) for first, second in pairs]
    while True:
        radii = generator.integers(9, 12, len(words)).tolist()
        if places := _Taken(EDGE).scatter(radii, generator):
            return Scene(_things(words, places, radii), *_ground(generator), named=tuple(b[:3]))


def draw_close(generator: Generator) -> Scene:
    """Two things, each of 7 to 12 visual tokens, as things on photographs are."""
    words = _pairs(2, generator)
    while True:
        radii = generator.integers(*_CLOSE, 2).tolist()
        if places := _Taken(EDGE).scatter(radii, generator):
            return Scene(_things(words, places, radii), *_ground(generator))


def draw_film(generator: Generator) -> Scene:
    """Three things that come one after the other and go, and two that are there all the time."""
    words = _pairs(5, generator)
    while True:
        radii = generator.integers(11, 17, 5).tolist()
        if places := _Taken(FILM_EDGE).scatter(radii, generator):
            break
    starts = np.sort(generator.permutation(np.arange(1, FRAMES))[:3]).tolist()
    spans = [(at, at + int(generator.integers(1, 4))) for at in starts] + [(0, FRAMES)] * 2
    return Scene(_things(words, places, radii, spans), *_ground(generator), frames=FRAMES)


def _pairs(count: int, generator: Generator) -> list[tuple[str, str]]:
    """A colour and a shape each, all of them different."""
    words = (generator.permutation(every)[:count].tolist() for every in (COLOURS, SHAPES))
    return list(zip(*words, strict=True))


class _Taken:
    """Where something is already."""

    def __init__(self, edge: int) -> None:
        self.edge = edge
        self.circles: list[tuple[int, int, int]] = []
        self.corner: tuple[int, int] | None = None

    def card(self, left: int, top: int) -> None:
        self.corner = (left, top)

    def scatter(self, radii: Sequence[int], generator: Generator) -> list[tuple[int, int]]:
        """A place for each, the largest first; none if one found no place."""
        places: dict[int, tuple[int, int]] = {}
        for at in sorted(range(len(radii)), key=lambda at: -radii[at]):
            spot = self._free(radii[at], generator)
            if spot is None:
                return []
            places[at] = spot
            self.circles.append((*spot, radii[at]))
        return [places[at] for at in range(len(radii))]

    def _free(self, radius: int, generator: Generator) -> tuple[int, int] | None:
        cells = generator.integers(0, self.edge // CELL, (2, _TRIES)) * CELL
        x, y = cells + generator.integers(_MARGIN, CELL - _MARGIN, (2, _TRIES))
        far = self.edge - radius - 1
        free: ndarray = (x > radius) & (y > radius) & (x < far) & (y < far)
        for left, top, other in self.circles:
            free &= (x - left) ** 2 + (y - top) ** 2 > (radius + other + 3) ** 2
        if self.corner is not None:
            left, top = self.corner
            aside = np.maximum(np.abs(x - left - CARD[0] / 2) - CARD[0] / 2, 0)
            above = np.maximum(np.abs(y - top - CARD[1] / 2) - CARD[1] / 2, 0)
            free &= aside**2 + above**2 > (radius + 2) ** 2
        at = int(free.argmax())
        return (int(x[at]), int(y[at])) if free[at] else None


def _things(
    words: Sequence[tuple[str, str]],
    places: Sequence[tuple[int, int]],
    radii: Sequence[int],
    spans: Sequence[tuple[int, int]] | None = None,
) -> tuple[Thing, ...]:
    spans = spans or [(0, FRAMES)] * len(words)
    return tuple(
        Thing(shape, colour, x, y, radius, start, end)
        for (colour, shape), (x, y), radius, (start, end) in zip(
            words, places, radii, spans, strict=True
        )
    )


def _ground(generator: Generator) -> tuple[str, int]:
    return str(generator.choice(TEXTURES)), int(generator.integers(2**31))
