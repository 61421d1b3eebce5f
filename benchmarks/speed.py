"""How much of the FLOP-implied speed-up is reached, and what a block's peak memory is.

Random weights: speed does not depend on them. Every method runs in turn with the dense models on
the same machine. DeiT at the paper's plan by several scores; its ``methods``: pruning, merging and
ToMe at equal final token counts (the plan leaves 102 of 197, ToMe's constant schedule 101);
torchvision's ResNets in both memory formats; UMT's vision encoders on 12 frames, by the rows of the
paper's tables 2 to 4. ResNets and UMT also with the dense model on a smaller image or fewer frames
at the same FLOPs.

    python benchmarks/speed.py --cases DeiT-S DeiT-B --out docs/results/speed-cpu-deit
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from harness import COSTS, Dtype, Report, command
from repshift import Plan
from repshift.adapters import describe
from repshift.evaluation.models.umt.config import CONFIGS
from repshift.evaluation.models.umt.vision import VisionEncoder
from repshift.evaluation.tasks.smaller_input import fewer_frames, smaller_images
from repshift.evaluation.tasks.variants import (
    DENSE,
    DENSE_EAGER,
    DENSE_FUSED,
    Variant,
    paper_variants,
    with_rival,
)

DEIT = {"DeiT-S": "deit_small_patch16_224", "DeiT-B": "deit_base_patch16_224"}
# UMT-B's shape: 12 frames of 196 tokens, no class token, as one image of 48 x 49 patches.
CLIP = {"img_size": (768, 784), "class_token": False, "global_pool": "avg"}
SCORES = ("random(0)", "shift(mlp, l2, update)", "shift(mlp, l2)")
# Compared at the paper's plan, and where every block drops 8 tokens.
BY_PLAN = (
    "random(0)", "shift(mlp, l2)", "shift(mlp, l2) + merge(plain)", "shift(mlp, l2) + merge",
    "shift(mlp, l2) + vid-tldr", "tome(plain)", "tome",
)  # fmt: skip
BY_BLOCK = ("shift(mlp, l2)", "shift(mlp, l2) + merge", "tome(plain)", "tome")
GRIDS = (
    "random(0) + rows-and-columns", "border + rows-and-columns",
    "shift(block, l2) + rows-and-columns", "shift(branch, l2, update) + rows-and-columns",
    "shift(block, l2) + per-row-and-column",
)  # fmt: skip
FORMATS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
# Tables 2 and 3 with MSRVTT's schedule of vid-TLDR, table 4 with MSRVTT-QA's.
TASKS = {"retrieval": ("umt-retrieval", "msrvtt"), "answering": ("umt-qa", "msrvtt-qa")}


@dataclass(frozen=True)
class Case:
    """How a model is made, the shape of one input, and the ways to run it."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    ways: Callable[[nn.Module, torch.Tensor], list[Variant]]
    memory: torch.memory_format = torch.contiguous_format

    def build(self, setting):
        torch.manual_seed(0)
        with setting.device:
            return self.make().eval().to(setting.dtype, memory_format=self.memory)

    def measure(self, label, batch, setting, only=()):
        """A row for each way; of those that drop tokens ``only`` some, if named."""
        model = self.build(setting)
        inputs = setting.random(batch, *self.shape).contiguous(memory_format=self.memory)
        ways = self.ways(model, inputs)
        ways = [way for way in ways if not (only and way.plans) or way.label in only]
        return setting.costs(model, ways, inputs, {"model": label, "batch": batch})


def vit(name, **settings):
    import timm

    return timm.create_model(name, **settings)


def at(schedule, drop, methods):
    """The methods at one schedule."""
    return [Variant(one, schedule, (Plan.from_method(one, drop),)) for one in methods]


def by_score(plan, model, images):
    attention = "class-attention" if model.num_prefix_tokens else "column-attention"
    return [DENSE_EAGER, DENSE_FUSED, *at(plan, Plan.paper(plan).drop, (attention, *SCORES))]


def by_method(model, images):
    rows = at("deit", Plan.paper("deit").drop, BY_PLAN)
    rows += at("8 a block", dict.fromkeys(range(12), 8), BY_BLOCK)
    rows = [replace(row, label=f"{row.label}, {row.schedule}") for row in rows]
    published = replace(rows[-1], label="tome on eager attention, 8 a block", eager=True)
    return [DENSE_EAGER, DENSE_FUSED, *rows, published]


def resnet(name, memory, side=224):
    def make():
        import torchvision

        return torchvision.models.get_model(name)

    def ways(model, images):
        paper = Plan.paper("resnet")
        smaller, _ = smaller_images(model, describe(model), [paper], images)
        return [DENSE, *by_size(smaller), *at("resnet", paper.drop, GRIDS)]

    return Case(make, (3, side, side), ways, FORMATS[memory])


def umt_plans(name, task):
    """The paper's plan for a task, and vid-TLDR's, by name."""
    paper, data = TASKS[task]
    return {one: Plan.paper(one) for one in (paper, f"vid-tldr/{data}-{name[4:]}")}


def umt(size, plans, frames=12, side=224):
    """UMT's vision encoder of some size; ``plans`` are the paper's and vid-TLDR's."""
    (name, plan), (tldr_name, tldr) = plans.items()

    def ways(model, videos):
        spec = describe(model)
        rows = paper_variants(spec, name, plan, tldr_name, tldr)
        return with_rival(rows, by_size(fewer_frames(model, spec, [plan], videos)))

    shape = size.vision_width, size.vision_depth, size.vision_heads
    return Case(partial(VisionEncoder, *shape, pool="all"), (frames, 3, side, side), ways)


def by_size(smaller):
    """The dense model on smaller inputs, which name the rows."""
    return [replace(row, label=f"dense, {row.input}") for row in smaller]


CASES = {
    "ViT-B, 2,352 tokens": Case(
        partial(vit, "vit_base_patch16_224", **CLIP),
        (3, 768, 784),
        partial(by_score, "umt-retrieval"),
    )
}
for label, name in DEIT.items():
    CASES[label] = Case(partial(vit, name), (3, 224, 224), partial(by_score, "deit"))
    CASES[f"{label}, methods"] = replace(CASES[label], ways=by_method)
for memory in FORMATS:
    CASES |= {f"{name}, {memory}": resnet(name, memory) for name in ("resnet34", "resnet50")}
for task in TASKS:
    CASES |= {f"{name}, {task}": umt(CONFIGS[name], umt_plans(name, task)) for name in CONFIGS}


def main(
    cases: tuple[Literal[tuple(CASES)], ...] = tuple(DEIT),
    out: Path = Path("runs/speed"),
    batches: tuple[int, ...] = (1, 8),
    only: tuple[str, ...] = (),
    rounds: int = 7,
    device: str = "cpu",
    dtype: Dtype = "float32",
):
    """``only``: these methods beside the dense models."""
    report = Report(out, "timm", "torchvision", device=device, dtype=dtype, rounds=rounds)
    setting = report.setting(rounds)
    runs = [(case, batch) for case in cases for batch in batches]
    each = (CASES[case].measure(case, batch, setting, only) for case, batch in runs)
    report.rows(COSTS, (row for rows in each for row in rows))


if __name__ == "__main__":
    command(main)
