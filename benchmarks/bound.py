"""How much of the FLOP-implied speed-up could any reduction reach?

Beside the shift, the same blocks with the first tokens cut off by a slice: no score, no choice, no
copy, which no reduction can undercut. Eager and under ``torch.compile``, whose freezing packs the
weights once.

    python benchmarks/bound.py --out docs/results/bound-cpu
"""

from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import timm
import torch

from harness import Report, command, in_turn
from repshift import Plan, compress
from repshift.measure.flops import count_flops
from repshift.measure.speed import speedup
from speed import CASES


def a_slice(model, plan):
    counts = plan.entering(len(model.blocks), model.patch_embed.num_patches)
    for block, patches in zip(
        model.blocks, counts[1:], strict=False
    ):  # after the last nothing runs
        left = model.num_prefix_tokens + patches
        block.register_forward_hook(lambda _, __, x, left=left: x[:, :left])


WAYS = {"dense": lambda *_: None, "a slice": a_slice, "shift(mlp, l2)": compress}


def compiled(model):
    # Hooks count: of two models of one class, the second would get the code of the first.
    torch._dynamo.config.skip_nnmodule_hook_guards = False
    return torch.compile(model, options={"freezing": True})


def measure(name, batch, compiler, rounds):
    torch.manual_seed(0)
    kind, settings, size, plan = CASES[name]
    images, runs, flops = torch.randn(batch, 3, *size), {}, {}
    for way, attach in WAYS.items():
        model = timm.create_model(kind, **settings).eval()
        attach(model, Plan.paper(plan))
        flops[way] = count_flops(partial(model, images))[0]
        runs[way] = partial(compiled(model) if compiler else model, images)
    times = in_turn(runs, rounds=rounds, seconds=0.5, title=f"{name}, batch {batch}")
    for way in WAYS:
        gain = speedup(times[way], times["dense"])
        share = gain * flops[way] / flops["dense"]
        run = "compiled" if compiler else "eager"
        ms = f"{1e3 * median(times[way]):.1f}"
        yield name, batch, run, way, ms, f"{gain:.2f}", f"{100 * share:.0f} %"


def main(
    out: Path = Path("runs/bound"),
    models: tuple[Literal[tuple(CASES)], ...] = ("DeiT-S", "DeiT-B"),
    batches: tuple[int, ...] = (1, 8),
    rounds: int = 15,
):
    each = (
        measure(name, batch, compiler, rounds)
        for name in models
        for batch in batches
        for compiler in (False, True)
    )
    Report(out, "timm", rounds=rounds).table(
        ("model", "batch", "run", "tokens leave by", "ms", "vs dense", "of FLOPs' gain"),
        (row for rows in each for row in rows),
    )


if __name__ == "__main__":
    command(main)
