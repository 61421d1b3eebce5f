"""What do ResNets lose when rows and columns leave? CIFAR-10, real weights, every reading.

The weights are ResNet-20, 32 and 56 of github.com/akamaster/pytorch_resnet_cifar10 (its
``pretrained_models/*.th``, or the same as safetensors). The images are the 10,000 test images of
CIFAR-10 as an npz with ``images`` (uint8 [N, 32, 32, 3]) and ``labels`` ([N]):

    from torchvision.datasets import CIFAR10
    test = CIFAR10("data", train=False, download=True)
    np.savez("cifar10_test.npz", images=test.data, labels=test.targets)

    python benchmarks/cifar.py --weights WEIGHTS... --images NPZ --out docs/results/cifar

Nothing is trained, unless ``--finetune`` says so: then each network is trained on every second test
image for a few epochs and judged on the others, since the npz holds no training images. An
interrupted run goes on where it stopped.
"""

from contextlib import nullcontext
from functools import partial
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from tqdm import tqdm

from harness import Report, command
from repshift import (
    Border,
    InputError,
    PerRowAndColumn,
    Plan,
    Random,
    ResNetSpec,
    Reverse,
    RowsAndColumns,
    Shift,
    Stage,
    StreamNorm,
    compress,
)
from repshift.measure.fidelity import accuracy
from repshift.measure.flops import count_flops
from repshift.search.memo import Memo

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SEEDS = range(3)
# Rows and columns that leave after the first and the second stage, of 32 and of half of the rest.
# 4 and 2 are the paper's shares, 1/7 and 1/6.
SCHEDULES = ({0: 2, 1: 1}, {0: 4, 1: 2}, {0: 8, 1: 4})
# Each is a mean over its entries.
BASELINES = {
    "random": [Random(seed) for seed in SEEDS],
    "border": [Border()],
    "stream-norm": [StreamNorm()],
}
READINGS = [
    Shift("block"),
    Shift("branch"),
    Shift("branch", definition="update"),
    Shift("stage"),
    Shift("block", "l1"),
    Reverse(Shift("block")),
]
METHODS = BASELINES | {str(score): [score] for score in READINGS}
TUNED = (*BASELINES, str(Shift("block")))  # at the larger two counts
COLUMNS = {
    **dict.fromkeys(("model", "rows and columns", "reduction", "method"), str),
    "MFLOPs": "{:.1f}".format,
    "torn": "{:.2f}".format,
    **dict.fromkeys(("accuracy", "agreement", "fine-tuned"), "{:.2%}".format),
}


EXPLANATION = """\
ResNets of pytorch_resnet_cifar10 on CIFAR-10. Rows and as many columns leave after the first + the
second stage, for each image by itself; 4 + 2 are the paper's shares. Agreement: the share of images
with the dense model's class. Random rows and columns are the mean of three seeds. Torn: by how many
places neighbours were moved apart sideways after the first stage, on average. Training-free, but
for a column fine-tuned, with rows and columns missing.

The reverse of the shift, which removes the rows and columns that move most, is the control: it
should be worse than random ones.

Cropping (border) is a strong baseline here: the objects of CIFAR-10 stand in the middle, and a crop
tears nothing apart. The shift knows nothing of the middle.

Why per-row-and-column gains less over random, or nothing: what is left of a row moves together,
each row by its own amount, so that a 3 x 3 convolution sees neighbours that were none (the column
torn). The more a score changes from row to row, the more it tears. Whole rows and columns tear
nothing sideways, and every method is better with them, or equal where it tears nothing (border)."""


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


@torch.inference_mode()
def run(model, images):
    return torch.cat([model(batch) for batch in images.split(250)])


def attached(model, plan):
    return compress(model, plan, model.spec) if plan else nullcontext()


def mflops(model, plan):
    with attached(model, plan):
        return count_flops(lambda: model(torch.zeros(1, 3, 32, 32)))[0] / 1e6


