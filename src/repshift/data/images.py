"""Photographs from a directory; what cannot be used is named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from repshift.errors import InputError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
SMALLEST = 8  # pixels a side; below it there is nothing to see


@dataclass(frozen=True)
class Photographs:
    """Readable images in the order of their paths, and one line for each file that is not."""

    paths: list[Path]
    images: list[Image.Image]
    skipped: list[str]


def read_image(path: Path) -> Image.Image:
    """An upright RGB image. Grey, palette and 16-bit ones are converted, alpha is laid on white."""
    if not path.is_file():
        raise InputError(f"{path} is not a file")
    try:
        with Image.open(path) as opened:
            opened.load()
            image = ImageOps.exif_transpose(opened)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} cannot be read as an image: {error}") from None
    if min(image.size) < SMALLEST:
        raise InputError(
            f"{path} is {image.width}x{image.height} pixels; expected {SMALLEST} or more a side"
        )
    if image.mode.startswith("I"):  # 16 bit: Pillow's own conversion would clip, not scale
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def read_directory(directory: Path) -> Photographs:
    """All images below ``directory``; ``InputError`` if there is none that can be read."""
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory; --images takes a directory of images")
    found = sorted(p for p in directory.rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"{directory} holds no images ({', '.join(sorted(SUFFIXES))})")
    return read_files(found)


def read_files(paths: list[Path]) -> Photographs:
    """The readable ones among ``paths``; ``InputError`` if none is."""
    good, images, skipped = [], [], []
    for path in paths:
        try:
            images.append(read_image(path))
            good.append(path)
        except InputError as error:
            skipped.append(str(error))
    if not good:
        raise InputError(f"none of the {len(paths)} images can be used; the first: {skipped[0]}")
    return Photographs(good, images, skipped)


def sample_photographs() -> Photographs:
    """Photographs that the wheel of scikit-image carries."""
    try:
        import skimage
    except ImportError:
        raise InputError(
            "the sample photographs come with scikit-image, which is not installed; pass "
            "--images DIR, or install it with: pip install repshift[demo]"
        ) from None
    folder = Path(skimage.__file__).parent / "data"
    names = (
        "astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "motorcycle_left.png",
        "camera.png", "coins.png", "hubble_deep_field.jpg", "retina.jpg", "ihc.png", "moon.png",
        "gravel.png", "grass.png", "brick.png", "clock_motion.png", "motorcycle_right.png",
    )  # fmt: skip
    return read_files([folder / name for name in names])
