"""Does a compressed ONNX file keep its speed-up in onnxruntime?

Compressed against dense, in turn in one process; random weights, since speed does not depend on
them:

    python benchmarks/export.py --out docs/results/export-cpu
"""

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

import onnxruntime
import timm
import torch
from tqdm import trange

from repshift import Merge, Plan, Random, Shift, ToMe, compress
from repshift.evaluation.tasks.export import export_onnx
from repshift.files import write_text
from repshift.measure.environment import environment, in_words
from repshift.measure.flops import count_flops

MODELS = {"DeiT-S": "deit_small_patch16_224", "DeiT-B": "deit_base_patch16_224"}
DEIT = Plan.paper("deit").drop
PLANS = [
    Plan({}),
    Plan(DEIT, Random()),
    Plan(DEIT, Shift()),
    Plan(DEIT, Shift(), Merge()),
    Plan(DEIT, reduction=ToMe()),
]
HEADS = "| model | method | GFLOPs | MB | images/s | vs dense | of FLOPs' gain |"


def session(model, plan, images, path, threads):
    """An onnxruntime session of the model under the plan, its FLOPs and the size of its file."""
    with compress(model, plan):
        flops, _ = count_flops(lambda: model(images))
        size = export_onnx(model, images, path).size
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    found = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return found, flops / len(images) / 1e9, size / 1e6


def measure(name, batch, rounds, threads):
    torch.manual_seed(0)
    model = timm.create_model(MODELS[name]).eval()
    images = torch.randn(batch, 3, 224, 224)
    given, taken = {"images": images.numpy()}, []
    with tempfile.TemporaryDirectory() as folder:
        parts = [
            session(model, plan, images, Path(folder) / f"{number}.onnx", threads)
            for number, plan in enumerate(PLANS)
        ]
        for _ in trange(rounds + 1, desc=f"{name}, in turn"):
            times = []
            for run, _, _ in parts:
                start = perf_counter()
                run.run(None, given)
                times.append(perf_counter() - start)
            taken.append(times)
    taken = taken[1:]  # the first round allocates
    rows = []
    for at, (plan, (_, gflops, size)) in enumerate(zip(PLANS, parts, strict=True)):
        speedup = median(times[0] / times[at] for times in taken)
        rows.append({
            "model": name,
            "method": plan.method if plan.drop else "dense",
            "gflops": gflops,
            "mb": size,
            "images_per_s": batch / median(times[at] for times in taken),
            "speedup": speedup,
            "flop_share": speedup * gflops / parts[0][1],
        })  # fmt: skip
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/export"))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    facts = {"batch": arguments.batch, "rounds": arguments.rounds}
    facts |= environment(torch.device("cpu"), torch.float32, "onnxruntime")
    facts["threads"] = arguments.threads  # of onnxruntime, which alone is timed
    rows = []
    for name in arguments.models:
        rows += measure(name, arguments.batch, arguments.rounds, arguments.threads)
    lines = [in_words(facts), "", HEADS]
    lines += ["|" + "---|" * (HEADS.count("|") - 1)]
    lines += [
        f"| {row['model']} | {row['method']} | {row['gflops']:.2f} | {row['mb']:.0f} | "
        f"{row['images_per_s']:.3g} | {row['speedup']:.2f} | {100 * row['flop_share']:.0f} % |"
        for row in rows
    ]
    write_text(arguments.out.with_suffix(".md"), "\n".join([*lines, ""]))
    form = {"rows": rows, "environment": facts}
    write_text(arguments.out.with_suffix(".json"), json.dumps(form, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
