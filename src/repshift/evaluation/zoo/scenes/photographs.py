"""Scenes on real photographs: those that come with scikit-image."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from repshift.evaluation.data.images import read_image, sample_photographs

if TYPE_CHECKING:
    from jaxtyping import Float32
    from numpy import ndarray

    from repshift.evaluation.zoo.scenes.scene import Scene

# On these the model is judged, on all others it is trained.
JUDGED = ("astronaut.png", "coffee.png", "gravel.png", "rocket.jpg")
TRAINED = (
    "chelsea.png", "motorcycle_left.png", "motorcycle_right.png", "camera.png", "coins.png",
    "hubble_deep_field.jpg", "retina.jpg", "ihc.png", "moon.png", "grass.png", "brick.png",
    "clock_motion.png",
)  # fmt: skip


def on_photograph(scene: Scene, names: tuple[str, ...]) -> Scene:
    """The scene with one of these photographs as its ground."""
    return replace(scene, texture=names[scene.seed % len(names)])


def photograph(
    name: str, edge: int, generator: np.random.Generator
) -> Float32[ndarray, "3 edge edge"]:
    """A square of the photograph, at least ``edge`` pixels a side, made as small as that."""
    image = _photograph(name)
    side = int(generator.integers(edge, min(image.size) + 1))
    left, top = (int(generator.integers(0, size - side + 1)) for size in image.size)
    box = (left, top, left + side, top + side)
    cut = image.resize((edge, edge), Image.Resampling.BILINEAR, box)
    return np.asarray(cut, np.float32).transpose(2, 0, 1).copy()


@cache
def _photograph(name: str) -> Image.Image:
    (path,) = (path for path in sample_photographs() if path.name == name)
    return read_image(path)
