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

import json
from pathlib import Path

from harness import Dtype, Report, command, table
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
from repshift.search.candidates import Search, closed_forms
from repshift.search.cost_model import FlopsCost
from repshift.search.fidelity_meter import FidelityMeter
from rivals import rate, rival_at
from subjects import Given, Named, open_subject


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
    heads = [f"at most {budget:g} of the FLOPs", "plan", "FLOPs", *bench.names]
    heads += ["vs fused", "on eager attention"] * timed
    return table(
        heads,
        (
            (
                label,
                schedule,
                f"{100 * share:.1f} %",
                f"{quality:.1f}",
                f"{100 * fidelity:.1f} %",
                f"{loss:z.4f}",
                *(speed_cells(speed) if timed else ()),
            )
            for label, schedule, (share, quality, fidelity, loss), speed in rows
        ),
    )


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
    def cells(score):
        for block in blocks:
            _, quality, _, loss = bench.rate(Plan({block: share}, score), batches)
            yield f"{quality:.1f} ({loss:.3f})"

    heads = ("score", *(f"block {block}" for block in blocks))
    return table(heads, ((score, *cells(score)) for score in scores))


def found_plan(subject, model, inputs, budget, report):
    """The plan that the search finds at a budget, kept beside the results."""
    path = report.file(f"-plan-{budget:g}.json")
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


def main(
    subject: Named = "timm",
    given: Given = Given(),  # noqa: B008  (frozen)
    out: Path = Path("runs/plans"),
    budgets: tuple[float, ...] = (0.65, 0.5, 0.75),
    images: int = 500,
    samples: int = 128,
    plans: tuple[Path, ...] = (),
    seeds: int = 3,
    batch: int = 25,
    device: str = "cpu",
    dtype: Dtype = "float32",
    ablations: int = 0,
    speed: bool = False,
    rounds: int = 7,
):
    """``images`` to test on, ``samples`` to search on; ``plans``: further ones that repshift search
    found; ``ablations``: so many batches of them."""
    opened = open_subject(subject, given, samples, images)
    facts = {"model": opened.name, "test inputs": len(opened.test), "batch": batch}
    report = Report(out, "timm", device=device, dtype=dtype, **facts)
    bench = Bench(opened, batch, report.dtype, report.memo(), report.device)
    found = {
        budget: found_plan(opened, bench.model, bench.seen, budget, report) for budget in budgets
    }
    tables = []
    for budget, plan in found.items():
        tables.append(list(rows_at(bench, budget, plan, seeds, speed and rounds, plans)))
        lines = budget_table(bench, budget, tables[-1])
        report.add(f"## {100 * budget:g} % of the FLOPs", lines)
    if speed:
        draw(bench, tables, report.file(".png"))
    if ablations:
        on = f"({ablations * batch} images: {bench.names[0]}, {bench.names[2]})"
        table_8, figure_5 = halves(bench, ablations), single_blocks(bench, ablations)
        report.add(f"## Table 8: half leave at one block {on}", table_8)
        report.add(f"## Figure 5: a fifth leaves at one block {on}", figure_5)


if __name__ == "__main__":
    command(main)
