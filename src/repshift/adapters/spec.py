"""What the library must know of a model: a few names, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn


@dataclass(frozen=True)
class EagerAttention:
    """How to make one attention layer form its map, and where the map can be read.

    ``switch`` names an attribute of ``layer`` that is false when the map is formed; the map
    [B, H, N, N], after softmax, is then the input of ``reader`` (the attention dropout).
    """

    layer: nn.Module
    switch: str
    reader: nn.Module


@dataclass(frozen=True)
class EncoderSpec:
    """Where an encoder keeps what token reduction needs.

    ``blocks`` run in this order, each taking the tokens [B, N, C] as its first argument and
    returning them. ``norm2`` names, for every block, the module that reads the stream between
    attention and MLP: the second norm of a pre-norm block (None where attention and MLP run side by
    side and no such stream exists). The first ``prefix_tokens`` of the sequence never leave.

    ``positions`` names keyword arguments of the blocks that hold one entry a token, with the
    dimensions to gather (see ``repshift.tokens.follow``): ``{"rope": (-2,)}``. ``attention`` serves
    the scores that read the attention map, one entry a block; without it those are refused.
    """

    blocks: Sequence[nn.Module]
    norm2: Sequence[nn.Module | None]
    prefix_tokens: int
    positions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    attention: Sequence[EagerAttention | None] = ()

    def __post_init__(self) -> None:
        if not self.blocks or len(self.norm2) != len(self.blocks):
            raise InputError(
                f"a spec names one norm2 for each block; got {len(self.blocks)} blocks and "
                f"{len(self.norm2)} norm2"
            )
        if len({id(block) for block in self.blocks}) < len(self.blocks):
            raise InputError("the spec names a block twice; blocks that share weights cannot drop")
        if self.attention and len(self.attention) != len(self.blocks):
            raise InputError(
                f"a spec names the attention of every block or of none; got {len(self.attention)} "
                f"for {len(self.blocks)} blocks"
            )
        if self.prefix_tokens < 0:
            raise InputError(f"prefix_tokens is {self.prefix_tokens}; expected 0 or more")
