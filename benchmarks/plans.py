"""Found plans against closed forms at equal FLOPs on a real task; the paper's ablations.

    python benchmarks/plans.py --checkpoint W --calibration DIR --test DIR --out docs/results/caltech-plans

calibrates without labels, once for each budget (``plan-BUDGET.json`` beside the results;
a plan that is there already is used), and reports quality and fidelity on what the search never
saw. ``--subject`` takes another model: digits, saliency (with images), clips or minilm.
``--ablations`` adds figure 5 (site, metric and definition at single blocks) and table 8 (the top
half kept, or the bottom half) on part of the test images, ``--speed`` times the plans of each
budget in turn with the dense model. A stopped run goes on where it was.
"""  # noqa: E501

import argparse
from pathlib import Path

import torch
from tqdm import tqdm

from repshift import (
    ClassAttention,
    ColumnAttention,
    InputError,
    Plan,
    Prune,
    Random,
    Redundancy,
    Reverse,
    Shift,
    ToMe,
    calibrate,
    compress,
)
from repshift.calibration.judge import Judge
from repshift.calibration.memo import Memo
from repshift.calibration.price import Flops
from repshift.calibration.search import Search, closed_forms
from repshift.files import write_text
from repshift.measure.environment import environment, in_words
from repshift.schedules import late
from repshift.tasks.costs import measure_costs
from repshift.tasks.variants import DENSE_EAGER, DENSE_FUSED, Variant
from subjects import clips, labelled, saliency, sentences

HEAD = "| {} | plan | FLOPs | {} | {} | {} |\n|---|---|---:|---:|---:|---:|"


class Bench:
    """A subject, and what is known of plans on its test inputs."""

    def __init__(self, subject, batch, dtype, memo, device):
        self.subject, self.spec = subject, subject.spec
        self.model = subject.model.to(device, dtype)

        def place(inputs):
            return inputs.to(device, dtype if inputs.is_floating_point() else None)

        self.seen, test = place(subject.calibration), place(subject.test)
        self.judge = Judge(self.model, self.spec, test, subject.objective, batch)
        self.price = Flops(self.model, self.spec, test[:1], memo)
        self.search = Search(self.judge, self.price, memo, tqdm(disable=True))
        self.memo = memo
        paper, constant, _ = closed_forms(len(self.spec.blocks))
        self.paper, self.constant = paper, constant
        kl = subject.logits
        self.names = (
            subject.quality_name,
            *(("agreement", "KL") if kl else ("cosine", "1 - cosine")),
        )

    def rate(self, plan, batches=None):
        """Share of the FLOPs, quality, fidelity and loss; the quality on all batches alone."""

        def rate():
            output = self.judge.outputs(plan, batches)
            loss, fidelity = self.judge.compare(output)
            return [self.price.measure(plan), self.subject.quality(output, plan), fidelity, loss]

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


def line(label, schedule, row):
    share, quality, fidelity, loss = row
    return (
        f"| {label} | {schedule} | {100 * share:.1f} % | {quality:.1f} | {100 * fidelity:.1f} % | "
        f"{loss:.4f} |"
    )


def contenders(bench, budget, found, seeds):
    """Label and plans at one budget; several plans are averaged."""
    late_shape = late(len(bench.spec.blocks), 1)
    attention = ClassAttention() if bench.spec.class_token else ColumnAttention()
    rows = [
        ("random, paper's blocks", [(bench.paper, Random(seed)) for seed in range(seeds)]),
        (f"{attention}, paper's blocks", [(bench.paper, attention)]),
        ("ToMe, paper's blocks", [(bench.paper, Shift(), ToMe())]),
        ("ToMe, constant", [(bench.constant, Shift(), ToMe())]),
        ("shift, paper's blocks", [(bench.paper, Shift())]),
        ("shift, late", [(late_shape, Shift())]),
        ("redundancy(keys), paper's blocks", [(bench.paper, Redundancy("keys"), Prune())]),
    ]
    for label, tries in rows:
        if not bench.takes(Plan({0: 1}, *tries[0][1:])):
            continue
        plans = [bench.fit(shape, budget, *method) for shape, *method in tries]
        if None not in plans:
            yield label, plans
    yield f"found: {found.method}", [found]


