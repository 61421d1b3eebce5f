"""A budget per image against the same one for all, and the ways to run images of unlike lengths.

    python benchmarks/adaptive.py --checkpoint W --search DIR --test DIR --out docs/results/adaptive-cpu

Plans of the paper's blocks and constant ones at a share of the FLOPs, then the adaptive plans of as
many tokens on average over the images to search on (``repshift.adapt``); accuracy, agreement and KL
on the test images, and images a second with all packing, in turn. The ways are timed on blocks of
a ViT alone: images end to end (what repshift does), padded under a mask, rounded up to multiples
of 16 and batched by length, and one by one; equal lengths are the bound. A stopped run goes on.
"""  # noqa: E501

from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm

import ragged
from harness import Report, command, in_turn
from plans import Bench
from plans import mean as average
from repshift import Plan, Prune, Random, Redundancy, Shift, adapt, compress
from repshift.measure.speed import speedup
from subjects import Given, open_subject

HEADS = (
    "method", "blocks", "budget", "FLOPs", "tokens at the end", "accuracy", "agreement", "KL",
    "images/s", "vs dense",
)  # fmt: skip
METHODS = {"shift": Shift(), "redundancy(keys)": Redundancy("keys")}


def quality(bench, plan):
    """Share of the FLOPs, mean and standard deviation of the tokens left, accuracy, fidelity."""
    outputs, lengths = [], []
    with compress(bench.model, plan, bench.spec) as compression, torch.inference_mode():
        for batch in tqdm(bench.meter.batches, desc=plan.method, leave=False):
            outputs.append(bench.model(batch).float().cpu())
            lengths.append(compression.lengths.double())
    output, tokens = torch.cat(outputs), torch.cat(lengths)
    loss, fidelity = bench.meter.compare(output)
    spread = tokens.std().item() if plan.adaptive else 0.0
    return [
        bench.cost.mean(plan, bench.meter.batches[:4]), tokens.mean().item(), spread,
        bench.subject.quality(output, plan), fidelity, loss,
    ]  # fmt: skip


def contenders(bench, share):
    """Rows of the table: method, blocks, budget, plans (several seeds)."""
    for blocks, shape in (("paper's", bench.paper), ("constant", bench.constant)):
        seeds = [bench.fit(shape, share, Random(seed), Prune()) for seed in range(3)]
        yield "random, mean of 3 seeds", blocks, "fixed", seeds
        for label, score in METHODS.items():
            fixed = bench.fit(shape, share, score, Prune())
            name = f"levels of {fixed.method} at {fixed.schedule}"
            drop = bench.memo(
                name,
                lambda fixed=fixed: adapt(bench.model, fixed, bench.seen, spec=bench.spec).drop,
            )
            drop = {int(block): level for block, level in drop.items()}
            yield label, blocks, "fixed", [fixed]
            yield label, blocks, "adaptive", [Plan(drop, score, budget="adaptive")]


def fidelity_rows(bench, share, count, rounds):
    contending = list(contenders(bench, share))
    qualities = []
    for _, _, _, plans in contending:
        seen = [
            bench.memo(f"{plan.method} at {plan.schedule}", lambda plan=plan: quality(bench, plan))
            for plan in plans
        ]
        qualities.append(average(seen))
    ways = {"dense": nullcontext} | {
        at: lambda plan=row[3][0]: compress(bench.model, plan, bench.spec)
        for at, row in enumerate(contending)
    }
    # Several batches: an image costs what it needs.
    batches = torch.cat(bench.meter.batches)[: 4 * count].split(count)
    images = sum(map(len, batches))
    runs = dict.fromkeys(ways, lambda: [bench.model(batch) for batch in batches])
    times = in_turn(runs, contexts=ways, rounds=rounds, seconds=0.5)

    def speed(way):
        return f"{images / median(times[way]):.3g}", f"{speedup(times[way], times['dense']):.2f}x"

    right = f"{bench.subject.quality(bench.meter.dense, Plan({})):.1f} %"
    yield "dense", "", "", "100 %", "", right, "", "", *speed("dense")
    for at, ((label, blocks, budget, _), row) in enumerate(zip(contending, qualities, strict=True)):
        cost, tokens, spread, right, agreement, kl = row
        yield (
            label, blocks, budget, f"{100 * cost:.1f} %", f"{tokens:.0f} ± {spread:.0f}",
            f"{right:.1f} %", f"{100 * agreement:.1f} %", f"{kl:.4f}", *speed(at),
        )  # fmt: skip


def main(
    given: Given = Given(),  # noqa: B008  (frozen)
    out: Path = Path("runs/adaptive"),
    share: float = 0.65,
    images: int = 500,
    samples: int = 96,
    batch: int = 8,
    rounds: int = 7,
):
    """``share`` of the dense FLOPs; ``samples`` to search on; ``batch`` in a timed forward."""
    report = Report(out, "timm", model=given.model, images=images, share=share)
    opened = open_subject("timm", given, samples, images)
    bench = Bench(opened, 25, report.dtype, report.memo(), report.device)
    report.table(HEADS, fidelity_rows(bench, share, batch, rounds))
    for name in ("vit_small_patch16_224", "vit_base_patch16_224"):
        report.add(f"{name}, {batch} images of 128 ± 26 tokens")
        ways = ragged.measure(
            name, batch, 128, 26, rounds=rounds, seconds=0.5, device=report.device,
            dtype=report.dtype,
        )  # fmt: skip
        cells = ((way["method"], f"{way['ms']:.0f}", f"{way['vs_bound']:.0%}") for way in ways)
        report.table(("way", "ms", "of the bound's speed"), cells)


if __name__ == "__main__":
    command(main)
