"""Pruning, merging and ToMe at equal final token counts: what each costs in time.

DeiT-S and DeiT-B with random weights, since speed does not depend on them; all in turn on the same
machine. The deit plan leaves 102 of 197 tokens, ToMe's constant schedule (8 in each block) 101.

    python benchmarks/methods.py --out docs/results/methods-cpu
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import timm
import torch

from repshift import Merge, Plan, Prune, Random, Shift, ToMe, VidTLDR
from repshift.adapters import describe
from repshift.evaluation.tasks.costs import measure_costs
from repshift.evaluation.tasks.variants import DENSE_EAGER, DENSE_FUSED, Variant
from repshift.measure.environment import environment
from speed import write_results

MODELS = {"DeiT-S": "deit_small_patch16_224", "DeiT-B": "deit_base_patch16_224"}
DEIT = Plan.paper("deit").drop
CONSTANT = dict.fromkeys(range(12), 8)
METHODS = [
    ("deit", Plan(DEIT, Random())),
    ("deit", Plan(DEIT, Shift(), Prune())),
    ("deit", Plan(DEIT, Shift(), Merge("plain"))),
    ("deit", Plan(DEIT, Shift(), Merge())),
    ("deit", Plan(DEIT, Shift(), VidTLDR())),
    ("deit", Plan(DEIT, reduction=ToMe("plain"))),
    ("deit", Plan(DEIT, reduction=ToMe())),
    ("8 a block", Plan(CONSTANT, Shift(), Prune())),
    ("8 a block", Plan(CONSTANT, Shift(), Merge())),
    ("8 a block", Plan(CONSTANT, reduction=ToMe("plain"))),
    ("8 a block", Plan(CONSTANT, reduction=ToMe())),
]


def measure(name, batch, rounds):
    torch.manual_seed(0)
    model = timm.create_model(MODELS[name]).eval()
    rows = [DENSE_EAGER, DENSE_FUSED]
    rows += [Variant(f"{plan.method}, {schedule}", schedule, (plan,)) for schedule, plan in METHODS]
    published = Plan(CONSTANT, reduction=ToMe())
    rows.append(
        Variant("tome on eager attention, 8 a block", "8 a block", (published,), eager=True)
    )
    images = torch.randn(batch, 3, 224, 224)
    costs = measure_costs(model, describe(model), rows, images, rounds=rounds, seconds=0.5)
    return [
        {"model": name, "batch": batch, "method": row.label, **asdict(cost)}
        for row, cost in costs.items()
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/methods"))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    facts = {"rounds": arguments.rounds}
    facts |= environment(torch.device("cpu"), torch.float32, "timm")
    rows = []
    for name in arguments.models:
        rows += measure(name, arguments.batch, arguments.rounds)
        text = write_results(arguments.out, facts, rows)
    print(text)


if __name__ == "__main__":
    main()
