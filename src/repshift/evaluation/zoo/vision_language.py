"""A vision-language model of transformers and its processor, by the name of a folder or the hub."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from repshift.errors import InputError
from repshift.evaluation.zoo.hub import fail_fast_offline

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float
    from PIL.Image import Image
    from torch import Tensor, nn


@dataclass(frozen=True)
class LoadedVisionLanguage:
    """A model that reads images in a prompt, and what makes a prompt for it."""

    name: str
    model: nn.Module
    processor: Any

    def inputs(self, images: Sequence[Image], prompt: str) -> Mapping[str, Tensor]:
        """What the model is given for a prompt about images, in its chat template if it has one.

        Without a template the prompt must hold the model's own placeholders.
        """
        processor, text = self.processor, prompt
        if getattr(processor, "chat_template", None):
            content = [*[{"type": "image"}] * len(images), {"type": "text", "text": prompt}]
            text = processor.apply_chat_template(
                [{"role": "user", "content": content}], add_generation_prompt=True
            )
            hint = "leave the placeholder out, which the chat template puts in"
        else:
            placeholder = getattr(processor, "image_token", None) or "its placeholder"
            hint = f"write {placeholder} where the image stands"
        try:
            given = processor(images=list(images) or None, text=[text], return_tensors="pt")
        except (ValueError, IndexError) as error:
            raise InputError(
                f"the prompt does not fit {self.name}: {_line(error).rstrip('.')}; {hint}"
            ) from None
        model: Any = self.model
        return {
            name: value.to(model.device, model.dtype if value.is_floating_point() else None)
            for name, value in given.items()
        }

    def picture(self, image: Image) -> Float[Tensor, "H W 3"]:
        """What the model sees of the image, values from 0 to 1: some processors crop it."""
        photo = torch.from_numpy(np.array(image)).float() / 255
        own: Any = getattr(self.processor, "image_processor", None)
        if not getattr(own, "do_center_crop", False) or not own.size.get("shortest_edge"):
            return photo
        scale = min(image.size) / own.size["shortest_edge"]
        high, wide = (round(scale * own.crop_size[name]) for name in ("height", "width"))
        top, left = (image.height - high) // 2, (image.width - wide) // 2
        return photo[max(0, top) : top + high, max(0, left) : left + wide]


def load_vision_language(name: str) -> LoadedVisionLanguage:
    """Load ``hf:NAME_OR_FOLDER``."""
    library, _, rest = name.partition(":")
    if library != "hf" or not rest:
        raise InputError(
            f"--model is {name!r}; a prompt is read by a vision-language model of transformers, "
            "named hf:FOLDER or by its name on the hub, such as hf:Qwen/Qwen2.5-VL-3B-Instruct"
        )
    fail_fast_offline()
    try:
        import transformers
    except ModuleNotFoundError:
        raise InputError(
            "vision-language models need transformers; install it with: pip install transformers"
        ) from None
    config = _loaded(transformers.AutoConfig, rest)
    if type(config) not in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise InputError(
            f"{rest} is no vision-language model: {config.model_type} reads no images in a prompt"
        )
    processor = _loaded(transformers.AutoProcessor, rest)
    model = _loaded(transformers.AutoModelForImageTextToText, rest)
    return LoadedVisionLanguage(rest, model.eval(), processor)


def _loaded(kind: Any, name: str) -> Any:
    try:
        return kind.from_pretrained(name)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"hf:{name} cannot be loaded: {_line(error)}") from None


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
