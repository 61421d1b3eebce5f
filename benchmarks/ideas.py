"""Ideas for a better score or reduction, on real images at equal token counts: what helps is kept.

    python benchmarks/ideas.py --checkpoint W --test DIR --out docs/results/ideas

The counts are those at which pruning by the shift costs a share of the dense FLOPs, with the
paper's three blocks and the same number in every block. Random dropping is the measure of all. What
is not in the package is written here, in a few lines each. A stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from plans import Bench, mean
from repshift import Merge, Plan, Prune, Random, Redundancy, Shift, ToMe, VidTLDR
from repshift.files import write_text
from repshift.measure.environment import environment, in_words
from repshift.scores import Score
from repshift.search.memo import Memo
from repshift.sequence.token_map import gather
from subjects import labelled

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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="timm:vit_small_patch14_dinov2")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--test", type=Path, required=True, help="images with labels.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/ideas"))
    parser.add_argument("--share", type=float, default=0.65, help="of the dense FLOPs")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    device, dtype = torch.device("cpu"), getattr(torch, arguments.dtype)
    settings = {"model": arguments.model, "images": arguments.images, "share": arguments.share}
    settings |= environment(device, dtype, "timm")
    memo = Memo(arguments.out.with_suffix(".json"), settings)
    subject = labelled(
        arguments.model, arguments.checkpoint, arguments.test, arguments.test, 1, arguments.images
    )
    bench = Bench(subject, arguments.batch, dtype, memo, device)
    drops = [
        bench.fit(shape, arguments.share, Shift(), Prune()).drop
        for shape in (bench.paper, bench.constant)
    ]
    rows = []
    for number, drop in enumerate(drops):
        for at, (label, methods) in enumerate(ideas(min(drop))):
            _, right, agreement, kl = mean(
                [bench.rate(Plan(drop, score, reduction)) for score, reduction in methods]
            )
            cells = f"{right:.1f} % | {100 * agreement:.1f} % | {kl:.4f}"
            if number == 0:
                rows.append(f"| {label} | {cells}")
            else:
                rows[at] += f" | {cells} |"
    schedules = [Plan(drop).schedule for drop in drops]
    text = [
        in_words(settings),
        "",
        f"Left: {schedules[0]}. Right: {schedules[1]}.",
        "",
        "| idea | accuracy | agreement | KL | accuracy | agreement | KL |",
        "|---|---:|---:|---:|---:|---:|---:|",
        *rows,
        "",
    ]
    write_text(arguments.out.with_suffix(".md"), "\n".join(text))
    print("\n".join(text))


if __name__ == "__main__":
    main()
