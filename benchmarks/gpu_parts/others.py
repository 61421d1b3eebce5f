"""Vision Mamba, rows and columns of a ResNet, and budgets per image."""

from dataclasses import replace
from functools import partial

import torch

import ragged
import resnet_speed
from harness import COSTS, costs
from repshift import Plan, Shift, resize_images
from repshift.adapters import describe
from repshift.evaluation.models.vim.config import CONFIGS
from repshift.evaluation.models.vim.model import VisionMamba
from repshift.evaluation.tasks.variants import Variant, variants

NEEDS = ("timm", "torchvision")


def cost(head):
    """Of rows that have it: a way to run images of different lengths has no FLOPs."""
    return lambda row: COSTS[head](row) if "gflops" in row else ""


COLUMNS = {
    **{head: COSTS[head] for head in ("model", "batch", "method")},
    "tokens or rows": COSTS["tokens"],
    **{head: cost(head) for head in ("GFLOPs", "peak MB")},
    "images/s": COSTS["images/s"],
    "spread": cost("spread"),
    "vs dense or bound": lambda row: f"{row.get('vs_bound') or row['speedup_vs_fused']:.2f}",
    "of FLOPs' gain": cost("of FLOPs' gain"),
}


def vim(setting):
    size = replace(CONFIGS["vim-tiny"], **({"depth": 4, "image": 64} if setting.tiny else {}))
    smaller = replace(size, image=size.image - size.patch)  # .86 of the FLOPs, as the plan

    def build(config):
        torch.manual_seed(0)
        with setting.device:
            return VisionMamba(config).eval().to(setting.dtype)

    batch = 2 if setting.tiny else 128
    model, images = build(size), setting.random(batch, 3, size.image, size.image)
    drop = {0: 0.2, 2: 0.2} if setting.tiny else Plan.paper("vim").drop
    plan = Plan(drop, Shift("mixer"))
    rows = variants(describe(model), [("vim", plan)], ["random", "shift(mixer, l2)"])
    side = smaller.image
    given, pixels = partial(resize_images, size=side), f"{side} pixels"
    row = Variant(f"dense, {pixels}", input=pixels, model=build(smaller), given=given)
    rows.insert(1, row)
    where = {"model": size.name, "batch": batch}
    rounds = min(3, setting.rounds)
    return costs(model, rows, images, where, rounds=rounds, seconds=setting.seconds)


def resnet(name, setting):
    batch, side = (2, 64) if setting.tiny else (128, 224)
    return resnet_speed.measure(
        name, "channels last", batch, side, setting.rounds, setting.seconds, setting.device,
        setting.dtype,
    )  # fmt: skip


def lengths(setting):
    name = "vit_tiny_patch16_224" if setting.tiny else "vit_base_patch16_224"
    batch = 3 if setting.tiny else 64
    return ragged.measure(
        name, batch, 128, 26, rounds=setting.rounds, seconds=setting.seconds,
        device=setting.device, dtype=setting.dtype,
    )  # fmt: skip


def cases(setting):
    resnets = ["resnet18"] if setting.tiny else ["resnet50", "resnet34"]
    return {
        "budgets per image": partial(lengths, setting),
        **{name: partial(resnet, name, setting) for name in resnets},
        "vim-tiny": partial(vim, setting),
    }
