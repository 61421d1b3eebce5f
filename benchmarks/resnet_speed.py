"""Do rows and columns that leave a ResNet save the time that their FLOPs promise?

torchvision's ResNet-34 and 50 with random weights, since speed does not depend on them, at the
paper's plan, in both memory formats; all in turn on the same machine. Writes a table (Markdown) and
all figures (JSON):

    python benchmarks/resnet_speed.py --out docs/results/resnet-speed-cpu
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
import torchvision

from harness import COSTS, Report, command, costs
from repshift import Border, PerRowAndColumn, Plan, Random, RowsAndColumns, Shift
from repshift.adapters import describe
from repshift.evaluation.tasks.smaller_input import smaller_images
from repshift.evaluation.tasks.variants import DENSE, Variant

FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
PAPER = Plan.paper("resnet")
PLANS = [
    Plan(PAPER.drop, Random(), RowsAndColumns()),
    Plan(PAPER.drop, Border(), RowsAndColumns()),
    Plan(PAPER.drop, Shift("block"), RowsAndColumns()),
    Plan(PAPER.drop, Shift("branch", definition="update"), RowsAndColumns()),
    Plan(PAPER.drop, RowsAndColumns.default_score, PerRowAndColumn()),
]
COLUMNS = {"model": COSTS["model"], "memory format": lambda row: row["layout"]} | {
    head: COSTS[head]
    for head in ("batch", "method", "GFLOPs", "peak MB", "images/s", "vs fused", "of FLOPs' gain")
}


def measure(name, layout, batch, size, rounds, seconds, device, dtype):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name).eval()
    model = model.to(device, dtype, memory_format=FORMATS[layout])
    images = torch.randn(batch, 3, size, size, device=device, dtype=dtype)
    images = images.contiguous(memory_format=FORMATS[layout])
    smaller, _ = smaller_images(model, describe(model), [PAPER], images)
    rows = [DENSE, *(replace(row, label=f"dense, {row.input}") for row in smaller)]
    rows += [Variant(plan.method, "resnet", (plan,)) for plan in PLANS]
    where = {"model": name, "layout": layout, "batch": batch}
    return costs(model, rows, images, where, rounds=rounds, seconds=seconds)


def main(
    out: Path = Path("runs/resnet-speed"),
    models: tuple[str, ...] = ("resnet34", "resnet50"),
    layouts: tuple[Literal[tuple(FORMATS)], ...] = tuple(FORMATS),
    batch: int = 16,
    size: int = 224,
    rounds: int = 7,
    device: str = "cpu",
):
    report = Report(out, "torchvision", device=device, rounds=rounds)
    each = (
        measure(name, layout, batch, size, rounds, 0.5, report.device, report.dtype)
        for name in models
        for layout in layouts
    )
    report.rows(COLUMNS, (row for rows in each for row in rows))


if __name__ == "__main__":
    command(main)
