"""Weights that come with the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from repshift.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    Model = TypeVar("Model", bound=nn.Module)

WEIGHTS = Path(str(files("repshift"))) / "evaluation" / "zoo" / "weights"


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
            f"the weights of {file.stem} cannot be read from {file}; install repshift again, or "
            f"train them with {script} ({error})"
        ) from error
    return model.eval()
