"""How much of the FLOP-implied speed-up could any reduction reach?

Beside the shift, the same blocks with the first tokens cut off by a slice: no score, no choice, no
copy, which no reduction can undercut. Eager and under ``torch.compile``, whose freezing packs the
weights once.

    python benchmarks/bound.py --out docs/results/bound-cpu.md
"""

import argparse
from collections.abc import Callable
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import timm
import torch
from tqdm import tqdm

from repshift import Plan, compress
from repshift.files import write_text
from repshift.measure.flops import count_flops
from repshift.measure.speed import interleave, speedup
from speed import CASES


def dense(model, plan):
    pass


def a_slice(model, plan):
    counts = plan.entering(len(model.blocks), model.patch_embed.num_patches)
    for block, patches in zip(
        model.blocks, counts[1:], strict=False
    ):  # after the last nothing runs
        left = model.num_prefix_tokens + patches
        block.register_forward_hook(lambda _, __, x, left=left: x[:, :left])


def shift(model, plan):
    compress(model, plan)


WAYS: dict[str, Callable] = {"dense": dense, "a slice": a_slice, "shift(mlp, l2)": shift}


def compiled(model):
    # Hooks count: of two models of one class, the second would get the code of the first.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    return torch.compile(model, options={"freezing": True})


def measure(name, batch, compiler, rounds):
    torch.manual_seed(0)
    kind, settings, size, plan = CASES[name]
    images, models, flops = torch.randn(batch, 3, *size), {}, {}
    for way, attach in WAYS.items():
        model = timm.create_model(kind, **settings).eval()
        attach(model, Plan.paper(plan))
        flops[way] = count_flops(partial(model, images))[0]
        models[way] = compiled(model) if compiler else model
    current = models["dense"]

    @contextmanager
    def taking(way):
        nonlocal current
        current = models[way]
        yield

    contenders = {way: partial(taking, way) for way in WAYS}
    with tqdm(total=rounds * len(WAYS), desc=f"{name}, batch {batch}") as bar:
        times = interleave(
            contenders, lambda: current(images), rounds=rounds, seconds=0.5, progress=bar.update
        )
    for way in WAYS:
        gain = speedup(times[way], times["dense"])
        share = gain * flops[way] / flops["dense"]
        yield (
            f"| {name} | {batch} | {'compiled' if compiler else 'eager'} | {way} "
            f"| {1e3 * median(times[way]):.1f} | {gain:.2f} | {100 * share:.0f} % |"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/bound.md"))
    parser.add_argument("--models", nargs="*", choices=CASES, default=["DeiT-S", "DeiT-B"])
    parser.add_argument("--batches", nargs="*", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15)
    arguments = parser.parse_args()
    lines = [
        f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}, timm "
        f"{timm.__version__}, {arguments.rounds} rounds in turn.",
        "",
        "| model | batch | run | tokens leave by | ms | vs dense | of FLOPs' gain |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in arguments.models:
        for batch in arguments.batches:
            for compiler in (False, True):
                lines += measure(name, batch, compiler, arguments.rounds)
                write_text(arguments.out, "\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
