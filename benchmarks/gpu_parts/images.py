"""Image classifiers at serving batch sizes, eager."""

from dataclasses import replace
from functools import partial

from harness import COSTS as COLUMNS
from repshift import Plan
from repshift.adapters import describe
from repshift.evaluation.tasks.smaller_input import smaller_images
from repshift.evaluation.tasks.variants import DENSE_EAGER, DENSE_FUSED
from speed import Case, at, by_size, vit

__all__ = ["COLUMNS", "NEEDS", "cases"]

NEEDS = ("timm",)
# The paper's shares after its blocks; in 24 blocks at the same depths. Pixels of a side last.
MODELS = {
    "DeiT-S": ("deit_small_patch16_224", {0: 0.2, 3: 0.2, 6: 0.2}, 224),
    "DeiT-B": ("deit_base_patch16_224", {0: 0.2, 3: 0.2, 6: 0.2}, 224),
    "ViT-L/16, 384 pixels": ("vit_large_patch16_384", {0: 0.2, 6: 0.2, 12: 0.2}, 384),
}
TINY = {"DeiT-Ti, 64 pixels": ("deit_tiny_patch16_224", {0: 0.2, 1: 0.2, 2: 0.2}, 64)}
METHODS = ("random", "class-attention", "redundancy(mlp) + merge", "shift(mlp, l2)", "tome")


def smaller_input(model, drop, images):
    """The dense model on the smaller images that cost most nearly what the plan does."""
    [row] = by_size(smaller_images(model, describe(model), [Plan(drop)], images)[0])
    return row


def ways(drop, model, images):
    """The methods at equal numbers of tokens."""
    rows = at("paper", drop, METHODS)
    published = replace(rows[-1], label="tome, eager attention (as published)", eager=True)
    return [DENSE_EAGER, DENSE_FUSED, smaller_input(model, drop, images), *rows, published]


def case(label, setting):
    name, drop, side = {**MODELS, **TINY}[label]
    make = partial(vit, name, img_size=side, **({"depth": 4} if setting.tiny else {}))
    return Case(make, (3, side, side), partial(ways, drop))


def measure(label, batch, setting):
    # A call of the largest batches takes up to a second.
    setting = setting.brief if batch >= 512 else setting
    return case(label, setting).measure(label, batch, setting)


def cases(setting):
    models, batches = (TINY, (2,)) if setting.tiny else (MODELS, (512, 64, 1))
    return {
        f"{label}, batch {batch}": partial(measure, label, batch, setting)
        for batch in batches
        for label in models
    }
