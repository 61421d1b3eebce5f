"""Should the state of Vision Mamba fade where tokens left? Measured on digits-vim.

Plain removal scans what is left as if the others had never been there. Aligned, the state also
fades once for every token that left, by the step of the token that follows (``Mixer.forward``).
Nothing is trained after tokens have left.

    python benchmarks/gaps.py --out docs/results/vim-gaps
"""

from pathlib import Path
from statistics import mean

import torch

from harness import Report, command
from repshift import ClippedActivation, Plan, Random, Shift, compress
from repshift.evaluation.models.vim.adapter import describe
from repshift.evaluation.zoo.digits import held_out_digits, load_digits_vim
from repshift.measure.fidelity import accuracy, logit_fidelity

SCHEDULES = ("2:0.2,6:0.2", "2:0.4,6:0.4", "2:0.6,6:0.6", "0:0.5")
SCORES = {
    "shift(mixer, l2)": [Shift("mixer")],
    "shift(mixer, l2, update)": [Shift("mixer", definition="update")],
    "clipped-activation": [ClippedActivation()],
    "random, mean of 5 seeds": [Random(seed) for seed in range(5)],
}


def measure(model, images, labels, dense, plan, aligned):
    with compress(model, plan, describe(model, aligned)) as compression:
        logits = model(images)
    agreement = logit_fidelity(dense, logits)
    return compression.counts[-1], accuracy(logits, labels), agreement.value, agreement.kl


@torch.inference_mode()
def main(out: Path = Path("runs/gaps"), count: int | None = None):
    """``count``: of the digits; all that training did not see if left out."""
    model, (images, labels) = load_digits_vim(), held_out_digits()
    images, labels = images[:count], labels[:count]
    dense = model(images)
    right = f"{100 * accuracy(dense, labels):.1f} %"
    report = Report(out, images=len(images), **{"dense accuracy": right})

    def rows():
        for schedule in SCHEDULES:
            for name, scores in SCORES.items():
                for way in ("plain", "aligned"):
                    plans = [Plan(Plan.from_schedule(schedule).drop, score) for score in scores]
                    found = [
                        measure(model, images, labels, dense, plan, way == "aligned")
                        for plan in plans
                    ]
                    tokens, right, agrees, kl = (mean(one) for one in zip(*found, strict=True))
                    fidelity = f"{100 * right:.1f} %", f"{100 * agrees:.1f} %", f"{kl:.3f}"
                    yield schedule, f"{tokens:.0f}", name, way, *fidelity

    heads = ("plan", "tokens", "score", "state", "accuracy", "agrees with dense", "KL")
    report.table(heads, rows())


if __name__ == "__main__":
    command(main)
