"""Scenes as pixels."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from repshift.evaluation.zoo.clips.render import PAINT, background, inside
from repshift.evaluation.zoo.clips.scene import TEXTURES
from repshift.evaluation.zoo.scenes.photographs import photograph
from repshift.evaluation.zoo.scenes.scene import CARD

if TYPE_CHECKING:
    from jaxtyping import Float32, UInt8
    from numpy import ndarray

    from repshift.evaluation.zoo.scenes.scene import Label, Scene

_NOISE = 8  # the most a pixel is off, of 255
_SCALE = 3  # pixels of one dot of a digit
# Digits of five by seven dots, a row of dots in two hexadecimal digits.
_DIGITS = (
    "0e11131519110e", "040c040404040e", "0e11010204081f", "1f02040201110e", "02060a121f0202",
    "1f101e0101110e", "0608101e11110e", "1f010204080808", "0e11110e11110e", "0e11110f01020c",
)  # fmt: skip


def render(scene: Scene) -> UInt8[ndarray, "T 3 edge edge"]:
    """The image, or the frames of a film."""
    generator = np.random.default_rng(scene.seed)
    edge = scene.edge
    grid = (np.arange(edge, dtype=np.float32) + 0.5) / edge
    if scene.texture in TEXTURES:
        ground = background(scene.texture, grid[None, :], grid[:, None], generator)
    else:
        ground = photograph(scene.texture, edge, generator)
    frames = np.repeat(ground[None], scene.frames, 0)
    for thing in scene.things:
        paint = np.array(PAINT[thing.colour], np.float32) + generator.normal(0, 6, 3)
        alpha = _mask(thing.shape, thing.radius)
        reach = thing.radius + 1
        rows, columns = (slice(at - reach, at + reach + 1) for at in (thing.y, thing.x))
        part = frames[thing.start : thing.end, :, rows, columns]
        part += alpha * (paint[:, None, None].astype(np.float32) - part)
    for label in scene.labels:
        _write(frames[0], label, generator)
    frames += generator.integers(-_NOISE, _NOISE, frames.shape, dtype=np.int8, endpoint=True)
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


@cache
def _mask(shape: str, radius: int) -> Float32[ndarray, "H W"]:
    """How much of each pixel about the centre the shape covers."""
    at = np.arange(-radius - 1, radius + 2) / radius
    within = inside(shape, at[None, :], at[:, None])
    return np.clip(within * radius + 0.5, 0, 1).astype(np.float32)


@cache
def _digit(digit: int) -> Float32[ndarray, "21 15"]:
    rows = [int(_DIGITS[digit][at : at + 2], 16) for at in range(0, 14, 2)]
    dots = [[row >> (4 - column) & 1 for column in range(5)] for row in rows]
    return np.kron(np.array(dots, np.float32), np.ones((_SCALE, _SCALE), np.float32))


def _write(frame: Float32[ndarray, "3 H W"], label: Label, generator: np.random.Generator) -> None:
    paper, ink = generator.uniform((205,) * 3, 250), generator.uniform((5,) * 3, 60)
    covered = np.zeros((CARD[1], CARD[0]), np.float32)
    for at, digit in enumerate(label.digits):
        covered[4:25, 4 + 18 * at : 19 + 18 * at] = _digit(int(digit))
    card = paper[:, None, None] + covered * (ink - paper)[:, None, None]
    frame[:, label.y : label.y + CARD[1], label.x : label.x + CARD[0]] = card
