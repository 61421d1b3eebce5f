"""Small ResNets of every kind claimed, for 72 x 56 pixels: no grid is square, few are even.

Norms are drawn anew: timm starts the last one of a block at zero, where a lost branch would not
show.
"""

import copy
import functools

import timm
import torch

from repshift import Plan, RowsAndColumns, Shift

GRIDS = [(18, 14), (9, 7), (5, 4), (3, 2)]


def _timm(name, **settings):
    size = {"layers": (2, 1, 1, 1), "channels": (8, 12, 16, 20), "num_classes": 7}
    return lambda: timm.create_model(name, **{**size, **settings})


def _torchvision(block):
    from torchvision.models import resnet

    return lambda: resnet.ResNet(getattr(resnet, block), [2, 1, 1, 1], num_classes=7)


FAMILIES = {
    "torchvision basic": _torchvision("BasicBlock"),
    "torchvision bottleneck": _torchvision("Bottleneck"),
    "timm basic": _timm("resnet34"),
    "timm bottleneck": _timm("resnet50"),
    "timm stem, pooled shortcut": _timm("resnet50d"),
    "timm squeeze, excite": _timm("seresnet50"),
    "timm grouped, drop path": _timm(
        "resnext50_32x4d",
        channels=(16, 16, 16, 32),
        base_width=16,
        cardinality=2,
        drop_path_rate=0.1,
    ),
}


def draw(model):
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.weight.uniform_(0.5, 1.0)
                module.bias.normal_(std=0.2)
                module.running_mean.normal_(std=0.2)
    return model.eval()


@functools.cache
def _drawn(family):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return draw(FAMILIES[family]())


def build(family, dtype=torch.float32):
    return copy.deepcopy(_drawn(family)).to(dtype)


def features_only(**settings):
    return draw(
        timm.create_model(
            "resnet34",
            features_only=True,
            layers=(2, 1, 1, 1),
            channels=(8, 12, 16, 20),
            **settings,
        )
    )


def backbone():
    from torchvision.models._utils import IntermediateLayerGetter

    layers = {f"layer{number}": str(number - 1) for number in range(1, 5)}
    return draw(IntermediateLayerGetter(FAMILIES["torchvision basic"](), layers))


def images(batch=3, dtype=torch.float32):
    return torch.randn(batch, 3, 72, 56, dtype=dtype)


def plan_for(reduction=None, drop=None, score=None):
    """By share after the first stage, by number after the third: 5 rows, 4 columns; then 1, 1."""
    drop = {0: 0.3, 2: 1} if drop is None else drop
    return Plan(drop, score or Shift("block"), reduction or RowsAndColumns())


LEFT = [(13, 10), (7, 5), (3, 2), (2, 1)]  # what that plan leaves of GRIDS
