"""What the library must know of a model: a few names, as data."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import nn

from repshift.errors import InputError
from repshift.numbers import whole
from repshift.runtime.carriers import Carrier


@dataclass(frozen=True)
class Pooling:
    """A pooling that averages tokens, which must weigh merged ones by their size.

    The output of ``tokens`` is the sequence; the input of ``average`` is the mean [B, C] of all but
    the first ``skipped`` of it, or ends with that mean; ``with_max``: the mean of it and the
    maximum of each channel.
    """

    tokens: nn.Module
    average: nn.Module
    skipped: int
    with_max: bool = False


@dataclass(frozen=True)
class MapMethod:
    """A method of ``module`` that gives the features of some blocks as maps [B, C, rows, columns]
    where its ``output_fmt`` is ``"NCHW"``, as ``forward_intermediates`` of timm does.

    ``grid`` gives the rows and columns of the patches of an image from its height and width.
    """

    module: nn.Module
    name: str
    grid: Callable[[tuple[int, int]], tuple[int, int]]


@dataclass(frozen=True)
class Packing:
    """One stream [T, C] without a batch axis, in which the frames of all images lie end to end.

    The argument ``grid`` of the model holds frames, rows and columns [images, 3] of every image, in
    patches; a frame is what a plan's shares are of. ``mergers`` make one feature of every ``unit``
    rows: they are given the kept ones, and their output is laid back for all. ``window`` is the
    side, in units, of the windows by which the model puts the units of a frame in order before its
    first block, None where it leaves them as they come.
    """

    grid: str
    mergers: Sequence[nn.Module]
    window: int | None = None


@dataclass(frozen=True)
class EncoderSpec:
    """Where an encoder keeps what token reduction needs.

    ``blocks`` run in this order, each taking the tokens [B, N, C] as its first argument and
    returning them (or a tuple that starts with them). ``norm2`` names, for every block, the module
    that reads the stream between attention and MLP: the second norm of a pre-norm block, the MLP's
    first module of a post-norm one (None where attention and MLP run side by side and no such
    stream exists). ``mlp`` names the module whose
    output is added to that stream, for the reductions that act before the MLP; None where another
    step than the addition follows.

    The first ``prefix_tokens`` of the sequence never leave, nor the last ``suffix_tokens`` before
    the padding, nor those at ``inner_tokens``, places in the dense sequence. ``class_token`` says
    whether the very first of all these is a class token.

    ``mixers`` names, for blocks whose one branch is a mixer (Mamba) instead of attention and MLP,
    the projection that ends it; its input are the mixer's activations.

    ``carriers`` names arguments of the blocks that hold one entry a token, each with what makes it
    follow the kept tokens: ``{"rope": Rotary(), "attn_mask": AttentionMask()}``. The first mask
    among them tells the padding. ``readers`` are modules that run once after all blocks, such as a
    pooling, with the carriers of their own arguments. A head that reads patch tokens in another way
    than ``pooling`` is named there too, so that a level, which leaves padding behind, is refused.
    ``refused`` names arguments of the blocks that must be None, with the reason. ``maps`` are
    methods that give feature maps, for which all tokens are restored.

    Every ``unit`` tokens in a row are dropped or kept together, scored by their mean: those that
    what follows the encoder merges into one. With ``cells``, they are instead those of a square
    cell of a square grid of patches that stand row by row.

    ``packing`` says that the blocks take no batch but one stream of all images.
    """

    blocks: Sequence[nn.Module] | nn.ModuleList
    norm2: Sequence[nn.Module | None]
    prefix_tokens: int
    class_token: bool = False
    carriers: Mapping[str, Carrier] = field(default_factory=dict)
    mlp: Sequence[nn.Module | None] = ()
    suffix_tokens: int = 0
    pooling: Pooling | None = None
    readers: Sequence[tuple[nn.Module, Mapping[str, Carrier]]] = ()
    inner_tokens: Sequence[int] = ()
    mixers: Sequence[nn.Module] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    maps: Sequence[MapMethod] = ()
    unit: int = 1
    cells: bool = False
    packing: Packing | None = None

    def __post_init__(self) -> None:
        for name in ("blocks", "norm2", "mlp", "mixers"):
            _check_modules(name, getattr(self, name))
        for name in ("prefix_tokens", "suffix_tokens", "unit"):
            whole(getattr(self, name), name, 0)
        for place in self.inner_tokens:
            whole(place, "a place in inner_tokens", 0)
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
        if self.class_token and not self.staying:
            raise InputError("prefix_tokens is 0; expected 1 or more, the class token")
        for name, kind in (("class_token", bool), ("carriers", Mapping), ("pooling", Pooling)):
            given = getattr(self, name)
            if given is not None and not isinstance(given, kind):
                raise InputError(f"{name} is {given!r}; expected a {kind.__name__}")
        for carriers in (self.carriers, *(carriers for _, carriers in self.readers)):
            for name, carrier in carriers.items():
                if not isinstance(carrier, Carrier):
                    raise InputError(
                        f"{name} is carried by {carrier!r}; expected a Carrier, such as Rotary() "
                        "or AttentionMask()"
                    )
        among = self.protected_tokens if self.cells else self.staying
        if self.unit < 1 or (self.unit > 1 and among):
            raise InputError(
                f"tokens are dropped in units of {self.unit}; expected 1 or more, and more only in "
                "a model without prefix, inner and suffix tokens"
            )
        if self.cells and math.isqrt(self.unit) ** 2 != self.unit:
            raise InputError(f"{self.unit} tokens are no square cell; expected 1, 4, 9, 16, ...")
        if self.packing and (self.staying or self.cells or self.mixers):
            raise InputError(
                "a packed stream has no prefix, inner and suffix tokens, and units in a row"
            )

    @property
    def staying(self) -> int:
        """How many tokens of an image never leave."""
        return self.prefix_tokens + self.protected_tokens

    @property
    def protected_tokens(self) -> int:
        """How many tokens behind the prefix never leave."""
        return len(self.inner_tokens) + self.suffix_tokens

    def check_length(self, tokens: int) -> None:
        """``InputError`` if a sequence of so many ``tokens`` cannot be one of this model's."""
        # A text may be empty but for the tokens that stay.
        patches = 0 if self.suffix_tokens else 1
        ends = (place + 1 for place in self.inner_tokens)
        if tokens < max(self.prefix_tokens + patches, self.suffix_tokens, *ends):
            raise InputError(
                f"{tokens} tokens entered the first block, too few for a spec with prefix_tokens="
                f"{self.prefix_tokens}, suffix_tokens={self.suffix_tokens} and inner_tokens="
                f"{list(self.inner_tokens)}; count there only those that are no patches"
            )


def _check_modules(name: str, given: object) -> None:
    if isinstance(given, Sequence | nn.ModuleList):
        wrong = [one for one in given if not isinstance(one, nn.Module | None)]
        if not wrong:
            return
        given = wrong[0]
    raise InputError(
        f"the {name} of a spec is a list with a module for each block; got a {type(given).__name__}"
    )
