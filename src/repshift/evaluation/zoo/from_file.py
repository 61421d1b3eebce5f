"""``--checkpoint``: weights of a file in a model that its library makes, all of them or none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repshift.errors import InputError
from repshift.evaluation.models.checkpoint import check, read_state_dict

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from torch import nn

    from repshift.evaluation.models.checkpoint import Weights

# What training scripts, compilers and wrappers put before the names.
PREFIXES = ("module.", "model.")
HEADS = ("head", "fc", "classifier", "heads.head", "head.fc")
AVERAGED = "n_averaged"  # how often torch's AveragedModel was updated


def model_from_file(
    name: str,
    path: Path,
    settings: Mapping[str, Any],
    build: Callable[[dict[str, Any]], nn.Module],
    read_off: Callable[[nn.Module, Weights, int | None], dict[str, Any]],
    part: str = "",
    terms: tuple[str, str] = ("num_classes", "img_size"),
) -> nn.Module:
    """The model that ``build`` makes of settings, with the weights of a file.

    Args:
        name: What the model is called.
        path: The file.
        settings: The user's; they go before those that are read off.
        build: Makes the model, untrained.
        read_off: Settings that the weights tell, of a first model, the weights under its names and
            the classes of their head (0: none, None: not known).
        part: How the names of the wanted weights begin where the file holds those of more.
        terms: What the library calls the number of classes and the size of images.

    Raises:
        InputError: If a weight is missing, not known, or of another shape.
    """
    weights = read_state_dict(path)
    model = build(dict(settings))
    weights = under_names_of(model.state_dict().keys(), weights, part)
    weights, classes = _with_head(model, weights)
    told = read_off(model, weights, classes)
    if told := {key: value for key, value in told.items() if key not in settings}:
        model = build({**settings, **told})
        weights, _ = _with_head(model, weights)
    ours = model.state_dict()
    check(ours, weights, path, name, advice=_advice(ours, weights, terms))
    model.load_state_dict(weights)
    return model.eval()


def under_names_of(ours: Collection[str], weights: Weights, part: str = "") -> Weights:
    """The weights without what was put before their names, and without counters."""
    weights = {
        key.replace("_orig_mod.", ""): tensor for key, tensor in weights.items() if key != AVERAGED
    }
    while weights and (prefix := _prefix(ours, weights)):
        weights = {key.removeprefix(prefix): tensor for key, tensor in weights.items()}
    if part and any(key.startswith(part) for key in weights):
        weights = {
            key.removeprefix(part): tensor
            for key, tensor in weights.items()
            if key.startswith(part)
        }
    return weights


def _prefix(ours: Collection[str], weights: Weights) -> str | None:
    """What stands before all of their names and not before all of ours."""
    return next(
        (
            prefix
            for prefix in PREFIXES
            if all(key.startswith(prefix) for key in weights)
            and not all(key.startswith(prefix) for key in ours)
        ),
        None,
    )


def _with_head(model: nn.Module, weights: Weights) -> tuple[Weights, int | None]:
    """The head under the model's own name, and its classes: 0 without one, None if not known."""
    ours = model.state_dict().keys()
    own = next((head for head in HEADS if f"{head}.weight" in ours), None)
    theirs = [head for head in HEADS if f"{head}.weight" in weights]
    if not theirs:
        return weights, None if own is None else 0
    if own is None and len(theirs) == 1:  # its library makes it without: DINOv2
        own = theirs[0]
    if own not in theirs and len(theirs) == 1:
        named = f"{theirs[0]}."
        weights = {
            f"{own}.{key.removeprefix(named)}" if key.startswith(named) else key: tensor
            for key, tensor in weights.items()
        }
    matrix = weights.get(f"{own}.weight")
    return weights, matrix.shape[0] if matrix is not None and matrix.ndim else None


def _advice(ours: Mapping[str, Any], weights: Weights, terms: tuple[str, str]) -> str:
    """What would make a file fit that does not."""
    shapes = [key for key in ours.keys() & weights.keys() if ours[key].shape != weights[key].shape]
    if "fc_norm.weight" in weights and "fc_norm.weight" not in ours:
        return "it looks fine-tuned on the mean of the tokens: pass --model-args global_pool=avg"
    if "fc_norm.weight" in ours and "fc_norm.weight" not in weights:
        return "it looks fine-tuned on the class token: pass --model-args global_pool=token"
    if any("pos_embed" in key or "position" in key for key in shapes):
        return f"its images had another size: pass --model-args {terms[1]}=PIXELS"
    if any(key.startswith(HEADS) for key in shapes):
        return f"its head has other classes: pass --model-args {terms[0]}=NUMBER"
    return "give the model that was trained, with the --model-args that it was made with"


def reject(error: Exception, name: str, settings: Mapping[str, Any]) -> InputError:
    """For settings that what makes the model does not take."""
    given = " ".join(f"{key}={value}" for key, value in settings.items())
    by = f" with --model-args {given}" if given else ""
    reason = next(iter(str(error).splitlines()), type(error).__name__)
    return InputError(f"{name} cannot be made{by}: {reason}")
