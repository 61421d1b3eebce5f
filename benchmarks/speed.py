"""How much of the FLOP-implied speed-up is reached, and what a block's peak memory is.

Random weights: speed does not depend on them. Every method runs in turn with the dense models on
the same machine. Writes a table (Markdown) and all figures (JSON):

    python benchmarks/speed.py --out docs/results/speed-cpu
"""

from pathlib import Path
from typing import Literal

import timm
import torch

from harness import COSTS, Dtype, Report, command, costs
from repshift import ClassAttention, ColumnAttention, Plan, Random, Shift
from repshift.evaluation.tasks.variants import DENSE_EAGER, DENSE_FUSED, Variant

# UMT-B's shape: 12 frames of 196 tokens, no class token, as one image of 48 x 49 patches.
CLIP = {"img_size": (768, 784), "class_token": False, "global_pool": "avg"}
CASES = {
    "DeiT-S": ("deit_small_patch16_224", {}, (224, 224), "deit"),
    "DeiT-B": ("deit_base_patch16_224", {}, (224, 224), "deit"),
    "ViT-B, 2,352 tokens": ("vit_base_patch16_224", CLIP, (768, 784), "umt-retrieval"),
}


def measure(case, batch, rounds, report):
    name, settings, size, plan = CASES[case]
    torch.manual_seed(0)
    model = timm.create_model(name, **settings).eval().to(report.device, report.dtype)
    images = torch.randn(batch, 3, *size, device=report.device, dtype=report.dtype)
    attention = ClassAttention() if model.num_prefix_tokens else ColumnAttention()
    rows = [DENSE_EAGER, DENSE_FUSED] + [
        Variant(str(score), plan, (Plan(Plan.paper(plan).drop, score),))
        for score in (attention, Random(), Shift(definition="update"), Shift())
    ]
    return costs(model, rows, images, {"model": case, "batch": batch}, rounds=rounds)


def main(
    out: Path = Path("runs/speed"),
    cases: tuple[Literal[tuple(CASES)], ...] = tuple(CASES),
    batches: tuple[int, ...] = (1, 8),
    rounds: int = 7,
    device: str = "cpu",
    dtype: Dtype = "float32",
):
    report = Report(out, "timm", device=device, dtype=dtype, rounds=rounds)
    each = (measure(case, batch, rounds, report) for case in cases for batch in batches)
    report.rows(COSTS, (row for rows in each for row in rows))


if __name__ == "__main__":
    command(main)
