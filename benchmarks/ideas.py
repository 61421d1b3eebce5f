"""Ideas for a better score or reduction, on real images at equal token counts: what helps is kept.

    python benchmarks/ideas.py --checkpoint W --test DIR --out docs/results/ideas

The counts are those at which pruning by the shift costs a share of the dense FLOPs, with the
paper's three blocks and the same number in every block. Random dropping is the measure of all. What
is not in the package is written here, in a few lines each. A stopped run goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from harness import Dtype, Report, command
from plans import Bench, mean
from repshift import Merge, Plan, Prune, Random, Redundancy, Shift, ToMe, VidTLDR
from repshift.scores import Score
from repshift.sequence.token_map import gather
from subjects import Given, labelled

SINK = 2.5  # standard deviations above the mean norm
WINDOW = 3  # reductions over which streams and scores are remembered


def standard(scores):
    """Zero mean and unit variance over an image."""
    deviation = scores.std(1, keepdim=True).clamp_min(1e-6)
    return (scores - scores.mean(1, keepdim=True)) / deviation


def sinks(snapshot):
    """Tokens of outlying norm, which attention uses as registers."""
    norms = snapshot.exit.float().norm(dim=-1)[:, snapshot.prefix :]
    return F.pad(standard(norms) > SINK, (snapshot.prefix, 0))


@dataclass(frozen=True)
class Sinks(Score):
    """Another score with the sinks at its median, protected, or dropped first."""

    name: ClassVar[str] = "sinks"
    inner: Score
    way: str = "median"

    def required(self):
        return self.inner.required() | {"exit"}

    def __call__(self, snapshot):
        scores = self.inner(snapshot)
        value = {
            "median": scores.median(1, keepdim=True).values,
            "protected": scores.new_tensor(1e9),
            "first": scores.new_tensor(-1e9),
        }[self.way]
        return torch.where(sinks(snapshot), value, scores)


@dataclass(frozen=True)
class RedundantAndStill(Score):
    """Redundancy, and a part of the standardised shift, among the tokens that may leave."""

    name: ClassVar[str] = "redundancy and shift"
    of: str = "keys"
    weight: float = 0.5

    def required(self):
        return Redundancy(self.of).required() | Shift().required()

    def __call__(self, snapshot):
        scores = standard(Redundancy(self.of)(snapshot)[:, 0::2])
        scores = scores + self.weight * standard(Shift()(snapshot))[:, 0::2]
        full = scores.new_full(snapshot.tokens.shape[:2], 1e9)
        full[:, 0::2] = scores
        return full


@dataclass
class Memory:
    """Streams or scores of the last reductions, of the tokens that are left."""

    held: list[Tensor] = field(default_factory=list)

    def add(self, block, first, values):
        self.held = [*([] if block == first else self.held), values][-WINDOW:]


@dataclass(frozen=True)
class Followed(Prune):
    """Prune, and the memory loses the same tokens."""

    name: ClassVar[str] = "followed"
    memory: Memory = field(compare=False)

    def _label_values(self):
        return []

    def __call__(self, snapshot, scores, drop):
        step = super().__call__(snapshot, scores, drop)
        self.memory.held = [gather(values, step.kept) for values in self.memory.held]
        return step


@dataclass(frozen=True)
class Distant(Score):
    """Change since some reductions ago: its length, or how unlike its direction is."""

    name: ClassVar[str] = "change between distant depths"
    needs: ClassVar = frozenset({"entry", "exit"})
    memory: Memory = field(compare=False)
    first: int
    way: str = "length"

    def _label_values(self):
        return [self.way]

    def __call__(self, snapshot):
        self.memory.add(snapshot.block, self.first, snapshot.entry)
        change = (snapshot.exit - self.memory.held[0]).float()
        if self.way == "length":
            return change.norm(dim=-1)
        direction = F.normalize(change, dim=-1)
        likeness = (direction[:, 0::2] @ direction[:, 1::2].transpose(1, 2)).amax(-1)
        scores = direction.new_full(direction.shape[:2], 2.0)
        scores[:, 0::2] = 1 - likeness
        return scores


@dataclass(frozen=True)
class Averaged(Score):
    """A score averaged over the last reductions; the shift standardised first."""

    name: ClassVar[str] = "averaged"
    inner: Score
    memory: Memory = field(compare=False)
    first: int

    def _label_values(self):
        return [self.inner]

    def required(self):
        return self.inner.required()

    def __call__(self, snapshot):
        scores = self.inner(snapshot)
        scores = scores if isinstance(self.inner, Redundancy) else standard(scores)
        self.memory.add(snapshot.block, self.first, scores[..., None])
        return torch.cat(self.memory.held, dim=-1).mean(-1)


def ideas(first):
    """Label and plans' method; several are averaged."""
    memories = [Memory() for _ in range(4)]
    yield "random, mean of 3 seeds", [(Random(seed), Prune()) for seed in range(3)]
    yield "shift, printed", [(Shift(), Prune())]
    yield "shift, update", [(Shift(definition="update"), Prune())]
    yield "ToMe", [(Shift(), ToMe())]
    yield "**sinks**: shift, sinks at its median", [(Sinks(Shift()), Prune())]
    yield "shift, sinks leave first", [(Sinks(Shift(), "first"), Prune())]
    yield "shift, sinks protected", [(Sinks(Shift(), "protected"), Prune())]
    yield "**redundancy** of keys", [(Redundancy("keys"), Prune())]
    yield "redundancy of keys, sinks protected", [(Sinks(Redundancy("keys"), "protected"), Prune())]
    yield "redundancy of keys + 0.5 shift", [(RedundantAndStill("keys", 0.5), Prune())]
    yield "redundancy of keys + 1.0 shift", [(RedundantAndStill("keys", 1.0), Prune())]
    yield "**direction of the shift**: redundancy of updates", [(Redundancy("mlp"), Prune())]
    yield "redundancy of updates + 0.5 shift", [(RedundantAndStill("mlp", 0.5), Prune())]
    yield (
        "**distant depths**: length of the change",
        [(Distant(memories[0], first), Followed(memories[0]))],
    )
    yield (
        "redundancy of the change",
        [(Distant(memories[1], first, "direction"), Followed(memories[1]))],
    )
    yield (
        "**averaged** over three reductions: shift",
        [(Averaged(Shift(), memories[2], first), Followed(memories[2]))],
    )
    yield (
        "averaged: redundancy of keys",
        [(Averaged(Redundancy("keys"), memories[3], first), Followed(memories[3]))],
    )
    yield "**merging** what leaves: by the shift", [(Shift(), Merge())]
    yield "merging, by redundancy of keys", [(Redundancy("keys"), Merge())]
    yield "merging, by redundancy of updates", [(Redundancy("mlp"), Merge())]
    yield "vid-TLDR's merging by the shift", [(Shift(), VidTLDR())]


