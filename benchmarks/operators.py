"""Where the time of a forward goes, operator by operator: dense, and with the paper's plan.

python benchmarks/operators.py --out docs/results/operators-cpu
"""

from pathlib import Path

import timm
import torch
from torch.profiler import ProfilerActivity, profile

from harness import Report, command
from repshift import Plan, compress
from speed import CASES

KINDS = {
    "linear layers": ("addmm", "linear"),
    "attention": ("scaled_dot_product",),
    "GELU": ("gelu",),
    "norms": ("layer_norm",),
    "residual sums": ("aten::add",),
    "patch embedding": ("convolution", "conv2d"),
}
REST = "everything else"


def milliseconds(model, image, calls):
    """Self time of a call by kind of operator."""
    with torch.inference_mode():
        for _ in range(5):
            model(image)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            for _ in range(calls):
                model(image)
    spent = dict.fromkeys([*KINDS, REST], 0.0)
    for operator in seen.key_averages():
        kind = next(
            (kind for kind, names in KINDS.items() if any(name in operator.key for name in names)),
            REST,
        )
        spent[kind] += operator.self_cpu_time_total / calls / 1e3
    return spent | {"all": sum(spent.values())}


def measure(name, calls):
    torch.manual_seed(0)
    model, image = timm.create_model(CASES[name][0]).eval(), torch.randn(1, 3, 224, 224)
    dense = milliseconds(model, image, calls)
    compress(model, Plan.paper("deit"))
    shift = milliseconds(model, image, calls)
    for kind, spent in dense.items():
        yield kind, f"{spent:.2f}", f"{shift[kind]:.2f}", f"{shift[kind] / spent:.0%}"


def main(out: Path = Path("runs/operators"), calls: int = 30):
    report = Report(out, "timm", calls=calls)
    for name in ("DeiT-S", "DeiT-B"):
        heads = (f"{name}, batch 1", "dense, ms", "shift, ms", "what is left")
        report.table(heads, measure(name, calls))


if __name__ == "__main__":
    command(main)
