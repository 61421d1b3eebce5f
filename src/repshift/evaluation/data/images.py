"""Photographs: where they are and how they are read."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
SMALLEST = 8  # pixels a side; below it there is nothing to see
_LEFT_BEHIND = {"__MACOSX", "@eaDir"}  # by macOS in archives, by Synology's drives
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262


def read_image(path: Path) -> Image.Image:
    """An upright RGB image of 8 bits.

    Grey, CMYK, palette and 16-bit ones are converted, alpha is laid on white; of several pictures
    in a file the first is taken. ``InputError`` that names the file where it cannot be read, or
    holds numbers of which nothing says which is white.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file")
    return decode_image(path, str(path))


def decode_image(file: Path | BytesIO, name: str) -> Image.Image:
    """The same of an open file, called ``name`` in errors."""
    try:
        with Image.open(file) as opened:
            opened.load()
            image = _rgb(ImageOps.exif_transpose(opened), opened)
    except InputError as error:
        raise InputError(f"{name} {error}") from None
    except UnidentifiedImageError:
        raise InputError(f"{name} cannot be read as an image: Pillow knows no such kind") from None
    except Exception as error:  # a damaged file makes the readers stumble on anything
        raise InputError(f"{name} cannot be read as an image: {error}") from None
    if min(image.size) < SMALLEST:
        raise InputError(
            f"{name} is {image.width}x{image.height} pixels; expected {SMALLEST} or more a side"
        )
    return image


def _rgb(image: Image.Image, file: Image.Image) -> Image.Image:
    """Eight bits in RGB of an image that was read from ``file``."""
    # PNG's grey of 16 bits has mode I in older versions of Pillow; else that is 32 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and file.format == "PNG"):
        tags: Mapping[int, Any] = getattr(file, "tag_v2", {})  # of a TIFF
        bits = tags.get(_BITS_PER_SAMPLE, (16,))[0]
        # Pillow's own conversion would clip, not scale; nor does it see to where white is zero.
        grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
        return Image.fromarray(255 - grey if tags.get(_PHOTOMETRIC) == 0 else grey).convert("RGB")
    if image.mode in ("I", "F"):
        kind = "floating-point numbers" if image.mode == "F" else "whole numbers of 32 bits"
        raise InputError(
            f"holds {kind}, and nothing says which of them is white; save it with 8 or 16 bits"
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def find_images(directory: Path) -> list[Path]:
    """All image files below ``directory``, in order, but hidden ones; ``InputError`` if none is."""
    if not directory.is_dir():
        raise InputError(f"{directory} is not a directory; --images takes a directory of images")
    try:
        found = sorted(files_below(directory, SUFFIXES))
    except OSError as error:
        raise InputError(f"{error.filename} cannot be read: {error.strerror}") from None
    if not found:
        raise InputError(f"{directory} holds no images ({', '.join(sorted(SUFFIXES))})")
    return found


def is_hidden(path: Path) -> bool:
    """What programs leave behind: ``.ipynb_checkpoints``, ``._a.jpg`` and the like."""
    return path.name.startswith(".") or path.name in _LEFT_BEHIND


def files_below(folder: Path, suffixes: set[str], above: tuple[Path, ...] = ()) -> Iterator[Path]:
    """The files so named in a folder and those in it, but hidden ones.

    Links are followed, but not round in circles.
    """
    for path in folder.iterdir():
        if is_hidden(path):
            continue
        if path.is_dir():
            if (real := path.resolve()) not in above:
                yield from files_below(path, suffixes, (*above, real))
        elif path.suffix.lower() in suffixes:
            yield path


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
