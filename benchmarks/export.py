"""Does a compressed ONNX file keep its speed-up in onnxruntime?

Compressed against dense, in turn in one process; random weights, since speed does not depend on
them:

    python benchmarks/export.py --out docs/results/export-cpu
"""

import tempfile
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import onnxruntime
import timm
import torch

from harness import COSTS, Report, command, in_turn
from repshift import Merge, Plan, Random, Shift, ToMe, compress
from repshift.evaluation.tasks.export import export_onnx
from repshift.measure.flops import count_flops
from repshift.measure.speed import speedup
from speed import CASES

MODELS = ("DeiT-S", "DeiT-B")
DEIT = Plan.paper("deit").drop
PLANS = [
    Plan({}),
    Plan(DEIT, Random()),
    Plan(DEIT, Shift()),
    Plan(DEIT, Shift(), Merge()),
    Plan(DEIT, reduction=ToMe()),
]
COLUMNS = {
    **{head: COSTS[head] for head in ("model", "method", "GFLOPs")},
    "MB": lambda row: f"{row['mb']:.0f}",
    "images/s": COSTS["images/s"],
    "vs dense": lambda row: f"{row['speedup']:.2f}",
    "of FLOPs' gain": COSTS["of FLOPs' gain"],
}


def session(model, plan, images, path, threads):
    """What runs an ONNX file of the model under the plan, its FLOPs and the size of the file."""
    with compress(model, plan):
        flops, _ = count_flops(lambda: model(images))
        size = export_onnx(model, images, path).size
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    found = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    run = partial(found.run, None, {"images": images.numpy()})
    return run, flops / len(images) / 1e9, size / 1e6


def measure(name, batch, rounds, threads):
    torch.manual_seed(0)
    model = timm.create_model(CASES[name][0]).eval()
    images = torch.randn(batch, 3, 224, 224)
    with tempfile.TemporaryDirectory() as folder:
        parts = [
            session(model, plan, images, Path(folder) / f"{number}.onnx", threads)
            for number, plan in enumerate(PLANS)
        ]
        runs = {at: run for at, (run, _, _) in enumerate(parts)}
        times = in_turn(runs, rounds=rounds, seconds=0.5, title=name)
    for at, (plan, (_, gflops, size)) in enumerate(zip(PLANS, parts, strict=True)):
        gain = speedup(times[at], times[0])
        yield {
            "model": name,
            "method": plan.method if plan.drop else "dense",
            "gflops": gflops,
            "mb": size,
            "images_per_s": batch / median(times[at]),
            "speedup": gain,
            "flop_share": gain * gflops / parts[0][1],
        }


def main(
    out: Path = Path("runs/export"),
    models: tuple[Literal[MODELS], ...] = MODELS,
    batch: int = 8,
    rounds: int = 15,
    threads: int = torch.get_num_threads(),
):
    report = Report(out, "onnxruntime", batch=batch, rounds=rounds)
    report.facts["threads"] = threads  # of onnxruntime, which alone is timed
    each = (measure(name, batch, rounds, threads) for name in models)
    report.rows(COLUMNS, (row for rows in each for row in rows))


if __name__ == "__main__":
    command(main)
