"""A score of your own, beside random dropping, on handwritten digits."""

from dataclasses import dataclass
from typing import ClassVar

import torch

from repshift import Need, Plan, Random, Score, Shift, compress, register
from repshift.evaluation.zoo.digits import held_out_digits, load_digits_vit


@register
@dataclass(frozen=True)
class Loudest(Score):
    """The largest value of each token."""

    name: ClassVar[str] = "loudest"
    needs: ClassVar[frozenset[Need]] = frozenset({"exit"})

    def __call__(self, snapshot) -> torch.Tensor:
        return snapshot.exit.float().abs().amax(-1)  # [B, N]; the lowest are dropped


model, (images, labels) = load_digits_vit(), held_out_digits()
with torch.inference_mode():
    for score in (Loudest(), Shift(), Random()):
        with compress(model, Plan({0: 0.2, 2: 0.2, 4: 0.2}, score)):
            right = (model(images).argmax(1) == labels).float().mean()
        print(f"{score}: {right:.1%}")
