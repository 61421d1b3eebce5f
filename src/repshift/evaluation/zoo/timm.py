"""timm models by name: weights from the hub, from a file, or random."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from repshift.errors import InputError
from repshift.evaluation.zoo.from_file import model_from_file, reject
from repshift.evaluation.zoo.hub import fail_fast_offline, from_hub
from repshift.evaluation.zoo.loaded import LoadedModel, Wanted, classes_of, grid_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jaxtyping import Float
    from PIL.Image import Image
    from torch import Tensor, nn

    from repshift.evaluation.models.checkpoint import Weights


def load(name: str, wanted: Wanted) -> LoadedModel:
    """``timm:NAME``, by timm's own transform."""
    model = load_timm(name, wanted.checkpoint, wanted.random_weights, dict(wanted.settings))
    return with_transform(f"timm:{name}", model)


def load_timm(
    name: str,
    checkpoint: Path | None,
    random_weights: bool,
    settings: dict[str, Any] | None = None,
) -> nn.Module:
    """A timm model in evaluation mode.

    With a checkpoint, the number of classes and the image size are read off its tensors, and its
    keys must be the model's.
    """
    wanted = Wanted(checkpoint, random_weights, settings or {})
    fail_fast_offline()
    import timm

    hub = name.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    if not hub and not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join('timm:' + n for n in near)}?" if near else ""
        raise InputError(f"timm has no model {name!r}{hint}")
    advice = "pass --checkpoint FILE (or --random-weights where only speed matters)"
    if wanted.checkpoint is not None:
        with from_hub(f"timm:{name}", "name a model of timm itself"):
            return model_from_file(
                name, wanted.checkpoint, wanted.settings, partial(_build, name), _told
            )
    if random_weights:
        with from_hub(f"timm:{name}", "name a model of timm itself"):
            return _build(name, dict(wanted.settings)).eval()
    if not hub and not timm.list_pretrained(name):
        raise InputError(
            f"timm has no weights for {name}; pass --checkpoint FILE or --random-weights"
        )
    with from_hub(f"timm:{name}", advice):
        return _build(name, dict(wanted.settings), pretrained=True).eval()


def _build(name: str, settings: dict[str, Any], pretrained: bool = False) -> nn.Module:
    import timm

    try:
        return timm.create_model(name, pretrained=pretrained, **settings)
    except (TypeError, ValueError, AssertionError) as error:
        if not settings:
            raise
        raise reject(error, name, settings) from None


def _told(model: nn.Module, weights: Weights, classes: int | None) -> dict[str, Any]:
    told: dict[str, Any] = {} if classes is None else {"num_classes": classes}
    if (side := _image_size(model, weights.get("pos_embed"))) is not None:
        told["img_size"] = side
    return told


def _image_size(model: Any, filed: Tensor | None) -> int | None:
    """Pixels a side, where the file's table of positions is of another size than the model's.

    The table tells it: a square of patches after the same prefix entries.
    """
    table = getattr(model, "pos_embed", None)
    if table is None or filed is None or table.shape == filed.shape:
        return None
    if table.ndim != 3 or filed.ndim != 3:
        return None
    patches = filed.shape[1] - (table.shape[1] - model.patch_embed.num_patches)
    return round(patches**0.5) * model.patch_embed.patch_size[0] if patches > 0 else None


@dataclass(frozen=True)
class Grey:
    """A transform of grey images."""

    transform: Callable[[Image], Float[Tensor, "1 H W"]]

    def __call__(self, image: Image) -> Float[Tensor, "1 H W"]:
        """The image for the model."""
        return self.transform(image.convert("L"))


def with_transform(
    name: str,
    model: nn.Module,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    decode: Callable[[Float[Tensor, "B N C"]], Float[Tensor, "B H W"]] | None = None,
    size: tuple[int, int] | None = None,
) -> LoadedModel:
    """The model with the transform that timm's data config of it describes."""
    from timm.data import create_transform, resolve_model_data_config
    from timm.models.resnet import ResNet

    config: dict[str, Any] = resolve_model_data_config(model)
    patches = getattr(model, "patch_embed", None)
    own: Any = getattr(patches, "img_size", None) or getattr(model, "image_size", None)
    size = size or ((own, own) if isinstance(own, int) else own) or config["input_size"][1:]
    config["input_size"] = (getattr(model, "in_chans", config["input_size"][0]), *size)
    config["mean"], config["std"] = mean or config["mean"], std or config["std"]
    transform: Any = create_transform(**config)
    grey = config["input_size"][0] == 1
    return LoadedModel(
        name=name,
        model=model,
        prepare=Grey(transform) if grey else transform,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        classes=classes_of(model),
        grid=(1, 1) if isinstance(model, ResNet) else grid_of(model, (size[0], size[1])),
        decode=decode,
        plan="resnet" if isinstance(model, ResNet) else "deit",
    )
