"""Plans against the dense model on a smaller input at equal FLOPs, image by image.

    python benchmarks/against_smaller.py --checkpoint W --search DIR --test DIR --plans PLAN... \\
        --out docs/results/caltech-rival

The plans are those that ``repshift search`` found, or that are found now for ``--budgets``, without
labels (``plan-BUDGET.json`` beside the results). Beside each, at what it costs, are the usual
methods; random dropping is the mean of some seeds. The last column is how much lower the loss (KL,
or 1 - cosine of features) is than the smaller input's at the same FLOPs (95 % interval of the
paired bootstrap). ``--subject`` takes another model. With ``--rounds`` the found plans and the
smaller inputs next to them are timed instead, in turn. A stopped run goes on where it was.
"""

import argparse
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, median

import torch

from lab import Lab
from plans import found_plan
from repshift import (
    ClassAttention,
    ColumnAttention,
    InputError,
    Merge,
    Plan,
    Prune,
    Random,
    Redundancy,
    Shift,
    ToMe,
    compress,
)
from repshift.files import write_text
from repshift.input_size import input_in_words
from repshift.measure.bootstrap import paired_interval
from repshift.measure.environment import environment, in_words
from repshift.measure.speed import interleave, speedup
from repshift.search.candidates import closed_forms
from repshift.search.memo import Memo
from subjects import SUBJECTS, add_arguments, open_subject

TIMED = 8  # inputs in a batch whose speed is measured


def contenders(lab, found, seeds):
    """Label and plans at what ``found`` costs; the figures of several plans are averaged."""
    spec = lab.subject.spec
    attention = ClassAttention() if spec.class_token else ColumnAttention()
    paper, constant, _, early, *_, second = closed_forms(len(spec.blocks))
    keys = Redundancy("keys"), Merge()
    share = lab.share(found)
    rows = [
        (f"random, paper's blocks, mean of {seeds} seeds", paper,
         [(Random(seed), Prune()) for seed in range(seeds)]),
        (f"{attention}, paper's blocks", paper, [(attention, Prune())]),
        ("shift, paper's blocks", paper, [(Shift(), Prune())]),
        ("ToMe, constant", constant, [(Shift(), ToMe())]),
        ("ToMe, early", early, [(Shift(), ToMe())]),
        ("redundancy(keys) + merge, constant", constant, [keys]),
        ("redundancy(keys) + merge, early", early, [keys]),
        ("redundancy(mlp) + merge, every second block", second, [(Redundancy("mlp"), Merge())]),
    ]  # fmt: skip
    for label, shape, methods in rows:
        yield label, [fitted(lab, None, shape, share, *one) for one in methods]
    if lab.sized:
        # Half of the saving by size, the other half by merging.
        both = min(lab.sized, key=lambda rival: abs(lab.share_of(rival) - share**0.5))
        label = f"redundancy(keys) + merge, constant, on {both.label}"
        yield label, [fitted(lab, both, constant, share, *keys)]
    size = input_in_words(found)
    yield f"**found**: {found.method}{size and ' on '}{size}", [found]


def fitted(lab, rival, shape, share, *method):
    """A closed form at ``share``; None where the model does not take it, or not so few tokens."""
    plan = Plan({}, *method)
    if rival is not None:
        plan = replace(plan, input_size=rival.plan.input_size, frames=rival.plan.frames)
    model, spec = (rival.model, rival.spec) if rival else (lab.model, lab.subject.spec)
    try:
        compress(model, replace(plan, drop={0: 1}), spec).detach()
    except InputError:
        return None
    return lab.at(rival).fit(plan, shape, share)


