"""The videos of a data set, a batch at a time, always the same ones together."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from repshift.evaluation.data.clips import Clips
from repshift.evaluation.data.pixels import normalise
from repshift.evaluation.data.video_file import VideoError
from repshift.evaluation.data.videos import CLIP_FORMAT, decoder

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from jaxtyping import Float
    from torch import Tensor

    from repshift.evaluation.data.frame_cache import FrameCache
    from repshift.evaluation.data.videos import Sampling


@dataclass(frozen=True)
class Videos:
    """Video files in chunks of ``batch_size``, as the model takes them.

    A chunk holds the same videos in every run, because the kernels of a batch may round otherwise
    than those of another size. A video that cannot be used ends the run with its ``VideoError``, or
    is left out, as ``on_error`` says.
    """

    paths: Sequence[Path]
    sampling: Sampling
    batch_size: int
    device: torch.device
    dtype: torch.dtype
    cache: FrameCache | None = None
    workers: int = 2
    on_error: Literal["skip", "stop"] = "stop"

    @property
    def chunks(self) -> int:
        return -(-len(self.paths) // self.batch_size)

    @property
    def settings(self) -> dict[str, Any]:
        """All that decides what the model sees, but for what the files hold."""
        return {
            "videos": [(str(path), *_stamp(path)) for path in self.paths],
            "sampling": asdict(self.sampling),
            "decoder": decoder(),
            "clip_format": CLIP_FORMAT,
            "batch_size": self.batch_size,
            "device": str(self.device),
            "dtype": str(self.dtype),
        }

    def read(
        self, chunks: Sequence[int]
    ) -> Generator[tuple[int, list[int], Float[Tensor, "B T 3 S S"]], None, None]:
        """Each of these chunks: its number, which videos of the data set are usable, the batch."""
        members = {chunk: self.members(chunk) for chunk in chunks}
        clips = self._clips([index for indices in members.values() for index in indices])
        for chunk, indices in members.items():
            usable, frames = [], []
            for index, (_, clip) in zip(indices, clips, strict=False):  # clips go on
                if not isinstance(clip, VideoError):
                    usable.append(index)
                    frames.append(clip)
                elif self.on_error == "stop":
                    raise clip
            batch = normalise(torch.stack(frames)) if frames else torch.empty(0)
            yield chunk, usable, batch.to(self.device, self.dtype)

    def reasons(self, unusable: Sequence[int]) -> list[str]:
        """Why these cannot be used; they are tried again, which is cheaper than keeping it."""
        return [
            str(found) if isinstance(found, VideoError)
            else f"{self.paths[index]} could not be read before, and can be now; run again"
            for index, (_, found) in zip(unusable, self._clips(unusable), strict=True)
        ]  # fmt: skip

    def _clips(self, indices: Sequence[int]) -> Iterator[tuple[int, Tensor | VideoError]]:
        paths = [self.paths[index] for index in indices]
        return iter(Clips(paths, self.sampling, self.cache, self.workers))

    def members(self, chunk: int) -> range:
        """The videos of a chunk, by their places in ``paths``."""
        start = chunk * self.batch_size
        return range(start, min(start + self.batch_size, len(self.paths)))


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of change of a file; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_size, found.st_mtime_ns
