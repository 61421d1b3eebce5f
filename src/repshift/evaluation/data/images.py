"""Photographs: where they are and how they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from repshift.errors import InputError

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
SMALLEST = 8  # pixels a side; below it there is nothing to see


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


def find_images(directory: Path) -> list[Path]:
    """All image files below ``directory``, in order; ``InputError`` if there is none."""
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory; --images takes a directory of images")
    found = sorted(path for path in directory.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise InputError(f"{directory} holds no images ({', '.join(sorted(SUFFIXES))})")
    return found


def sample_photographs() -> list[Path]:
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
    return [folder / name for name in names]
