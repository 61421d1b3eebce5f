"""What one forward leaves behind: counts, scores and indices by block, never features."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from repshift.sequence.levels import PackedStep
from repshift.sequence.token_map import TokenMap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor

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
        trace = ForwardTrace(self.batch, self.dense, self.device)
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

    def places_of(self, tokens: Sequence[int], block: int) -> Bool[Tensor, "B K"] | None:
        """Marks those ``tokens`` of the dense sequence among all that ``block`` hands on."""
        if not tokens:
            return None
        kept = (self.map_after(block) or self.identity()).kept
        return torch.stack([kept == token for token in tokens]).any(0)

    def identity(self) -> TokenMap:
        """The map of a forward in which no token was dropped."""
        return TokenMap.identity(self.batch, self.dense, self.device)
