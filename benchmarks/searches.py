"""Which search finds the better plan in the same time: exchanges drawn or greedy, or Optuna's?

    pip install optuna
    python benchmarks/searches.py --subjects digits clips minilm --out docs/results/searches

All begin with the same closed form and get as long as the exchanges take (at least
``--seconds``), on the same half of the inputs to search on; what each found is checked on the other
half. The exchanges are those of ``repshift search``; greedy ones go where a share of cost loses
least. TPE draws a weight for every block, fitted to the cost; NSGA-II draws the number that leaves
after every block and seeks low loss and low cost at once. A subject that is done is kept.
"""

import argparse
import time
from functools import partial
from pathlib import Path

import optuna
import torch
from matplotlib.figure import Figure

from repshift import Plan
from repshift.evaluation.report.progress import search_bar
from repshift.files import replacing, write_text
from repshift.measure.environment import environment, in_words
from repshift.search.candidates import Search
from repshift.search.cost_model import FlopsCost
from repshift.search.fidelity_meter import FidelityMeter
from repshift.search.memo import Memo
from repshift.search.search_plan import usual_methods
from subjects import SUBJECTS, add_arguments, open_subject


class Watched(Search):
    """A search that notes when it had found a better plan at the cost: seconds and loss."""

    def __init__(self, meter, cost, target, progress):
        super().__init__(meter, cost, Memo(None, {}), progress)
        self.target, self.since, self.trials = target, time.perf_counter(), 0
        self.steps, self.best = [], None

    def rate(self, plan, batches=None):
        trial = super().rate(plan, batches)
        self.trials += 1
        better = self.best is None or trial.loss < self.best.loss
        if batches is None and trial.share <= self.target and better:
            self.best = trial
            self.steps.append((self.seconds, trial.loss))
        return trial

    @property
    def seconds(self):
        return time.perf_counter() - self.since


def exchange(search, start, seconds):
    better = search.exchange(start, search.target)
    search.best = search.settled(better.plan, search.target)


def greedy(search, start, seconds):
    """Each block is asked what ``step`` more tokens lose there for the cost they save; then tokens
    go from the dearest blocks to the cheapest while the loss falls; then half the step."""
    best, step = start, max(2, search.patches // 12)
    while step >= 2 and search.seconds < seconds:
        before = best
        best = trade(search, best, step, dearness(search, best, step))
        if best.loss > 0.98 * before.loss:
            step //= 2
    search.best = search.settled(best.plan, search.target)


def dearness(search, base, step):
    """Loss for a share of cost saved, by block."""
    search._base = base.plan
    search.cost.correct(base.plan)
    share, by_block = search.cost(base.plan), {}
    for block in range(search.depth - 1):
        plan = search._moved(base.plan, block, step)
        if plan is not None and (saved := share - search.cost(plan)) > 0:
            by_block[block] = (search.rate(plan).loss - base.loss) / saved
    return by_block


def trade(search, best, step, dear):
    pairs = [(dear[a] - dear[b], a, b) for a in dear for b in dear if dear[a] > dear[b]]
    failures = 0
    for _, giver, taker in sorted(pairs, reverse=True):
        plan = search._exchanged(best.plan, giver, taker, step, search.target)
        if plan is None:
            continue
        search._base = best.plan
        trial = search.rate(plan)
        if trial.loss < 0.99 * best.loss:
            best = trial
            search.cost.correct(best.plan)
        else:
            failures += 1
        if failures == 4:
            break
    return best


def tpe(search, start, seconds):
    blocks = range(search.depth - 1)

    def loss(trial):
        shape = [trial.suggest_float(str(block), 0, 1) for block in blocks]
        plan = search.fit(start.plan, [*shape, 0.0], search.target) if any(shape) else None
        if plan is None:
            raise optuna.TrialPruned
        return search.rate(plan).loss

    most = max(start.plan.drop.values())
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=0))
    study.enqueue_trial({str(block): start.plan.drop.get(block, 0) / most for block in blocks})
    study.optimize(loss, timeout=seconds)


