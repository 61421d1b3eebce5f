"""Mamba and Mamba-2 of transformers: texts read once, without the cache that writing needs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repshift.adapters.spec import EncoderSpec
from repshift.runtime.carriers import PaddingMask

if TYPE_CHECKING:
    from torch import nn

# A model, its blocks and their mixers, by the classes whose forwards were read in 5.23 and 5.24.
MAMBAS = {
    "MambaModel": ("MambaBlock", "MambaMixer"),
    "Mamba2Model": ("Mamba2Block", "Mamba2Mixer"),
}
_CACHE = (
    "the cache holds the state from which the next word is written, and a compressed model would "
    "leave another one behind than it was trained with; call it with use_cache=False to read a "
    "text, and detach the plan to generate"
)


def mamba_spec(model: nn.Module) -> EncoderSpec:
    """The spec of a Mamba that reads; the last word, which has heard all others, stays."""
    blocks: list[Any] = list(model.layers)  # type: ignore[arg-type]
    return EncoderSpec(
        blocks=blocks,
        norm2=[None] * len(blocks),
        prefix_tokens=0,
        suffix_tokens=1,
        carriers={"attention_mask": PaddingMask()},
        mixers=[block.mixer.out_proj for block in blocks],
        refused={"cache_params": _CACHE, "cache": _CACHE},  # as 5.23 and 5.24 call it
    )
