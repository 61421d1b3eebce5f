"""A model of the user's own code: a function that makes it, and its transform if it has one."""

from __future__ import annotations

import sys
from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import nn

from repshift.adapters import describe
from repshift.compress import compress
from repshift.errors import InputError
from repshift.evaluation.imports import import_module
from repshift.evaluation.zoo.from_file import model_from_file, reject
from repshift.evaluation.zoo.loaded import LoadedModel, classes_of
from repshift.evaluation.zoo.reading import Reading
from repshift.evaluation.zoo.timm import with_transform
from repshift.plan import Plan
from repshift.resnet.spec import ResNetSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from repshift.evaluation.models.checkpoint import Weights
    from repshift.evaluation.zoo.loaded import Wanted


def load(name: str, wanted: Wanted) -> LoadedModel:
    """``MODULE_OR_FILE.py:FUNCTION``; ``--model-args`` are the arguments of the function."""
    place, _, called = name.rpartition(":")
    function = getattr(import_module(place, "--model"), called, None)
    if not callable(function):
        raise InputError(f"--model {name}: {place} has no function {called}")
    if wanted.random_weights:
        raise InputError(f"--random-weights does not apply to {name}; the function makes the model")
    transforms: list[Any] = []

    def build(settings: dict[str, Any]) -> nn.Module:
        if reason := _misfit(called, function, settings):
            raise reject(TypeError(reason), name, settings)
        try:
            made = function(**settings)
        except TypeError as error:
            if not settings:
                raise
            raise reject(error, name, settings) from None
        made, *transforms[:] = made if isinstance(made, tuple) else (made,)
        if not isinstance(made, nn.Module) or len(transforms) > 1:
            raise InputError(
                f"--model {name} returned {type(made).__name__}; expected a model (nn.Module), or "
                "a model and its transform"
            )
        return made

    if wanted.checkpoint is not None:
        model = model_from_file(name, wanted.checkpoint, wanted.settings, build, _told)
    else:
        model = build(dict(wanted.settings)).eval()
    if any(kind.__module__.startswith("transformers.") for kind in type(model).__mro__):
        model = Reading(model)
    if not transforms:
        return _seen(_with_usual_transform(name, model))
    return _seen(_with_own_transform(name, model, transforms[0]))


def _misfit(called: str, function: Callable[..., Any], settings: Mapping[str, Any]) -> str:
    """Why the settings are not the arguments of the function; nothing if they are."""
    try:
        arguments = signature(function)
    except ValueError:  # of what is not written in Python nothing is known
        return ""
    try:
        arguments.bind(**settings)
    except TypeError as error:
        return f"{error}; --model-args are those of {called}{arguments}"
    return ""


def _told(model: nn.Module, weights: Weights, classes: int | None) -> dict[str, Any]:
    """Nothing is read off: what the function takes is its own affair."""
    return {}


def _with_usual_transform(name: str, model: nn.Module) -> LoadedModel:
    if not hasattr(model, "pretrained_cfg"):
        print(
            f"repshift: {name} returns no transform: images are cropped and normalised as for "
            "ImageNet; return (model, transform) for another",
            file=sys.stderr,
        )
    return with_transform(name, model)


def _with_own_transform(name: str, model: nn.Module, transform: Any) -> LoadedModel:
    steps = [transform, *getattr(transform, "transforms", ())]
    told = [(one.mean, one.std) for one in steps if hasattr(one, "mean") and hasattr(one, "std")]
    mean, std = told[-1] if told else ((0.0,), (1.0,))
    return LoadedModel(
        name=name,
        model=model,
        prepare=transform,
        mean=tuple(mean),
        std=tuple(std),
        classes=classes_of(model),
        grid=(1, 1),
    )


def _seen(loaded: LoadedModel) -> LoadedModel:
    """The model after one image has gone through: its patches are counted."""
    name, model = loaded.name, loaded.model
    image = loaded.prepare(Image.new("RGB", (256, 256)))
    if not isinstance(image, torch.Tensor) or image.ndim != 3:
        shape = list(getattr(image, "shape", ())) or type(image).__name__
        raise InputError(
            f"the transform of {name} makes {shape} of an image; expected a tensor [C, H, W]"
        )
    spec = describe(model)
    with compress(model, Plan({}), spec) as dense, torch.inference_mode():
        output = model(image[None])
    if not isinstance(output, torch.Tensor) or output.ndim != 2:
        shape = list(getattr(output, "shape", ())) or type(output).__name__
        raise InputError(f"{name} returns {shape}; expected logits or pooled features [B, K]")
    if isinstance(spec, ResNetSpec):
        return replace(loaded, plan="resnet")
    patches, (height, width) = dense.counts[0] - spec.staying, image.shape[-2:]
    rows = max(1, round((patches * height / width) ** 0.5))
    return replace(loaded, grid=(rows, patches // rows))
