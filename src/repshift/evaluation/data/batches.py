"""Images in batches, from files or memory; a file that cannot be used is named and left out."""

from __future__ import annotations

from collections.abc import Sized
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.evaluation.data.images import read_image

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from jaxtyping import Float, Int, Shaped
    from PIL.Image import Image
    from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """Images ready for the model, their labels where known, and what to call them."""

    images: Float[Tensor, "B ..."]
    labels: Int[Tensor, " B"] | None
    names: list[str]


@dataclass
class MemorySource:
    """Images that are tensors already."""

    images: Float[Tensor, "N ..."]
    labels: Int[Tensor, " N"] | None
    skipped: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    def parts(self, size: int) -> int:
        """How many batches of ``size`` there are."""
        return -(-len(self) // size)

    def batches(self, size: int) -> Iterator[Batch]:
        """All images, ``size`` at a time."""
        for start in range(0, len(self), size):
            part = slice(start, start + size)
            labels = None if self.labels is None else self.labels[part]
            images = self.images[part]
            yield Batch(images, labels, [f"image {start + i}" for i in range(len(images))])


@dataclass
class FileSource:
    """Image files, read as they are needed. ``skipped`` grows by a line for each unusable one.

    ``classes`` are the folders that the labels number, where they come from folders.
    """

    paths: list[Path]
    prepare: Callable[[Image], Float[Tensor, "C H W"]]
    labels: Int[Tensor, " N"] | None = None
    skipped: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def parts(self, size: int) -> int:
        """How many batches of ``size`` there are at most."""
        return -(-len(self) // size)

    def batches(self, size: int) -> Iterator[Batch]:
        """The usable images, at most ``size`` at a time; ``InputError`` at the end if none was."""
        self.skipped.clear()
        for start in range(0, len(self), size):
            chosen, images = [], []
            for index in range(start, min(start + size, len(self))):
                try:
                    images.append(self.prepare(read_image(self.paths[index])))
                    chosen.append(index)
                except InputError as error:
                    self.skipped.append(str(error))
            if images:
                labels = None if self.labels is None else self.labels[chosen]
                yield Batch(stacked(images), labels, [self.paths[i].name for i in chosen])
        if len(self.skipped) == len(self):
            raise InputError(
                f"none of the {len(self)} images can be used; the first: {self.skipped[0]}"
            )


def stacked(images: Sequence[Shaped[Tensor, "..."]]) -> Shaped[Tensor, "B ..."]:
    """One batch; ``InputError`` where a transform leaves images the sizes that they have."""
    sizes = sorted({tuple(image.shape) for image in images})
    if len(sizes) > 1:
        told = " and ".join(str(list(size)) for size in sizes[:2])
        raise InputError(
            f"the model's transform makes images of several sizes, such as {told}, and a batch is "
            "of one; have it resize or crop them"
        )
    return torch.stack([*images])


@dataclass
class LoaderSource:
    """Batches that a DataLoader, or a list, makes of images, or of pairs (images, labels)."""

    loader: Iterable[Any]
    labelled: bool = True
    skipped: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()

    def parts(self, size: int) -> int | None:
        """How many batches there are, where that is known."""
        return len(self.loader) if isinstance(self.loader, Sized) else None

    def batches(self, size: int) -> Iterator[Batch]:
        """The batches as they come, whatever their ``size``; ``InputError`` if there is none."""
        seen = 0
        for given in self.loader:
            images, labels = given if _is_pair(given) else (given, None)
            if not isinstance(images, torch.Tensor):
                raise InputError(
                    f"a batch is a {type(given).__name__}; expected images [B, C, H, W], or a pair "
                    "(images, labels)"
                )
            names = [f"image {seen + number}" for number in range(len(images))]
            seen += len(images)
            yield Batch(images, labels if self.labelled else None, names)
        if not seen:
            raise InputError("there are no images")


def _is_pair(given: object) -> bool:
    return isinstance(given, tuple | list) and len(given) == 2


Source = MemorySource | FileSource
AnySource = Source | LoaderSource


def sampled(source: Source, count: int, seed: int) -> Source:
    """At most ``count`` images of a source, drawn by ``seed``, in the order of the source."""
    order = torch.randperm(len(source), generator=torch.Generator().manual_seed(seed))
    chosen = order[:count].sort().values.tolist()
    labels = None if source.labels is None else source.labels[chosen]
    if isinstance(source, MemorySource):
        return MemorySource(source.images[chosen], labels, source.skipped, source.classes)
    return replace(source, paths=[source.paths[index] for index in chosen], labels=labels)


def draw(source: Source, count: int, seed: int) -> Batch:
    """``sampled`` images as one batch.

    Files that cannot be used are left out and named in ``source.skipped``.
    """
    return next(sampled(source, count, seed).batches(count))
