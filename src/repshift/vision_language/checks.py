"""What cannot be right is refused, with the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Int
    from torch import Tensor

    from repshift.vision_language.call import Call
    from repshift.vision_language.engine import VisionLanguageEngine


def check_plan(engine: VisionLanguageEngine) -> None:
    """Whether the plan fits the model."""
    plan, parts = engine.plan, engine.parts
    depth = len(parts.layers)
    for layer in plan.decoder.acting if plan.decoder else ():
        if layer >= depth - 1:
            raise InputError(
                f"the plan drops after layer {layer} of the language model, which has {depth}; "
                f"after the last one nothing is saved: use 0 to {depth - 2}"
            )


def check_prompt(
    engine: VisionLanguageEngine, call: Call, cache: Any, given: Mapping[str, Any]
) -> None:
    """Whether tokens can leave a prompt that is called like this."""
    language, family = engine.parts.language, engine.parts.family
    if getattr(cache, "is_compileable", False):
        raise InputError(
            f"{type(cache).__name__} has a place for every token and would show those that left; "
            "use the dynamic cache (leave cache_implementation out)"
        )
    kernel = language.config._attn_implementation or ""
    if "flex" in kernel:
        raise InputError(
            "the mask of flex_attention is made for all tokens; load the model with "
            'attn_implementation="sdpa"'
        )
    if language.training and getattr(language, "gradient_checkpointing", False):
        raise InputError(
            "gradient checkpointing runs layers again after the forward, where what was dropped is "
            "not known; train without it, or call model.eval()"
        )
    if given.get("output_attentions") or getattr(language.config, "output_attentions", False):
        raise InputError(
            "attention maps of a prompt from which tokens left do not stand for its tokens; call "
            "without output_attentions, or detach() first"
        )
    if not call.cached and engine.plan.reads_words:
        raise InputError(
            "without a cache an image is decided again for every word, and a score that reads the "
            "text would choose other tokens each time; call with use_cache=True"
        )
    if family.both_ways and call.past is not None:
        raise InputError(
            f"{type(engine.parts.core).__name__} lets the tokens of an image see one another, by a "
            "mask over all that was read, which this cache no longer holds; begin a new "
            "conversation for a new image"
        )


def check_length(config: Any, count: int) -> None:
    """Whether the windows of the language model reach over ``count`` tokens."""
    kinds = getattr(config, "layer_types", None) or ("sliding_attention",)
    window = getattr(config, "sliding_window", None)
    if window and "sliding_attention" in kinds and count > window:
        raise InputError(
            f"the language model looks back {window} tokens in some layers, and this text has "
            f"{count}: a window over the kept tokens would reach further than in the dense model; "
            f"use fewer than {window} tokens, or detach() first"
        )


def is_end(kept: Any, ids: Int[Tensor, "B N"], mask: Any, visual: list[int]) -> bool:
    """Whether ``logits_to_keep`` asks for what stands at the end, image or not.

    From the last image on, as many tokens come out as went in, unless padding on the right leaves.
    """
    if isinstance(kept, torch.Tensor):
        if kept.numel() and int(kept.max()) >= 0:
            return False
        count = -int(kept.min()) if kept.numel() else 0
    else:
        count = int(kept or 0)
    if count < 0:
        return False  # all but the first
    end = ids[:, len(ids[0]) - min(count, ids.shape[1]) :]
    if any(bool((end == token).any()) for token in visual):
        return False
    padded = isinstance(mask, torch.Tensor) and mask.ndim == 2
    return not padded or bool(mask[:, mask.shape[1] - end.shape[1] :].all())
