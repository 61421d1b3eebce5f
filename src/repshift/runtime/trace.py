"""What one forward leaves behind: counts, scores and indices by block, never features."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from repshift.sequence.levels import PackedStep
from repshift.sequence.token_map import TokenMap

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from repshift.adapters.spec import EncoderSpec
    from repshift.sequence.segments import Packing
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
    steps: dict[int, Step | PackedStep] = field(default_factory=dict)
    sizes: dict[int, Float[Tensor, "B K"]] = field(default_factory=dict)
    packings: dict[int, Packing] = field(default_factory=dict)
    scores: dict[int, Float[Tensor, "B N"]] = field(default_factory=dict)
    protected: Bool[Tensor, "B N"] | None = None
    _maps: dict[int, TokenMap] = field(default_factory=dict)

    def record(
        self,
        block: int,
        count: int,
        step: Step | PackedStep | None,
        size: Float[Tensor, "B N"] | None,
    ) -> None:
        """``block`` hands on ``count`` tokens, after ``step`` if any, each merged from ``size``."""
        self.counts[block] = count
        if step is not None:
            self.steps[block] = step
            if isinstance(step, PackedStep):
                self.packings[block] = step.packing
            elif step.share is not None:
                self.sizes[block] = step.resize(size)

    def until(self, first: int) -> ForwardTrace:
        """The trace as it stood when block ``first`` was about to run."""
        trace = ForwardTrace(self.batch, self.dense, self.device, protected=self.protected)
        for name in ("counts", "steps", "sizes", "packings", "scores"):
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

    def packing_after(self, block: int) -> Packing | None:
        """How images of different lengths leave ``block``; None if all are of one length."""
        done = [earlier for earlier in self.packings if earlier <= block]
        return self.packings[max(done)] if done else None

    def mean_after(self, block: int) -> int:
        """How many tokens of an image ``block`` hands on, on average."""
        packing = self.packing_after(block)
        count = self.counts[block]
        return count if packing is None else round(count / len(packing.counts))

    def size_after(self, block: int) -> Float[Tensor, "B K"] | None:
        """From how many tokens each that ``block`` hands on was merged; None if from one each."""
        done = [earlier for earlier in self.sizes if earlier <= block]
        return self.sizes[max(done)] if done else None

    def weights(self) -> Float[Tensor, "B K"] | None:
        """What each token at the end counts in a mean, 0 for padding; None if all count alike."""
        last = max(self.counts)
        packing = self.packing_after(last)
        return self.size_after(last) if packing is None else (~packing.padding).float()

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

    def identity(self) -> TokenMap:
        """The map of a forward in which no token was dropped."""
        return TokenMap.identity(self.batch, self.dense, self.device)
