"""Vision Mamba, rows and columns of a ResNet, and budgets per image."""

from dataclasses import replace
from functools import partial

from gpu_parts import lengths
from harness import COSTS
from repshift import Plan, Shift, resize_images
from repshift.adapters import describe
from repshift.evaluation.models.vim.config import CONFIGS
from repshift.evaluation.models.vim.model import VisionMamba
from repshift.evaluation.tasks.variants import Variant, variants, with_rival
from speed import Case, resnet

NEEDS = ("timm", "torchvision")
# Ways to run images of different lengths have no FLOPs, and a bound instead of a dense model.
RENAMED = {"tokens": "tokens or rows", "vs fused": "vs dense"}
SHOWN = [head for head in COSTS if head not in ("attention", "vs eager")]
COLUMNS = {RENAMED.get(head, head): COSTS[head] for head in SHOWN} | {"vs bound": "{vs_bound:.2f}"}


def vim(setting):
    size = replace(CONFIGS["vim-tiny"], **({"depth": 4, "image": 64} if setting.tiny else {}))
    smaller = replace(size, image=size.image - size.patch)  # .86 of the FLOPs, as the plan
    drop = {0: 0.2, 2: 0.2} if setting.tiny else Plan.paper("vim").drop
    plan, pixels = Plan(drop, Shift("mixer")), f"{smaller.image} pixels"

    def ways(model, images):
        rows = variants(describe(model), [("vim", plan)], ["random", "shift(mixer, l2)"])
        own, given = case(smaller).build(setting), partial(resize_images, size=smaller.image)
        less = Variant(f"dense, {pixels}", input=pixels, model=own, given=given)
        return with_rival(rows, [less])

    def case(config):
        return Case(partial(VisionMamba, config), (3, config.image, config.image), ways)

    return case(size).measure(size.name, 2 if setting.tiny else 128, setting.brief)


def cases(setting):
    resnets = ["resnet18"] if setting.tiny else ["resnet50", "resnet34"]
    batch, side = (2, 64) if setting.tiny else (128, 224)
    name, count = ("vit_tiny_patch16_224", 3) if setting.tiny else ("vit_base_patch16_224", 64)
    return {
        "budgets per image": partial(lengths.measure, name, count, setting),
        **{
            name: partial(resnet(name, "channels last", side).measure, name, batch, setting)
            for name in resnets
        },
        "vim-tiny": partial(vim, setting),
    }
