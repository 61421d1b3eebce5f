"""Should the state of Vision Mamba fade where tokens left? Measured on digits-vim.

Plain removal scans what is left as if the others had never been there. Aligned, the state also
fades once for every token that left, by the step of the token that follows (``Mixer.forward``).
Nothing is trained after tokens have left.

    python benchmarks/gaps.py --out docs/results/vim-gaps.md
"""

import argparse
from pathlib import Path
from statistics import mean

import torch
from tqdm import tqdm

from repshift import ClippedActivation, Plan, Random, Shift, compress
from repshift.evaluation.models.vim.adapter import describe
from repshift.evaluation.zoo.digits import held_out_digits, load_digits_vim
from repshift.files import write_text
from repshift.measure.fidelity import accuracy, logit_fidelity

SCHEDULES = ("2:0.2,6:0.2", "2:0.4,6:0.4", "2:0.6,6:0.6", "0:0.5")
SCORES = {
    "shift(mixer, l2)": [Shift("mixer")],
    "shift(mixer, l2, update)": [Shift("mixer", definition="update")],
    "clipped-activation": [ClippedActivation()],
    "random, mean of 5 seeds": [Random(seed) for seed in range(5)],
}


def measure(model, images, labels, dense, schedule, score, aligned):
    plan = Plan(Plan.from_schedule(schedule).drop, score)
    with compress(model, plan, describe(model, aligned)) as compression:
        logits = model(images)
    agreement = logit_fidelity(dense, logits)
    return compression.counts[-1], accuracy(logits, labels), agreement.value, agreement.kl


@torch.inference_mode()
def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/gaps.md"))
    arguments = parser.parse_args()
    model, (images, labels) = load_digits_vim(), held_out_digits()
    dense = model(images)
    lines = [
        f"digits-vim, {len(images)} digits unseen in training, no training after removal; dense "
        f"accuracy {100 * accuracy(dense, labels):.1f} %.",
        "",
        "| plan | tokens | score | state | accuracy | agrees with dense | KL |",
        "|---|---|---|---|---|---|---|",
    ]
    cases = [(plan, name, way) for plan in SCHEDULES for name in SCORES for way in (False, True)]
    for schedule, name, aligned in tqdm(cases):
        found = [
            measure(model, images, labels, dense, schedule, score, aligned)
            for score in SCORES[name]
        ]
        tokens, right, agrees, kl = (mean(column) for column in zip(*found, strict=True))
        lines.append(
            f"| {schedule} | {tokens:.0f} | {name} | {'aligned' if aligned else 'plain'} | "
            f"{100 * right:.1f} % | {100 * agrees:.1f} % | {kl:.3f} |"
        )
    write_text(arguments.out, "\n".join([*lines, ""]))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
