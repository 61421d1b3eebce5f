"""Plans against the dense model on a smaller input at equal FLOPs, image by image.

    python benchmarks/against_smaller.py --checkpoint W --search DIR --test DIR --plans PLAN... \\
        --out docs/results/caltech-rival

The plans are those that ``repshift search`` found. Beside each, at what it costs, are the usual
methods by an early schedule; random dropping is the mean of some seeds. The last column is how much
lower the loss (KL, or 1 - cosine of features) is than the smaller input's (95 % interval of the
paired bootstrap). ``--subject`` takes another model. A stopped run goes on where it was.
"""

from pathlib import Path

import torch

from harness import Dtype, Report, command
from lab import Lab
from repshift import ClassAttention, ColumnAttention, Plan, Prune, Random, Shift, ToMe
from repshift.measure.bootstrap import paired_interval
from repshift.search.candidates import closed_forms
from subjects import Given, Named, open_subject


def contenders(lab, found, seeds):
    """Label and plans at what ``found`` costs; the figures of several plans are averaged."""
    spec = lab.subject.spec
    attention = ClassAttention() if spec.class_token else ColumnAttention()
    *_, early, _ = closed_forms(len(spec.blocks))
    methods = {
        f"random, mean of {seeds} seeds": [(Random(seed), Prune()) for seed in range(seeds)],
        str(attention): [(attention, Prune())],
        "shift": [(Shift(), Prune())],
        "ToMe": [(Shift(), ToMe())],
    }
    for label, same in methods.items():
        plans = [lab.at(None).fit(Plan({}, *one), early, lab.share(found)) for one in same]
        if None not in plans:
            yield label, plans
    size = f" on {found.input_size} pixels" if found.input_size else ""
    yield f"**found**: {found.method}{size}", [found]


def row(lab, label, plans):
    share = lab.share(plans[0])
    losses = torch.stack([lab.losses(plan) for plan in plans]).mean(0)
    quality, fidelity = torch.tensor([lab.figures(plan) for plan in plans]).mean(0).tolist()
    theirs = lab.rival_at(share)
    mean, low, high = paired_interval(losses, theirs)
    return (
        label, plans[0].schedule, f"{100 * share:.1f} %", f"{quality:.1f}",
        f"{100 * fidelity:.1f} %", f"{losses.mean():.4f}",
        f"{losses.mean() / theirs.mean():.2f}", f"{-mean:.4f} ({-high:.4f} to {-low:.4f})",
    )  # fmt: skip


def dense_row(lab, label, side, ratio):
    plan = Plan({}, input_size=side)
    quality, fidelity = lab.figures(plan)
    share, loss = lab.share(plan), lab.losses(plan).mean()
    return (
        label, f"{side} pixels" if side else "", f"{100 * share:.1f} %", f"{quality:.1f}",
        f"{100 * fidelity:.1f} %", f"{loss:z.4f}", ratio, "",
    )  # fmt: skip


def rows(lab, found, seeds):
    yield dense_row(lab, "dense", None, "")
    least = min(map(lab.share, found))
    for side in lab.sizes:
        yield dense_row(lab, "dense, smaller input", side, 1)
        if lab.share(Plan({}, input_size=side)) < least:
            break
    for plan in found:
        for label, plans in contenders(lab, plan, seeds):
            yield row(lab, label, plans)


def main(
    plans: tuple[Path, ...],
    subject: Named = "timm",
    given: Given = Given(),  # noqa: B008  (frozen)
    out: Path = Path("runs/against-smaller"),
    images: int = 500,
    seeds: int = 3,
    batch: int = 25,
    dtype: Dtype = "float32",
):
    opened = open_subject(subject, given, 1, images)
    facts = {"model": opened.name, "test inputs": len(opened.test)}
    report = Report(out, "timm", dtype=dtype, **facts)
    lab = Lab(opened, batch, report.dtype, report.memo())
    names = ("agreement", "KL") if opened.logits else ("cosine", "1 - cosine")
    heads = ["", "plan", "FLOPs", opened.quality_name, *names, "of the smaller input's"]
    found = [Plan.from_json(path.read_text(encoding="utf-8")) for path in plans]
    report.table([*heads, "lower by (95 %)"], rows(lab, found, seeds))


if __name__ == "__main__":
    command(main)
