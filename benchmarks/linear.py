"""What the linear layers of one block cost at each number of tokens, at batch 1.

A product takes time for its weights (read and packed anew in every call) and time for every token.
The first does not shrink when tokens leave: what of the FLOPs' gain it leaves over is the most that
any reduction can reach.

    python benchmarks/linear.py --out docs/results/linear-cpu
"""

from functools import partial
from pathlib import Path
from statistics import linear_regression, median

import torch
from torch.nn import functional as F

from harness import Report, command, in_turn
from repshift import Plan

WIDTHS = {"DeiT-S": 384, "DeiT-B": 768}
DEPTH, PATCHES = 12, 196
COUNTS = (64, 96, 102, 127, 158, 176, 197)


def measure(width, rounds):
    """Milliseconds of a block's four products, by number of tokens."""
    torch.manual_seed(0)
    shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    layers = [(torch.randn(shape) * 0.02, torch.randn(shape[0])) for shape in shapes]

    def run(inputs):
        for x, (weight, bias) in zip(inputs, layers, strict=True):
            F.linear(x, weight, bias)

    runs = {
        count: partial(run, [torch.randn(1, count, weight.shape[1]) for weight, _ in layers])
        for count in COUNTS
    }
    times = in_turn(runs, rounds=rounds, seconds=0.1, title=f"width {width}")
    return {count: 1e3 * median(times[count]) for count in COUNTS}


def row(name, rounds):
    entering = [1 + count for count in Plan.paper("deit").entering(DEPTH, PATCHES)]
    share = sum(entering) / (DEPTH * entering[0])
    ms = measure(WIDTHS[name], rounds)
    fit = linear_regression(list(ms), list(ms.values()))
    reached = share * DEPTH * ms[entering[0]] / sum(ms[count] for count in entering)
    cells = [f"{value:.2f} ms" for value in ms.values()]
    return name, *cells, f"{fit.intercept:.2f} ms", f"{fit.slope:.4f} ms", f"{100 * reached:.0f} %"


def main(out: Path = Path("runs/linear"), rounds: int = 15):
    counts = [f"{count} tokens" for count in COUNTS]
    Report(out, rounds=rounds, batch=1).table(
        ("model", *counts, "for the weights", "for a token", "of FLOPs' gain"),
        (row(name, rounds) for name in WIDTHS),
    )


if __name__ == "__main__":
    command(main)
