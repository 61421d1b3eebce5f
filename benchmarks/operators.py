"""Where the time of a forward goes, operator by operator: dense, and with the paper's plan.

    python benchmarks/operators.py --out docs/results/operators-cpu.md

It needs no more of repshift than ``compress`` and ``Plan.paper``, so that it profiles any version:
``git worktree add before COMMIT`` and ``PYTHONPATH=before/src`` in front of the command.
"""

import argparse
from pathlib import Path

import timm
import torch
from torch.profiler import ProfilerActivity, profile

from repshift import Plan, compress

MODELS = {"DeiT-S": "deit_small_patch16_224", "DeiT-B": "deit_base_patch16_224"}
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
    return spent


def table(name, calls):
    torch.manual_seed(0)
    model, image = timm.create_model(MODELS[name]).eval(), torch.randn(1, 3, 224, 224)
    dense = milliseconds(model, image, calls)
    compress(model, Plan.paper("deit"))
    shift = milliseconds(model, image, calls)
    lines = [f"| {name}, batch 1 | dense, ms | shift, ms | what is left |", "|---|---:|---:|---:|"]
    dense["all"], shift["all"] = sum(dense.values()), sum(shift.values())
    for kind, spent in dense.items():
        lines.append(f"| {kind} | {spent:.2f} | {shift[kind]:.2f} | {shift[kind] / spent:.0%} |")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/operators.md"))
    parser.add_argument("--calls", type=int, default=30)
    arguments = parser.parse_args()
    lines = [f"{torch.get_num_threads()} threads, PyTorch {torch.__version__}."]
    for name in MODELS:
        lines += ["", *table(name, arguments.calls)]
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text("\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
