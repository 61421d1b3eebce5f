"""Does an exported file keep its speed-up, and do int8 weights and fewer tokens add up?

The real DINOv2 of saliency-vit-s14, by PyTorch (torchao, compiled) and by onnxruntime (the
MatMuls of the exported file), activations rounded as they come, in turn in one process:

    python benchmarks/int8.py --rounds 7 --out docs/results/int8-cpu
"""

import tempfile
from copy import deepcopy
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median

import onnxruntime
import torch
from onnxruntime.quantization import quantize_dynamic
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_

from harness import COSTS, Report, command
from repshift import Plan, compress
from repshift.evaluation.data.images import read_image, sample_photographs
from repshift.evaluation.tasks.export import export_onnx
from repshift.evaluation.zoo.load import load_model
from repshift.measure.fidelity import feature_fidelity
from repshift.measure.speed import speedup

COLUMNS = {
    "by": "{by}",
    "weights": "{weights}",
    "method": COSTS["method"],
    "MB": "{mb:.0f}",
    "images/s": COSTS["images/s"],
    "vs fp32 dense": "{speedup:.2f}",
    "cosine": "{cosine:.4f}",
}
WAYS = list(product(("fp32", "int8"), (Plan({}), Plan.paper("deit"))))


def in_pytorch(model, weights, path):
    """Eager, int8 on a CPU takes twice as long as fp32; compiled, less."""
    if weights == "int8":
        quantize_(model, Int8DynamicActivationInt8WeightConfig())
    torch.save(model.state_dict(), path)
    return torch.compile(model)


def in_onnxruntime(model, weights, path):
    export_onnx(model, torch.randn(2, 3, 224, 224), path)
    if weights == "int8":
        quantize_dynamic(path, path, op_types_to_quantize=["MatMul"])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def measure(by, make, batch, setting):
    loaded = load_model("saliency-vit-s14")
    seen = torch.stack([loaded.prepare(read_image(path)) for path in sample_photographs()])
    runs, sizes = [], []
    with tempfile.TemporaryDirectory() as folder:
        for number, (weights, plan) in enumerate(WAYS):
            model, path = deepcopy(loaded.model), Path(folder) / str(number)
            compress(model, plan)
            runs.append(make(model, weights, path))
            sizes.append(path.stat().st_size / 1e6)
        with torch.inference_mode():
            features = [torch.cat(list(map(run, seen.split(batch)))) for run in runs]
        times = setting.in_turn({at: partial(run, seen[:batch]) for at, run in enumerate(runs)})
    for at, (weights, plan) in enumerate(WAYS):
        row = {"by": by, "weights": weights, "method": plan.method if plan.drop else "dense"}
        row |= {"mb": sizes[at], "images_per_s": batch / median(times[at])}
        row |= {"speedup": speedup(times[at], times[0])}
        yield row | {"cosine": feature_fidelity(features[0], features[at]).value}


def main(
    out: Path = Path("runs/int8"),
    batch: int = 8,
    rounds: int = 9,
    threads: int = torch.get_num_threads(),
):
    torch.set_num_threads(threads)
    report = Report(out, "torchao", "onnxruntime", batch=batch, rounds=rounds)
    makers = {"PyTorch": in_pytorch, "onnxruntime": in_onnxruntime}
    setting = report.setting(rounds)
    each = (measure(by, make, batch, setting) for by, make in makers.items())
    report.rows(COLUMNS, (row for rows in each for row in rows))


if __name__ == "__main__":
    command(main)
