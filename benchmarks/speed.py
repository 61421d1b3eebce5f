"""How much of the FLOP-implied speed-up is reached, and what a block's peak memory is.

Random weights: speed does not depend on them. Every method runs in turn with the dense models on
the same machine. Writes a table (Markdown) and all figures (JSON):

    python benchmarks/speed.py --out docs/results/speed-cpu
"""

import argparse
import json
import platform
from pathlib import Path
from statistics import median

import timm
import torch
from tqdm import tqdm

from repshift import ClassAttention, ColumnAttention, Plan, Random, Shift
from repshift.adapters import describe
from repshift.measure.flops import count_flops
from repshift.measure.memory import peak_memory
from repshift.measure.speed import interleave
from repshift.report.files import write_text
from repshift.tasks.variants import DENSE_EAGER, DENSE_FUSED, Variant

# UMT-B's shape: 12 frames of 196 tokens, no class token, as one image of 48 x 49 patches.
CLIP = {"img_size": (768, 784), "class_token": False, "global_pool": "avg"}
CASES = {
    "DeiT-S": ("deit_small_patch16_224", {}, (224, 224), "deit"),
    "DeiT-B": ("deit_base_patch16_224", {}, (224, 224), "deit"),
    "ViT-B, 2,352 tokens": ("vit_base_patch16_224", CLIP, (768, 784), "umt-retrieval"),
}
HEADS = "| model | batch | method | attention | tokens | GFLOPs | peak MB | images/s | vs eager | vs fused | of FLOPs' gain |"  # noqa: E501


def measure(case, batch, rounds, device, dtype):
    name, settings, size, plan_name = CASES[case]
    torch.manual_seed(0)
    model = timm.create_model(name, **settings).eval().to(device, dtype)
    spec = describe(model)
    images = torch.randn(batch, 3, *size, device=device, dtype=dtype)
    drop = Plan.paper(plan_name).drop
    attention = ClassAttention() if spec.class_token else ColumnAttention()
    rows = [Variant(DENSE_EAGER), Variant(DENSE_FUSED)] + [
        Variant(str(score), plan_name, (Plan(drop, score=score),))
        for score in (attention, Random(), Shift(definition="update"), Shift())
    ]

    def run():
        return model(images)

    facts = {}
    for row in rows:
        with row.attached(model, spec) as compression:
            flops, kernel = count_flops(run)
            tokens = compression.counts[-1] if compression else 0
        with row.attached(model, spec):
            peak = peak_memory(run, device)
        facts[row.label] = {"kernel": kernel, "tokens": tokens, "gflops": flops / batch / 1e9,
                            "peak_mb": peak / 1e6}  # fmt: skip
    contenders = {row.label: lambda row=row: row.attached(model, spec) for row in rows}
    with tqdm(total=rounds * len(rows), desc=f"{case}, batch {batch}") as bar:
        times = interleave(contenders, run, rounds=rounds, seconds=0.5, progress=bar.update)

    def speedup(dense, label):
        return median(d / own for d, own in zip(times[dense], times[label], strict=True))

    dense_flops = facts[DENSE_FUSED]["gflops"]
    for label, fact in facts.items():
        fact |= {
            "model": case,
            "batch": batch,
            "method": label,
            "images_per_s": batch / median(times[label]),
            "seconds": times[label],
            "speedup_vs_eager": speedup(DENSE_EAGER, label),
            "speedup_vs_fused": speedup(DENSE_FUSED, label),
        }
        fact["flop_share"] = fact["speedup_vs_fused"] * fact["gflops"] / dense_flops
    return list(facts.values())


def line(row):
    return (
        f"| {row['model']} | {row['batch']} | {row['method']} | {row['kernel']} | "
        f"{row['tokens'] or 'all'} | {row['gflops']:.2f} | {row['peak_mb']:.1f} | "
        f"{row['images_per_s']:.3g} | {row['speedup_vs_eager']:.2f} | "
        f"{row['speedup_vs_fused']:.2f} | {100 * row['flop_share']:.0f} % |"
    )


def table(environment, rows):
    facts = ", ".join(f"{name} {value}" for name, value in environment.items())
    rule = "|" + "---|" * (HEADS.count("|") - 1)
    return "\n".join([facts, "", HEADS, rule, *map(line, rows), ""])


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
    cuda = device.type == "cuda"
    environment = {
        "device": torch.cuda.get_device_name(device) if cuda else platform.machine(),
        "threads": torch.get_num_threads(),
        "dtype": arguments.dtype,
        "torch": torch.__version__,
        "timm": timm.__version__,
        "rounds": arguments.rounds,
    }
    rows = []
    for case in arguments.cases:
        for batch in arguments.batches:
            dtype = getattr(torch, arguments.dtype)
            rows += measure(case, batch, arguments.rounds, device, dtype)
            text = table(environment, rows)
            write_text(arguments.out.with_suffix(".md"), text)
            form = {"rows": rows, "environment": environment}
            write_text(arguments.out.with_suffix(".json"), json.dumps(form, indent=1))
    print(text)


if __name__ == "__main__":
    main()
