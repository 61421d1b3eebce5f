"""Found plans against closed forms on a labelled image set, at equal FLOPs; the paper's ablations.

    python benchmarks/plans.py --checkpoint W --calibration DIR --test DIR --out docs/results/caltech-plans

calibrates without labels, once for each budget (``plan-BUDGET.json`` beside the results;
a plan that is there already is used), and reports accuracy, agreement and KL on the test images.
``--ablations`` adds figure 5 (site, metric and definition at single blocks) and table 8 (the top
half kept, or the bottom half) on part of the test images, ``--speed`` times the plans of each
budget in turn with the dense model. A stopped run goes on where it was.
"""  # noqa: E501

import argparse
import platform
from pathlib import Path

import timm
import torch
from tqdm import tqdm

from repshift import (
    ClassAttention,
    Plan,
    Prune,
    Random,
    Redundancy,
    Reverse,
    Shift,
    ToMe,
    calibrate,
)
from repshift.adapters import describe
from repshift.calibration.judge import Judge
from repshift.calibration.memo import Memo
from repshift.calibration.price import Flops
from repshift.calibration.search import Search, closed_forms
from repshift.data.batches import draw
from repshift.files import write_text
from repshift.measure.fidelity import accuracy, logit_fidelity
from repshift.schedules import late
from repshift.tasks.costs import measure_costs
from repshift.tasks.variants import DENSE_EAGER, DENSE_FUSED, Variant
from repshift.zoo.load import load_model, open_source

HEAD = "| {} | plan | FLOPs | accuracy | agreement | KL |\n|---|---|---:|---:|---:|---:|"


class Bench:
    """A model, its test images and what is known of plans on them."""

    def __init__(self, loaded, directory, count, batch, dtype, memo, device):
        self.model = loaded.model.to(device, dtype)
        self.spec = describe(self.model)
        drawn = draw(open_source(loaded, directory, True), count, 0)
        self.labels, images = drawn.labels, drawn.images.to(device, dtype)
        self.judge = Judge(self.model, self.spec, images, "kl", batch)
        self.price = Flops(self.model, self.spec, images[:1], memo)
        self.search = Search(self.judge, self.price, memo, tqdm(disable=True))
        self.memo = memo
        paper, constant, _ = closed_forms(len(self.spec.blocks))
        self.paper, self.constant = paper, constant

    def rate(self, plan, batches=None):
        """Share of the FLOPs, accuracy, agreement, KL."""

        def rate():
            output = self.judge.outputs(plan, batches)
            fidelity = logit_fidelity(self.judge.dense[: len(output)], output)
            right = accuracy(output, self.labels[: len(output)])
            return [self.price.measure(plan), right, fidelity.value, fidelity.kl]

        return self.memo(f"{plan.method} at {plan.schedule} on {batches or 'all'}", rate)

    def fit(self, shape, budget, *method):
        """The closed form at the budget; None where it does not reach it."""
        return self.search.fit(Plan({}, *method), shape, budget)


def mean(rows):
    return [sum(column) / len(column) for column in zip(*rows, strict=True)]


def line(label, schedule, row):
    share, right, agreement, kl = row
    return (
        f"| {label} | {schedule} | {100 * share:.1f} % | {100 * right:.1f} % | "
        f"{100 * agreement:.1f} % | {kl:.4f} |"
    )


def contenders(bench, budget, found, seeds):
    """Label and plans at one budget; several plans are averaged."""
    late_shape = late(len(bench.spec.blocks), 1)
    rows = [
        ("random, paper's blocks", [(bench.paper, Random(seed)) for seed in range(seeds)]),
        ("class attention, paper's blocks", [(bench.paper, ClassAttention())]),
        ("ToMe, paper's blocks", [(bench.paper, Shift(), ToMe())]),
        ("ToMe, constant", [(bench.constant, Shift(), ToMe())]),
        ("shift, paper's blocks", [(bench.paper, Shift())]),
        ("shift, late", [(late_shape, Shift())]),
        ("redundancy(keys), paper's blocks", [(bench.paper, Redundancy("keys"), Prune())]),
    ]
    for label, tries in rows:
        plans = [bench.fit(shape, budget, *method) for shape, *method in tries]
        if None not in plans:
            yield label, plans
    yield f"found: {found.method}", [found]


