"""Weights of the distribution repshift-zoo, the folder ``zoo`` of a checkout."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from repshift.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    Model = TypeVar("Model", bound=nn.Module)


def weights_file(name: str) -> Path:
    """The file ``name`` of repshift-zoo; ``InputError`` if that is not installed."""
    found = find_spec("repshift_zoo")
    if found is None or found.origin is None:
        raise InputError(
            f"{name} is a file of repshift-zoo; install it from a checkout of repshift with: "
            "pip install ./zoo"
        )
    return Path(found.origin).parent / name


def load_packaged(model: Model, file: Path, script: str, several: bool = False) -> Model:
    """Fill ``model`` from ``file``, float16 there and float32 here, and put it in evaluation mode.

    ``several``: the file holds what other models need too. ``InputError`` that names the file, and
    ``script``, which makes it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights = load(file.read_bytes())
        if several:
            weights = {key: weights[key] for key in model.state_dict()}
        model.load_state_dict(weights)
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise InputError(
            f"the weights of {file.stem} cannot be read from {file}; install repshift-zoo again, "
            f"or train them with {script} ({error})"
        ) from error
    return model.eval()
