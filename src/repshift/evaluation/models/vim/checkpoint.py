"""Official Vim checkpoints, loaded strictly: every weight is there, or the file is refused."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from repshift.errors import InputError
from repshift.evaluation.models.checkpoint import check, read_state_dict
from repshift.evaluation.models.vim.config import CONFIGS, VimConfig
from repshift.evaluation.models.vim.model import VisionMamba

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor


def load_vim(config: VimConfig | str, path: Path | str, stride: int | None = None) -> VisionMamba:
    """A Vim with the weights of a file, in float32 and evaluation mode.

    Takes the files of hustvl/Vim-tiny-midclstok and hustvl/Vim-small-midclstok, as they are or as
    safetensors, those with overlapping patches ("+") among them.

    Args:
        config: ``vim-tiny``, ``vim-small``, or the sizes of another Vim.
        path: The file, of PyTorch or safetensors.
        stride: Pixels from one patch to the next. Left out, that of ``config``; if that has none
            either, it is found from the number of positions in the file; if several strides give
            that number, it is the one whose patches reach the edge of the image.

    Returns:
        The model.

    Raises:
        InputError: If the file holds other weights; it says what they look like. Also if several
            strides give its number of positions and none of them reaches the edge.
    """
    config = VimConfig.named(config) if isinstance(config, str) else config
    asked = config.stride if stride is None else stride
    wanted = config.name
    weights = read_state_dict(path)
    if asked is None:
        config = replace(config, stride=_stride(weights, config, path))
    else:
        config = replace(config, stride=asked)
        wanted += f" with stride {asked} ({config.side**2 + 1} positions)"
    with torch.device("meta"):
        model = VisionMamba(config)
    check(model.state_dict(), weights, path, wanted, looks_like(weights))
    model.load_state_dict(weights, assign=True)
    return model.eval()


def _stride(weights: Mapping[str, Tensor], config: VimConfig, path: Path | str) -> int:
    """The stride by which an image has as many patches as the file has positions for.

    That of ``config`` if it does, or if none does: the check of all shapes then says so. Of several
    it is the one whose last patch ends where the image ends.
    """
    table = weights.get("pos_embed")
    patches = table.shape[1] - 1 if table is not None and table.ndim == 3 else 0
    side = math.isqrt(max(patches, 0))
    strides = range(1, config.patch + 1)
    fits = [step for step in strides if replace(config, stride=step).side == side]
    if side**2 != patches or side == config.side or not fits:
        return config.step
    even = [step for step in fits if step * (side - 1) == config.image - config.patch]
    fits = even or fits
    if len(fits) > 1:
        listed = f"{', '.join(map(str, fits[:-1]))} and {fits[-1]}"
        raise InputError(
            f"{path} has {side} x {side} patches, as strides {listed} give; pass stride= to say "
            "which one it was trained with"
        )
    return fits[0]


def looks_like(weights: Mapping[str, Tensor]) -> str:
    """In a few words, whose weights these are."""
    first = weights.get("layers.0.mixer.in_proj.weight")
    if first is not None and first.ndim == 2 and "cls_token" in weights:
        width = first.shape[1]
        names = [config.name for config in CONFIGS.values() if config.width == width]
        table = weights.get("pos_embed")
        tokens = table.shape[1] if table is not None and table.ndim == 3 else 0
        return f"{names[0] if names else f'a Vim of width {width}'} with {tokens} positions"
    if any(key.endswith("layers.0.mixer.in_proj.weight") for key in weights):
        return "a Mamba language model"
    if "blocks.0.attn.qkv.weight" in weights:
        return "a vision transformer of timm, such as DeiT"
    return f"no Vim (its first key is {next(iter(weights), 'missing')})"
