"""Train scenes-vlm or photos-vlm, the offline vision-language models: an hour on two CPU cores.

    python scripts/train_scenes.py
    python scripts/train_scenes.py --model photos-vlm

The tower of scenes-vlm is told first what each cell shows, then all is trained at once, then once
more with twice as many films, whose order is learnt last, then with close-ups. The generator goes
on to tell what the cells show, where they are, and where two heads of two layers should look for an
answer; what only this needs is thrown away after. Of photos-vlm the tower stays as it is: its
connector is told first, then trained with the language model of scenes-vlm. An interrupted run goes
on where it stopped; every step seeds itself, so the weights are the same either way.
"""

import argparse
import time
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn
from torch.utils.data import DataLoader

from repshift.evaluation.zoo.packaged import weights_file
from repshift.evaluation.zoo.scenes.language import KINDS
from repshift.evaluation.zoo.scenes.photographs import TRAINED
from repshift.files import replacing
from scene_batches import CYCLES, PHOTO_CYCLES, Batches
from scene_pupil import PhotoPupil, Pupil

ROOT = Path(__file__).resolve().parents[1]
EVERY = 10  # steps of a line in the log
RATE = 2e-3
AGAIN = 0.5  # of the rate, with which the later cycles start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=COURSES, default="scenes-vlm")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    course = COURSES[args.model]
    args.steps = course.steps if args.steps is None else args.steps
    args.out = args.out or weights_file(f"{args.model}.safetensors")
    if not 0 < args.steps <= course.steps:
        parser.error(f"--steps {args.steps}: the rate is told for 1 to {course.steps}")
    torch.set_num_threads(args.threads)
    weights = train(args, course)
    half = {key: weight.half().contiguous() for key, weight in weights.items()}
    with replacing(args.out) as whole:
        whole.write_bytes(save(half))
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


def train(args, course) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    pupil = course.pupil()
    trained = {name: weight for name, weight in pupil.named_parameters() if weight.requires_grad}
    inside = ".blocks.", ".layers.", "merger", "projector"
    inner = [
        weight
        for name, weight in trained.items()
        if weight.ndim == 2 and any(part in name for part in inside)
    ]
    chosen = {id(weight) for weight in inner}
    outer = [weight for weight in trained.values() if id(weight) not in chosen]
    optimizers = [
        torch.optim.Muon(inner, lr=RATE, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    average = {name: weight.detach().clone() for name, weight in pupil.weights().items()}
    start, file = 0, args.runs / f"{args.model}.pt"
    args.runs.mkdir(parents=True, exist_ok=True)
    if file.exists():
        saved = torch.load(file)
        start, average = saved["step"], saved["average"]
        pupil.load_state_dict(saved["pupil"], strict=False)  # a frozen tower is not saved
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    log = (args.runs / f"{args.model}.log").open("a")
    data = DataLoader(
        Batches(start, args.steps, course.photographs),
        batch_size=None,
        num_workers=1,
        prefetch_factor=3,
    )
    hits, counts = torch.zeros(len(KINDS)), torch.zeros(len(KINDS))
    sums, before = {}, time.time()
    for step, one in enumerate(data, start):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = RATE * course.rate(step)
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            if step < course.alone:
                loss = pupil.tower_only(one)
                parts = {"teach": loss}
            else:
                answer, place, look, teach, right = pupil(one)
                loss = answer + 0.1 * place + 0.3 * teach + 0.1 * look
                parts = {"answer": answer, "place": place, "look": look, "teach": teach}
                tally(one, right, hits, counts)
        loss.backward()
        nn.utils.clip_grad_norm_(pupil.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        decay = min(course.decay(step), (step + 1) / (step + 20))
        with torch.no_grad():
            for name, weight in pupil.weights().items():
                average[name].lerp_(weight, 1 - decay)
        for name, part in parts.items():
            sums[name] = sums.get(name, 0) + part.item()
        if (step + 1) % EVERY == 0:
            line = f"{step + 1} {(time.time() - before) / EVERY:.2f}s "
            line += " ".join(f"{name} {total / EVERY:.3f}" for name, total in sums.items()) + " "
            line += " ".join(
                f"{kind} {100 * hit / max(count, 1):.0f}"
                for kind, hit, count in zip(KINDS, hits.tolist(), counts.tolist(), strict=True)
            )
            print(line, file=log, flush=True)
            hits.zero_()
            counts.zero_()
            sums, before = {}, time.time()
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            state = {
                "step": step + 1,
                "pupil": pupil.weights(),
                "average": average,
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            }
            with replacing(file) as whole:
                torch.save(state, whole)
    return {
        name.removeprefix("model.model."): weight
        for name, weight in average.items()
        if name.startswith("model.model.")
    }


def tally(one, right, hits, counts):
    """By kind, how many questions are answered right to the last word."""
    kinds = one["kinds"]
    key = torch.arange(len(kinds))[:, None] * 1000 + one["segment"] * 50 + one["branch"]
    asked = kinds >= 0
    every, number = key[asked].unique(return_inverse=True)
    good = torch.ones(len(every)).scatter_reduce(
        0, number, right[asked].float(), "amin", include_self=True
    )
    kind = torch.zeros(len(every), dtype=torch.long).scatter(0, number, kinds[asked])
    hits += torch.zeros(len(KINDS)).index_add(0, kind, good)
    counts += torch.bincount(kind, minlength=len(KINDS))


def rate(step: int) -> float:
    """Of scenes-vlm: up at first, level, then down over the last part of a cycle."""
    cycle, done = progress(step, CYCLES)
    if cycle == 0:
        return min(done / 0.02, down(done, 0.25))
    return AGAIN * down(done, 0.6)


def photo_rate(step: int) -> float:
    """Of photos-vlm, whose language model was trained before."""
    cycle, done = progress(step, PHOTO_CYCLES)
    return AGAIN * (min(done / 0.02, down(done, 0.5)) if cycle == 0 else down(done, 0.6))


def progress(step: int, cycles: tuple[int, ...]) -> tuple[int, float]:
    """The number of the cycle, and the share of it that is done."""
    cycle = bisect_right(cycles[:-1], step)
    start = cycles[cycle - 1] if cycle else 0
    return cycle, (step - start) / (cycles[cycle] - start)


def down(done: float, last: float) -> float:
    """Level, then linear down to a fiftieth over the ``last`` part of a cycle."""
    return min(1.0, 0.02 + 0.98 * (1 - done) / last)


def decay(step: int) -> float:
    """Of the average of the weights. The third cycle is short: it forgets what was before."""
    return 0.99 if step >= CYCLES[1] else 0.998


@dataclass(frozen=True)
class Course:
    """How a model is trained; ``alone``: the steps in which its eyes are told, nothing asked."""

    pupil: type[Pupil]
    steps: int
    alone: int
    rate: Callable[[int], float]
    decay: Callable[[int], float]
    photographs: tuple[str, ...] = ()


COURSES = {
    "scenes-vlm": Course(Pupil, CYCLES[-1], 300, rate, decay),
    "photos-vlm": Course(PhotoPupil, PHOTO_CYCLES[-1], 100, photo_rate, lambda _: 0.99, TRAINED),
}

if __name__ == "__main__":
    main()