def nsga2(search, start, seconds):
    blocks = range(search.depth - 1)
    most = min(search.patches // 2, 2 * max(start.plan.drop.values()))

    def loss_and_cost(trial):
        plan, left = {}, search.patches
        for block in blocks:
            count = trial.suggest_int(str(block), 0, most)
            if count >= left // 2:
                raise optuna.TrialPruned
            if count:
                plan[block] = count
            left -= count
        found = search.rate(Plan(plan, start.plan.score, start.plan.reduction))
        return found.loss, found.share

    sampler = optuna.samplers.NSGAIISampler(population_size=20, seed=0)
    study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
    study.enqueue_trial({str(block): start.plan.drop.get(block, 0) for block in blocks})
    study.optimize(loss_and_cost, timeout=seconds)


WAYS = {"exchange": exchange, "greedy": greedy, "TPE": tpe, "NSGA-II": nsga2}


def compare(subject, target, least):
    """By way: seconds, plans tried, the loss on either half, and the steps of the loss."""
    order = torch.randperm(len(subject.searched), generator=torch.Generator().manual_seed(0))
    half = len(order) // 2
    halves = [subject.searched[part] for part in (order[half:], order[:half])]
    seen, unseen = (
        FidelityMeter(subject.model, subject.spec, images, subject.objective, 16)
        for images in halves
    )
    cost = FlopsCost(subject.model, subject.spec, halves[0][:1], Memo(None, {}))
    methods = usual_methods(subject.model, subject.spec, "fixed")
    with search_bar(f"{subject.name}: closed forms") as progress:
        protected = Watched(seen, cost, target, progress)
        protected.methods = methods
        start = protected.best_start(target)
    spent = protected.seconds
    results = {"closed forms": row(protected, start, seen, unseen)}
    seconds = least
    for name, way in WAYS.items():
        with search_bar(f"{subject.name}: {name}") as progress:
            search = Watched(seen, cost, target, progress)
            search.best, search.steps = start, [(0.0, start.loss)]
            way(search, start, seconds)
        results[name] = row(search, search.best, seen, unseen)
        seconds = max(seconds, search.seconds)
    return {"closed forms took": spent, "method": start.plan.method, "ways": results}


def row(search, best, seen, unseen):
    return {
        "seconds": search.seconds,
        "trials": search.trials,
        "plan": best.plan.schedule,
        "share": search.cost.measure(best.plan),
        "seen": seen.rate(best.plan)[0],
        "unseen": unseen.rate(best.plan)[0],
        "steps": search.steps,
    }


def draw(results, path):
    """Loss on the half that is searched on, by seconds (PNG)."""
    figure = Figure(figsize=(4.2 * len(results), 3.6), layout="constrained")
    panes = figure.subplots(1, len(results), squeeze=False)[0]
    for pane, (name, result) in zip(panes, results.items(), strict=True):
        for way in WAYS:
            found = result["ways"][way]
            seconds, losses = zip(*found["steps"], strict=True)
            pane.step((*seconds, found["seconds"]), (*losses, losses[-1]), where="post", label=way)
        pane.set(title=name, xlabel="seconds after the closed forms", ylabel="loss")
        pane.grid(alpha=0.3)
    panes[0].legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--subjects", nargs="+", choices=SUBJECTS, default=["digits"])
    add_arguments(parser)
    parser.add_argument("--samples", type=int, default=96, help="inputs to search on")
    parser.add_argument("--budget", type=float, default=0.65, help="share of the dense FLOPs")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--out", type=Path, default=Path("runs/searches"))
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    facts = {
        "samples": arguments.samples,
        "share": arguments.budget,
        "optuna": optuna.__version__,
        **environment(torch.device("cpu"), torch.float32, "timm"),
    }
    memo = Memo(arguments.out.with_suffix(".json"), facts)
    results = {}
    for name in arguments.subjects:
        subject = open_subject(name, parser, arguments, arguments.samples, 1)
        results[subject.name] = memo(
            subject.name, partial(compare, subject, arguments.budget, arguments.seconds)
        )
    lines = [
        in_words(facts),
        "",
        "| model, method | search | seconds | plans | FLOPs | loss, seen half | unseen half |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, result in results.items():
        for way, found in result["ways"].items():
            lines.append(
                f"| {name}, {result['method']} | {way} | {found['seconds']:.0f} | "
                f"{found['trials']} | {100 * found['share']:.1f} % | {found['seen']:.6f} | "
                f"{found['unseen']:.6f} |"
            )
    write_text(arguments.out.with_suffix(".md"), "\n".join([*lines, ""]))
    draw(results, arguments.out.with_suffix(".png"))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