@torch.inference_mode()
def speeds(lab, found, rounds):
    """A table: each plan's time over that of the smaller input at the same FLOPs, timed in turn."""
    inputs, ways, runs = lab.inputs[:TIMED], {"dense": nullcontext}, {}
    runs["dense"] = lambda: lab.model(inputs)
    for plan in found:
        rival = lab.rival_of(plan)
        model, spec = (rival.model, rival.spec) if rival else (lab.model, lab.subject.spec)
        given = rival.given(inputs) if rival else inputs
        ways[plan] = partial(compress, model, plan, spec)
        runs[plan] = partial(model, given)
        for other in filter(None, lab.beside(lab.share(plan))):
            ways[other], runs[other] = nullcontext, partial(other.model, other.given(inputs))
    names = {str(number): way for number, way in enumerate(ways)}
    times = interleave(
        {name: ways[way] for name, way in names.items()},
        {name: runs[way] for name, way in names.items()},
        rounds=rounds, seconds=0.3,
    )  # fmt: skip
    taken = {way: times[name] for name, way in names.items()}
    yield "| found | FLOPs | vs dense | smaller inputs beside it | its time over theirs |"
    yield "|---|---:|---:|---|---:|"
    for plan in found:
        share, size = lab.share(plan), input_in_words(plan)
        above, below = lab.beside(share)
        more, less = taken[above or "dense"], taken[below]
        top = lab.share_of(above) if above else 1.0
        part = (top - share) / (top - lab.share_of(below))
        theirs = [a + (b - a) * part for a, b in zip(more, less, strict=True)]
        ratios = sorted(own / their for own, their in zip(taken[plan], theirs, strict=True))
        beside = ", ".join(
            f"{one.label} ({100 * lab.share_of(one):.1f} %, "
            f"{speedup(taken[one], taken['dense']):.2f}x)"
            for one in filter(None, (above, below))
        )
        yield (
            f"| {plan.method}{size and ' on '}{size} | {100 * share:.1f} % | "
            f"{speedup(taken[plan], taken['dense']):.2f}x | {beside} | "
            f"{median(ratios):.3f} ({ratios[len(ratios) // 4]:.3f} to "
            f"{ratios[-1 - len(ratios) // 4]:.3f}) |"
        )


def line(lab, label, plans):
    share = lab.share(plans[0])
    losses, *figures = zip(*map(lab.rated, plans), strict=True)
    losses, figures = torch.stack(losses).mean(0), [fmean(each) for each in figures]
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
    parser.add_argument("--plans", nargs="*", type=Path, default=[])
    parser.add_argument("--budgets", nargs="*", type=float, default=[])
    parser.add_argument("--samples", type=int, default=96, help="inputs to search on")
    parser.add_argument("--out", type=Path, default=Path("runs/against-smaller"))
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=0, help="of the timing, which is all then")
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args()
    subject = open_subject(
        arguments.subject, parser, arguments, arguments.samples, arguments.images
    )
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
    found = [Plan.from_json(path.read_text(encoding="utf-8")) for path in arguments.plans]
    found += [
        found_plan(subject, lab.model, lab.placed(subject.searched), budget, arguments.out)
        for budget in arguments.budgets
    ]
    if arguments.rounds:
        text = [in_words(facts), "", *speeds(lab, found, arguments.rounds)]
        write_text(arguments.out.with_suffix(".md"), "\n".join([*text, ""]))
        print("\n".join(text))
        return
    text = [in_words(facts), "", f"| {' | '.join(heads)} |", "|---|---|" + "---:|" * 6]
    _, quality, agreement = lab.rated(Plan({}))
    text.append(f"| dense | | 100.0 % | {quality:.1f} | {100 * agreement:.1f} % | 0 | | |")
    for rival in dict.fromkeys(one for plan in found for one in lab.beside(lab.share(plan)) if one):
        losses, quality, agreement = lab.dense_on(rival)
        text.append(
            f"| dense, smaller input | {rival.label} | {100 * lab.share_of(rival):.1f} % | "
            f"{quality:.1f} | {100 * agreement:.1f} % | {losses.mean():.4f} | 1 | |"
        )
    for plan in found:
        for label, plans in contenders(lab, plan, arguments.seeds):
            if None in plans:
                continue
            text.append(line(lab, label, plans))
            print(text[-1], flush=True)
            write_text(arguments.out.with_suffix(".md"), "\n".join([*text, ""]))


if __name__ == "__main__":
    main()
