"""What is seen of a file: a photograph, or a piece of every few seconds of a video.

Processes of their own decode and prepare it, so that the encoder does not wait.
"""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from PIL import Image
from torch.utils.data import IterableDataset, get_worker_info

from repshift.errors import InputError
from repshift.evaluation.collection.carried import Carried
from repshift.evaluation.collection.places import Found, local_file
from repshift.evaluation.data.batches import stacked
from repshift.evaluation.data.images import read_image
from repshift.evaluation.data.stretches import read_stretches
from repshift.evaluation.data.workers import WorkerError, from_workers

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from jaxtyping import Shaped
    from torch import Tensor

_FEW = 16  # photographs that are read sooner than a process has started
THUMBNAIL = 192  # pixels of the longer side
_AHEAD = 48  # pieces that a worker holds ready; more than a batch, so that none is waited for


class See(ABC):
    """How a model is given what there is to see; sent to other processes."""

    @property
    @abstractmethod
    def frames(self) -> int:
        """How many of each piece of a video."""

    @abstractmethod
    def __call__(self, frames: Sequence[Image.Image]) -> Shaped[Tensor, "..."]:
        """One photograph, or ``frames`` of a video, for the model."""


@dataclass(frozen=True)
class Piece:
    """A photograph, or what is seen of a video from ``second`` on."""

    file: int
    second: float | None
    seen: Shaped[Tensor, "..."]
    thumbnail: bytes


@dataclass(frozen=True)
class End:
    """All pieces of a file have come; ``reason``: why it cannot be used, if it cannot."""

    file: int
    pieces: int
    reason: str | None = None


@dataclass
class Pieces:
    """The pieces of all files, an ``End`` after those of each.

    Of a video there is a piece of every ``seconds``, at most ``most``.
    """

    files: Sequence[Found]
    see: See
    seconds: float
    most: int | None = None

    def __iter__(self) -> Iterator[Piece | End]:
        for number in range(len(self.files)):
            yield from self.read(number)

    def read(self, number: int) -> Iterator[Piece | End]:
        """Those of one file."""
        count = 0
        try:
            for second, frames in islice(self._frames(self.files[number]), self.most):
                seen = self.see(frames)
                if not seen.isfinite().all():  # a transform may divide by what varies in a picture
                    raise InputError(
                        f"{self.files[number].path} is NaN or infinity once the model's transform "
                        "has seen it"
                    )
                yield Piece(number, second, seen, thumbnail(frames[0]))
                count += 1
        except InputError as error:
            yield End(number, count, str(error))
        except UnicodeEncodeError:
            yield End(number, count, f"{self.files[number].path} is no name in UTF-8")
        else:
            yield End(number, count)

    def _frames(self, file: Found) -> Iterator[tuple[float | None, list[Image.Image]]]:
        file.path.encode()  # what a table can hold
        with local_file(file) as path:
            try:
                if not file.is_video:
                    yield None, [read_image(path)]
                    return
                for second, frames in read_stretches(path, self.seconds, self.see.frames):
                    arrays = frames.permute(0, 2, 3, 1).numpy()
                    yield second, [Image.fromarray(one) for one in arrays]
            except InputError as error:
                raise InputError(str(error).replace(str(path), file.path)) from None


class _Share(IterableDataset[Any]):
    """What one worker reads: every so-manieth file."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = Carried(pieces)

    def __iter__(self) -> Iterator[Piece | End]:
        worker, pieces = get_worker_info(), self.pieces.value
        assert worker is not None
        for number in range(worker.id, len(pieces.files), worker.num_workers):
            yield from pieces.read(number)


def thumbnail(image: Image.Image) -> bytes:
    """A small JPEG of an image."""
    small = image.copy()
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def read_pieces(pieces: Pieces, workers: int) -> Generator[Piece | End, None, None]:
    """All of them, from ``workers`` processes (0: this one), in the order they are ready."""
    workers = min(workers, len(pieces.files))
    few = len(pieces.files) < _FEW and not any(file.is_video for file in pieces.files)
    if not workers or few:
        yield from pieces
        return
    left = set(range(len(pieces.files)))
    try:
        for one in from_workers(_Share(pieces), workers, _AHEAD, __name__, in_order=False):
            if isinstance(one, End):
                left.discard(one.file)
                yield one
            else:
                # A copy: shared memory is scarce in containers, and each piece holds a file open.
                yield Piece(one.file, one.second, one.seen.clone(), one.thumbnail)
    except WorkerError as error:
        shares = [min((one for one in left if one % workers == w), default=None)
                  for w in range(workers)]  # fmt: skip
        names = ", ".join(pieces.files[one].path for one in shares if one is not None)
        raise InputError(
            f"a process that decodes died ({error}), at one of these files or a few after: "
            f"{names}; take it away, or pass --workers 1 if the memory did not suffice"
        ) from None


def batch_of(pieces: Sequence[Piece]) -> Shaped[Tensor, "B ..."]:
    """What is seen of pieces."""
    return stacked([piece.seen for piece in pieces])
