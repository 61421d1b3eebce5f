"""UMT-B's and UMT-L's vision encoders on 12 frames: speed and memory for tables 2 to 4.

Random weights: speed does not depend on them. Every method runs in turn with the dense models on
the same machine, and with the dense model on fewer frames at the same FLOPs. Writes a table
(Markdown) and all figures (JSON):

    python benchmarks/video.py --out docs/results/video-cpu
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from harness import COSTS, Report, command, costs
from repshift import Plan
from repshift.adapters import describe
from repshift.evaluation.models.umt.config import CONFIGS
from repshift.evaluation.models.umt.vision import VisionEncoder
from repshift.evaluation.tasks.smaller_input import fewer_frames
from repshift.evaluation.tasks.variants import paper_variants, with_rival

FRAMES, SIDE = 12, 224
# Table 2 and 3 with MSRVTT's schedule of vid-TLDR, table 4 with MSRVTT-QA's.
TASKS = {"retrieval": ("umt-retrieval", "msrvtt"), "answering": ("umt-qa", "msrvtt-qa")}


def plans(name, task):
    """The names of the task's plans, the paper's and vid-TLDR's."""
    plan, data = TASKS[task]
    return plan, f"vid-tldr/{data}-{name.removeprefix('umt-')}"


def measure(where, size, video, plan, tldr, *, rounds, seconds=0.2, methods=()):
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
    return costs(model, rows, video, where, rounds=rounds, seconds=seconds)


def main(
    out: Path = Path("runs/video"),
    models: tuple[Literal[tuple(CONFIGS)], ...] = tuple(CONFIGS),
    tasks: tuple[Literal[tuple(TASKS)], ...] = tuple(TASKS),
    batches: tuple[int, ...] = (1, 4),
    methods: tuple[str, ...] = (),
    rounds: int = 3,
):
    """``methods``: only these beside the dense ones."""
    report = Report(out, rounds=rounds)

    def rows():
        for name in models:
            for task in tasks:
                for batch in batches:
                    video = torch.randn(batch, FRAMES, 3, SIDE, SIDE)
                    chosen = [(plan, Plan.paper(plan)) for plan in plans(name, task)]
                    where = {"model": f"{name}, {task}", "batch": batch}
                    yield from measure(
                        where, CONFIGS[name], video, *chosen, rounds=rounds, methods=methods
                    )

    report.rows(COSTS, rows())


if __name__ == "__main__":
    command(main)
