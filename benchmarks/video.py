"""UMT-B's and UMT-L's vision encoders on 12 frames: speed and memory for tables 2 to 4.

Random weights: speed does not depend on them. Every method runs in turn with the dense models on
the same machine. Writes a table (Markdown) and all figures (JSON):

    python benchmarks/video.py --out docs/results/video-cpu
"""

import argparse
from dataclasses import asdict
from pathlib import Path

import torch

from repshift import Plan
from repshift.adapters import describe
from repshift.evaluation.models.umt.config import CONFIGS
from repshift.evaluation.models.umt.vision import VisionEncoder
from repshift.evaluation.tasks.costs import measure_costs
from repshift.evaluation.tasks.variants import paper_variants
from repshift.measure.environment import environment
from speed import write_results

# Table 2 and 3 with MSRVTT's schedule of vid-TLDR, table 4 with MSRVTT-QA's.
TASKS = {"retrieval": ("umt-retrieval", "msrvtt"), "answering": ("umt-qa", "msrvtt-qa")}


def measure(name, task, batch, arguments):
    size = CONFIGS[name]
    device, dtype = torch.device(arguments.device), getattr(torch, arguments.dtype)
    torch.manual_seed(0)
    model = VisionEncoder(size.vision_width, size.vision_depth, size.vision_heads, pool="all")
    model = model.eval().to(device, dtype)
    spec = describe(model)
    video = torch.randn(batch, 12, 3, 224, 224, device=device, dtype=dtype)
    plan, data = TASKS[task]
    tldr = f"vid-tldr/{data}-{name.removeprefix('umt-')}"
    rows = paper_variants(spec, plan, Plan.paper(plan), tldr, Plan.paper(tldr))
    if arguments.methods:
        rows = [row for row in rows if not row.plans or row.label in arguments.methods]
    with torch.inference_mode():
        costs = measure_costs(model, spec, rows, video, rounds=arguments.rounds)
    return [
        {"model": f"{name}, {task}", "batch": batch, "method": row.label, **asdict(cost)}
        for row, cost in costs.items()
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/video"))
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--methods", nargs="+", help="only these beside the dense models")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    arguments = parser.parse_args()
    facts = environment(torch.device(arguments.device), getattr(torch, arguments.dtype))
    rows = []
    for name in arguments.models:
        for task in arguments.tasks:
            for batch in arguments.batches:
                rows += measure(name, task, batch, arguments)
                text = write_results(arguments.out, {**facts, "rounds": arguments.rounds}, rows)
    print(text)


if __name__ == "__main__":
    main()
