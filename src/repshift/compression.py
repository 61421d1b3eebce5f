"""A plan at work on a model, and what its last forward left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.input_size import check_size
from repshift.numbers import whole
from repshift.reductions.base import Merging
from repshift.runtime.arguments import bind, parameters_of
from repshift.runtime.attachment import Hook, ReplacedForward, ReplacedMethod
from repshift.runtime.engine import Engine
from repshift.runtime.maps import DenseMaps
from repshift.runtime.pooling import WeightedMean
from repshift.runtime.readers import Reader
from repshift.runtime.sites import BlockSite
from repshift.sequence.layout import Layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from jaxtyping import Float, Int, Shaped
    from torch import Tensor, nn
    from torch.utils.hooks import RemovableHandle

    from repshift.adapters.spec import EncoderSpec
    from repshift.plan import Plan
    from repshift.runtime.trace import ForwardTrace
    from repshift.scores import Score


class Compression(Engine):
    """A plan at work on a model; made by ``compress``.

    What it tells (``counts``, ``kept``, ``scores``, ``restore``, ...) is of the last forward that
    the calling thread ran.
    """

    def __init__(
        self,
        model: nn.Module,
        plan: Plan,
        spec: EncoderSpec,
        watch: Mapping[int, Score] | None = None,
    ) -> None:
        super().__init__(model, plan, spec, watch)
        weighs = isinstance(plan.reduction, Merging) or plan.adaptive
        self._mean = WeightedMean(self) if spec.pooling and weighs else None
        self._attach(self._parts(model))

    @property
    def counts(self) -> list[int]:
        """How many tokens each block kept in the last forward, the class token and other prefix
        tokens included.

        With a level, those of the mean image, rounded; ``lengths`` has each.
        """
        trace = self._last_trace()
        return [trace.mean_after(block) for block in range(len(self.spec.blocks))]

    @property
    def kept(self) -> Int[Tensor, "B K"]:
        """Index in the dense sequence of each token that was kept in the last forward.

        Ascending, except after the matching of ToMe and vid-TLDR, which puts the tokens at odd
        places last, ToMe without a class token the others in the order of their likeness (unless
        attention is causal, or a scan). With a level, -1 at the end of images that kept fewer
        than the longest.
        """
        return self.kept_after(len(self.spec.blocks) - 1)

    @property
    def sizes(self) -> Float[Tensor, "B K"]:
        """How many tokens of the dense sequence were merged into each kept one.

        1 for a token that took up no other, 0 where ``kept`` is -1; pruned tokens count nowhere.
        """
        return self.sizes_after(len(self.spec.blocks) - 1)

    @property
    def scores(self) -> Mapping[int, Float[Tensor, "B N"]]:
        """By block where tokens were dropped: the scores of the tokens that entered it.

        inf for tokens that are never dropped, -inf for padding; nothing for a reduction that asks
        no score. With a level, padded as a batch.
        """
        return dict(self._last_trace().scores)

    def sizes_after(self, block: int) -> Float[Tensor, "B K"]:
        """How many tokens were merged into each that ``block`` kept."""
        sizes = self._last_trace().size_after(self._index(block))
        if sizes is None:
            return (self.kept_after(block) >= 0).float()
        return sizes

    @property
    def lengths(self) -> Int[Tensor, " B"]:
        """How many tokens of each image were kept in the last forward, prefix tokens included."""
        return self.lengths_after(len(self.spec.blocks) - 1)

    def lengths_after(self, block: int) -> Int[Tensor, " B"]:
        """How many tokens of each image, or frame of a packed stream, ``block`` kept."""
        trace = self._last_trace()
        return trace.segments_after(self._index(block)).lengths.to(trace.device)

    def kept_after(self, block: int) -> Int[Tensor, "B K"]:
        """Index in the dense sequence of each token that ``block`` kept."""
        return self._kept_after(self._index(block))

    def _kept_after(self, block: int) -> Int[Tensor, "B K"]:
        """The same; of -1 what the first block is given."""
        trace = self._last_trace()
        kept = trace.placed((trace.map_after(block) or trace.identity()).kept)
        padding = trace.segments_after(block).padding
        return kept if padding is None else kept.masked_fill(padding.to(kept.device), -1)

    def restore(
        self, features: Shaped[Tensor, "*kept C"], block: int | None = None
    ) -> Shaped[Tensor, "*dense C"]:
        """Put the tokens that ``block`` (the last one) kept back in their places.

        Each dropped token gets the features of the kept token that it was merged into, or that is
        most like it. Of a packed stream [T, C], in the order of the patches that the model was
        given.
        """
        trace = self._last_trace()
        block = self._index(len(self.spec.blocks) - 1 if block is None else block)
        if not isinstance(features, torch.Tensor) or features.ndim not in (2, 3):
            raise InputError(f"restore takes features [B, K, C]; got {_shape(features)}")
        segments, stream = trace.segments_after(block), features.ndim == 2
        features = features[None] if stream else features
        if segments.packed and features.shape[1] == trace.counts[block]:
            features = segments.batch(features)
        way = trace.map_after(block) or trace.identity()
        prefix = self.spec.prefix_tokens
        if prefix and features.shape[1] == way.kept.shape[1] - prefix:
            raise InputError(
                f"restore got the {features.shape[1]} patches that block {block} kept without "
                f"its {prefix} prefix tokens; put those in front (timm: return_prefix_tokens=True)"
            )
        restored = trace.ordered(way.to(features.device).restore(features))
        return trace.segments_after(-1).stream(restored)[0] if stream else restored

    def _index(self, block: int) -> int:
        return whole(block, "the block", 0, len(self.spec.blocks) - 1)

    def _last_trace(self) -> ForwardTrace:
        trace = self._trace
        if trace is None or len(trace.counts) < len(self.spec.blocks):
            raise InputError(
                "no complete forward has run under this plan in this thread yet; call the model "
                "first"
            )
        return trace

    def _parts(self, model: nn.Module) -> Iterator[RemovableHandle | ReplacedMethod]:
        yield model.register_forward_pre_hook(Hook(self, self._start), with_kwargs=True)
        yield model.register_forward_hook(Hook(self, self._finish))
        if self.spec.packing:
            reads = Hook(self, self._read_grids)
            yield model.register_forward_pre_hook(reads, with_kwargs=True)
            for merger in self.spec.packing.mergers:
                yield ReplacedForward(self, merger, self._lay_back)
        for site in self._sites():
            yield from site.attach()
        for reader, carriers in self.spec.readers:
            yield from Reader(self, reader, carriers).attach()
        if self._mean is not None:
            yield from self._mean.attach()
        for method in self.spec.maps if self.plan.acting else ():
            maps = DenseMaps(self, method)
            yield ReplacedMethod(self, method.module, method.name, maps.run)

    def _sites(self) -> list[BlockSite]:
        return [BlockSite(self, index) for index in range(len(self.spec.blocks))]

    def _start(self, _: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        check_size(self.plan, (*args, *kwargs.values()))
        self._local.trace = self._local.means = None
        self._local.begun = 0
        if self.plan.adaptive and torch.compiler.is_compiling():
            raise InputError(
                "how many tokens a level drops depends on the images, so no graph can be compiled "
                "or exported for it; use shares or counts"
            )

    def _read_grids(
        self, model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        packing = self.spec.packing
        assert packing is not None
        given = bind(parameters_of(model), args, kwargs)
        grids = given.get(packing.grid)
        if grids is None:
            raise InputError(
                f"the model was called without {packing.grid}, which tells the images apart"
            )
        if torch.compiler.is_exporting():
            raise InputError(
                "how many patches an image has, only its grid tells, so no graph can be exported "
                "of a packed stream that loses some; detach() first"
            )
        index = given.get("window_index")
        self._local.layout = Layout.of_grids(grids, self.spec.unit, packing.window, index)

    def _lay_back(
        self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Any:
        # A merger makes features of the kept units alone; each of the others gets that of the one
        # from which it is restored.
        features, trace = forward(*args, **kwargs), self._trace
        parents = trace.parents() if trace else None
        if parents is None:
            return features
        units = parents[:: self.spec.unit] // self.spec.unit
        return features.index_select(0, units.to(features.device))

    def _finish(self, _: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        ran = len(self._trace.counts) if self._trace else 0
        if ran < len(self.spec.blocks):
            raise InputError(
                f"only {ran} of {len(self.spec.blocks)} blocks ran in this forward; the plan did "
                "not take effect as written (is the model calling its blocks in another way, or "
                "was their forward replaced after compress? Under torch.compile, code made before "
                "compress: compress first, or call torch._dynamo.reset() between them)"
            )
        if self._local.begun > 1:
            raise InputError(
                "the blocks ran more than once in this forward; those that share weights cannot "
                "drop tokens"
            )
        if self._mean is not None:
            self._mean.finish()
        self._verified = True


def _shape(given: object) -> str:
    shape = getattr(given, "shape", None)
    return type(given).__name__ if shape is None else f"the shape {list(shape)}"
