"""How much of the FLOP-implied speed-up is reached, and what a block's peak memory is.

Random weights: speed does not depend on them. Every method runs in turn with the dense models on
the same machine. Writes a table (Markdown) and all figures (JSON):

    python benchmarks/speed.py --out docs/results/speed-cpu
"""

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import timm
import torch

from repshift import ClassAttention, ColumnAttention, Plan, Random, Shift
from repshift.adapters import describe
from repshift.evaluation.tasks.costs import measure_costs
from repshift.evaluation.tasks.variants import DENSE_EAGER, DENSE_FUSED, Variant
from repshift.files import write_text
from repshift.measure.environment import environment, in_words

# UMT-B's shape: 12 frames of 196 tokens, no class token, as one image of 48 x 49 patches.
CLIP = {"img_size": (768, 784), "class_token": False, "global_pool": "avg"}
CASES = {
    "DeiT-S": ("deit_small_patch16_224", {}, (224, 224), "deit"),
    "DeiT-B": ("deit_base_patch16_224", {}, (224, 224), "deit"),
    "ViT-B, 2,352 tokens": ("vit_base_patch16_224", CLIP, (768, 784), "umt-retrieval"),
}
HEADS = "| model | batch | method | attention | tokens | GFLOPs | peak MB | images/s | spread | vs eager | vs fused | of FLOPs' gain |"  # noqa: E501


def measure(case, batch, rounds, device, dtype):
    name, settings, size, plan_name = CASES[case]
    torch.manual_seed(0)
    model = timm.create_model(name, **settings).eval().to(device, dtype)
    spec = describe(model)
    images = torch.randn(batch, 3, *size, device=device, dtype=dtype)
    drop = Plan.paper(plan_name).drop
    attention = ClassAttention() if spec.class_token else ColumnAttention()
    rows = [DENSE_EAGER, DENSE_FUSED] + [
        Variant(str(score), plan_name, (Plan(drop, score=score),))
        for score in (attention, Random(), Shift(definition="update"), Shift())
    ]

    costs = measure_costs(model, spec, rows, images, rounds=rounds, seconds=0.5)
    return [
        {"model": case, "batch": batch, "method": row.label, **asdict(cost)}
        for row, cost in costs.items()
    ]


def line(row):
    return (
        f"| {row['model']} | {row['batch']} | {row['method']} | {row['kernel']} | "
        f"{row['tokens']} | {row['gflops']:.2f} | {row['peak_mb']:.1f} | "
        f"{row['images_per_s']:.3g} | {row['spread']:.1%} | {row['speedup_vs_eager']:.2f} | "
        f"{row['speedup_vs_fused']:.2f} | {100 * row['flop_share']:.0f} % |"
    )


def table(facts, rows, heads, line):
    rule = "|" + "---|" * (heads.count("|") - 1)
    return "\n".join([in_words(facts), "", heads, rule, *map(line, rows), ""])


def write_results(out, facts, rows, heads=HEADS, line=line):
    """Table and figures beside each other; returns the table."""
    text = table(facts, rows, heads, line)
    write_text(out.with_suffix(".md"), text)
    form = {"rows": rows, "environment": facts}
    write_text(out.with_suffix(".json"), json.dumps(form, indent=1))
    return text


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/speed"))
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], default="float32")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    dtype = getattr(torch, arguments.dtype)
    facts = {"rounds": arguments.rounds} | environment(device, dtype, "timm")
    rows = []
    for case in arguments.cases:
        for batch in arguments.batches:
            dtype = getattr(torch, arguments.dtype)
            rows += measure(case, batch, arguments.rounds, device, dtype)
            text = write_results(arguments.out, facts, rows)
    print(text)


if __name__ == "__main__":
    main()
