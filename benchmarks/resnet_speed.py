"""Do rows and columns that leave a ResNet save the time that their FLOPs promise?

torchvision's ResNet-34 and 50 with random weights, since speed does not depend on them, at the
paper's plan, in both memory formats; all in turn on the same machine. Writes a table (Markdown) and
all figures (JSON):

    python benchmarks/resnet_speed.py --out docs/results/resnet-speed-cpu
"""

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch
import torchvision

from repshift import Border, PerRowAndColumn, Plan, Random, RowsAndColumns, Shift
from repshift.adapters import describe
from repshift.evaluation.tasks.costs import measure_costs
from repshift.evaluation.tasks.smaller_input import smaller_images
from repshift.evaluation.tasks.variants import DENSE, Variant
from repshift.files import write_text
from repshift.measure.environment import environment, in_words

FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
PAPER = Plan.paper("resnet")
PLANS = [
    Plan(PAPER.drop, Random(), RowsAndColumns()),
    Plan(PAPER.drop, Border(), RowsAndColumns()),
    Plan(PAPER.drop, Shift("block"), RowsAndColumns()),
    Plan(PAPER.drop, Shift("branch", definition="update"), RowsAndColumns()),
    Plan(PAPER.drop, RowsAndColumns.default_score, PerRowAndColumn()),
]
HEADS = "| model | memory format | batch | method | GFLOPs | peak MB | images/s | vs dense | of FLOPs' gain |"  # noqa: E501


def measure(name, layout, batch, size, rounds, seconds, device, dtype):
    torch.manual_seed(0)
    model = torchvision.models.get_model(name).eval()
    model = model.to(device, dtype, memory_format=FORMATS[layout])
    images = torch.randn(batch, 3, size, size, device=device, dtype=dtype)
    images = images.contiguous(memory_format=FORMATS[layout])
    smaller, _ = smaller_images(model, describe(model), [PAPER], images)
    rows = [DENSE, *(replace(row, label=f"dense, {row.input}") for row in smaller)]
    rows += [Variant(plan.method, "resnet", (plan,)) for plan in PLANS]
    costs = measure_costs(model, describe(model), rows, images, rounds=rounds, seconds=seconds)
    return [
        {"model": name, "layout": layout, "batch": batch, "method": row.label, **asdict(cost)}
        for row, cost in costs.items()
    ]


def line(row):
    return (
        f"| {row['model']} | {row['layout']} | {row['batch']} | {row['method']} | "
        f"{row['gflops']:.2f} | {row['peak_mb']:.1f} | {row['images_per_s']:.3g} | "
        f"{row['speedup_vs_fused']:.2f} | {100 * row['flop_share']:.0f} % |"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/resnet-speed"))
    parser.add_argument("--models", nargs="+", default=["resnet34", "resnet50"])
    parser.add_argument("--layouts", nargs="+", choices=FORMATS, default=list(FORMATS))
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of one measurement, at least")
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    facts = {"rounds": arguments.rounds} | environment(device, torch.float32, "torchvision")
    rows = []
    for name in arguments.models:
        for layout in arguments.layouts:
            rows += measure(
                name, layout, arguments.batch, arguments.size, arguments.rounds,
                arguments.seconds, device, torch.float32,
            )  # fmt: skip
            rule = "|" + "---|" * (HEADS.count("|") - 1)
            text = "\n".join([in_words(facts), "", HEADS, rule, *map(line, rows), ""])
            write_text(arguments.out.with_suffix(".md"), text)
            form = {"rows": rows, "environment": facts}
            write_text(arguments.out.with_suffix(".json"), json.dumps(form, indent=1))
    print(text)


if __name__ == "__main__":
    main()