def budget_table(bench, budget, found, seeds):
    lines = [HEAD.format(f"at most {budget:g} of the FLOPs")]
    lines.append(line("dense", "", bench.rate(Plan({}))))
    for label, plans in contenders(bench, budget, found, seeds):
        label += f", mean of {len(plans)} seeds" if len(plans) > 1 else ""
        lines.append(line(label, plans[0].schedule, mean([bench.rate(plan) for plan in plans])))
    return lines


def single_blocks(bench, batches):
    """Figure 5: the lowest fifth leaves at one block; accuracy and KL."""
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
        cells = " | ".join(f"{100 * right:.1f} % ({kl:.3f})" for _, right, _, kl in rows)
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


def found_plan(arguments, loaded, budget, dtype):
    path = arguments.out.parent / f"{arguments.out.name}-plan-{budget:g}.json"
    if not path.is_file():
        images = draw(
            open_source(loaded, arguments.calibration, False), arguments.samples, 0
        ).images
        found = calibrate(
            loaded.model.to(arguments.device, dtype),
            images.to(arguments.device, dtype),
            flops=budget,
            name=loaded.name,
            state=path.with_suffix(".search.json"),
        )
        write_text(path, found.to_json())
    return Plan.from_json(path.read_text(encoding="utf-8"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="timm:vit_small_patch14_dinov2")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--calibration", type=Path, required=True, help="images, without labels")
    parser.add_argument("--test", type=Path, required=True, help="images with labels.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/plans"))
    parser.add_argument("--budgets", nargs="+", type=float, default=[0.65, 0.5, 0.75])
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--samples", type=int, default=128, help="calibration images")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=25)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--ablations", type=int, default=0, metavar="BATCHES")
    parser.add_argument("--speed", action="store_true")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    environment = {
        "model": arguments.model,
        "test images": arguments.images,
        "batch": arguments.batch,
        "device": platform.machine() if arguments.device == "cpu" else arguments.device,
        "threads": torch.get_num_threads(),
        "dtype": arguments.dtype,
        "torch": torch.__version__,
        "timm": timm.__version__,
    }
    loaded = load_model(arguments.model, arguments.checkpoint)
    memo = Memo(arguments.out.with_suffix(".json"), environment)
    plans = {b: found_plan(arguments, loaded, b, dtype) for b in arguments.budgets}
    bench = Bench(
        loaded, arguments.test, arguments.images, arguments.batch, dtype, memo, arguments.device
    )
    text = [", ".join(f"{name} {value}" for name, value in environment.items())]

    def add(title, lines):
        text.extend(["", f"## {title}", "", *lines])
        write_text(arguments.out.with_suffix(".md"), "\n".join([*text, ""]))
        print("\n".join(lines), flush=True)

    for budget, plan in plans.items():
        lines = budget_table(bench, budget, plan, arguments.seeds)
        add(f"{100 * budget:g} % of the FLOPs", lines)
    if arguments.ablations:
        on = f"({arguments.ablations * arguments.batch} images: accuracy, KL)"
        add(f"Table 8: half leave at one block {on}", halves(bench, arguments.ablations))
        add(
            f"Figure 5: a fifth leaves at one block {on}", single_blocks(bench, arguments.ablations)
        )
    for budget, plan in plans.items() if arguments.speed else ():
        rows = speed_table(bench, budget, plan, 1, arguments.batch, arguments.rounds)
        add(f"Speed at {100 * budget:g} % of the FLOPs", rows)


if __name__ == "__main__":
    main()
