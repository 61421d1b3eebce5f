"""Pruning, merging and ToMe at equal final token counts: what each costs in time.

DeiT-S and DeiT-B with random weights, since speed does not depend on them; all in turn on the same
machine. The deit plan leaves 102 of 197 tokens, ToMe's constant schedule (8 in each block) 101.

    python benchmarks/methods.py --out docs/results/methods-cpu
"""

from pathlib import Path
from typing import Literal

import timm
import torch

from harness import COSTS, Report, command, costs
from repshift import Merge, Plan, Prune, Random, Shift, ToMe, VidTLDR
from repshift.evaluation.tasks.variants import DENSE_EAGER, DENSE_FUSED, Variant
from speed import CASES

MODELS = ("DeiT-S", "DeiT-B")
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
PUBLISHED = Variant(
    "tome on eager attention, 8 a block", "8 a block", (METHODS[-1][1],), eager=True
)


def measure(name, batch, rounds):
    torch.manual_seed(0)
    model = timm.create_model(CASES[name][0]).eval()
    rows = [Variant(f"{plan.method}, {schedule}", schedule, (plan,)) for schedule, plan in METHODS]
    rows = [DENSE_EAGER, DENSE_FUSED, *rows, PUBLISHED]
    images = torch.randn(batch, 3, 224, 224)
    return costs(model, rows, images, {"model": name, "batch": batch}, rounds=rounds)


def main(
    out: Path = Path("runs/methods"),
    models: tuple[Literal[MODELS], ...] = MODELS,
    batch: int = 16,
    rounds: int = 7,
):
    report = Report(out, "timm", rounds=rounds)
    report.rows(COSTS, (row for name in models for row in measure(name, batch, rounds)))


if __name__ == "__main__":
    command(main)
