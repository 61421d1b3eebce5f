"""What helps at half of the FLOPs and below, against the dense model on a smaller input.

    python benchmarks/low_budgets.py --checkpoint W --search DIR --test DIR --out docs/results/low

Schedules, what merged tokens are, ways to match them, and smaller images that lose tokens too. A
row says the loss (KL, or 1 - cosine of features) and what share it is of the smaller input's at the
same FLOPs (see ``lab.py``). ``--subject`` takes another model (see
``plans.py``). What is not in the package is written here. A stopped run goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch.nn import functional as F

from harness import Dtype, Report, command
from lab import Lab
from repshift import Merge, Plan, Redundancy, Shift, ToMe
from repshift.reductions.prune import nearest
from repshift.search.candidates import closed_forms
from repshift.sequence.token_map import Step, gather
from subjects import Given, Named, open_subject

KEPT = Merge(length="kept")


def likeness(metric, prefix):
    """Cosines of all pairs, -inf of a token with itself and with the prefix."""
    direction = F.normalize(metric.float(), dim=-1)
    cosine = direction @ direction.transpose(1, 2)
    cosine[:, :prefix] = cosine[:, :, :prefix] = -torch.inf
    cosine.diagonal(dim1=1, dim2=2).fill_(-torch.inf)
    return cosine


def without(gone, drop):
    """Indices of what stays and of the ``drop`` that are gone, in order."""
    order = gone.long().argsort(dim=1, stable=True)
    return order[:, : gone.shape[1] - drop], order[:, gone.shape[1] - drop :]


@dataclass(frozen=True)
class AmongAll(Merge):
    """The most alike pair of all tokens loses one of them, which joins its nearest; again."""

    name: ClassVar[str] = "among-all"
    needs: ClassVar = frozenset({"keys"})
    scored: ClassVar[bool] = False
    of: str = "keys"

    def __call__(self, snapshot, scores, drop):
        metric = snapshot.keys.mean(1) if self.of == "keys" else snapshot.tokens
        cosine = likeness(metric, snapshot.prefix)
        rows, count = torch.arange(len(cosine)), cosine.shape[1]
        gone = torch.zeros(cosine.shape[:2], dtype=torch.bool)
        for _ in range(drop):
            best = cosine.flatten(1).argmax(1)
            left, stayed = best // count, best % count
            gone[rows, left] = True
            cosine[rows, left] = cosine[rows, :, left] = -torch.inf
            cosine[rows, stayed] = -torch.inf  # a target stays
        kept, dropped = without(gone, drop)
        target = nearest(snapshot, kept, dropped)
        return Step(kept, dropped, target, torch.ones(dropped.shape), keep_length=True)


@dataclass(frozen=True)
class Ward(Merge):
    """Ward's clustering of the tokens' directions."""

    name: ClassVar[str] = "ward"
    scored: ClassVar[bool] = False

    def __call__(self, snapshot, scores, drop):
        cost = 1 - likeness(snapshot.tokens, snapshot.prefix)  # inf where nothing may be joined
        batch, count = cost.shape[:2]
        rows, size = torch.arange(batch), torch.ones(batch, count)
        head = torch.arange(count).expand(batch, -1)
        for _ in range(drop):
            best = cost.flatten(1).argmin(1)
            one, other = best // count, best % count
            n, m = size[rows, one, None], size[rows, other, None]
            joined = (n + size) * cost[rows, one] + (m + size) * cost[rows, other]
            joined = (joined - size * cost[rows, one, other, None]) / (n + m + size)
            joined[rows, one] = torch.inf
            cost[rows, one] = cost[rows, :, one] = joined.nan_to_num(torch.inf, posinf=torch.inf)
            cost[rows, other] = cost[rows, :, other] = torch.inf
            size[rows, one] += size[rows, other]
            head = head.where(head != other[:, None], one[:, None])
        kept, dropped = without(head != torch.arange(count), drop)
        target = torch.searchsorted(kept.contiguous(), head.gather(1, dropped))
        return Step(kept, dropped, target, torch.ones(dropped.shape), keep_length=True)


@dataclass(frozen=True)
class ByShift(Merge):
    """What joins another counts by its shift, where that is the smaller one."""

    name: ClassVar[str] = "by-shift"
    needs: ClassVar = Shift().required()

    def __call__(self, snapshot, scores, drop):
        step = KEPT(snapshot, scores, drop)
        shift = Shift(definition="update")(snapshot)[..., None]
        theirs = gather(gather(shift, step.kept), step.target)
        share = (gather(shift, step.dropped) / theirs).clamp(0.2, 1)[..., 0]
        return replace(step, share=share)


def ideas(depth, sides):
    """Label, shape, score, reduction and size."""
    _, constant, late, early, second = closed_forms(depth)
    keys, mlp = Redundancy("keys"), Redundancy("mlp")
    steeper = [part**2 for part in early]
    first_half = [float(block < depth // 2) for block in range(depth)]
    yield "**schedule**, merging by redundancy of keys: constant", constant, keys, Merge(), None
    for label, shape in (
        ("late", late), ("every second", second), ("early", early), ("early, steeper", steeper),
        ("the first half of the blocks", first_half),
    ):  # fmt: skip
        yield label, shape, keys, Merge(), None
    yield "**early**: ToMe", early, keys, ToMe(), None
    yield "merging by redundancy of updates", early, mlp, Merge(), None
    yield "**length kept**: keys", early, keys, KEPT, None
    yield "updates", early, mlp, KEPT, None
    yield "keys, constant", constant, keys, KEPT, None
    yield "keys, no attention by size", early, keys, Merge("plain", "kept"), None
    yield "**matching**, length kept: among all, by keys", early, keys, AmongAll(), None
    yield "among all, by tokens", early, keys, AmongAll(of="tokens"), None
    yield "Ward's clustering", early, keys, Ward(), None
    yield "keys, merged by their shift", early, keys, ByShift(), None
    for side in sides:
        yield f"**{side} pixels**: keys, constant", constant, keys, Merge(), side
        yield "keys, early", early, keys, Merge(), side
        yield "keys, early, length kept", early, keys, KEPT, side
        yield "updates, early, length kept", early, mlp, KEPT, side


def main(
    subject: Named = "timm",
    given: Given = Given(),  # noqa: B008  (frozen)
    out: Path = Path("runs/low-budgets"),
    budgets: tuple[float, ...] = (0.5, 0.4),
    sides: tuple[int, ...] = (196, 182),
    images: int = 500,
    batch: int = 25,
    dtype: Dtype = "float32",
):
    opened = open_subject(subject, given, 1, images)
    report = Report(out, "timm", dtype=dtype, model=opened.name, inputs=len(opened.test))
    lab = Lab(opened, batch, report.dtype, report.memo())

    def cells(shape, method):
        for budget in budgets:
            plan = lab.at(lab.rival_of(method)).fit(method, shape, budget)
            if plan is None:
                yield from ("not reached", "")
                continue
            loss = lab.rated(plan)[0].mean()
            yield from (f"{loss:.4f}", f"{loss / lab.rival_at(lab.share(plan)).mean():.2f}")

    heads = [(f"at {100 * b:g} % of the FLOPs", "of the rival's") for b in budgets]
    report.table(
        ("idea", *(head for pair in heads for head in pair)),
        (
            (label, *cells(shape, Plan({}, score, reduction, side)))
            for label, shape, score, reduction, side in ideas(len(opened.spec.blocks), sides)
        ),
    )


if __name__ == "__main__":
    command(main)