@torch.inference_mode()
def torn(model, plan, images):
    """By how many places neighbours were moved apart sideways after the first stage, on average.

    0 where whole rows and columns leave; a 3 x 3 convolution expects no other.
    """
    if plan is None:
        return 0.0
    with attached(model, plan) as compression:
        model(images[:250])
        kept, width = compression.kept_after(0), images.shape[-1]
    down, across = (kept // width).diff(dim=2).abs(), (kept % width).diff(dim=1).abs()
    return (down.float().mean() + across.float().mean()).item() / 2


def judge(model, images, labels, plans, dense):
    """Mean over ``plans`` of accuracy and of the share of images with the dense model's class."""
    right, same = 0.0, 0.0
    for plan in plans:
        with attached(model, plan):
            logits = run(model, images)
        right += accuracy(logits, labels) / len(plans)
        same += accuracy(logits, dense) / len(plans)
    return right, same


def jobs(models, finetune):
    """Everything to be measured: model, schedule, reduction, method, its plans."""
    methods = {name: METHODS[name] for name in (TUNED if finetune else METHODS)}
    for model in models:
        yield model, {}, "", "dense", [None]
        for drop in SCHEDULES[1:] if finetune else SCHEDULES:
            for reduction in [RowsAndColumns(), *[PerRowAndColumn()] * (not finetune)]:
                for method, scores in methods.items():
                    plans = [Plan(drop, score, reduction) for score in scores]
                    yield model, drop, str(reduction), method, plans


def tune(weights, plan, images, labels, epochs, seed=0):
    """The network trained on with rows and columns missing: SGD, 0.01 to 0, flips and shifts."""
    torch.manual_seed(seed)
    model = ResNet(len({key.split(".")[1] for key in weights if key.startswith("layer1.")}))
    model.load_state_dict(weights)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    steps = epochs * (len(images) // 125)
    rates = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    with attached(model.train(), plan):
        for _ in range(epochs):
            for chosen in torch.randperm(len(images)).split(125):
                loss = F.cross_entropy(model(moved(images[chosen])), labels[chosen])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                rates.step()
    return model.eval()


def moved(images):
    """Each image shifted by up to 4 pixels and, every other time, mirrored."""
    padded = F.pad(images, (4, 4, 4, 4))
    y, x = torch.randint(0, 9, (2, len(images)))
    images = torch.stack(
        [image[:, i : i + 32, j : j + 32] for image, i, j in zip(padded, y, x, strict=True)]
    )
    mirrored = torch.rand(len(images), 1, 1, 1) < 0.5
    return torch.where(mirrored, images.flip(-1), images)


def measure(models, images, labels, finetune, memo):
    train, test = (slice(None, None, 2), slice(1, None, 2)) if finetune else (None, slice(None))
    shown, answers = images[test], labels[test]

    def after_training(model, plan, dense):
        tuned = tune(model.state_dict(), plan, images[train], labels[train], finetune)
        return judge(tuned, shown, answers, [plan], dense)[0]

    def figures(model, plans):
        dense = run(model, shown).argmax(1)
        right, same = judge(model, shown, answers, plans, dense)
        apart = sum(torn(model, plan, shown) for plan in plans) / len(plans)
        found = [mflops(model, plans[0]), apart, right, same]
        if finetune:
            found.append(sum(after_training(model, plan, dense) for plan in plans) / len(plans))
        return found

    for model, drop, reduction, method, plans in tqdm(list(jobs(models, finetune))):
        key = (model.name, " + ".join(map(str, drop.values())), reduction, method)
        found = memo(", ".join(key), partial(figures, model, plans))
        yield dict(zip(COLUMNS, (*key, *found), strict=False))


def verdict(rows, method, figure):
    """Says, by reduction, by how much the method beats random rows and columns in the mean."""
    parts = []
    for reduction in dict.fromkeys(row["reduction"] for row in rows if row["reduction"]):
        ours, random = (
            {
                f"{row['model']} {row['rows and columns']}": row[figure]
                for row in rows
                if (row["reduction"], row["method"]) == (reduction, name)
            }
            for name in (method, "random")
        )
        gains = {case: ours[case] - random[case] for case in ours}
        worse = [case for case, gain in gains.items() if gain <= 0]
        mean = 100 * sum(gains.values()) / len(gains)
        parts.append(
            f"{reduction} {mean:+.2f}" + (f" (not better at {', '.join(worse)})" if worse else "")
        )
    return f"- {method}: {'; '.join(parts)}"


def main(
    weights: tuple[Path, ...],
    images: Path,
    count: int = 0,
    finetune: int = 0,
    threads: int = torch.get_num_threads(),
    out: Path = Path("runs/cifar"),
):
    """``images``: npz; ``count`` of them, 0 all; ``finetune``: so many epochs."""
    torch.set_num_threads(threads)
    models = [load_resnet(path) for path in weights]
    given, labels = load_images(images, count)
    report = Report(out, images=len(given), **{"epochs of fine-tuning": finetune})
    report.add(EXPLANATION)
    state = Memo(report.file(".state.json"), report.facts)
    columns = {
        head: lambda row, head=head, form=form: form(row[head])
        for head, form in COLUMNS.items()
        if finetune or head != "fine-tuned"
    }
    rows = report.rows(columns, measure(models, given, labels, finetune, state))
    for figure in ("accuracy", "fine-tuned")[: 1 + bool(finetune)]:
        report.add(
            f"{figure.capitalize()} against random rows and columns in percentage points, mean "
            "over networks and counts:",
            "\n".join(
                verdict(rows, method, figure)
                for method in (TUNED if finetune else METHODS)
                if method != "random"
            ),
        )
    state.path.unlink(missing_ok=True)


if __name__ == "__main__":
    command(main)
