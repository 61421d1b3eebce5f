"""A budget per image against the same one for all, and the ways to run images of unlike lengths.

    python benchmarks/adaptive.py --checkpoint W --search DIR --test DIR --out docs/results/adaptive-cpu

Plans of the paper's blocks and constant ones at a share of the FLOPs, then the adaptive plans of as
many tokens on average over the images to search on (``repshift.adapt``); accuracy, agreement and KL
on the test images, and images a second with all packing, in turn. The ways are timed on blocks of
a ViT alone: images end to end (what repshift does), padded under a mask, rounded up to multiples
of 16 and batched by length, and one by one; equal lengths are the bound. A stopped run goes on.
"""  # noqa: E501

import argparse
from contextlib import nullcontext
from pathlib import Path
from statistics import median

import torch
from tqdm import tqdm

import ragged
from plans import Bench
from plans import mean as average
from repshift import Plan, Prune, Random, Redundancy, Shift, adapt, compress
from repshift.files import write_text
from repshift.measure.environment import environment, in_words
from repshift.measure.speed import interleave, speedup
from repshift.search.memo import Memo
from subjects import labelled

HEAD = "| method | blocks | budget | FLOPs | tokens at the end | accuracy | agreement | KL | images/s | vs dense |"  # noqa: E501
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


def fidelity_table(bench, share, count, rounds):
    rows = list(contenders(bench, share))
    qualities = []
    for _, _, _, plans in rows:
        seen = [
            bench.memo(f"{plan.method} at {plan.schedule}", lambda plan=plan: quality(bench, plan))
            for plan in plans
        ]
        qualities.append(average(seen))
    ways = {"dense": nullcontext} | {
        str(at): lambda plan=row[3][0]: compress(bench.model, plan, bench.spec)
        for at, row in enumerate(rows)
    }
    # Several batches: an image costs what it needs.
    batches = torch.cat(bench.meter.batches)[: 4 * count].split(count)
    images = sum(map(len, batches))
    with tqdm(total=rounds * len(ways), desc="speed, in turn", leave=False) as bar:
        times = interleave(
            ways,
            lambda: [bench.model(batch) for batch in batches],
            rounds=rounds,
            seconds=0.5,
            progress=bar.update,
        )
    lines = [HEAD, "|---" * HEAD.count("| ") + "|"]
    right = bench.subject.quality(bench.meter.dense, Plan({}))
    speed = images / median(times["dense"])
    lines.append(f"| dense | | | 100 % | | {right:.1f} % | | | {speed:.3g} | 1.00x |")
    for at, ((label, blocks, budget, _), row) in enumerate(zip(rows, qualities, strict=True)):
        cost, tokens, spread, right, agreement, kl = row
        taken = times[str(at)]
        gain = speedup(taken, times["dense"])
        lines.append(
            f"| {label} | {blocks} | {budget} | {100 * cost:.1f} % | {tokens:.0f} ± {spread:.0f} | "
            f"{right:.1f} % | {100 * agreement:.1f} % | {kl:.4f} | "
            f"{images / median(taken):.3g} | {gain:.2f}x |"
        )
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="timm:vit_small_patch14_dinov2")
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--search", type=Path, required=True, help="images, without labels")
    parser.add_argument("--test", type=Path, required=True, help="images with labels.csv")
    parser.add_argument("--out", type=Path, default=Path("runs/adaptive"))
    parser.add_argument("--share", type=float, default=0.65, help="of the dense FLOPs")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--samples", type=int, default=96, help="images to search on")
    parser.add_argument("--batch", type=int, default=8, help="images in a timed forward")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    facts = environment(torch.device("cpu"), torch.float32, "timm")
    settings = {"model": arguments.model, "images": arguments.images, "share": arguments.share}
    memo = Memo(arguments.out.with_suffix(".json"), settings | facts)
    subject = labelled(
        arguments.model, arguments.checkpoint, arguments.search, arguments.test,
        arguments.samples, arguments.images,
    )  # fmt: skip
    bench = Bench(subject, 25, torch.float32, memo, torch.device("cpu"))
    text = [in_words(settings | facts), ""]
    text += fidelity_table(bench, arguments.share, arguments.batch, arguments.rounds)
    for name, spread in (("vit_small_patch16_224", 26), ("vit_base_patch16_224", 26)):
        text += ["", *ragged.table(name, arguments.batch, 128, spread, arguments.rounds)]
    write_text(arguments.out.with_suffix(".md"), "\n".join([*text, ""]))
    print("\n".join(text))


if __name__ == "__main__":
    main()
