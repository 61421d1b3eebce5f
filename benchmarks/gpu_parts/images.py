"""Image classifiers at serving batch sizes, eager."""

from dataclasses import replace
from functools import partial

import timm
import torch

from harness import COSTS as COLUMNS
from harness import costs
from repshift import ClassAttention, Merge, Plan, Random, Redundancy, Shift, ToMe
from repshift.adapters import describe
from repshift.evaluation.tasks.smaller_input import smaller_images
from repshift.evaluation.tasks.variants import DENSE_EAGER, DENSE_FUSED, Variant

__all__ = ["COLUMNS", "NEEDS", "cases"]

NEEDS = ("timm",)
# The paper's shares after its blocks; in 24 blocks at the same depths. Pixels of a side last.
MODELS = {
    "DeiT-S": ("deit_small_patch16_224", {0: 0.2, 3: 0.2, 6: 0.2}, 224),
    "DeiT-B": ("deit_base_patch16_224", {0: 0.2, 3: 0.2, 6: 0.2}, 224),
    "ViT-L/16, 384 pixels": ("vit_large_patch16_384", {0: 0.2, 6: 0.2, 12: 0.2}, 384),
}
TINY = {"DeiT-Ti, 64 pixels": ("deit_tiny_patch16_224", {0: 0.2, 1: 0.2, 2: 0.2}, 64)}


def build(name, side, setting):
    torch.manual_seed(0)
    with setting.device:
        depth = {"depth": 4} if setting.tiny else {}
        return timm.create_model(name, img_size=side, **depth).eval().to(setting.dtype)


def plans(drop):
    """The methods that are compared at equal numbers of tokens, by label."""
    return {
        "random": Plan(drop, Random()),
        "class-attention": Plan(drop, ClassAttention()),
        "tome": Plan(drop, reduction=ToMe()),
        "redundancy(mlp) + merge": Plan(drop, Redundancy("mlp"), Merge()),
        "shift(mlp, l2)": Plan(drop, Shift()),
    }


def smaller_input(model, drop, images):
    """The dense model on the smaller images that cost most nearly what the plan does."""
    [row], _ = smaller_images(model, describe(model), [Plan(drop)], images)
    return replace(row, label=f"dense, {row.input}")


def measure(label, batch, setting):
    name, drop, side = {**MODELS, **TINY}[label]
    model, images = build(name, side, setting), setting.random(batch, 3, side, side)
    methods = plans(drop)
    rows = [
        DENSE_EAGER,
        DENSE_FUSED,
        smaller_input(model, drop, images),
        *(Variant(method, "paper", (plan,)) for method, plan in methods.items()),
        Variant("tome, eager attention (as published)", "paper", (methods["tome"],), eager=True),
    ]
    # A call of the largest batches takes up to a second, and varies little.
    rounds = setting.rounds if batch < 512 else min(3, setting.rounds)
    where = {"model": label, "batch": batch}
    return costs(model, rows, images, where, rounds=rounds, seconds=setting.seconds)


def cases(setting):
    models, batches = (TINY, (2,)) if setting.tiny else (MODELS, (512, 64, 1))
    return {
        f"{label}, batch {batch}": partial(measure, label, batch, setting)
        for batch in batches
        for label in models
    }
