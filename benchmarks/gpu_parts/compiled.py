"""Image classifiers under torch.compile: compress first, then compile."""

from functools import partial
from statistics import median
from time import perf_counter

import torch

from gpu_parts.images import MODELS, TINY, case, smaller_input
from repshift import Plan, compress
from repshift.measure.flops import count_flops
from repshift.measure.speed import speedup

NEEDS = ("timm",)
COLUMNS = {
    "model": "{model}",
    "batch": "{batch}",
    "mode": "{mode}",
    "method": "{method}",
    "GFLOPs": "{gflops:.2f}",
    "ms": "{ms:.3g}",
    "dense ms": "{dense_ms:.3g}",
    "vs dense, compiled": "{speedup:.2f}",
    "of FLOPs' gain": "{flop_share:.0%}",
    "s to compile": "{compile_s:.0f}",
}
SMALLER = "dense, fewer pixels"
METHODS = ("shift(mlp, l2)", "tome", "redundancy(mlp) + merge", SMALLER, "random")


# Hooks count: of two models of one class, the second would else get the code of the first.
@torch._dynamo.config.patch(skip_nnmodule_hook_guards=False)
@torch.inference_mode()
def measure(label, batch, mode, method, setting):
    """One method against the dense model: compiling takes long, and a stopped run keeps a case."""
    torch._dynamo.reset()
    chosen, (_, drop, _) = case(label, setting), {**MODELS, **TINY}[label]
    images = setting.random(batch, *chosen.shape)
    # A CPU only shows that all runs, up to where a compiler would begin.
    how = {"mode": mode} if setting.device.type == "cuda" else {"backend": "aot_eager"}
    runs, gflops, seconds = {}, {}, {}

    def add(method, model, images):
        gflops[method] = count_flops(partial(model, images))[0] / batch / 1e9
        compiled, start = torch.compile(model, dynamic=False, **how), perf_counter()
        for _ in range(3):  # CUDA graphs are recorded in the second and third call
            compiled(images)
        seconds[method] = perf_counter() - start
        runs[method] = partial(compiled, images)

    dense = chosen.build(setting)
    add("dense", dense, images)
    if method == SMALLER:
        row = smaller_input(dense, drop, images)
        method, model, images = row.label, row.model, row.given(images)
    else:
        model = chosen.build(setting)
        compress(model, Plan.from_method(method, drop))
    add(method, model, images)
    times = setting.in_turn(runs)
    gain = speedup(times[method], times["dense"])
    row = {"model": label, "batch": batch, "mode": mode, "method": method}
    row |= {"gflops": gflops[method], "compile_s": seconds[method]}
    row |= {"ms": 1e3 * median(times[method]), "dense_ms": 1e3 * median(times["dense"])}
    row |= {"speedup": gain, "flop_share": gain * gflops[method] / gflops["dense"]}
    return [row]


def cases(setting):
    if setting.tiny:
        chosen, methods = [("DeiT-Ti, 64 pixels", 2, "default")], (METHODS[0], SMALLER)
    else:
        chosen, methods = [("DeiT-B", 64, "default"), ("DeiT-S", 1, "reduce-overhead")], METHODS
    return {
        f"{label}, batch {batch}, {mode}: {method}": partial(
            measure, label, batch, mode, method, setting
        )
        for method in methods
        for label, batch, mode in chosen
    }
