"""Vision Mamba: the class token stands between the patches, and one branch is all a block has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repshift.adapters.spec import EncoderSpec
from repshift.errors import InputError
from repshift.evaluation.models.vim.model import Block, VisionMamba
from repshift.runtime.carriers import Carrier, PositionIds

if TYPE_CHECKING:
    from torch import nn


def describe(model: nn.Module, aligned: bool = False) -> EncoderSpec:
    """The spec of a Vim model.

    ``aligned`` lets the state fade across the gaps that tokens leave (see ``Mixer.forward``);
    otherwise the scan runs as if they had never been there.
    """
    if not isinstance(model, VisionMamba):
        raise InputError(f"{type(model).__name__} is no Vision Mamba")
    blocks = [block for block in model.layers if isinstance(block, Block)]
    return EncoderSpec(
        blocks=blocks,
        norm2=[None] * len(blocks),
        prefix_tokens=0,
        class_token=True,
        inner_tokens=(model.class_place,),
        mixers=[block.mixer.out_proj for block in blocks],
        carriers={"positions": PositionIds()} if aligned else {},
        readers=[(model.readout, {"marked": Carrier("bn")})],
    )
