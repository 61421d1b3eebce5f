"""What turns pictures, and texts where it has a tower for them, into vectors to compare."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from repshift.adapters import describe
from repshift.compress import compress
from repshift.compression import Compression
from repshift.errors import InputError
from repshift.evaluation.collection.pieces import See
from repshift.evaluation.tasks.variants import fitted
from repshift.evaluation.zoo.loaded import LoadedModel
from repshift.input_size import resize_images, resized
from repshift.measure.digest import digest
from repshift.plan import Plan
from repshift.plan_text import code_of

if TYPE_CHECKING:
    from jaxtyping import Float, Shaped
    from PIL.Image import Image
    from torch import Tensor

    from repshift.resnet.compression import ResNetCompression

EXAMPLE = 16  # numbers of a vector by which others are known
# Texts to vectors that are compared with those of pictures.
Texts = Callable[[Sequence[str]], Any]


@dataclass(frozen=True)
class Encoder:
    """A model, how it sees, and the plan by which it drops tokens inside ``attached``.

    ``vectors`` runs the model, or its copy for smaller images, on a batch. ``open_texts`` loads the
    tower for texts, or says why there is none. ``loaded`` is the model as the other commands have
    it, where it sees single images.
    """

    model: nn.Module
    see: See
    vectors: Callable[[nn.Module, Any], Any]
    plan: Plan
    open_texts: Callable[[], Texts]
    batch_size: int = 32
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    dtype: torch.dtype = torch.float32
    loaded: LoadedModel | None = None

    def __post_init__(self) -> None:
        self.model.to(self.device, self.dtype)
        object.__setattr__(self, "plan", fitted(self.plan, describe(self.model)))

    @contextmanager
    def attached(self, dense: bool = False) -> Generator[Running]:
        """Inside, the model drops tokens by the plan, or none; afterwards it is as it was."""
        model, plan = (self.model, Plan({})) if dense else (self._sized, self.plan)
        with compress(model, plan) as compression:
            yield Running(self, dense, compression)

    def run(self, seen: Shaped[Tensor, "B ..."], dense: bool = False) -> Float[Tensor, "B D"]:
        """What the model makes of a batch, at the size that the plan is for."""
        seen = seen.to(self.device)
        if seen.is_floating_point():
            seen = seen.to(self.dtype)
        if not dense and self.plan.input_size is not None:
            seen = resize_images(seen, self.plan.input_size)
        with torch.inference_mode():
            return self.vectors(self.model if dense else self._sized, seen)

    @cached_property
    def _sized(self) -> nn.Module:
        size = self.plan.input_size
        return self.model if size is None else resized(self.model, size)

    @cached_property
    def _example(self) -> Float[Tensor, " D"]:
        """The dense vector of a picture that is always the same."""
        seen = self.see([_picture()] * self.see.frames)
        with self.attached(dense=True) as running:
            return running.embed(seen[None])[0][0]

    @property
    def dimension(self) -> int:
        """How long the vectors are."""
        return len(self._example)

    @cached_property
    def texts(self) -> Texts:
        """The tower for texts; ``InputError`` that says why there is none."""
        return self.open_texts()

    @property
    def made_by(self) -> dict[str, Any]:
        """What decides the vectors.

        The beginning of one tells of the code and the transform of the model, and of its library.
        """
        return {
            "plan": self.plan.to_json(),
            "code": code_of(self.plan.score, self.plan.reduction),
            "example": [round(one, 5) for one in self._example[:EXAMPLE].tolist()],
            "weights": digest(self.model.state_dict().values()),
            "dtype": str(self.dtype).removeprefix("torch."),
            "dimension": self.dimension,
        }


@dataclass(frozen=True)
class Running:
    """An encoder that drops tokens at the moment, or none, being ``dense``."""

    encoder: Encoder
    dense: bool
    compression: Compression | ResNetCompression

    def embed(self, seen: Shaped[Tensor, "B ..."]) -> tuple[Float[Tensor, "B D"], list[int]]:
        """Vectors of length 1, and how many tokens were kept of each (of a ResNet, rows).

        The batch is filled up, so that the same kernels run whatever its size.
        """
        count, size = len(seen), self.encoder.batch_size
        full = torch.cat([seen, seen[-1:].expand(size - count, *seen.shape[1:])])
        vectors = self.encoder.run(full, self.dense)[:count].float()
        if not vectors.isfinite().all():
            raise InputError(
                "the model gives NaN or infinity; pass --dtype float32, or look at its weights"
            )
        if isinstance(self.compression, Compression):
            kept = self.compression.lengths[:count].tolist()
        else:
            kept = [self.compression.counts[-1]] * count
        return F.normalize(vectors, dim=-1).cpu(), kept


def _picture() -> Image:
    """Colours that run into each other, and squares, so that no crop or size is like another."""
    import numpy as np
    from PIL import Image

    rows, columns = np.mgrid[:96, :128]
    squares = 255 * ((rows // 8 + columns // 8) % 2)
    return Image.fromarray(np.stack([2 * columns, 2 * rows, squares], 2).astype(np.uint8))
