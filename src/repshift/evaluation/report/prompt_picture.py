"""Which cells of an image a vision-language model reads after each place of a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from repshift.evaluation.report.pictures import paint, strip

if TYPE_CHECKING:
    from jaxtyping import Float
    from matplotlib.figure import Figure
    from torch import Tensor

    from repshift.vision_language.compression import VisionLanguageCompression


def prompt_picture(
    compression: VisionLanguageCompression, photo: Float[Tensor, "H W 3"], name: str
) -> Figure:
    """The photo, and after each place what is left of it.

    Of an image that the model reads in parts, the last, which shows all of it once more.
    """
    panels: list[tuple[str, Tensor, dict[str, object]]] = [(name, photo, {})]
    counts = compression.counts
    for place, count in counts[-1].items():
        if place == "image":
            continue
        mask = compression.kept_after(place).mask(len(counts) - 1)
        rows, columns = mask.shape
        cells = torch.arange(mask.numel())
        left = paint(photo, mask.flatten().nonzero().flatten(), cells, (rows, columns))
        panels.append((f"{count} of {counts[-1]['image']} tokens after {place}", left, {}))
    return strip(panels)
