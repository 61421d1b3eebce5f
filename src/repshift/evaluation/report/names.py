"""Names that a user chose (of files, methods, models) are text: never markup, always one line."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import BytesIO
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend


def plain(name: str) -> str:
    r"""The name, with what cannot be printed as ``\n``, ``\x1b`` or ``\udcff``."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in name
    )


def label(name: str) -> str:
    """The name for a legend, which leaves out what begins with an underscore."""
    return f" {name}" if name.startswith("_") else name


def title(axes: Axes, *names: str, size: int | None = None) -> None:
    """Write names above a picture, a line each."""
    lines = "\n".join(plain(name) for name in names)
    axes.set_title(lines, fontsize=size, parse_math=False, usetex=False)


def legend(axes: Axes, size: int) -> None:
    """A legend of the names that were plotted."""
    _as_text(axes.legend(fontsize=size))


def legend_beside(figure: Figure, size: int) -> None:
    """One legend for all panels, of what was plotted in the first, to their right."""
    drawn = figure.axes[0].get_legend_handles_labels()
    _as_text(figure.legend(*drawn, fontsize=size, loc="outside right upper"))


def _as_text(made: Legend) -> None:
    for text in made.get_texts():
        text.set(text=plain(text.get_text()), parse_math=False, usetex=False)


def save(figure: Figure, file: Path | BytesIO, dpi: int) -> None:
    """Write a figure as PNG; a letter that the font lacks is drawn as an empty box."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(file, dpi=dpi, format="png")
