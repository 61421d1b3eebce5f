"""Vision Mamba, rows and columns of a ResNet, and budgets per image."""

from dataclasses import asdict, replace
from functools import partial

import torch

import ragged
import resnet_speed
from repshift import Plan, Shift, resize_images
from repshift.adapters import describe
from repshift.evaluation.models.vim.config import CONFIGS
from repshift.evaluation.models.vim.model import VisionMamba
from repshift.evaluation.tasks.costs import measure_costs
from repshift.evaluation.tasks.variants import Variant, variants

NEEDS = ("timm", "torchvision")
HEADS = "| model | batch | method | tokens or rows | GFLOPs | peak MB | images/s | spread | vs dense or bound | of FLOPs' gain |"  # noqa: E501


def line(row):
    if "gflops" not in row:  # a way to run images of different lengths, against equal lengths
        return (
            f"| {row['model']} | {row['batch']} | {row['method']} | {row['tokens']} | | | "
            f"{row['images_per_s']:.3g} | | {row['vs_bound']:.2f} | |"
        )
    return (
        f"| {row['model']} | {row['batch']} | {row['method']} | {row['tokens']} | "
        f"{row['gflops']:.2f} | {row['peak_mb']:.1f} | {row['images_per_s']:.3g} | "
        f"{row['spread']:.1%} | {row['speedup_vs_fused']:.2f} | {row['flop_share']:.0%} |"
    )


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
    costs = measure_costs(
        model, describe(model), rows, images, rounds=min(3, setting.rounds), seconds=setting.seconds
    )
    return [
        {"model": size.name, "batch": batch, "method": row.label, **asdict(cost)}
        for row, cost in costs.items()
    ]


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
