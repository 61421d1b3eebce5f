"""Image classifiers under torch.compile: compress first, then compile."""

from contextlib import nullcontext
from functools import partial
from statistics import median
from time import perf_counter

import torch

from gpu_parts.images import MODELS, TINY, build, plans, smaller_side
from repshift import compress
from repshift.measure.flops import count_flops
from repshift.measure.speed import interleave, speedup

NEEDS = ("timm",)
HEADS = "| model | batch | mode | method | GFLOPs | ms | vs dense, compiled | of FLOPs' gain | s to compile |"  # noqa: E501
METHODS = ("random", "shift(mlp, l2)", "redundancy(mlp) + merge", "tome")


def line(row):
    return (
        f"| {row['model']} | {row['batch']} | {row['mode']} | {row['method']} | "
        f"{row['gflops']:.2f} | {row['ms']:.3g} | {row['speedup']:.2f} | "
        f"{row['flop_share']:.0%} | {row['compile_s']:.0f} |"
    )


# Hooks count: of two models of one class, the second would else get the code of the first.
@torch._dynamo.config.patch(skip_nnmodule_hook_guards=False)
@torch.inference_mode()
def measure(label, batch, mode, methods, setting):
    torch._dynamo.reset()
    name, drop, side = {**MODELS, **TINY}[label]
    images = setting.random(batch, 3, side, side)
    how = {"mode": mode} if setting.device.type == "cuda" else {"backend": "aot_eager"}
    runs, gflops, seconds = {}, {}, {}

    def add(method, model, images):
        gflops[method] = count_flops(partial(model, images))[0] / batch / 1e9
        compiled, start = torch.compile(model, dynamic=False, **how), perf_counter()
        for _ in range(3):  # CUDA graphs are recorded in the second and third call
            compiled(images)
        seconds[method] = perf_counter() - start
        runs[method] = partial(compiled, images)

    model = build(name, side, setting)
    add("dense", model, images)
    smaller = smaller_side(model, drop, side)
    cut = images[..., :smaller, :smaller].contiguous()
    add(f"dense, {smaller} pixels", build(name, smaller, setting), cut)
    for method in methods:
        model = build(name, side, setting)
        compress(model, plans(drop)[method])
        add(method, model, images)
    times = interleave(
        dict.fromkeys(runs, nullcontext),
        runs,
        device=setting.device,
        rounds=setting.rounds,
        seconds=setting.seconds,
    )
    rows = []
    for method, taken in times.items():
        gain = speedup(taken, times["dense"])
        rows.append(
            {
                "model": label,
                "batch": batch,
                "mode": mode,
                "method": method,
                "gflops": gflops[method],
                "ms": 1e3 * median(taken),
                "speedup": gain,
                "flop_share": gain * gflops[method] / gflops["dense"],
                "compile_s": seconds[method],
            }
        )
    return rows


def cases(setting):
    if setting.tiny:
        chosen = [("DeiT-Ti, 64 pixels", 2, "default")]
    else:
        chosen = [
            ("DeiT-B", 64, "default"),
            ("DeiT-S", 1, "reduce-overhead"),
            ("DeiT-B", 512, "default"),
            ("ViT-L/16, 384 pixels", 64, "default"),
        ]
    methods = METHODS[1:2] if setting.tiny else METHODS
    return {
        f"{label}, batch {batch}, {mode}": partial(measure, label, batch, mode, methods, setting)
        for label, batch, mode in chosen
    }
