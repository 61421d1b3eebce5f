"""Which cells of an image a vision-language model reads after each place of a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from repshift.compress import compress
from repshift.evaluation.data.images import read_image
from repshift.evaluation.report.pictures import paint, strip
from repshift.vision_language.plan import Keep, VisionLanguagePlan

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from matplotlib.figure import Figure
    from torch import Tensor

    from repshift.evaluation.data.questions import Asked
    from repshift.evaluation.zoo.vision_language import LoadedVisionLanguage
    from repshift.vision_language.compression import VisionLanguageCompression

WORDS = 24  # tokens of an answer, at most


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


@torch.inference_mode()
def question_pictures(
    loaded: LoadedVisionLanguage, questions: Sequence[Asked]
) -> list[tuple[str, Figure]]:
    """Of each question, with its answer, the last image when a quarter of its tokens is kept."""
    pictures: list[tuple[str, Figure]] = []
    model: Any = loaded.model
    for asked in questions:
        images = [read_image(path) for path in asked.images]
        inputs = loaded.inputs(images, asked.question)
        with compress(model, VisionLanguagePlan(prompt=Keep(0.25))) as done:
            told = model.generate(**inputs, max_new_tokens=WORDS, do_sample=False)
            picture = prompt_picture(done, loaded.picture(images[-1]), asked.images[-1].name)
        new = told[:, inputs["input_ids"].shape[1] :]
        [answer] = loaded.processor.batch_decode(new, skip_special_tokens=True)
        pictures.append((f"{asked.question} ({answer.strip()})", picture))
    return pictures
