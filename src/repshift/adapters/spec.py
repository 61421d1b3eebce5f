"""What the library must know of a model: a few names, as data."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

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
    side and no such stream exists). The first ``prefix_tokens`` of the sequence never leave;
    ``class_token`` says whether the very first is a class token.

    ``positions`` names keyword arguments of the blocks that hold one entry a token, with the
    dimensions to gather (see ``repshift.tokens.follow``): ``{"rope": (-2,)}``. ``attention`` serves
    the scores that read the attention map, one entry a block; without it those are refused.
    """

    blocks: Sequence[nn.Module] | nn.ModuleList
    norm2: Sequence[nn.Module | None]
    prefix_tokens: int
    class_token: bool = False
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
        if self.prefix_tokens < self.class_token:
            raise InputError(
                f"prefix_tokens is {self.prefix_tokens}; expected {int(self.class_token)} or more"
            )

    @contextmanager
    def eager_attention(self) -> Iterator[None]:
        """Let every block form its attention map, as attention without a fused kernel does."""
        if not self.attention or None in self.attention:
            raise InputError("how this model forms its attention map is not known")
        before = [(item, getattr(item.layer, item.switch)) for item in self.attention if item]
        try:
            for item, _ in before:
                setattr(item.layer, item.switch, False)
            yield
        finally:
            for item, value in before:
                setattr(item.layer, item.switch, value)
