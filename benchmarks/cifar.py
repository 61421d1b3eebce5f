"""What do ResNets lose when rows and columns leave? CIFAR-10, real weights, every reading.

The weights are ResNet-20, 32 and 56 of github.com/akamaster/pytorch_resnet_cifar10 (its
``pretrained_models/*.th``, or the same as safetensors). The images are the 10,000 test images of
CIFAR-10 as an npz with ``images`` (uint8 [N, 32, 32, 3]) and ``labels`` ([N]):

    from torchvision.datasets import CIFAR10
    test = CIFAR10("data", train=False, download=True)
    np.savez("cifar10_test.npz", images=test.data, labels=test.targets)

    python benchmarks/cifar.py --weights WEIGHTS... --images NPZ --out docs/results/cifar

Nothing is trained (``scripts/finetune_resnet.py`` is the paper's recipe). A stopped run goes on
where it was.
"""

from contextlib import nullcontext
from itertools import product
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from harness import Report, command
from repshift import InputError, Plan, ResNetSpec, Stage, compress
from repshift.measure.fidelity import accuracy
from repshift.measure.flops import count_flops
from repshift.search.memo import Memo

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Rows and columns that leave after the first and the second stage, of 32 and of half of the rest.
# 4 and 2 are the paper's shares, 1/7 and 1/6.
SCHEDULES = ({0: 2, 1: 1}, {0: 4, 1: 2}, {0: 8, 1: 4})
REDUCTIONS = ("rows-and-columns", "per-row-and-column")
# Each is a mean over its scores.
METHODS = {"random": [f"random({seed})" for seed in range(3)]} | {
    score: [score]
    for score in (
        "border", "stream-norm", "shift(block, l2)", "shift(branch, l2)",
        "shift(branch, l2, update)", "shift(stage, l2)", "shift(block, l1)",
        "reverse(shift(block, l2))",
    )
}  # fmt: skip
COLUMNS = {name: f"{{{name}}}" for name in ("model", "rows and columns", "reduction", "method")} | {
    "MFLOPs": "{MFLOPs:.1f}",
    "torn": "{torn:.2f}",
    "accuracy": "{accuracy:.2%}",
    "agreement": "{agreement:.2%}",
}
EXPLANATION = """\
ResNets of pytorch_resnet_cifar10 on CIFAR-10. Rows and as many columns leave after the first + the
second stage, for each image by itself; 4 + 2 are the paper's shares. Agreement: the share of images
with the dense model's class. Random rows and columns are the mean of three seeds. Torn: by how many
places neighbours were moved apart sideways after the first stage, on average. Training-free.

The reverse of the shift is the control: it should be worse than random ones. Cropping (border) is a
strong baseline here: the objects of CIFAR-10 stand in the middle. Per row and column, what is left
of a row moves by its own amount, so that a 3 x 3 convolution sees neighbours that were none; whole
rows and columns tear nothing."""