def budget_table(bench, budget, found, seeds):
    lines = [HEAD.format(f"at most {budget:g} of the FLOPs", *bench.names)]
    lines.append(line("dense", "", bench.rate(Plan({}))))
    for label, plans in contenders(bench, budget, found, seeds):
        label += f", mean of {len(plans)} seeds" if len(plans) > 1 else ""
        lines.append(line(label, plans[0].schedule, mean([bench.rate(plan) for plan in plans])))
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


def speed_table(bench, budget, found, seeds, batch, rounds):
    rows = [Variant(DENSE_EAGER), Variant(DENSE_FUSED)]
    for label, plans in contenders(bench, budget, found, seeds):
        rows.append(Variant(label, plans[0].schedule, (plans[0],)))
    images = bench.judge.batches[0][:batch]
    costs = measure_costs(bench.model, bench.spec, rows, images, rounds=rounds, seconds=0.5)
    lines = ["| method | images/s | vs fused | of FLOPs' gain |", "|---|---:|---:|---:|"]
    for row, cost in costs.items():
        lines.append(
            f"| {row.label} | {cost.images_per_s:.3g} | {cost.speedup_vs_fused:.2f}x | "
            f"{100 * cost.flop_share:.0f} % |"
        )
    return lines


def found_plan(bench, budget, out):
    path = out.parent / f"{out.name}-plan-{budget:g}.json"
    if not path.is_file():
        found = calibrate(
            bench.model,
            bench.seen,
            flops=budget,
            objective=bench.subject.objective,
            spec=bench.spec,
            name=bench.subject.name,
            state=path.with_suffix(".search.json"),
        )
        write_text(path, found.to_json())
    return Plan.from_json(path.read_text(encoding="utf-8"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--subject", choices=["timm", "digits", "saliency", "clips", "minilm"], default="timm"
    )
    parser.add_argument("--model", default="timm:vit_small_patch14_dinov2", help="of timm")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--calibration", type=Path, help="images, without labels")
    parser.add_argument("--test", type=Path, help="images, of timm with labels.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/plans"))
    parser.add_argument("--budgets", nargs="*", type=float, default=[0.65, 0.5, 0.75])
    parser.add_argument("--images", type=int, default=500, help="test inputs")
    parser.add_argument("--samples", type=int, default=128, help="calibration inputs")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--ablations", type=int, default=0, metavar="BATCHES")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    if arguments.subject in ("timm", "saliency") and not (arguments.test and arguments.calibration):
        parser.error(f"--subject {arguments.subject} needs --calibration DIR and --test DIR")
    count = arguments.samples, arguments.images
    folders = arguments.calibration, arguments.test
    subject = {
        "timm": lambda: labelled(arguments.model, arguments.checkpoint, *folders, *count),
        "digits": lambda: labelled("digits-vit", None, None, None, *count),
        "saliency": lambda: saliency(*folders, *count),
        "clips": lambda: clips(*count),
        "minilm": lambda: sentences(*count),
    }[arguments.subject]()
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    facts = {
        "model": subject.name,
        "test inputs": len(subject.test),
        "batch": arguments.batch,
        **environment(device, dtype, "timm"),
    }
    memo = Memo(arguments.out.with_suffix(".json"), facts)
    bench = Bench(subject, arguments.batch, dtype, memo, device)
    plans = {b: found_plan(bench, b, arguments.out) for b in arguments.budgets}
    text = [in_words(facts)]

    def add(title, lines):
        text.extend(["", f"## {title}", "", *lines])
        write_text(arguments.out.with_suffix(".md"), "\n".join([*text, ""]))
        print("\n".join(lines), flush=True)

    for budget, plan in plans.items():
        lines = budget_table(bench, budget, plan, arguments.seeds)
        add(f"{100 * budget:g} % of the FLOPs", lines)
    if arguments.ablations:
        on = f"({arguments.ablations * arguments.batch} images: {bench.names[0]}, {bench.names[2]})"
        add(f"Table 8: half leave at one block {on}", halves(bench, arguments.ablations))
        add(
            f"Figure 5: a fifth leaves at one block {on}", single_blocks(bench, arguments.ablations)
        )
    for budget, plan in plans.items() if arguments.speed else ():
        rows = speed_table(bench, budget, plan, 1, arguments.batch, arguments.rounds)
        add(f"Speed at {100 * budget:g} % of the FLOPs", rows)


if __name__ == "__main__":
    main()
