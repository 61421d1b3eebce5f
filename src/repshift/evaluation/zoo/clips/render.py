"""Scenes as frames: shapes with smooth edges, textures, noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Float32, UInt8
    from numpy import ndarray

    from repshift.evaluation.zoo.clips.scene import Scene

    Plane = Float32[ndarray, "T H W"]

PAINT = {
    "red": (215, 45, 45),
    "green": (45, 160, 60),
    "blue": (50, 80, 215),
    "yellow": (235, 215, 50),
    "purple": (145, 55, 175),
    "orange": (240, 135, 30),
    "white": (248, 248, 248),
    "black": (18, 18, 18),
}
_NOISE = 10  # the most a pixel is off, of 255


def render(scene: Scene, times: Iterable[float], edge: int) -> UInt8[ndarray, "T 3 edge edge"]:
    """The frames at the given times between 0 (first frame) and 1 (last)."""
    times = list(times)
    generator = np.random.default_rng(scene.seed)
    grid = (np.arange(edge, dtype=np.float32) + 0.5) / edge
    y, x = grid[:, None], grid[None, :]
    frames = np.broadcast_to(
        background(scene.texture, x, y, generator), (len(times), 3, edge, edge)
    ).copy()
    done = [scene.done(time) for time in times]
    for number, thing in enumerate((scene.first, scene.second)):
        paint = np.array(PAINT[thing.colour], np.float32) + generator.normal(0, 6, 3)
        scale = generator.uniform(0.94, 1.06)
        for frame, moment in zip(frames, done, strict=True):
            if not thing.seen(moment[number]):
                continue
            left, top, radius = thing.at(moment[number])
            radius *= scale
            # Only the square around the shape; one more pixel for the smooth edge.
            columns, rows = (
                slice(max(int((at - radius) * edge) - 1, 0), int((at + radius) * edge) + 2)
                for at in (left, top)
            )
            within = inside(thing.shape, (x[:, columns] - left) / radius, (y[rows] - top) / radius)
            alpha = np.clip(within * radius * edge + 0.5, 0, 1)
            part = frame[:, rows, columns]
            part += alpha * (paint[:, None, None].astype(np.float32) - part)
    frames += generator.integers(-_NOISE, _NOISE, frames.shape, dtype=np.int8, endpoint=True)
    return np.clip(frames + 0.5, 0, 255).astype(np.uint8)


def background(
    texture: str, x: ndarray, y: ndarray, generator: np.random.Generator
) -> Float32[ndarray, "3 H W"]:
    """Two greys with a tint, in a pattern that begins anywhere."""
    middle = generator.uniform(100, 150)
    light, dark = (
        (middle + step + generator.uniform(-12, 12, 3)).astype(np.float32)[:, None, None]
        for step in (22, -22)
    )
    period = generator.uniform(0.1, 0.16)
    u, v = ((at + generator.uniform(0, 1)) / period for at in (x, y))
    if texture == "plain":
        pattern = np.full(np.broadcast_shapes(x.shape, y.shape), generator.uniform(0.2, 0.8))
    elif texture == "striped":
        pattern = (np.sin(np.pi * (u + v)) > 0) * 1.0
    elif texture == "checkered":
        pattern = ((np.floor(u) + np.floor(v)) % 2 > 0) * 1.0
    elif texture == "dotted":
        pattern = (np.hypot(u % 1 - 0.5, v % 1 - 0.5) < 0.28) * 1.0
    else:  # shaded
        way = generator.uniform(0, 2 * np.pi)
        pattern = 0.5 + np.cos(way) * (x - 0.5) + np.sin(way) * (y - 0.5)
        light, dark = light + 20, dark - 20
    return (dark + pattern.astype(np.float32) * (light - dark)).astype(np.float32)


def inside(shape: str, u: ndarray, v: ndarray) -> ndarray:
    """How far inside the shape of radius 1 a point is; negative outside."""
    far = np.hypot(u, v)
    match shape:
        case "circle":
            return 1 - far
        case "ring":
            return 0.25 - np.abs(far - 0.75)
        case "moon":
            return np.minimum(1 - far, np.hypot(u - 0.5, v) - 0.75)
        case "square":
            return 0.85 - np.maximum(np.abs(u), np.abs(v))
        case "diamond":
            return (1 - np.abs(u) - np.abs(v)) / np.sqrt(2)
        case "cross":
            narrow = np.minimum(np.abs(u), np.abs(v))
            return np.minimum(0.32 - narrow, 1 - np.maximum(np.abs(u), np.abs(v)))
        case "triangle":
            return np.minimum(0.62 - v, 0.5 - (np.sqrt(3) * np.abs(u) - v) / 2)
        case _:  # star
            angle = (np.arctan2(u, -v) + np.pi / 5) % (2 * np.pi / 5) - np.pi / 5
            # The edge from a tip (radius 1) to the next notch (radius 0.42).
            a, b = far * np.cos(angle), far * np.abs(np.sin(angle))
            nx, ny = 0.42 * np.cos(np.pi / 5), 0.42 * np.sin(np.pi / 5)
            return (ny * (1 - a) - (1 - nx) * b) / np.hypot(ny, 1 - nx)