class BasicBlock(nn.Module):
    """Two convolutions; a shortcut that takes every second position and adds empty channels."""

    def __init__(self, entry, width, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(entry, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.stride, self.added = stride, width - entry

    def forward(self, x):
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        return F.relu(out + F.pad(x, (0, 0, 0, 0, self.added // 2, self.added // 2)))


class ResNet(nn.Module):
    """[B, 3, 32, 32] -> [B, 10], with the names of pytorch_resnet_cifar10."""

    def __init__(self, blocks):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._layer(16, 16, 1, blocks)
        self.layer2 = self._layer(16, 32, 2, blocks)
        self.layer3 = self._layer(32, 64, 2, blocks)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _layer(entry, width, stride, blocks):
        others = [BasicBlock(width, width, 1) for _ in range(blocks - 1)]
        return nn.Sequential(BasicBlock(entry, width, stride), *others)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))

    @property
    def name(self):
        return f"ResNet-{6 * len(self.layer1) + 2}"

    @property
    def spec(self):
        layers = (self.layer1, self.layer2, self.layer3)
        return ResNetSpec([Stage(layer[0], layer[-1], layer[-1].bn2) for layer in layers])


def load_resnet(path):
    if path.suffix == ".safetensors":
        weights = load_file(path)
    else:
        weights = torch.load(path, map_location="cpu")
        weights = weights.get("state_dict", weights)
    weights = {key.removeprefix("module."): value for key, value in weights.items()}
    blocks = sum(key.startswith("layer1.") and key.endswith(".conv1.weight") for key in weights)
    model = ResNet(blocks)
    ours = model.state_dict()
    try:
        model.load_state_dict({key: value for key, value in weights.items() if key in ours})
    except RuntimeError as error:
        raise InputError(
            f"{path} holds no CIFAR-10 ResNet of pytorch_resnet_cifar10: {error}"
        ) from None
    return model.eval()


def load_images(path, count):
    """Every n-th image, since the file may be sorted by class."""
    with np.load(path) as file:
        images, labels = torch.from_numpy(file["images"]), torch.from_numpy(file["labels"]).long()
    chosen = torch.arange(count) * len(images) // count if count else slice(None)
    images = images[chosen].permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std, labels[chosen]


def attached(model, plan):
    return compress(model, plan, model.spec) if plan else nullcontext()


@torch.inference_mode()
def measure(model, plan, images, labels, dense):
    """The figures of a row; ``dense``: the classes that the dense model says."""
    few = images[:250]
    with attached(model, plan) as compression:
        logits = torch.cat([model(batch) for batch in images.split(250)])
        flops, _ = count_flops(lambda: model(few))
        places = torn(compression.kept_after(0), images.shape[-1]) if plan else 0.0
    return flops / len(few) / 1e6, places, accuracy(logits, labels), accuracy(logits, dense)


def torn(kept, width):
    """By how many places neighbours were moved apart sideways, on average.

    0 where whole rows and columns leave; a 3 x 3 convolution expects no other.
    """
    down, across = (kept // width).diff(dim=2).abs(), (kept % width).diff(dim=1).abs()
    return (down.float().mean() + across.float().mean()).item() / 2


def jobs():
    """Schedule, reduction, method, and its plans."""
    yield {}, "", "dense", [None]
    for drop, reduction, method in product(SCHEDULES, REDUCTIONS, METHODS):
        labels = [f"{score} + {reduction}" for score in METHODS[method]]
        yield drop, reduction, method, [Plan.from_method(label, drop) for label in labels]


def rows(models, images, labels, memo):
    for model, (drop, reduction, method, plans) in tqdm(list(product(models, jobs()))):
        with torch.inference_mode():
            dense = torch.cat([model(batch) for batch in images.split(250)]).argmax(1)

        def figures(model=model, plans=plans, dense=dense):
            every = [measure(model, plan, images, labels, dense) for plan in plans]
            return [sum(each) / len(each) for each in zip(*every, strict=True)]

        key = (model.name, " + ".join(map(str, drop.values())), reduction, method)
        yield dict(zip(COLUMNS, (*key, *memo(", ".join(key), figures)), strict=True))


def verdict(rows, method):
    """Says, by reduction, by how much the method beats random rows and columns in the mean."""
    parts = []
    for reduction in REDUCTIONS:
        gains = {}
        for row in (row for row in rows if row["reduction"] == reduction):
            case, sign = f"{row['model']} {row['rows and columns']}", {method: 1, "random": -1}
            gains[case] = gains.get(case, 0) + sign.get(row["method"], 0) * row["accuracy"]
        worse = [case for case, gain in gains.items() if gain <= 0]
        but = f" (not better at {', '.join(worse)})" if worse else ""
        parts.append(f"{reduction} {100 * sum(gains.values()) / len(gains):+.2f}{but}")
    return f"- {method}: {'; '.join(parts)}"


def main(
    weights: tuple[Path, ...],
    images: Path,
    count: int = 0,
    threads: int = torch.get_num_threads(),
    out: Path = Path("runs/cifar"),
):
    """``images``: npz; ``count`` of them, 0 all."""
    torch.set_num_threads(threads)
    models = [load_resnet(path) for path in weights]
    given, labels = load_images(images, count)
    report = Report(out, images=len(given))
    report.add(EXPLANATION)
    state = Memo(report.file(".state.json"), report.facts)
    found = report.rows(COLUMNS, rows(models, given, labels, state))
    report.add(
        "Accuracy against random rows and columns in percentage points, mean over networks and "
        "counts:",
        "\n".join(verdict(found, method) for method in METHODS if method != "random"),
    )
    state.path.unlink(missing_ok=True)


if __name__ == "__main__":
    command(main)