def main(
    given: Given = Given(),  # noqa: B008  (frozen)
    out: Path = Path("runs/ideas"),
    share: float = 0.65,
    images: int = 500,
    batch: int = 25,
    dtype: Dtype = "float32",
):
    """``share`` of the dense FLOPs."""
    report = Report(out, "timm", dtype=dtype, model=given.model, images=images, share=share)
    subject = labelled(given.model, given.checkpoint, given.test, given.test, 1, images)
    bench = Bench(subject, batch, report.dtype, report.memo(), report.device)
    left, right = (
        bench.fit(shape, share, Shift(), Prune()).drop for shape in (bench.paper, bench.constant)
    )
    report.add(f"Left: {Plan(left).schedule}. Right: {Plan(right).schedule}.")

    def figures(drop, methods):
        plans = [Plan(drop, score, reduction) for score, reduction in methods]
        _, quality, agreement, kl = mean([bench.rate(plan) for plan in plans])
        return f"{quality:.1f} %", f"{100 * agreement:.1f} %", f"{kl:.4f}"

    both = zip(ideas(min(left)), ideas(min(right)), strict=True)
    report.table(
        ("idea", *("accuracy", "agreement", "KL") * 2),
        (
            (label, *figures(left, methods), *figures(right, others))
            for (label, methods), (_, others) in both
        ),
    )


if __name__ == "__main__":
    command(main)
