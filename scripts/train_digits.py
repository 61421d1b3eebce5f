"""Train an offline model of the zoo on handwritten digits: minutes on two CPU cores.

    python scripts/train_digits.py --model digits-vit

An interrupted run goes on where it stopped. Every epoch seeds itself, so the weights are the same
either way.
"""

import argparse
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from repshift.evaluation.zoo.digits import (
    digits_resnet,
    digits_vim,
    digits_vit,
    held_out_digits,
    training_digits,
)
from repshift.files import replacing

# Each with its epochs and its highest learning rate.
MODELS = {
    "digits-vit": (digits_vit, 80, 1e-3),
    "digits-vim": (digits_vim, 30, 3e-3),
    "digits-resnet": (digits_resnet, 40, 4e-3),
}
ROOT = Path(__file__).resolve().parents[1]
BATCH = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=MODELS, default="digits-vit")
    parser.add_argument("--epochs", type=int, help="default: as the packaged weights were trained")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="default: the file in zoo/")
    args = parser.parse_args()
    out = args.out or ROOT / "zoo" / "repshift_zoo" / f"{args.model}.safetensors"

    torch.set_num_threads(args.threads)
    torch.use_deterministic_algorithms(True)
    epochs = args.epochs or MODELS[args.model][1]
    checkpoint = ROOT / "runs" / f"{args.model}-{epochs}.pt"
    weights = train(args.model, epochs, checkpoint)
    half = {  # under 2 MB in the package
        key: weight.half() if weight.is_floating_point() else weight
        for key, weight in weights.items()
    }
    with replacing(out) as whole:
        whole.write_bytes(save(half))
    checkpoint.unlink()  # the next call trains anew
    print(f"{out}: {out.stat().st_size:,} bytes, held-out accuracy {accuracy(args.model, out):.4f}")


def train(name: str, epochs: int, checkpoint: Path) -> dict[str, torch.Tensor]:
    """The moving average of the weights; the checkpoint is taken up and renewed every epoch."""
    torch.manual_seed(0)
    build, _, highest = MODELS[name]
    model = build()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimizer = torch.optim.AdamW(model.parameters(), lr=highest, weight_decay=0.05)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    start = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        start = saved.pop("epoch")
        for part, state in saved.items():
            parts[part].load_state_dict(state)

    images, labels = training_digits()
    steps = len(images) // BATCH
    for epoch in (bar := tqdm(range(start, epochs), initial=start, total=epochs, unit="epoch")):
        torch.manual_seed(epoch + 1)
        total = 0.0
        for step, chosen in enumerate(torch.randperm(len(images))[: steps * BATCH].split(BATCH)):
            optimizer.param_groups[0]["lr"] = highest * rate((epoch + step / steps) / epochs)
            logits = model(moved(images[chosen]))
            loss = F.cross_entropy(logits, labels[chosen], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            average.update_parameters(model)
            total += loss.item()
        bar.set_postfix(loss=f"{total / steps:.3f}")
        state = {part: module.state_dict() for part, module in parts.items()}
        state["epoch"] = epoch + 1
        with replacing(checkpoint) as whole:
            torch.save(state, whole)
    return average.module.state_dict()


def rate(done: float) -> float:
    """Linear warm-up over the first twentieth, then half a cosine down to zero."""
    return min(done / 0.05, (1 + math.cos(math.pi * done)) / 2)


def moved(images: torch.Tensor) -> torch.Tensor:
    """Each image turned, scaled and shifted a little; what comes in from outside is paper."""
    angle, scale, x, y = torch.rand(4, len(images)) * 2 - 1
    angle, scale = angle * math.radians(12), 1.05 + 0.15 * scale  # above 1 the digit is smaller
    cos, sin = scale * angle.cos(), scale * angle.sin()
    theta = torch.stack((cos, -sin, 0.15 * x, sin, cos, 0.15 * y), dim=1).view(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images + 1, grid, align_corners=False) - 1


@torch.inference_mode()
def accuracy(name: str, path: Path) -> float:
    model = MODELS[name][0]().eval()
    model.load_state_dict(load_file(path))
    images, labels = held_out_digits()
    return (model(images).argmax(1) == labels).float().mean().item()


if __name__ == "__main__":
    main()
