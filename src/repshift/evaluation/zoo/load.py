"""A model by its name on the command line, with everything needed to feed and draw it."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.evaluation.data.batches import FileSource, MemorySource, Source
from repshift.evaluation.data.images import find_images, sample_photographs
from repshift.evaluation.data.labels import read_labels
from repshift.input_size import resize_images, resized

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jaxtyping import Float
    from PIL.Image import Image
    from torch import Tensor, nn

OFFLINE = ("saliency-vit-s14", "digits-vit", "digits-resnet", "digits-vim")


@dataclass(frozen=True)
class LoadedModel:
    """A model and how images reach it.

    ``prepare`` makes an image [C, H, W] for the model and ``mean`` and ``std`` undo its
    normalisation for drawing. ``classes`` is 0 if the model gives a pooled feature instead of
    logits. ``decode`` draws maps [B, H, W] from all tokens [B, N, C], where the model has such a
    decoder. ``grid`` is the rows and columns of patches, (1, 1) of a ResNet. ``plan`` is where
    tokens leave if no plan is named.
    """

    name: str
    model: nn.Module
    prepare: Callable[[Image], Float[Tensor, "C H W"]]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    classes: int
    grid: tuple[int, int]
    decode: Callable[[Float[Tensor, "B N C"]], Float[Tensor, "B H W"]] | None = None
    plan: str = "deit"

    def picture(self, image: Float[Tensor, "C H W"]) -> Float[Tensor, "H W 3"]:
        """The image as it looked before normalisation, values from 0 to 1."""
        shape = (-1, 1, 1)
        pixels = image.float().cpu() * torch.tensor(self.std).view(shape)
        pixels = (pixels + torch.tensor(self.mean).view(shape)).clamp(0, 1)
        return pixels.permute(1, 2, 0).expand(-1, -1, 3)

    def at(self, side: int | None) -> LoadedModel:
        """The same for images of ``side`` pixels, as a plan's ``input_size`` says; None: itself.

        What ``prepare`` gives is then made smaller; maps are drawn at the model's own size alone.
        """
        if side is None:
            return self
        model, prepare = resized(self.model, side), self.prepare
        grid = getattr(getattr(model, "patch_embed", None), "grid_size", self.grid)
        return replace(
            self,
            model=model,
            prepare=lambda image: resize_images(prepare(image)[None], side)[0],
            grid=(int(grid[0]), int(grid[1])),
            decode=None,
        )


def load_model(
    name: str, checkpoint: Path | None = None, random_weights: bool = False
) -> LoadedModel:
    """Load ``timm:NAME`` or one of the offline models; ``InputError`` names the nearest ones."""
    library, colon, rest = name.partition(":")
    if colon and library == "timm":
        from repshift.evaluation.zoo.timm import load_timm

        return _wrap(name, load_timm(rest, checkpoint, random_weights))
    if name not in OFFLINE:
        near = difflib.get_close_matches(name, OFFLINE, n=1, cutoff=0.3)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise InputError(
            f"unknown model {name!r}{hint}; models are {', '.join(OFFLINE)} and timm:NAME"
        )
    if checkpoint is not None or random_weights:
        raise InputError(
            f"{name} brings its own weights; --checkpoint and --random-weights do not apply"
        )
    if name == "digits-vit":
        from repshift.evaluation.zoo.digits import load_digits_vit

        return _wrap(name, load_digits_vit(), mean=(0.5,), std=(0.5,))
    if name == "digits-vim":
        from repshift.evaluation.zoo.digits import load_digits_vim

        # After layers 3 and 7 of 8, as the paper's after 10 and 20 of 24.
        loaded = _wrap(name, load_digits_vim(), mean=(0.5,), std=(0.5,))
        return replace(loaded, plan="2:0.2,6:0.2")
    if name == "digits-resnet":
        from repshift.evaluation.zoo.digits import load_digits_resnet

        return _wrap(name, load_digits_resnet(), mean=(0.5,), std=(0.5,), size=(32, 32))
    from repshift.evaluation.zoo.saliency_vit import load_saliency_vit

    whole = load_saliency_vit()
    return _wrap(name, whole.encoder, decode=whole.decode)


def open_source(loaded: LoadedModel, images: Path | None, labels: bool) -> Source:
    """The images of a directory, or the model's own where none is given."""
    if images is not None:
        paths = find_images(images)
        if labels and not loaded.classes:
            raise InputError(f"{loaded.name} gives features, not classes; leave out --labels")
        if not labels:
            return FileSource(paths, loaded.prepare)
        known = read_labels(images, paths, loaded.classes)
        return FileSource(paths, loaded.prepare, known.numbers, classes=known.classes)
    if loaded.name.startswith("digits-"):
        from repshift.evaluation.zoo.digits import held_out_digits

        return MemorySource(*held_out_digits())
    if labels:
        raise InputError("the sample photographs have no labels; pass --images DIR with --labels")
    return FileSource(sample_photographs(), loaded.prepare)


def _wrap(
    name: str,
    model: nn.Module,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    decode: Callable[[Float[Tensor, "B N C"]], Float[Tensor, "B H W"]] | None = None,
    size: tuple[int, int] | None = None,
) -> LoadedModel:
    from timm.data import create_transform, resolve_model_data_config
    from timm.models.resnet import ResNet

    config: dict[str, Any] = resolve_model_data_config(model)
    patches = getattr(model, "patch_embed", None)
    size = size or getattr(patches, "img_size", None) or config["input_size"][1:]
    config["input_size"] = (getattr(model, "in_chans", config["input_size"][0]), *size)
    config["mean"], config["std"] = mean or config["mean"], std or config["std"]
    transform: Any = create_transform(**config)
    grey = config["input_size"][0] == 1
    grid = getattr(patches, "grid_size", (1, 1))
    return LoadedModel(
        name=name,
        model=model,
        prepare=lambda image: transform(image.convert("L") if grey else image),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        classes=int(getattr(model, "num_classes", 0)),
        grid=(int(grid[0]), int(grid[1])),
        decode=decode,
        plan="resnet" if isinstance(model, ResNet) else "deit",
    )
