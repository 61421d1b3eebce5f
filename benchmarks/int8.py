"""Do int8 weights and fewer tokens add up, in speed and in what is lost?

The real DINOv2 of saliency-vit-s14, by PyTorch (torchao, compiled) and by onnxruntime (the
MatMuls of the exported file), activations rounded as they come, in turn in one process:

    python benchmarks/int8.py --rounds 7 --out docs/results/int8-cpu
"""

import tempfile
from copy import deepcopy
from functools import partial
from pathlib import Path
from statistics import median

import onnxruntime
import torch
from onnxruntime.quantization import quantize_dynamic
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

from harness import COSTS, Report, command, in_turn
from repshift import Plan, compress
from repshift.evaluation.data.images import read_image, sample_photographs
from repshift.evaluation.tasks.export import export_onnx
from repshift.evaluation.zoo.load import load_model
from repshift.measure.fidelity import feature_fidelity
from repshift.measure.speed import speedup

COLUMNS = {
    "by": lambda row: row["by"],
    "weights": lambda row: row["weights"],
    "method": COSTS["method"],
    "MB": lambda row: f"{row['mb']:.0f}",
    "images/s": COSTS["images/s"],
    "vs fp32 dense": lambda row: f"{row['speedup']:.2f}",
    "cosine": lambda row: f"{row['cosine']:.4f}",
}


def in_pytorch(model, int8, path):
    """Eager, int8 on a CPU takes twice as long as fp32; compiled, less."""
    if int8:
        quantize_(model, Int8DynamicActivationInt8WeightConfig())
    torch.save(model.state_dict(), path)
    return torch.compile(model)


def in_onnxruntime(model, int8, path, threads):
    export_onnx(model, torch.randn(2, 3, 224, 224), path)
    if int8:
        quantize_dynamic(path, path, op_types_to_quantize=["MatMul"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def measure(by, make, photographs, batch, rounds):
    loaded = load_model("saliency-vit-s14")
    seen = torch.stack([loaded.prepare(read_image(path)) for path in photographs])
    plans = [Plan({}), Plan.paper("deit")]
    ways = [(plan, int8) for int8 in (False, True) for plan in plans]
    runs, sizes = {}, []
    with tempfile.TemporaryDirectory() as folder:
        for at, (plan, int8) in enumerate(ways):
            model, path = deepcopy(loaded.model), Path(folder) / str(at)
            compress(model, plan)
            runs[at] = make(model, int8, path)
            sizes.append(path.stat().st_size / 1e6)
        with torch.inference_mode():
            features = [torch.cat([run(part) for part in seen.split(batch)])
                        for run in runs.values()]  # fmt: skip
        timed = {at: partial(run, seen[:batch]) for at, run in runs.items()}
        times = in_turn(timed, rounds=rounds, seconds=0.5, title=by)
    for at, (plan, int8) in enumerate(ways):
        yield {
            "by": by,
            "weights": "int8" if int8 else "fp32",
            "method": plan.method if plan.drop else "dense",
            "mb": sizes[at],
            "images_per_s": batch / median(times[at]),
            "speedup": speedup(times[at], times[0]),
            "cosine": feature_fidelity(features[0], features[at]).value,
        }


def main(
    out: Path = Path("runs/int8"),
    batch: int = 8,
    rounds: int = 9,
    threads: int = torch.get_num_threads(),
):
    torch.set_num_threads(threads)
    report = Report(out, "torchao", "onnxruntime", batch=batch, rounds=rounds)
    photographs = sample_photographs()
    makers = {"PyTorch": in_pytorch, "onnxruntime": partial(in_onnxruntime, threads=threads)}
    each = (measure(by, make, photographs, batch, rounds) for by, make in makers.items())
    report.rows(COLUMNS, (row for rows in each for row in rows))


if __name__ == "__main__":
    command(main)
