"""Two checkouts of repshift in turn: is the new one as fast, and does it take as little memory?

    git worktree add before COMMIT
    python benchmarks/checkouts.py --before before/src --out docs/results/checkouts-cpu

DeiT-S with random weights. Each round runs one process for each checkout, which times every case
and prints seconds; the ratio is the median over the rounds of those of the same round.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import timm
import torch
from torch.utils.benchmark import Timer
from tqdm import tqdm

from repshift.files import write_text

DROP = {0: 0.2, 3: 0.2, 6: 0.2}
# As version 0.1 wrote it, which later ones read too.
LEVELS = '{"drop": {"0": 0.15, "3": 0.15, "6": 0.15}, "budget": "adaptive"}'
BATCHES = (1, 8)


def plans():
    """What both checkouts know by the same names."""
    from repshift import ClassAttention, Merge, Plan, Random, Redundancy, Shift, ToMe

    return {
        "dense": None,
        "random": Plan(DROP, Random()),
        "shift": Plan(DROP),
        "class-attention": Plan(DROP, ClassAttention()),
        "shift + merge": Plan(DROP, Shift(), Merge()),
        "redundancy(mlp) + merge": Plan(DROP, Redundancy("mlp"), Merge()),
        "tome": Plan(DROP, reduction=ToMe()),
        "shift, budget per image": Plan.from_json(LEVELS),
    }


def measure(seconds):
    """Seconds a forward and peak bytes, for every case, in this process."""
    from repshift import compress
    from repshift.measure.memory import peak_memory

    torch.manual_seed(0)
    torch.set_num_threads(2)
    found = {}
    for batch in BATCHES:
        images = torch.randn(batch, 3, 224, 224)
        for name, plan in plans().items():
            torch.manual_seed(1)
            model = timm.create_model("deit_small_patch16_224").eval()
            if plan is not None:
                compress(model, plan)
            with torch.inference_mode():
                timer = Timer(
                    "model(images)", globals={"model": model, "images": images}, num_threads=2
                )
                taken = timer.blocked_autorange(min_run_time=seconds).median
            peak = peak_memory(lambda model=model, images=images: model(images), images.device)
            found[f"{name}, batch {batch}"] = (taken, peak)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", type=Path, help="src folder of the other checkout")
    parser.add_argument("--out", type=Path, default=Path("runs/checkouts"))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.4)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(measure(arguments.seconds)))
        return
    now = Path(__file__).parents[1] / "src"
    taken = {"before": [], "now": []}
    sides = [("before", arguments.before.resolve()), ("now", now)]
    for number in tqdm(range(arguments.rounds), desc="rounds"):
        for side, path in sides if number % 2 == 0 else reversed(sides):
            command = [sys.executable, __file__, "--one", "--seconds", str(arguments.seconds)]
            done = subprocess.run(
                command, env={**os.environ, "PYTHONPATH": str(path)}, check=True,
                capture_output=True, text=True,
            )  # fmt: skip
            taken[side].append(json.loads(done.stdout.splitlines()[-1]))
    lines = [
        f"DeiT-S, 2 threads, float32, PyTorch {torch.__version__}, timm {timm.__version__}, "
        f"{arguments.rounds} rounds in turn.",
        "",
        "| case | before, ms | now, ms | times as fast | before, peak MB | now |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for case in taken["now"][0]:
        before, after = ([one[case] for one in taken[side]] for side in ("before", "now"))
        gain = median(b[0] / a[0] for b, a in zip(before, after, strict=True))
        lines.append(
            f"| {case} | {1e3 * median(one[0] for one in before):.1f} | "
            f"{1e3 * median(one[0] for one in after):.1f} | {gain:.2f} | "
            f"{before[0][1] / 1e6:.1f} | {after[0][1] / 1e6:.1f} |"
        )
    write_text(arguments.out.with_suffix(".md"), "\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
