"""The text towers of CLIP and SigLIP in transformers, beside their vision towers in ``TOWERS``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.evaluation.zoo.hub import fail_fast_offline, from_hub
from repshift.evaluation.zoo.transformers import pretrained

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# By the type of the whole model's config: the class, and which of its outputs is compared.
_TEXTS = {
    "clip": ("CLIPTextModelWithProjection", "text_embeds"),
    "metaclip_2": ("MetaClip2TextModelWithProjection", "text_embeds"),
    "siglip": ("SiglipTextModel", "pooler_output"),
    "siglip2": ("Siglip2TextModel", "pooler_output"),
}


def load_texts(name: str) -> Callable[[Sequence[str]], Any]:
    """Texts to vectors [X, D] that compare with the pictures of ``hf:name``."""
    full = f"hf:{name}"
    fail_fast_offline()
    import transformers

    advice = "name a folder that save_pretrained has written (its tokenizer too)"
    with from_hub(full, advice):
        config: Any = transformers.AutoConfig.from_pretrained(name)
    if config.model_type not in _TEXTS or not hasattr(config, "text_config"):
        raise InputError(
            f"{full} has no tower for texts that is known here; search by an image, or index with "
            f"a model of {', '.join(_TEXTS)}"
        )
    kind, output = _TEXTS[config.model_type]
    model = pretrained(full, name, getattr(transformers, kind), config.text_config).eval()
    with from_hub(full, advice):
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(name)
    length = config.text_config.max_position_embeddings
    # SigLIP was trained on texts that are all filled up.
    padding = "max_length" if config.model_type.startswith("siglip") else True

    def texts(asked: Sequence[str]) -> Any:
        given = tokenizer(
            list(asked), padding=padding, truncation=True, max_length=length, return_tensors="pt"
        )
        taken = {key: given[key] for key in ("input_ids", "attention_mask") if key in given}
        with torch.inference_mode():
            return getattr(model(**taken), output)

    return texts
