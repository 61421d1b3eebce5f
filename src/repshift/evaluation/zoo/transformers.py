"""Image models of transformers: of the hub, of a folder, from a file, or random."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.evaluation.zoo.from_file import model_from_file, reject
from repshift.evaluation.zoo.hub import fail_fast_offline, from_hub
from repshift.evaluation.zoo.loaded import LoadedModel, grid_of
from repshift.evaluation.zoo.reading import Reading, check_reads

if TYPE_CHECKING:
    from jaxtyping import Float
    from PIL.Image import Image
    from torch import Tensor, nn

    from repshift.evaluation.models.checkpoint import Weights
    from repshift.evaluation.zoo.loaded import Wanted

# The vision part of a model of two encoders, by the type of its config.
TOWERS = {
    "altclip": "AltCLIPVisionModel",
    "chinese_clip": "ChineseCLIPVisionModel",
    "clip": "CLIPVisionModelWithProjection",
    "metaclip_2": "MetaClip2VisionModelWithProjection",
    "siglip": "SiglipVisionModel",
    "siglip2": "Siglip2VisionModel",
}
_ADVICE = "name a folder that save_pretrained has written (its processor too)"


def load(name: str, wanted: Wanted) -> LoadedModel:
    """``hf:NAME_OR_FOLDER``, by its own image processor."""
    full = f"hf:{name}"
    fail_fast_offline()
    import transformers

    with from_hub(full, _ADVICE):
        config = transformers.AutoConfig.from_pretrained(name)
    _check_kind(full, config)
    kind = _kind(config)
    config = _own_config(kind, config)
    for key, value in wanted.settings.items():
        if not hasattr(config, key):
            raise reject(AttributeError(f"its config has no {key}"), full, wanted.settings)
        setattr(config, key, value)
    with from_hub(full, _ADVICE):
        processor = transformers.AutoImageProcessor.from_pretrained(name)
    if wanted.checkpoint is not None:
        build = partial(_build, kind, config)
        terms = "num_labels", "image_size"
        model = model_from_file(full, wanted.checkpoint, wanted.settings, build, _told, terms=terms)
    elif wanted.random_weights:
        model = _build(kind, config, {})
    else:
        model = pretrained(full, name, kind, config)
    check_reads(model, full)
    return _loaded(full, model.eval(), processor)


def _check_kind(name: str, config: Any) -> None:
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as SPEAKING

    if type(config) in SPEAKING:
        raise InputError(
            f"{name} is a vision-language model, and this command feeds images alone: measure it "
            "with repshift bench --questions FILE, find a plan with repshift search --questions "
            "FILE, draw its tokens with repshift show --prompt TEXT, or compress it in Python by a "
            "VisionLanguagePlan (docs/vision-language.md)"
        )
    if hasattr(config, "vocab_size") and not hasattr(config, "vision_config"):
        vision = hasattr(config, "image_size") or hasattr(config, "patch_size")  # BEiT has words
        if not vision:
            raise InputError(
                f"{name} reads text, and this command feeds images; compress it in Python: "
                "repshift.compress(model, plan)"
            )


def _kind(config: Any) -> Any:
    """The class that makes the model, as its config says what it was saved as."""
    import transformers

    saved = [name for name in config.architectures or () if hasattr(transformers, name)]
    if saved and saved[0].endswith(("ForImageClassification", "WithTeacher")):
        return getattr(transformers, saved[0])
    if config.model_type in TOWERS:
        return getattr(transformers, TOWERS[config.model_type])
    if saved and "VisionModel" in saved[0]:  # a vision part saved alone
        return getattr(transformers, saved[0])
    return transformers.AutoModel


def _own_config(kind: Any, config: Any) -> Any:
    """The part of the config that is the model's own, where it has one of several."""
    part = getattr(config, "vision_config", None)
    wanted = getattr(kind, "config_class", None)
    return part if part is not None and wanted is not None and isinstance(part, wanted) else config


def _build(kind: Any, config: Any, settings: dict[str, Any]) -> nn.Module:
    for key, value in settings.items():
        setattr(config, key, value)
    make = getattr(kind, "from_config", None) or kind._from_config
    try:
        return make(config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise reject(error, type(config).__name__, settings) from None


def pretrained(full: str, name: str, kind: Any, config: Any) -> nn.Module:
    """The saved weights, all of them: transformers itself would draw what is missing anew."""

    def ask(**settings: Any) -> tuple[Any, dict[str, Any]]:
        with from_hub(
            full, "pass --checkpoint FILE (or --random-weights where only speed matters)"
        ):
            return kind.from_pretrained(
                name,
                config=config,
                dtype=torch.float32,
                output_loading_info=True,
                **settings,
            )

    model, told = ask()
    if told["missing_keys"] and all(key.startswith("pooler.") for key in told["missing_keys"]):
        model, told = ask(add_pooling_layer=False)
    odd = {"missing": told["missing_keys"], "of another shape": told["mismatched_keys"]}
    if any(odd.values()):
        raise InputError(
            f"the weights of {full} do not fill a {type(model).__name__}: "
            + "; ".join(
                f"{len(keys)} {what} ({', '.join(sorted(map(str, keys))[:3])})"
                for what, keys in odd.items()
                if keys
            )
            + "; name a checkpoint of the same kind, or pass --random-weights where only speed "
            "matters"
        )
    return model


def _told(model: nn.Module, weights: Weights, classes: int | None) -> dict[str, Any]:
    return {"num_labels": classes} if classes else {}


@dataclass(frozen=True)
class Processed:
    """An image by the processor of the model ``name``."""

    name: str
    processor: Any

    def __call__(self, image: Image) -> Float[Tensor, "C H W"]:
        """The image for the model."""
        pixels = self.processor(images=image, return_tensors="pt")["pixel_values"][0]
        if pixels.ndim != 3:
            raise InputError(
                f"{self.name} takes no single images [C, H, W]: its processor makes "
                f"{list(pixels.shape)}; the commands feed images of one size"
            )
        return pixels


def _loaded(name: str, model: nn.Module, processor: Any) -> LoadedModel:
    prepare = Processed(name, processor)
    from PIL import Image as Pillow

    example = prepare(Pillow.new("RGB", (256, 256)))
    normalises = getattr(processor, "do_normalize", True)
    channels = example.shape[0]
    mean = getattr(processor, "image_mean", None) if normalises else None
    std = getattr(processor, "image_std", None) if normalises else None
    reading = Reading(model)
    logits = any("classifier" in part for part, _ in model.named_children())
    return LoadedModel(
        name=name,
        model=reading,
        prepare=prepare,
        mean=tuple(mean or (0.0,) * channels),
        std=tuple(std or (1.0,) * channels),
        classes=int(reading.model.config.num_labels) if logits else 0,  # type: ignore[union-attr]
        grid=grid_of(reading, (example.shape[-2], example.shape[-1])),
    )
