"""What the linear layers of one block cost at each number of tokens, at batch 1.

A product takes time for its weights (read and packed anew in every call) and time for every token.
The first does not shrink when tokens leave: what of the FLOPs' gain it leaves over is the most that
any reduction can reach.

    python benchmarks/linear.py --out docs/results/linear-cpu.md
"""

import argparse
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import linear_regression, median

import torch
from torch.nn import functional as F
from tqdm import tqdm

from repshift import Plan
from repshift.files import write_text
from repshift.measure.speed import interleave

WIDTHS = {"DeiT-S": 384, "DeiT-B": 768}
DEPTH, PATCHES = 12, 196
COUNTS = (64, 96, 102, 127, 158, 176, 197)


def measure(width, rounds):
    """Milliseconds of a block's four products, by number of tokens."""
    torch.manual_seed(0)
    shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    layers = [(torch.randn(shape) * 0.02, torch.randn(shape[0])) for shape in shapes]
    inputs = {
        count: [torch.randn(1, count, weight.shape[1]) for weight, _ in layers] for count in COUNTS
    }
    current = COUNTS[0]

    @contextmanager
    def taking(count):
        nonlocal current
        current = count
        yield

    def run():
        for x, (weight, bias) in zip(inputs[current], layers, strict=True):
            F.linear(x, weight, bias)

    ways = {count: partial(taking, count) for count in COUNTS}
    with tqdm(total=rounds * len(ways), desc=f"width {width}") as bar:
        times = interleave(ways, run, rounds=rounds, seconds=0.1, progress=bar.update)
    return {count: 1e3 * median(times[count]) for count in COUNTS}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/linear.md"))
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    entering = [1 + count for count in Plan.paper("deit").entering(DEPTH, PATCHES)]
    share = sum(entering) / (DEPTH * entering[0])
    lines = [
        f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}, {arguments.rounds} "
        "rounds in turn, batch 1.",
        "",
        "| model | " + " | ".join(f"{count} tokens" for count in COUNTS) + " | for the weights "
        "| for a token | of FLOPs' gain |",
        "|---|" + "---:|" * (len(COUNTS) + 3),
    ]
    for name, width in WIDTHS.items():
        ms = measure(width, arguments.rounds)
        fit = linear_regression(list(ms), list(ms.values()))
        reached = share * DEPTH * ms[entering[0]] / sum(ms[count] for count in entering)
        cells = " | ".join(f"{value:.2f} ms" for value in ms.values())
        lines.append(
            f"| {name} | {cells} | {fit.intercept:.2f} ms | {fit.slope:.4f} ms "
            f"| {100 * reached:.0f} % |"
        )
    write_text(arguments.out, "\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
