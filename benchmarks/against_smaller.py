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

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import fmean, median

import torch

from harness import Dtype, Report, command, in_turn
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
from repshift.input_size import input_in_words
from repshift.measure.bootstrap import paired_interval
from repshift.measure.speed import speedup
from repshift.search.candidates import closed_forms
from subjects import Given, Named, open_subject

TIMED = 8  # inputs in a batch whose speed is measured
SPEEDS = ("found", "FLOPs", "vs dense", "smaller inputs beside it", "its time over theirs")


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
    """Rows: each plan's time over that of the smaller input at the same FLOPs, timed in turn."""
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
    times = in_turn(
        {name: runs[way] for name, way in names.items()},
        contexts={name: ways[way] for name, way in names.items()},
        rounds=rounds, seconds=0.3,
    )  # fmt: skip
    taken = {way: times[name] for name, way in names.items()}
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
        low, high = ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]
        yield (
            f"{plan.method}{size and ' on '}{size}", f"{100 * share:.1f} %",
            f"{speedup(taken[plan], taken['dense']):.2f}x", beside,
            f"{median(ratios):.3f} ({low:.3f} to {high:.3f})",
        )  # fmt: skip


def row(lab, label, plans):
    share = lab.share(plans[0])
    losses, *figures = zip(*map(lab.rated, plans), strict=True)
    losses, (quality, fidelity) = torch.stack(losses).mean(0), [fmean(each) for each in figures]
    theirs = lab.rival_at(share)
    mean, low, high = paired_interval(losses, theirs)
    return (
        label, plans[0].schedule, f"{100 * share:.1f} %", f"{quality:.1f}",
        f"{100 * fidelity:.1f} %", f"{losses.mean():.4f}",
        f"{losses.mean() / theirs.mean():.2f}", f"{-mean:.4f} ({-high:.4f} to {-low:.4f})",
    )  # fmt: skip


def dense_row(lab, label, rival, ratio):
    losses, quality, fidelity = lab.dense_on(rival) if rival else lab.rated(Plan({}))
    share = lab.share_of(rival) if rival else 1.0
    return (
        label, rival.label if rival else "", f"{100 * share:.1f} %", f"{quality:.1f}",
        f"{100 * fidelity:.1f} %", f"{losses.mean():z.4f}", ratio, "",
    )  # fmt: skip


def rows(lab, found, seeds):
    yield dense_row(lab, "dense", None, "")
    for rival in dict.fromkeys(one for plan in found for one in lab.beside(lab.share(plan)) if one):
        yield dense_row(lab, "dense, smaller input", rival, 1)
    for plan in found:
        for label, plans in contenders(lab, plan, seeds):
            if None not in plans:
                yield row(lab, label, plans)


def main(
    plans: tuple[Path, ...] = (),
    budgets: tuple[float, ...] = (),
    samples: int = 96,
    subject: Named = "timm",
    given: Given = Given(),  # noqa: B008  (frozen)
    out: Path = Path("runs/against-smaller"),
    images: int = 500,
    seeds: int = 3,
    rounds: int = 0,
    batch: int = 25,
    dtype: Dtype = "float32",
):
    """``samples`` to search on, ``images`` to test on; ``rounds`` of the timing."""
    opened = open_subject(subject, given, samples, images)
    facts = {"model": opened.name, "test inputs": len(opened.test)}
    report = Report(out, "timm", dtype=dtype, **facts)
    lab = Lab(opened, batch, report.dtype, report.memo())
    found = [Plan.from_json(path.read_text(encoding="utf-8")) for path in plans]
    searched = lab.placed(opened.searched)
    found += [found_plan(opened, lab.model, searched, budget, report) for budget in budgets]
    if rounds:
        report.table(SPEEDS, speeds(lab, found, rounds))
        return
    names = ("agreement", "KL") if opened.logits else ("cosine", "1 - cosine")
    heads = ["", "plan", "FLOPs", opened.quality_name, *names, "of the smaller input's"]
    report.table([*heads, "lower by (95 %)"], rows(lab, found, seeds))


if __name__ == "__main__":
    command(main)
