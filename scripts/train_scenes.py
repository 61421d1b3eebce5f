"""Train scenes-vlm, the offline vision-language model: some hours on one CPU core.

    python scripts/train_scenes.py

The tower is told first what each cell shows, then all is trained at once, then once more with
twice as many films, whose order is learnt last, then with close-ups. The generator goes on to tell
what the cells show, where they are, and where two heads of two layers should look for an answer;
what only this needs is thrown away after. An interrupted run goes on where it stopped; every step
seeds itself, so the weights are the same either way.
"""

import argparse
import time
from bisect import bisect_right
from pathlib import Path

import torch
from safetensors.torch import save
from torch import nn
from torch.utils.data import DataLoader

from repshift.evaluation.zoo.packaged import weights_file
from repshift.evaluation.zoo.scenes.language import KINDS
from repshift.evaluation.zoo.scenes.model import WEIGHTS
from repshift.files import replacing
from scene_batches import CYCLES, Batches
from scene_pupil import Pupil

ROOT = Path(__file__).resolve().parents[1]
EVERY = 10  # steps of a line in the log
RATE = 2e-3
TOWER_STEPS = 300  # in which the tower is told alone
AGAIN = 0.5  # of the rate, with which the later cycles start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=CYCLES[-1])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs")
    parser.add_argument("--out", type=Path, default=weights_file(WEIGHTS))
    args = parser.parse_args()
    if not 0 < args.steps <= CYCLES[-1]:
        parser.error(f"--steps {args.steps}: the rate is told for 1 to {CYCLES[-1]}")
    torch.set_num_threads(args.threads)
    weights = train(args)
    half = {key: weight.half().contiguous() for key, weight in weights.items()}
    with replacing(args.out) as whole:
        whole.write_bytes(save(half))
    print(f"{args.out}: {args.out.stat().st_size:,} bytes")


def train(args) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    pupil = Pupil()
    inner = [
        weight
        for name, weight in pupil.named_parameters()
        if weight.ndim == 2 and (".blocks." in name or ".layers." in name or "merger" in name)
    ]
    chosen = {id(weight) for weight in inner}
    outer = [weight for weight in pupil.parameters() if id(weight) not in chosen]
    optimizers = [
        torch.optim.Muon(inner, lr=RATE, weight_decay=0.02, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(outer, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0),
    ]
    average = {name: weight.detach().clone() for name, weight in pupil.state_dict().items()}
    start, file = 0, args.runs / "scenes-vlm.pt"
    args.runs.mkdir(parents=True, exist_ok=True)
    if file.exists():
        saved = torch.load(file)
        start, average = saved["step"], saved["average"]
        pupil.load_state_dict(saved["pupil"])
        for optimizer, state in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(state)
    log = (args.runs / "log.txt").open("a")
    data = DataLoader(
        Batches(start, args.steps),
        batch_size=None,
        num_workers=1,
        prefetch_factor=3,
    )
    hits, counts = torch.zeros(len(KINDS)), torch.zeros(len(KINDS))
    sums, before = {}, time.time()
    for step, one in enumerate(data, start):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = RATE * rate(step)
            optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            if step < TOWER_STEPS:
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
        # The third cycle is short: the average forgets what was before it.
        decay = min(0.99 if step >= CYCLES[1] else 0.998, (step + 1) / (step + 20))
        with torch.no_grad():
            for name, weight in pupil.state_dict().items():
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
                "pupil": pupil.state_dict(),
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
    """Linear warm-up, then level, then linear down to a fiftieth over the last part of a cycle."""
    if step < CYCLES[0]:
        done = step / CYCLES[0]
        return min(done / 0.02, 1.0, 0.02 + 0.98 * (1 - done) / 0.25)
    cycle = bisect_right(CYCLES[:-1], step)
    done = (step - CYCLES[cycle - 1]) / (CYCLES[cycle] - CYCLES[cycle - 1])
    return AGAIN * min(1.0, 0.02 + 0.98 * (1 - done) / 0.6)


if __name__ == "__main__":
    main()
