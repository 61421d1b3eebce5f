"""How much of the FLOP-implied speed-up could any reduction reach at batch 1?

Beside the shift, the same blocks with the first tokens cut off by a slice: no score, no choice, no
copy, which no reduction can undercut.

    python benchmarks/bound.py --out docs/results/bound-cpu.md
"""

import argparse
from contextlib import contextmanager, nullcontext
from pathlib import Path
from statistics import median

import timm
import torch

from repshift import Plan, compress
from repshift.files import write_text
from repshift.measure.flops import count_flops
from repshift.measure.speed import interleave

MODELS = {"DeiT-S": "deit_small_patch16_224", "DeiT-B": "deit_base_patch16_224"}
LEFT = {0: 158, 3: 127, 6: 102}


@contextmanager
def slicing(model):
    hooks = [
        model.blocks[block].register_forward_hook(lambda _, __, x, left=left: x[:, :left])
        for block, left in LEFT.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def measure(name, rounds):
    torch.manual_seed(0)
    model, image = timm.create_model(MODELS[name]).eval(), torch.randn(1, 3, 224, 224)

    def run():
        return model(image)

    ways = {
        "dense": nullcontext,
        "a slice": lambda: slicing(model),
        "shift(mlp, l2)": lambda: compress(model, Plan.paper("deit")),
    }
    flops = {}
    for way, attached in ways.items():
        with attached():
            flops[way] = count_flops(run)[0]
    times = interleave(ways, run, rounds=rounds, seconds=0.5)
    for way in ways:
        speedup = median(d / t for d, t in zip(times["dense"], times[way], strict=True))
        share = speedup * flops[way] / flops["dense"]
        yield (
            f"| {name} | {way} | {1e3 * median(times[way]):.1f} | {speedup:.2f} | "
            f"{100 * share:.0f} % |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bound.md"))
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    lines = [
        f"Batch 1, {torch.get_num_threads()} threads, PyTorch {torch.__version__}, timm "
        f"{timm.__version__}, {arguments.rounds} rounds in turn.",
        "",
        "| model | tokens leave by | ms | vs dense | of FLOPs' gain |",
        "|---|---|---|---|---|",
    ]
    for name in MODELS:
        lines += measure(name, arguments.rounds)
    write_text(arguments.out, "\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
