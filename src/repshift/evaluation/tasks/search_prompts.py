"""The prompts that ``repshift search`` finds a plan for a vision-language model on."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from repshift.evaluation.data.images import read_image
from repshift.evaluation.zoo.scenes.held_out import others
from repshift.evaluation.zoo.scenes.models import SCENES_VLM
from repshift.evaluation.zoo.scenes.prompt import prompts

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch

    from repshift.evaluation.data.questions import Asked
    from repshift.evaluation.zoo.scenes.models import SceneModel
    from repshift.evaluation.zoo.vision_language import LoadedVisionLanguage


def scene_prompts(count: int, seed: int, model: SceneModel = SCENES_VLM) -> list[dict[str, Any]]:
    """Questions about generated scenes, none of which the bench judges by."""
    items = model.asked(others(2 * count, seed))[:count]  # some may be of kinds it does not know
    return [prompts([item], model=model).inputs for item in items]


def question_prompts(
    loaded: LoadedVisionLanguage, asked: Sequence[Asked], count: int, seed: int
) -> list[Mapping[str, Any]]:
    """A user's own questions; of more than ``count`` some, drawn by ``seed``, in their order."""
    drawn = sorted(random.Random(seed).sample(range(len(asked)), min(count, len(asked))))
    return [
        loaded.inputs([read_image(path) for path in asked[at].images], asked[at].question)
        for at in drawn
    ]


def moved(prompt: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The prompt on a device, its pixels in the model's precision."""
    return {
        name: value.to(device, dtype if value.is_floating_point() else None)
        if hasattr(value, "to")
        else value
        for name, value in prompt.items()
    }
