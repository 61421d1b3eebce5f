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
from statistics import fmean, quantiles

import torch

from harness import Dtype, Report, command
from lab import Lab
from repshift import InputError, Plan, compress, search_plan
from repshift.evaluation.report.progress import search_bar
from repshift.files import write_text
from repshift.input_size import input_in_words
from repshift.measure.bootstrap import paired_interval
from repshift.measure.speed import speedup
from repshift.search.candidates import closed_forms
from subjects import Given, Named, open_subject

TIMED = 8  # inputs in a batch whose speed is measured
SPEEDS = ("found", "FLOPs", "vs dense", "smaller inputs beside it", "its time over theirs")
MERGED = "redundancy(keys) + merge"


def found_plan(lab, budget, report):
    """The plan that the search finds at a budget, kept beside the results."""
    path, subject = report.file(f"-plan-{budget:g}.json"), lab.subject
    state = path.with_suffix(".search.json")
    if not path.is_file():
        with search_bar() as progress:
            found = search_plan(
                subject.model, lab.placed(subject.searched), flops=budget, spec=subject.spec,
                objective=subject.objective, name=subject.name, state=state, progress=progress,
            )  # fmt: skip
        write_text(path, found.to_json())
        state.unlink(missing_ok=True)
    return read_plan(path)


def read_plan(path):
    return Plan.from_json(path.read_text(encoding="utf-8"))


def contenders(lab, found, seeds, further):
    """Label and plans at what ``found`` costs; the figures of several plans are averaged."""
    spec, share = lab.subject.spec, lab.share(found)
    paper, constant, _, early, *_, second = closed_forms(len(spec.blocks))
    attention = "class-attention" if spec.class_token else "column-attention"
    random = [f"random({seed})" for seed in range(seeds)]
    rows = [
        (f"random, paper's blocks, mean of {seeds} seeds", paper, random),
        (f"{attention}, paper's blocks", paper, [attention]),
        ("shift, paper's blocks", paper, ["shift(mlp, l2)"]),
        *((f"{method}, paper's blocks", paper, [method]) for method in further),
        ("ToMe, constant", constant, ["tome"]),
        ("ToMe, early", early, ["tome"]),
        (f"{MERGED}, constant", constant, [MERGED]),
        (f"{MERGED}, early", early, [MERGED]),
        ("redundancy(mlp) + merge, every second block", second, ["redundancy(mlp) + merge"]),
    ]
    for label, shape, methods in rows:
        yield label, [fitted(lab, lab.own, method, shape, share) for method in methods]
    sized = [rival for rival in lab.smaller if rival.sized]
    if sized:
        # Half of the saving by size, the other half by merging.
        both = min(sized, key=lambda rival: abs(lab.share_of(rival) - share**0.5))
        label = f"{MERGED}, constant, on {both.label}"
        yield label, [fitted(lab, both, MERGED, constant, share)]
    yield f"**found**: {in_words(found)}", [found]


def fitted(lab, rival, method, shape, share):
    """A closed form at ``share``; None where the model does not take it, or not so few tokens."""
    plan = rival.sized.of(Plan.from_method(method, {}))
    try:
        compress(rival.model, replace(plan, drop={0: 1}), rival.sized.spec).detach()
    except InputError:
        return None
    return lab.at(rival).fit(plan, shape, share)


def in_words(plan):
    size = input_in_words(plan)
    return f"{plan.method}{size and ' on '}{size}"


def row(lab, label, plans):
    share = lab.share(plans[0])
    losses, *figures = zip(*map(lab.rated, plans), strict=True)
    losses, theirs = torch.stack(losses).mean(0), lab.rival_at(share)
    mean, low, high = paired_interval(losses, theirs)
    cells = line(label, plans[0].schedule, share, losses, *map(fmean, figures))
    lower = f"{-mean:.4f} ({-high:.4f} to {-low:.4f})"
    return *cells, f"{losses.mean() / theirs.mean():.2f}", lower


def line(label, plan, share, losses, *figures):
    *quality, fidelity = figures
    quality = [f"{each:.1f}" for each in quality]
    shares = f"{100 * share:.1f} %", *quality, f"{100 * fidelity:.1f} %"
    return label, plan, *shares, f"{losses.mean():z.4f}"


def rows(lab, found, seeds, further):
    yield *line("dense", "", 1.0, *lab.rated(Plan({}))), "", ""
    for rival in dict.fromkeys(one for plan in found for one in lab.beside(lab.share(plan))):
        if rival is not lab.own:
            label, share = "dense, smaller input", lab.share_of(rival)
            yield *line(label, rival.label, share, *lab.dense_on(rival)), 1, ""
    for plan in found:
        for label, plans in contenders(lab, plan, seeds, further):
            if None not in plans:
                yield row(lab, label, plans)


@torch.inference_mode()
def speeds(lab, found, setting):
    """Rows: each plan's time over that of the smaller input at the same FLOPs, timed in turn."""
    inputs, contexts, runs = lab.inputs[:TIMED], {}, {}

    def add(key, rival, context):
        contexts[key], runs[key] = context, partial(rival.model, rival.given(inputs))

    add(lab.own, lab.own, nullcontext)
    for plan in found:
        rival = lab.rival_of(plan)
        add(plan, rival, partial(compress, rival.model, plan, rival.sized.spec))
        for other in lab.beside(lab.share(plan)):
            add(other, other, nullcontext)
    taken = setting.in_turn(runs, contexts)
    faster = {key: f"{speedup(times, taken[lab.own]):.2f}x" for key, times in taken.items()}
    for plan in found:
        share = lab.share(plan)
        more, less = lab.beside(share)
        part = lab.between(share)
        theirs = [a + (b - a) * part for a, b in zip(taken[more], taken[less], strict=True)]
        ratios = [own / their for own, their in zip(taken[plan], theirs, strict=True)]
        low, middle, high = quantiles(ratios, n=4)
        beside = ", ".join(
            f"{one.label} ({100 * lab.share_of(one):.1f} %, {faster[one]})"
            for one in (more, less)
            if one is not lab.own
        )
        ratio = f"{middle:.3f} ({low:.3f} to {high:.3f})"
        yield in_words(plan), f"{100 * share:.1f} %", faster[plan], beside, ratio


def main(
    plans: tuple[Path, ...] = (),
    budgets: tuple[float, ...] = (),
    methods: tuple[str, ...] = (),
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
    """``samples`` to search on, ``images`` to test on; further ``methods`` in the paper's blocks;
    ``rounds`` of the timing."""
    opened = open_subject(subject, given, samples, images)
    facts = {"model": opened.name, "test inputs": len(opened.test)}
    report = Report(out, "timm", dtype=dtype, **facts)
    lab = Lab(opened, batch, report.dtype, report.memo())
    found = [read_plan(path) for path in plans]
    found += [found_plan(lab, budget, report) for budget in budgets]
    if rounds:
        report.table(SPEEDS, speeds(lab, found, report.setting(rounds, 0.3)))
        return
    names = ("agreement", "KL") if opened.logits else ("cosine", "1 - cosine")
    heads = "", "plan", "FLOPs", *opened.quality, *names, "of the smaller input's"
    report.table((*heads, "lower by (95 %)"), rows(lab, found, seeds, methods))


if __name__ == "__main__":
    command(main)
