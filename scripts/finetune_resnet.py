"""Fine-tune a ResNet with rows and columns missing, as the paper does (section 4.2, table 6).

    python scripts/finetune_resnet.py IMAGENET --model resnet50 --device cuda

IMAGENET holds ``train`` and ``val`` with one folder a class. The paper says "100 epochs, including
10 cool-down epochs" and no more. What it leaves open is chosen here so:

- start: torchvision's first weights (IMAGENET1K_V1), which have the paper's dense accuracy;
- optimizer: SGD, Nesterov momentum 0.9, batches of 256, weight decay 1e-4 as ResNets were trained;
- rate: 0.01, a tenth of what they were trained with, since the weights are good already; down to
  1e-5 by half a cosine, then the cool-down at 1e-5, as timm understands the word;
- pictures: a random crop of 35 to 100 % of the area and a mirror image; labels smoothed by 0.1;
- rows and columns leave in training as in use: each image loses its own, by the shift of the
  current weights, and nothing flows back through the choice.

Prints accuracy on ``val``: dense, training-free with rows and columns missing, and fine-tuned. An
interrupted run goes on after its last whole epoch; every epoch seeds itself.
"""

import argparse
import json
import math
from contextlib import nullcontext
from pathlib import Path

import torch
import torchvision
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from tqdm import tqdm

from repshift import InputError, Plan, RowsAndColumns, compress
from repshift.files import replacing, write_text

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LOWEST = 1e-5


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="directory with train and val")
    parser.add_argument("--model", default="resnet50", help="a ResNet of torchvision")
    parser.add_argument("--checkpoint", type=Path, help="its weights, instead of the hub's")
    parser.add_argument("--method", default=Plan.paper("resnet").method)
    parser.add_argument("--epochs", type=int, default=100, help="cool-down included")
    parser.add_argument("--cooldown", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--rate", type=float, default=0.01)
    parser.add_argument("--size", type=int, default=224, help="pixels of a side")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("runs/finetune-resnet"))
    arguments = parser.parse_args()
    if not 0 <= arguments.cooldown < arguments.epochs:
        raise InputError(f"{arguments.cooldown} epochs of cool-down do not fit {arguments.epochs}")
    device = torch.device(arguments.device)
    train, val = folders(arguments.data, arguments.size)
    model = load(arguments.model, arguments.checkpoint, len(train.classes)).to(device)
    model = model.to(memory_format=torch.channels_last)
    plan = Plan.from_method(arguments.method, Plan.paper("resnet").drop)

    def judge(plan):
        return accuracy(model, plan, loader(val, arguments, False), device)

    last = arguments.out / "last.pt"
    optimizer = torch.optim.SGD(
        model.parameters(), arguments.rate, momentum=0.9, nesterov=True, weight_decay=1e-4
    )
    if last.exists():
        saved = torch.load(last, map_location=device)
        if saved["plan"] != plan.to_json():
            raise InputError(
                f"{last} was trained by another plan; move it, or choose another --out"
            )
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        start, figures = saved["epoch"], saved["figures"]
    else:
        start, figures = 0, {"dense": judge(None), "training-free": judge(plan), "losses": []}
    for epoch in (bar := tqdm(range(start, arguments.epochs), unit="epoch")):
        torch.manual_seed(epoch)
        loss = run_epoch(model, plan, optimizer, loader(train, arguments, True), epoch, arguments)
        figures["losses"].append(loss)
        bar.set_postfix(loss=f"{loss:.3f}")
        with replacing(last) as temporary:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save(
                state | {"epoch": epoch + 1, "figures": figures, "plan": plan.to_json()}, temporary
            )
    figures["fine-tuned"] = judge(plan)
    with replacing(arguments.out / f"{arguments.model}.pth") as temporary:
        torch.save(model.state_dict(), temporary)
    facts = {"model": arguments.model, "plan": json.loads(plan.to_json()), **figures}
    write_text(arguments.out / "figures.json", json.dumps(facts, indent=1))
    for name in ("dense", "training-free", "fine-tuned"):
        print(f"{name}: {100 * figures[name]:.2f} %")


def folders(data, size):
    """Training and validation images; a validation image is the middle 7/8 of its shorter side."""
    last = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    crop = transforms.RandomResizedCrop(size, scale=(0.35, 1.0))
    middle = [transforms.Resize(size * 8 // 7), transforms.CenterCrop(size)]
    try:
        train = ImageFolder(
            data / "train", transforms.Compose([crop, transforms.RandomHorizontalFlip(), *last])
        )
        val = ImageFolder(data / "val", transforms.Compose([*middle, *last]))
    except FileNotFoundError as error:
        raise InputError(f"{data} must hold train and val, one folder a class: {error}") from None
    if train.classes != val.classes:
        raise InputError(f"train and val of {data} do not have the same classes")
    return train, val


def load(name, checkpoint, classes):
    if checkpoint is None and classes != 1000:
        raise InputError(
            f"the hub's weights know the 1000 classes of ImageNet and the data has {classes}; pass "
            "--checkpoint FILE with weights trained on these classes"
        )
    weights = None if checkpoint else "IMAGENET1K_V1"
    model = torchvision.models.get_model(name, weights=weights, num_classes=classes)
    if checkpoint:
        model.load_state_dict(torch.load(checkpoint, map_location="cpu"))
    return model


def loader(images, arguments, shuffle):
    return DataLoader(
        images, arguments.batch_size, shuffle, num_workers=arguments.workers, drop_last=shuffle
    )


def placed(images, device):
    return images.to(device, memory_format=torch.channels_last)


def precision(device):
    return torch.autocast("cuda", torch.bfloat16) if device.type == "cuda" else nullcontext()


def rate(done, highest):
    """Half a cosine from the highest rate to the lowest, while ``done`` goes from 0 to 1."""
    return LOWEST + (highest - LOWEST) * (1 + math.cos(math.pi * min(done, 1.0))) / 2


def run_epoch(model, plan, optimizer, batches, epoch, arguments):
    model.train()
    device, total = next(model.parameters()).device, 0.0
    if not len(batches):
        raise InputError(f"there are fewer images than one batch of {arguments.batch_size}")
    with compress(model, plan):
        for step, (images, labels) in enumerate(tqdm(batches, leave=False)):
            done = (epoch + step / len(batches)) / (arguments.epochs - arguments.cooldown)
            optimizer.param_groups[0]["lr"] = rate(done, arguments.rate)
            with precision(device):
                logits = model(placed(images, device))
            loss = F.cross_entropy(logits.float(), labels.to(device), label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
    return total / len(batches)


@torch.inference_mode()
def accuracy(model, plan, batches, device):
    model.eval()
    right = count = 0
    with compress(model, plan or Plan({}, reduction=RowsAndColumns())), precision(device):
        for images, labels in tqdm(batches, leave=False):
            right += (model(placed(images, device)).argmax(1).cpu() == labels).sum().item()
            count += len(labels)
    return right / count


if __name__ == "__main__":
    main()
