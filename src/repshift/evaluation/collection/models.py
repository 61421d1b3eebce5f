"""Encoders by the name of their model: any that sees images, and clips-umt, which sees films."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from repshift.errors import InputError
from repshift.evaluation.collection.encoder import Encoder, Texts
from repshift.evaluation.collection.pieces import See
from repshift.evaluation.data.pixels import normalise, resize
from repshift.evaluation.data.videos import Sampling
from repshift.evaluation.zoo.load import load_model
from repshift.evaluation.zoo.loaded import LoadedModel
from repshift.evaluation.zoo.reading import Reading
from repshift.plan_given import as_plan

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from PIL.Image import Image
    from torch import Tensor

    from repshift.plan import Plan

CLIPS = "clips-umt"
_WITH_TEXTS = f"{CLIPS}, hf: models of CLIP or SigLIP"


@dataclass(frozen=True)
class Named:
    """A model as a command names it; ``plan`` is its own where none is named."""

    model: str
    plan: Plan | None = None
    checkpoint: Path | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32


def open_encoder(named: Named) -> Encoder:
    """The model of that name with its plan; ``InputError`` where there is none or it does not fit.

    A classifier gives what its last layer is given.
    """
    run = (named.batch_size, named.device, named.dtype)
    if named.model == CLIPS:
        return _clips(named, run)
    loaded = load_model(named.model, named.checkpoint, settings=named.settings)
    read_before_head(loaded)

    def texts() -> Texts:
        from repshift.evaluation.zoo.texts import load_texts

        if not named.model.startswith("hf:") or named.checkpoint is not None:
            what = f"{named.model} with --checkpoint" if named.checkpoint else named.model
            raise InputError(
                f"{what} has no tower for texts; search by an image, or index with {_WITH_TEXTS}"
            )
        return load_texts(named.model.removeprefix("hf:"))

    plan = named.plan or as_plan(loaded.plan)
    return Encoder(loaded.model, SeeImage(loaded.prepare), _call, plan, texts, *run, loaded)


def made_by(named: Named, encoder: Encoder, every: float) -> dict[str, Any]:
    """What a table's vectors come from, for its metadata; ``every``: seconds between pieces."""
    return {
        "model": named.model,
        "checkpoint": None if named.checkpoint is None else str(named.checkpoint.absolute()),
        "model_args": {name: repr(value) for name, value in named.settings.items()},
        "every": every,
        **encoder.made_by,
    }


def read_before_head(loaded: LoadedModel) -> None:
    """Have the model give what its last layers are given, where those tell classes apart."""
    if not loaded.classes:
        return
    inner = loaded.model.model if isinstance(loaded.model, Reading) else loaded.model
    assert isinstance(inner, nn.Module)
    for name, part in inner.named_children():
        if "head" in name or "classifier" in name or name == "fc":
            linear = [one for one in part.modules() if isinstance(one, nn.Linear)]
            if linear and linear[-1].out_features == loaded.classes:
                linear[-1].register_forward_hook(_given)


@dataclass(frozen=True)
class SeeImage(See):
    """An image as the model's own transform makes it; of a video, a frame."""

    prepare: Callable[[Image], Any]

    @property
    def frames(self) -> int:
        return 1

    def __call__(self, frames: Sequence[Image]) -> Float[Tensor, "C H W"]:
        """The first of ``frames``."""
        return self.prepare(frames[0])


@dataclass(frozen=True)
class SeeClip(See):
    """A clip of some frames; a photograph stands still."""

    sampling: Sampling

    @property
    def frames(self) -> int:
        return self.sampling.frames

    def __call__(self, frames: Sequence[Image]) -> UInt8[Tensor, "T 3 S S"]:
        """``frames`` at the size of the model."""
        pixels = torch.stack([_pixels(frame) for frame in frames])
        clip = resize(pixels, self.sampling.size, self.sampling.antialias)
        return clip if len(clip) == self.frames else clip.expand(self.frames, -1, -1, -1)


def _clips(named: Named, run: tuple[int, torch.device, torch.dtype]) -> Encoder:
    from repshift.evaluation.zoo.clips.model import SAMPLING, load_clips_retrieval, tokenizer

    if named.checkpoint is not None or named.settings:
        raise InputError(
            f"{CLIPS} brings its own weights; --checkpoint and --model-args do not apply"
        )
    model, words = load_clips_retrieval().to(named.device, named.dtype), tokenizer()

    def vectors(encoder: nn.Module, clips: Tensor) -> Tensor:
        pooled = encoder(normalise(clips).to(named.dtype))[1]
        return nn.functional.normalize(model.vision_proj(pooled), dim=-1).mean(1)

    def texts(asked: Sequence[str]) -> Tensor:
        ids, mask = words.captions(asked)
        tokens = model.encode_text(ids.to(named.device), mask.to(named.device))
        return model.text_proj(tokens[:, 0])

    plan = named.plan or as_plan("umt-retrieval")
    return Encoder(model.vision_encoder, SeeClip(SAMPLING), vectors, plan, lambda: texts, *run)


def _pixels(image: Image) -> Tensor:
    import numpy as np

    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def _call(model: nn.Module, images: Tensor) -> Tensor:
    return model(images)


def _given(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
    return args[0]
