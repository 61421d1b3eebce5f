"""What one forward leaves behind: counts, scores and indices by block, never features."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from repshift.runtime.carriers import rows_of
from repshift.sequence.layout import cells_among
from repshift.sequence.segments import Segments
from repshift.sequence.token_map import TokenMap, gather

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped
    from torch import Tensor

    from repshift.adapters.spec import EncoderSpec
    from repshift.runtime.block_state import BlockState
    from repshift.sequence.layout import Layout
    from repshift.sequence.token_map import Step


@dataclass(eq=False)
class ForwardTrace:
    """One forward: how many tokens each block hands on, which, and how many each was merged from.

    It belongs to the thread that ran the forward.
    """

    batch: int
    dense: int
    device: torch.device
    counts: dict[int, int] = field(default_factory=dict)
    steps: dict[int, Step] = field(default_factory=dict)
    sizes: dict[int, Float[Tensor, "B K"]] = field(default_factory=dict)
    segments: dict[int, Segments] = field(default_factory=dict)
    scores: dict[int, Float[Tensor, "B N"]] = field(default_factory=dict)
    protected: Bool[Tensor, "B N"] | None = None
    layout: Layout | None = None
    watched: dict[int, Float[Tensor, "B N"]] = field(default_factory=dict)
    _maps: dict[int, TokenMap] = field(default_factory=dict)

    def record(self, block: int, count: int, state: BlockState) -> None:
        """``block`` hands on a stream of ``count`` rows, after the step of its ``state`` if any."""
        self.counts[block] = count
        if state.step is None or state.after is None:
            return
        self.steps[block], self.segments[block] = state.step, state.after
        if state.step.share is not None:
            size, padding = state.step.resize(state.size), state.after.padding
            if padding is not None:
                size = size.masked_fill(padding.to(size.device), 0)
            self.sizes[block] = size

    def until(self, first: int) -> ForwardTrace:
        """The trace as it stood when block ``first`` was about to run."""
        trace = ForwardTrace(
            self.batch, self.dense, self.device, protected=self.protected, layout=self.layout
        )
        for name in ("counts", "steps", "sizes", "segments", "scores", "watched"):
            held = getattr(self, name)
            setattr(trace, name, {block: held[block] for block in held if block < first})
        return trace

    def map_after(self, block: int) -> TokenMap | None:
        """The way from the dense sequence to the tokens ``block`` hands on; None if all are kept.

        On the device where the last of them were dropped.
        """
        done = [earlier for earlier in self.steps if earlier <= block]
        if not done:
            return None
        last = max(done)
        if last not in self._maps:
            before, step = self.map_after(last - 1), self.steps[last].map
            self._maps[last] = before.to(step.kept.device).then(step) if before else step
        return self._maps[last]

    def segments_after(self, block: int) -> Segments:
        """How the rows that ``block`` hands on belong to images."""
        done = [earlier for earlier in self.segments if earlier <= block]
        if done:
            return self.segments[max(done)]
        return self.layout.segments if self.layout else Segments(self.batch, self.dense)

    def mean_after(self, block: int) -> int:
        """How many tokens of an image ``block`` hands on, on average."""
        segments, count = self.segments_after(block), self.counts[block]
        return round(count / segments.count) if segments.packed else count

    def size_after(self, block: int) -> Float[Tensor, "B K"] | None:
        """From how many tokens each that ``block`` hands on was merged; None if from one each."""
        done = [earlier for earlier in self.sizes if earlier <= block]
        return self.sizes[max(done)] if done else None

    def weights(self) -> Float[Tensor, "B K"] | None:
        """What each token at the end counts in a mean, 0 for padding; None if all count alike."""
        last = max(self.counts)
        size, padding = self.size_after(last), self.segments_after(last).padding
        return (~padding).float() if size is None and padding is not None else size

    def protected_after(
        self, block: int, spec: EncoderSpec, padding: Bool[Tensor, "B N"] | None
    ) -> Bool[Tensor, "B K"] | None:
        """Marks inner and suffix tokens among all that ``block`` hands on; None without any.

        They are found in the dense sequence, at the first block that drops tokens, and followed
        from there: a matching changes the order.
        """
        if not spec.inner_tokens and not spec.suffix_tokens:
            return None
        if self.protected is None:
            places = torch.arange(self.dense, device=self.device).expand(self.batch, -1)
            tokens = torch.ones_like(places) if padding is None else (~padding).long()
            from_end = tokens.flip(1).cumsum(1).flip(1)  # the padding not counted
            self.protected = (tokens > 0) & (from_end <= spec.suffix_tokens)
            for place in spec.inner_tokens:
                self.protected |= places == place
        so_far = self.map_after(block)
        if so_far is None:
            return self.protected
        return self.protected.to(so_far.kept.device).gather(1, so_far.kept)

    def parents(self) -> Int[Tensor, " T"] | None:
        """From which row of a packed stream, as it is so far, each row of the first is restored.

        None if all are there.
        """
        last = max(self.counts)
        if (way := self.map_after(last)) is None:
            return None
        return rows_of(way.parent, self.segments_after(last), self.segments_after(-1))

    def placed(self, kept: Int[Tensor, "B K"]) -> Int[Tensor, "B K"]:
        """Where tokens belong that stand at ``kept`` in the first block's stream."""
        if self.layout is None or self.layout.places is None:
            return kept
        return self.layout.places.to(kept.device).gather(1, kept)

    def ordered(self, rows: Shaped[Tensor, "B N C"]) -> Shaped[Tensor, "B N C"]:
        """The rows of the first block's stream where they belong."""
        if self.layout is None or self.layout.places is None:
            return rows
        return gather(rows, self.layout.places.to(rows.device).argsort(dim=1))

    def cells_after(self, block: int, spec: EncoderSpec) -> Int[Tensor, "B M"]:
        """Where the patches that ``block`` handed on stand, cell by cell of the square grid."""
        kept = (self.map_after(block) or self.identity()).kept[:, spec.prefix_tokens :]
        patches, side = self.dense - spec.prefix_tokens, math.isqrt(spec.unit)
        return cells_among(kept - spec.prefix_tokens, patches, side) + spec.prefix_tokens

    def identity(self) -> TokenMap:
        """The map of a forward in which no token was dropped."""
        return TokenMap.identity(self.batch, self.dense, self.device)
