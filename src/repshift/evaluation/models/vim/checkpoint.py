"""Official Vim checkpoints, loaded strictly: every weight is there, or the file is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from repshift.evaluation.models.checkpoint import check, read_state_dict
from repshift.evaluation.models.vim.config import CONFIGS, VimConfig
from repshift.evaluation.models.vim.model import VisionMamba

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


def load_vim(name: str, path: Path | str) -> VisionMamba:
    """``vim-tiny`` or ``vim-small`` with the weights of a file, in float32 and evaluation mode.

    Takes the files of hustvl/Vim-tiny-midclstok and hustvl/Vim-small-midclstok, as they are or as
    safetensors. Raises ``InputError`` that says what a wrong file looks like.
    """
    with torch.device("meta"):
        model = VisionMamba(VimConfig.named(name))
    weights = read_state_dict(path)
    check(model.state_dict(), weights, path, name, looks_like(weights))
    model.load_state_dict(weights, assign=True)
    return model.eval()


def looks_like(weights: Mapping[str, Tensor]) -> str:
    """In a few words, whose weights these are."""
    first = weights.get("layers.0.mixer.in_proj.weight")
    if first is not None and "cls_token" in weights:
        width = first.shape[1]
        names = [config.name for config in CONFIGS.values() if config.width == width]
        tokens = weights["pos_embed"].shape[1] if "pos_embed" in weights else 0
        return f"{names[0] if names else f'a Vim of width {width}'} with {tokens} positions"
    if any(key.endswith("layers.0.mixer.in_proj.weight") for key in weights):
        return "a Mamba language model"
    if "blocks.0.attn.qkv.weight" in weights:
        return "a vision transformer of timm, such as DeiT"
    return f"no Vim (its first key is {next(iter(weights), 'missing')})"
