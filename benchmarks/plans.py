"""Found plans against closed forms at equal FLOPs on a real task; the paper's ablations.

    python benchmarks/plans.py --checkpoint W --search DIR --test DIR --out docs/results/caltech-plans

searches without labels, once for each budget (``plan-BUDGET.json`` beside the results;
a plan that is there already is used), and reports quality and fidelity on what the search never
saw. ``--subject`` takes another model: digits, saliency (with images), clips or minilm.
``--ablations`` adds figure 5 (site, metric and definition at single blocks) and table 8 (the top
half kept, or the bottom half) on part of the test images, ``--speed`` times the plans of each
budget in turn with the dense model and draws quality against speed. A stopped run goes on where it
was.
"""  # noqa: E501

import argparse
import json
from pathlib import Path

import torch

from plan_speeds import draw, speed_cells, speedups
from repshift import (
    ClassAttention,
    ColumnAttention,
    InputError,
    Merge,
    Plan,
    Prune,
    Random,
    Redundancy,
    Reverse,
    Shift,
    ToMe,
    compress,
    search_plan,
)
from repshift.evaluation.report.progress import search_bar
from repshift.evaluation.tasks.smaller_input import LABEL as SMALLER
from repshift.files import write_text
from repshift.measure.environment import environment, in_words
from repshift.search.candidates import Search, closed_forms
from repshift.search.cost_model import FlopsCost
from repshift.search.fidelity_meter import FidelityMeter
from repshift.search.memo import Memo
from rivals import rate, rival_at
from subjects import SUBJECTS, add_arguments, open_subject


class Bench:
    """A subject, and what is known of plans on its test inputs."""

    def __init__(self, subject, batch, dtype, memo, device):
        self.subject, self.spec = subject, subject.spec
        self.model = subject.model.to(device, dtype)

        def place(inputs):
            return inputs.to(device, dtype if inputs.is_floating_point() else None)

        self.seen, test = place(subject.searched), place(subject.test)
        self.meter = FidelityMeter(self.model, self.spec, test, subject.objective, batch)
        self.cost = FlopsCost(self.model, self.spec, test[:1], memo)
        self.search = Search(self.meter, self.cost, memo)
        self.memo = memo
        self.paper, self.constant, self.late, self.early, self.second = closed_forms(
            len(self.spec.blocks)
        )
        kl = subject.logits
        self.names = (
            subject.quality_name,
            *(("agreement", "KL") if kl else ("cosine", "1 - cosine")),
        )

    def rate(self, plan, batches=None):
        """Share of the FLOPs, quality, fidelity and loss; the quality on all batches alone."""

        def rate():
            output = self.meter.outputs(plan, batches)
            loss, fidelity = self.meter.compare(output)
            return [self.cost.measure(plan), self.subject.quality(output, plan), fidelity, loss]

        return self.memo(f"{plan.method} at {plan.schedule} on {batches or 'all'}", rate)

    def takes(self, plan):
        try:
            compress(self.model, plan, self.spec).detach()
        except InputError:
            return False
        return True

    def fit(self, shape, budget, *method):
        """The closed form at the budget; None where it does not reach it."""
        return self.search.fit(Plan({}, *method), shape, budget)


def mean(rows):
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def contenders(bench, budget, found, seeds, further):
    """Label and plans at one budget; several plans are averaged."""
    attention = ClassAttention() if bench.spec.class_token else ColumnAttention()
    rows = [
        ("random, paper's blocks", [(bench.paper, Random(seed)) for seed in range(seeds)]),
        (f"{attention}, paper's blocks", [(bench.paper, attention)]),
        ("ToMe, paper's blocks", [(bench.paper, Shift(), ToMe())]),
        ("ToMe, constant", [(bench.constant, Shift(), ToMe())]),
        ("ToMe, every second block", [(bench.second, Shift(), ToMe())]),
        ("shift, paper's blocks", [(bench.paper, Shift())]),
        ("shift, late", [(bench.late, Shift())]),
        ("redundancy(keys), paper's blocks", [(bench.paper, Redundancy("keys"), Prune())]),
        ("redundancy(mlp) + merge, every second", [(bench.second, Redundancy(), Merge())]),
    ]
    for label, tries in rows:
        if not bench.takes(Plan({0: 1}, *tries[0][1:])):
            continue
        plans = [bench.fit(shape, budget, *method) for shape, *method in tries]
        if None not in plans:
            yield label, plans
    yield f"found: {found.method}", [found]
    for path in further:
        text = path.read_text(encoding="utf-8")
        plan = Plan.from_json(text)
        [(target, value)] = json.loads(text)["provenance"]["target"].items()
        yield f"found for {target} {value:g}: {plan.method}", [plan]


def rows_at(bench, budget, found, seeds, rounds, further):
    """Label, schedule, what is known of it, and its speeds on fused and eager attention."""
    plans = {"dense": [Plan({})], **dict(contenders(bench, budget, found, seeds, further))}
    rival = rival_at(bench, budget)
    speeds = speedups(bench, {label: same[0] for label, same in plans.items()}, rival, rounds)
    if rival is not None:
        yield SMALLER, rival.label, rate(bench, rival), speeds.get(SMALLER)
    for label, same in plans.items():
        speed = speeds.get(label)
        label += f", mean of {len(same)} seeds" if len(same) > 1 else ""
        yield label, same[0].schedule, mean([bench.rate(plan) for plan in same]), speed


