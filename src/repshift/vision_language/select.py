"""Which tokens of each segment stay: one reduction over all segments of a prompt."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from repshift.reductions import Prune
from repshift.reductions.prune import highest
from repshift.sequence.quota import Quota
from repshift.sequence.token_map import Step

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int, Shaped
    from torch import Tensor

    from repshift.reductions import Reduction
    from repshift.scores import Snapshots
    from repshift.sequence.segments import Segments


@dataclass(frozen=True)
class Choice:
    """What stays of packed segments, decided.

    Attributes:
        segments: How the rows lay before.
        step: The reduction, in the batch of all segments.
        real: Which of the rows that it keeps are tokens, not padding.
        lengths: How many tokens of each segment stay.
        size: From how many tokens each of the packed rows was merged before (None: one).
    """

    segments: Segments
    step: Step
    real: Bool[Tensor, "S K"]
    lengths: list[int]
    size: Float[Tensor, " T"] | None = None

    @property
    def kept(self) -> Int[Tensor, " R"]:
        """The packed rows that stay, ascending."""
        starts = self.segments.lengths.cumsum(0) - self.segments.lengths
        return (self.step.kept + starts.to(self.step.kept.device)[:, None])[self.real]

    def apply(self, packed: Float[Tensor, "T C"]) -> Float[Tensor, "R C"]:
        """What stays of any packed rows, each the mean of what it took up."""
        return self.step.apply(self.segments.batch(packed[None]), self._sizes())[self.real]

    def resize(self) -> Float[Tensor, " R"] | None:
        """From how many tokens each that stays is merged."""
        if self.step.share is None:
            return None if self.size is None else self.size[self.kept]
        return self.step.resize(self._sizes())[self.real]

    def _sizes(self) -> Float[Tensor, "S L"] | None:
        if self.size is None:
            return None
        return self.segments.batch(self.size[None, :, None])[..., 0]


def choose(
    snapshot: Snapshots,
    scores: Float[Tensor, "S L"],
    segments: Segments,
    each: list[int],
    reduction: Reduction,
    size: Float[Tensor, " T"] | None = None,
    verify: bool = False,
) -> Choice:
    """Drop ``each`` of the tokens of every segment; the snapshot is a batch of the segments."""
    lengths = segments.lengths.cpu()
    drop = torch.tensor(each)
    quota = Quota.ragged(lengths, drop)
    even = quota.even(snapshot.guard(scores))
    if isinstance(reduction, Prune):
        # Nothing is restored from here, so that no token that leaves needs one to stand for it.
        kept, dropped = highest(even, quota.drop)
        step = Step(kept, dropped, torch.zeros_like(dropped))
    else:
        step = reduction.decide(snapshot.padded_to(quota.rows), even, quota.drop, verify)
    if quota.rows != segments.longest:
        step = replace(step, rows=segments.longest)
    real = step.kept < lengths.to(step.kept.device)[:, None]
    return Choice(segments, step, real, (lengths - drop).tolist(), size)


def batched(segments: Segments, packed: Shaped[Tensor, "T ..."]) -> Shaped[Tensor, "S L ..."]:
    """Packed rows as a batch of the segments; zero behind shorter ones."""
    return segments.batch(packed[None])
