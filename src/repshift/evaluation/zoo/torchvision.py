"""Classifiers of torchvision: its best weights, from a file, or random."""

from __future__ import annotations

import difflib
from functools import partial
from typing import TYPE_CHECKING, Any

from repshift.errors import InputError
from repshift.evaluation.zoo.from_file import model_from_file, reject
from repshift.evaluation.zoo.hub import from_hub
from repshift.evaluation.zoo.loaded import LoadedModel, classes_of, grid_of

if TYPE_CHECKING:
    from torch import nn

    from repshift.evaluation.models.checkpoint import Weights
    from repshift.evaluation.zoo.loaded import Wanted


def load(name: str, wanted: Wanted) -> LoadedModel:
    """``torchvision:NAME``, by the transform of its weights."""
    from torchvision import models
    from torchvision.transforms._presets import ImageClassification

    full, known = f"torchvision:{name}", models.list_models()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join('torchvision:' + n for n in near)}?" if near else ""
        raise InputError(f"torchvision has no model {name!r}{hint}")
    best: Any = models.get_model_weights(name).DEFAULT  # type: ignore[attr-defined]
    transform = best.transforms()
    if not isinstance(transform, ImageClassification):
        raise InputError(f"{full} does not classify single images, which the commands feed")
    if wanted.checkpoint is not None:
        terms = "num_classes", "image_size"
        model = model_from_file(
            full, wanted.checkpoint, wanted.settings, partial(_build, name), _told, terms=terms
        )
    elif wanted.random_weights:
        model = _build(name, dict(wanted.settings))
    else:
        with from_hub(full, "pass --checkpoint FILE (or --random-weights)"):
            model = _build(name, dict(wanted.settings), best)
    [side] = transform.crop_size
    own: Any = getattr(model, "image_size", side)
    if own != side:  # the same part of the picture
        transform.resize_size = [round(transform.resize_size[0] * own / side)]
        transform.crop_size = [own]
    resnet = isinstance(model, models.ResNet)
    return LoadedModel(
        name=full,
        model=model.eval(),
        prepare=transform,
        mean=tuple(transform.mean),
        std=tuple(transform.std),
        classes=classes_of(model),
        grid=(1, 1) if resnet else grid_of(model, (own, own)),
        plan="resnet" if resnet else "deit",
    )


def _build(name: str, settings: dict[str, Any], weights: Any = None) -> nn.Module:
    from torchvision import models

    try:
        return models.get_model(name, weights=weights, **settings)
    except (TypeError, ValueError) as error:
        if not settings:
            raise
        raise reject(error, f"torchvision:{name}", settings) from None


def _told(model: nn.Module, weights: Weights, classes: int | None) -> dict[str, Any]:
    told: dict[str, Any] = {"num_classes": classes} if classes else {}
    table, own = weights.get("encoder.pos_embedding"), getattr(model, "seq_length", None)
    if table is not None and own is not None and table.ndim == 3 and table.shape[1] != own:
        told["image_size"] = round((table.shape[1] - 1) ** 0.5) * int(model.patch_size)  # type: ignore[arg-type]
    return told