def budget_table(bench, budget, rows):
    timed = any(speed for *_, speed in rows)
    quality, fidelity, loss = bench.names
    lines = [
        f"| at most {budget:g} of the FLOPs | plan | FLOPs | {quality} | {fidelity} | {loss} |"
        + " vs fused | on eager attention |" * timed,
        "|---|---|---:|---:|---:|---:|" + "---:|---:|" * timed,
    ]
    for label, schedule, (share, quality, fidelity, loss), speed in rows:
        lines.append(
            f"| {label} | {schedule} | {100 * share:.1f} % | {quality:.1f} | "
            f"{100 * fidelity:.1f} % | {loss:z.4f} |" + speed_cells(speed)
        )
    return lines


def single_blocks(bench, batches):
    """Figure 5: the lowest fifth leaves at one block; quality and loss."""
    scores = [
        Shift(site, metric, definition)
        for site in ("mlp", "attention")
        for metric in ("l2", "l1", "cosine")
        for definition in ("printed", "update")
    ] + [Shift("block", metric) for metric in ("l2", "l1", "cosine")]
    return one_block_table(bench, batches, [0, 2, 4, 6, 8], 0.2, scores)


def halves(bench, batches):
    """Table 8: half of the patches leave at one block."""
    blocks = [0, 2, 4, 6, 8, 10]
    return one_block_table(bench, batches, blocks, 0.5, [Shift(), Reverse(Shift()), Random()])


def one_block_table(bench, batches, blocks, share, scores):
    heads = " | ".join(f"block {block}" for block in blocks)
    lines = [f"| score | {heads} |", "|---|" + "---:|" * len(blocks)]
    for score in scores:
        rows = [bench.rate(Plan({block: share}, score), batches) for block in blocks]
        cells = " | ".join(f"{quality:.1f} ({loss:.3f})" for _, quality, _, loss in rows)
        lines.append(f"| {score} | {cells} |")
    return lines


def found_plan(subject, model, inputs, budget, out):
    """The plan that the search finds at a budget, kept beside ``out``."""
    path = out.parent / f"{out.name}-plan-{budget:g}.json"
    state = path.with_suffix(".search.json")
    if not path.is_file():
        with search_bar() as progress:
            found = search_plan(
                model,
                inputs,
                flops=budget,
                objective=subject.objective,
                spec=subject.spec,
                name=subject.name,
                state=state,
                progress=progress,
            )
        write_text(path, found.to_json())
        state.unlink(missing_ok=True)
    return Plan.from_json(path.read_text(encoding="utf-8"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subject", choices=SUBJECTS, default="timm")
    add_arguments(parser)
    parser.add_argument("--out", type=Path, default=Path("runs/plans"))
    parser.add_argument("--budgets", nargs="*", type=float, default=[0.65, 0.5, 0.75])
    parser.add_argument("--images", type=int, default=500, help="test inputs")
    parser.add_argument("--samples", type=int, default=128, help="inputs to search on")
    parser.add_argument(
        "--plans", nargs="*", type=Path, default=[], help="further ones that repshift search found"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--ablations", type=int, default=0, metavar="BATCHES")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    counts = arguments.samples, arguments.images
    subject = open_subject(arguments.subject, parser, arguments, *counts)
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    facts = {
        "model": subject.name,
        "test inputs": len(subject.test),
        "batch": arguments.batch,
        **environment(device, dtype, "timm"),
    }
    memo = Memo(arguments.out.with_suffix(".json"), facts)
    bench = Bench(subject, arguments.batch, dtype, memo, device)
    plans = {
        budget: found_plan(subject, bench.model, bench.seen, budget, arguments.out)
        for budget in arguments.budgets
    }
    text = [in_words(facts)]

    def add(title, lines):
        text.extend(["", f"## {title}", "", *lines])
        write_text(arguments.out.with_suffix(".md"), "\n".join([*text, ""]))
        print("\n".join(lines), flush=True)

    rounds, tables = arguments.speed and arguments.rounds, []
    for budget, plan in plans.items():
        tables.append(list(rows_at(bench, budget, plan, arguments.seeds, rounds, arguments.plans)))
        add(f"{100 * budget:g} % of the FLOPs", budget_table(bench, budget, tables[-1]))
    if arguments.speed:
        draw(bench, tables, arguments.out.with_suffix(".png"))
    if arguments.ablations:
        on = f"({arguments.ablations * arguments.batch} images: {bench.names[0]}, {bench.names[2]})"
        add(f"Table 8: half leave at one block {on}", halves(bench, arguments.ablations))
        add(
            f"Figure 5: a fifth leaves at one block {on}", single_blocks(bench, arguments.ablations)
        )


if __name__ == "__main__":
    main()
