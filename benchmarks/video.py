"""UMT-B's and UMT-L's vision encoders on 12 frames: speed and memory for tables 2 to 4.

Random weights: speed does not depend on them. Every method runs in turn with the dense models on
the same machine, and with the dense model on fewer frames at the same FLOPs. Writes a table
(Markdown) and all figures (JSON):

    python benchmarks/video.py --out docs/results/video-cpu
"""

import argparse
from dataclasses import asdict, replace
from pathlib import Path

import torch

from repshift import Plan
from repshift.adapters import describe
from repshift.evaluation.models.umt.config import CONFIGS
from repshift.evaluation.models.umt.vision import VisionEncoder
from repshift.evaluation.tasks.costs import measure_costs
from repshift.evaluation.tasks.smaller_input import fewer_frames
from repshift.evaluation.tasks.variants import paper_variants, with_rival
from repshift.measure.environment import environment
from speed import write_results

FRAMES, SIDE = 12, 224
# Table 2 and 3 with MSRVTT's schedule of vid-TLDR, table 4 with MSRVTT-QA's.
TASKS = {"retrieval": ("umt-retrieval", "msrvtt"), "answering": ("umt-qa", "msrvtt-qa")}


def plans(name, task):
    """The names of the task's plans, the paper's and vid-TLDR's."""
    plan, data = TASKS[task]
    return plan, f"vid-tldr/{data}-{name.removeprefix('umt-')}"


def measure(size, video, plan, tldr, *, rounds, seconds=0.2, methods=()):
    """Costs of all rows; ``plan`` and ``tldr`` are a name and a plan each."""
    torch.manual_seed(0)
    with video.device:
        model = VisionEncoder(size.vision_width, size.vision_depth, size.vision_heads, pool="all")
    model = model.eval().to(video.dtype)
    spec = describe(model)
    rows = paper_variants(spec, *plan, *tldr)
    if methods:
        rows = [row for row in rows if not row.plans or row.label in methods]
    fewer = fewer_frames(model, spec, [plan[1]], video)
    rows = with_rival(rows, [replace(row, label=f"dense, {row.input}") for row in fewer])
    return measure_costs(model, spec, rows, video, rounds=rounds, seconds=seconds)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/video"))
    parser.add_argument("--models", nargs="+", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4])
    parser.add_argument("--methods", nargs="+", default=(), help="only these beside the dense ones")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    facts = environment(torch.device("cpu"), torch.float32) | {"rounds": arguments.rounds}
    rows = []
    for name in arguments.models:
        for task in arguments.tasks:
            for batch in arguments.batches:
                video = torch.randn(batch, FRAMES, 3, SIDE, SIDE)
                chosen = [(plan, Plan.paper(plan)) for plan in plans(name, task)]
                costs = measure(
                    CONFIGS[name], video, *chosen, rounds=arguments.rounds,
                    methods=arguments.methods,
                )  # fmt: skip
                rows += [
                    {"model": f"{name}, {task}", "batch": batch, "method": row.label} | asdict(cost)
                    for row, cost in costs.items()
                ]
                text = write_results(arguments.out, facts, rows)
    print(text)


if __name__ == "__main__":
    main()
