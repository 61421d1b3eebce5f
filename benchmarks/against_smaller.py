"""Plans against the dense model on a smaller input at equal FLOPs, image by image.

    python benchmarks/against_smaller.py --checkpoint W --search DIR --test DIR --plans PLAN... \\
        --out docs/results/caltech-rival

The plans are those that ``repshift search`` found. Beside each, at what it costs, are the usual
methods by an early schedule; random dropping is the mean of some seeds. The last column is how much
lower the loss (KL, or 1 - cosine of features) is than the smaller input's (95 % interval of the
paired bootstrap). ``--subject`` takes another model. A stopped run goes on where it was.
"""

import argparse
from pathlib import Path

import torch

from lab import Lab
from repshift import ClassAttention, ColumnAttention, Plan, Prune, Random, Shift, ToMe
from repshift.files import write_text
from repshift.measure.bootstrap import paired_interval
from repshift.measure.environment import environment, in_words
from repshift.search.candidates import closed_forms
from repshift.search.memo import Memo
from subjects import SUBJECTS, add_arguments, open_subject


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


def line(lab, label, plans):
    share = lab.share(plans[0])
    losses = torch.stack([lab.losses(plan) for plan in plans]).mean(0)
    figures = torch.tensor([lab.figures(plan) for plan in plans]).mean(0).tolist()
    theirs = lab.rival_at(share)
    mean, low, high = paired_interval(losses, theirs)
    return (
        f"| {label} | {plans[0].schedule} | {100 * share:.1f} % | {figures[0]:.1f} | "
        f"{100 * figures[1]:.1f} % | {losses.mean():.4f} | {losses.mean() / theirs.mean():.2f} | "
        f"{-mean:.4f} ({-high:.4f} to {-low:.4f}) |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subject", choices=SUBJECTS, default="timm")
    add_arguments(parser)
    parser.add_argument("--plans", nargs="+", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/against-smaller"))
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    subject = open_subject(arguments.subject, parser, arguments, 1, arguments.images)
    dtype = getattr(torch, arguments.dtype)
    facts = {"model": subject.name, "test inputs": len(subject.test)}
    facts |= environment(torch.device("cpu"), dtype, "timm")
    lab = Lab(subject, arguments.batch, dtype, Memo(arguments.out.with_suffix(".json"), facts))
    loss = "KL" if subject.logits else "1 - cosine"
    fidelity = "agreement" if subject.logits else "cosine"
    heads = [
        "", "plan", "FLOPs", subject.quality_name, fidelity, loss, "of the smaller input's",
        "lower by (95 %)",
    ]  # fmt: skip
    text = [in_words(facts), "", f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * 6]
    quality, agreement = lab.figures(Plan({}))
    text.append(f"| dense | | 100.0 % | {quality:.1f} | {100 * agreement:.1f} % | 0 | | |")
    found = [Plan.from_json(path.read_text(encoding="utf-8")) for path in arguments.plans]
    least = min(map(lab.share, found))
    for side in lab.sizes:
        plan = Plan({}, input_size=side)
        share, (quality, agreement) = lab.share(plan), lab.figures(plan)
        text.append(
            f"| dense, smaller input | {side} pixels | {100 * share:.1f} % | {quality:.1f} | "
            f"{100 * agreement:.1f} % | {lab.losses(plan).mean():.4f} | 1 | |"
        )
        if share < least:
            break
    for plan in found:
        for label, plans in contenders(lab, plan, arguments.seeds):
            text.append(line(lab, label, plans))
            print(text[-1], flush=True)
            write_text(arguments.out.with_suffix(".md"), "\n".join([*text, ""]))


if __name__ == "__main__":
    main()
