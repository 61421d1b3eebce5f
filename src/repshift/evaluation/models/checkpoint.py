"""Checkpoints of published models, read without running anything in them and loaded strictly."""

from __future__ import annotations

import pickle
import reprlib
from argparse import Namespace
from collections import OrderedDict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from torch import Tensor

Weights = dict[str, torch.Tensor]

# Where training scripts put the weights; of averaged ones and the last, the averaged, as timm does.
CONTAINERS = ("state_dict_ema", "model_ema", "state_dict", "model")
COUNTER = "num_batches_tracked"  # of batches that were seen, of which nothing is computed


def read_state_dict(path: Path | str) -> Weights:
    """The weights of a file, floating ones in float32.

    Takes a state dict or a training checkpoint that holds one (``CONTAINERS``), saved by PyTorch or
    as safetensors. Nothing but tensors and plain values is ever unpickled.
    """
    content = _read(Path(path))
    while isinstance(content, dict):
        held = next((key for key in CONTAINERS if _is_filled(content.get(key))), None)
        if held is None:
            break
        content = content[held]
    if not isinstance(content, dict) or not content:
        raise InputError(f"{path} does not hold the weights of a model, tensors by name")
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise InputError(
                f"{path} does not hold the weights of a model, tensors by name: the value of "
                f"{reprlib.repr(key)} is of the type {type(value).__name__}"
            )
        if value.is_meta or value.layout is not torch.strided:
            kind = "has no numbers (it is on the device meta)" if value.is_meta else "is sparse"
            raise InputError(f"{path}: the tensor {key} {kind}; save it as a plain tensor")
    return {
        key: tensor.float() if tensor.is_floating_point() else tensor
        for key, tensor in content.items()
    }


def _is_filled(container: object) -> bool:
    # Trainers write an averaged model's place even where they average nothing.
    return isinstance(container, dict) and bool(container)


def check(
    ours: Mapping[str, Tensor],
    theirs: Weights,
    path: Path | str,
    wanted: str,
    seen: str | None = None,
    advice: str | None = None,
) -> None:
    """Refuse ``theirs`` unless it has the keys and shapes of ``ours``, and numbers that can be.

    PyTorch would cast whole numbers, such as those of a quantised model without its scales, and
    take NaN as it is. Counters may be missing or any number, as PyTorch lets them. The message says
    what was ``wanted``, what the file looks like where that can be ``seen``, and what to do about
    it where there is ``advice``.
    """
    ours, theirs = (
        {key: tensor for key, tensor in each.items() if not key.endswith(COUNTER)}
        for each in (ours, theirs)
    )
    shapes = [key for key in ours.keys() & theirs.keys() if ours[key].shape != theirs[key].shape]
    wrong = {
        "missing": ours.keys() - theirs.keys(),
        "unknown": theirs.keys() - ours.keys(),
        "of another shape": shapes,
    }
    if any(wrong.values()):
        raise InputError(
            f"{path} is not {wanted}{f'; it looks like {seen}' if seen else ''}: "
            + "; ".join(f"{len(k)} {what} ({_few(k)})" for what, k in wrong.items() if k)
            + (f"; {advice}" if advice else "")
        )
    for key, tensor in ours.items():
        _check_numbers(theirs[key], tensor.dtype, f"{path}: the tensor {key}")


def _check_numbers(tensor: Tensor, wanted: torch.dtype, place: str) -> None:
    if tensor.is_floating_point() != wanted.is_floating_point:
        kind, other = (str(dtype).removeprefix("torch.") for dtype in (tensor.dtype, wanted))
        raise InputError(
            f"{place} holds {kind} in place of {other}; save the weights as they were before they "
            "were quantised or converted"
        )
    if bad := int((~tensor.isfinite()).sum()):
        raise InputError(
            f"{place} has {bad} of {tensor.numel()} numbers that are NaN or infinite; the file is "
            "damaged, or what was trained had diverged"
        )


def _few(keys: Iterable[str]) -> str:
    first, *rest = sorted(keys)
    return ", ".join([first, *rest[:2], *(["..."] if rest[2:] else [])])


def _read(path: Path) -> object:
    if not path.is_file():
        raise InputError(f"the checkpoint {path} is not a file")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        # Training checkpoints carry their settings: UMT's in a class of its own, a dictionary,
        # which is read as a plain one, Vim's as they came from the command line.
        names = ("utils.easydict.EasyDict", "easydict.EasyDict")
        known: list[Any] = [Namespace, *((OrderedDict, name) for name in names)]
        with torch.serialization.safe_globals(known):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"the checkpoint {path} is damaged, or holds more than weights and plain values, which "
            f"is not unpickled here ({_reason(error)}); if you trust it, save its state dict alone"
        ) from None
    except Exception as error:  # the readers raise whatever a broken file makes them stumble on
        raise InputError(f"the checkpoint {path} cannot be read: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    """What a reader says first; PyTorch puts it behind advice of its own."""
    text = (str(error).partition("WeightsUnpickler error: ")[2] or str(error)).strip()
    return f"{type(error).__name__}: {text.partition(chr(10))[0].partition('. ')[0]}"
