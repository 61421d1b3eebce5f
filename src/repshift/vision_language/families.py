"""What was read of transformers 5.23 and 5.24: one row a family, with attribute paths as strings.

A model is taken only if it, its language model and their layers run the very forwards that were
read, so that an override is refused, never compressed wrongly. Nothing is imported from
transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from repshift.adapters.transformers.describe import runs
from repshift.adapters.transformers.release import check_release
from repshift.errors import InputError


@dataclass(frozen=True)
class Family:
    """A model that lays features of images among the embeddings of a text.

    Attributes:
        language: Path of the language model.
        tower: Path of the vision tower.
        tokens: By modality, the setting that holds the id of its placeholders.
        grid: How the tokens of one entry of the features lie: on a ``square``, as the three rows of
            ``positions`` say (M-RoPE), in rows that end with a ``newline`` token, or as ``tiles``
            of one size that are joined.
        both_ways: Whether the tokens of an image see one another, by a mask that the model makes.
    """

    language: str
    tower: str
    tokens: tuple[tuple[str, str], ...]
    grid: Literal["square", "positions", "newline", "tiles"] = "square"
    both_ways: bool = False


_IMAGE = (("image", "image_token_id"),)
_BOTH = (*_IMAGE, ("video", "video_token_id"))
FAMILIES = {
    "Qwen2VLModel": Family("language_model", "visual", _BOTH, "positions"),
    "Qwen2_5_VLModel": Family("language_model", "visual", _BOTH, "positions"),
    "Qwen3VLModel": Family("language_model", "visual", _BOTH, "positions"),
    "Qwen3_5Model": Family("language_model", "visual", _BOTH, "positions"),
    "LlavaModel": Family("language_model", "vision_tower", _IMAGE),
    "LlavaNextModel": Family("language_model", "vision_tower", _IMAGE, "newline"),
    "LlavaOnevisionModel": Family("language_model", "vision_tower", _BOTH, "newline"),
    "InternVLModel": Family("language_model", "vision_tower", _IMAGE),
    "Idefics3Model": Family("text_model", "vision_model", _IMAGE, "tiles"),
    "SmolVLMModel": Family("text_model", "vision_model", _IMAGE, "tiles"),
    "PaliGemmaModel": Family("language_model", "vision_tower", _IMAGE, both_ways=True),
    "Gemma3Model": Family("language_model", "vision_tower", _IMAGE, both_ways=True),
}
# By language model the class of its layers.
LANGUAGE_MODELS = {
    "LlamaModel": "LlamaDecoderLayer",
    "MistralModel": "MistralDecoderLayer",
    "Qwen2Model": "Qwen2DecoderLayer",
    "Qwen3Model": "Qwen3DecoderLayer",
    "GemmaModel": "GemmaDecoderLayer",
    "Gemma2Model": "Gemma2DecoderLayer",
    "Gemma3TextModel": "Gemma3DecoderLayer",
    "Qwen2VLTextModel": "Qwen2VLDecoderLayer",
    "Qwen2_5_VLTextModel": "Qwen2_5_VLDecoderLayer",
    "Qwen3VLTextModel": "Qwen3VLTextDecoderLayer",
    "Qwen3_5TextModel": "Qwen3_5DecoderLayer",
}
# The norm of a layer that reads the stream between attention and MLP.
_AFTER_BOTH = "pre_feedforward_layernorm"
MIDDLES = {"Gemma2DecoderLayer": _AFTER_BOTH, "Gemma3DecoderLayer": _AFTER_BOTH}
MIDDLE = "post_attention_layernorm"


@dataclass(frozen=True)
class Parts:
    """The parts of one model: what scatters the features, what reads the prompt, its layers."""

    family: Family
    core: Any
    language: Any
    layers: list[Any]
    middles: list[nn.Module]


def is_vision_language(model: nn.Module) -> bool:
    """Whether the model, or the one inside it, is of a family."""
    return _core(model) is not None


def parts_of(model: nn.Module) -> Parts:
    """The parts of a model; ``InputError`` with the reason if it is not one that was read."""
    core = _core(model)
    name = type(model).__name__
    if core is None:
        raise InputError(
            f"{name} is no vision-language model that repshift has read; those of transformers "
            f"are {', '.join(FAMILIES)} and what is made of them (…ForConditionalGeneration). For "
            "a vision encoder pass a Plan"
        )
    check_release(name, "5.23")
    family = FAMILIES[runs(core)]
    language = core.get_submodule(family.language)
    layers = list(getattr(language, "layers", ()))
    layer = LANGUAGE_MODELS.get(runs(language))
    read = layer is not None and all(runs(one) == layer for one in layers)
    if not read:
        kinds = {type(language).__name__, *(type(one).__name__ for one in layers)}
        raise InputError(
            f"{name} cannot be compressed: repshift was not checked with its language "
            f"model ({', '.join(sorted(kinds))}); those of {', '.join(LANGUAGE_MODELS)} are known"
        )
    assert layer is not None
    middle = MIDDLES.get(layer, MIDDLE)
    return Parts(family, core, language, layers, [one.get_submodule(middle) for one in layers])


def _core(model: nn.Module) -> Any:
    """The model that scatters the features, if the model is or holds one."""
    for part in (model, getattr(model, "model", None)):
        if isinstance(part, nn.Module) and runs(part) in FAMILIES:
            return part
    return None
