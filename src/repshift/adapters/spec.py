"""What the library must know of a model: a few names, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch import nn


@dataclass(frozen=True)
class Pooling:
    """A pooling that averages tokens, which must weigh merged ones by their size.

    The output of ``tokens`` is the sequence; the input of ``average`` is the mean [B, C] of all but
    the first ``skipped`` of it, or ends with that mean.
    """

    tokens: nn.Module
    average: nn.Module
    skipped: int


# The axes of a layout, as ``repshift.sequence.token_map.follow`` reads them.
AXES = {"b": "image", "h": "head", "n": "token", "r": "channel of a rotation"}


@dataclass(frozen=True)
class EncoderSpec:
    """Where an encoder keeps what token reduction needs.

    ``blocks`` run in this order, each taking the tokens [B, N, C] as its first argument and
    returning them (or a tuple that starts with them). ``norm2`` names, for every block, the module
    that reads the stream between attention and MLP: the second norm of a pre-norm block (None where
    attention and MLP run side by side and no such stream exists). ``mlp`` names the module whose
    output is added to that stream, for the reductions that act before the MLP; None where another
    step than the addition follows.

    The first ``prefix_tokens`` of the sequence never leave, nor the last ``suffix_tokens`` before
    the padding, nor those at ``inner_tokens``, places in the dense sequence. ``class_token`` says
    whether the very first of all these is a class token.

    ``mixers`` names, for blocks whose one branch is a mixer (Mamba) instead of attention and MLP,
    the projection that ends it; its input are the mixer's activations.

    ``positions`` names arguments of the blocks that hold one entry a token, with their layout (see
    ``repshift.sequence.token_map.follow``): ``{"rope": "bhnr", "attn_mask": "bhnn"}``; with the
    axes ``nn`` it is an attention mask, which also tells the padding. ``position_ids`` names an
    argument that takes the place of every token [B, N] in the dense sequence and stands for all of
    them when left out. ``readers`` are modules that run once after all blocks, such as a pooling,
    with the layout of their arguments that have one entry for every token of the dense sequence. A
    head that reads patch tokens in another way than ``pooling`` is named there too, so that an
    adaptive budget, which leaves padding behind, is refused. ``refused`` names arguments of the
    blocks that must be None, with the reason. ``reshaping`` names methods of the model that put the
    tokens on a grid when ``output_fmt`` is ``"NCHW"``, which is refused.
    """

    blocks: Sequence[nn.Module] | nn.ModuleList
    norm2: Sequence[nn.Module | None]
    prefix_tokens: int
    class_token: bool = False
    positions: Mapping[str, str] = field(default_factory=dict)
    mlp: Sequence[nn.Module | None] = ()
    suffix_tokens: int = 0
    position_ids: str | None = None
    pooling: Pooling | None = None
    readers: Sequence[tuple[nn.Module, Mapping[str, str]]] = ()
    inner_tokens: Sequence[int] = ()
    mixers: Sequence[nn.Module] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    reshaping: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.blocks or len(self.norm2) != len(self.blocks):
            raise InputError(
                f"a spec names one norm2 for each block; got {len(self.blocks)} blocks and "
                f"{len(self.norm2)} norm2"
            )
        if len({id(block) for block in self.blocks}) < len(self.blocks):
            raise InputError("the spec names a block twice; blocks that share weights cannot drop")
        if self.mlp and len(self.mlp) != len(self.blocks):
            raise InputError(
                f"a spec names the mlp of every block or of none; got {len(self.mlp)} "
                f"for {len(self.blocks)} blocks"
            )
        if self.mixers and len(self.mixers) != len(self.blocks):
            raise InputError(
                f"a spec names the mixer of every block or of none; got {len(self.mixers)} "
                f"for {len(self.blocks)} blocks"
            )
        if self.prefix_tokens < 0 or self.staying < self.class_token:
            raise InputError(
                f"prefix_tokens is {self.prefix_tokens}; expected {int(self.class_token)} or more"
            )
        for layouts in (self.positions, *(layouts for _, layouts in self.readers)):
            _check_layouts(layouts)

    @property
    def staying(self) -> int:
        """How many tokens of an image never leave."""
        return self.prefix_tokens + len(self.inner_tokens) + self.suffix_tokens


def _check_layouts(layouts: Mapping[str, str]) -> None:
    for name, layout in layouts.items():
        if unknown := "".join(axis for axis in layout if axis not in AXES):
            axes = ", ".join(f"{axis} ({meaning})" for axis, meaning in AXES.items())
            raise InputError(
                f"the layout {layout!r} of {name} names axes {unknown!r}; write one letter an "
                f"axis, {axes}, such as 'bhnn' for an attention mask"
            )
