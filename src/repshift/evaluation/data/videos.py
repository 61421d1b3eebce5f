"""Frames of video files: which of them, decoded exactly, the way up they are shown."""

from __future__ import annotations

import importlib
import importlib.metadata
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.evaluation.data.frames import first_seconds as frames_of_first_seconds
from repshift.evaluation.data.frames import middle_frames
from repshift.evaluation.data.orientation import Orientation
from repshift.evaluation.data.pixels import resize
from repshift.evaluation.data.video_file import VideoError, VideoFile, pyav

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from jaxtyping import UInt8
    from torch import Tensor

CLIP_FORMAT = 2  # changes with the code that makes clips, when it would make others
# A video of one frame in the plainest format there is: what decodes it works.
_PROBE = b"YUV4MPEG2 W16 H16 F1:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(16 * 16 * 3 // 2)


@dataclass(frozen=True)
class Sampling:
    """How a video becomes a clip: ``frames`` middle frames of ``size`` x ``size`` pixels.

    ``first_seconds``: of its beginning alone. The defaults are those UMT is fine-tuned with.
    """

    frames: int = 12
    size: int = 224
    first_seconds: float | None = None
    antialias: bool = False

    def __post_init__(self) -> None:
        if self.frames < 1 or self.size < 1:
            raise InputError(f"a clip cannot have {self.frames} frames of {self.size} pixels a "
                             "side; both must be 1 or more")  # fmt: skip
        if self.first_seconds is not None and not self.first_seconds > 0:
            raise InputError(f"first_seconds is {self.first_seconds}; it must be more than 0")

    def read(self, path: Path) -> UInt8[Tensor, "T 3 S S"]:
        """The clip of a video file; ``VideoError`` if there is none."""
        frames = decode_frames(path, self.frames, self.first_seconds)
        return resize(frames, self.size, self.antialias)


def decode_frames(
    path: Path, count: int, first_seconds: float | None = None
) -> UInt8[Tensor, "T 3 H W"]:
    """``count`` middle frames of a video, upright, in RGB, at the size they have in the file.

    Frames are counted as they are shown, whatever their times and the order they are stored in,
    and only those that can be decoded, whatever the header claims: a file that ends early is used
    as far as it goes. One that is damaged before its end, holds no video, or is not there is a
    ``VideoError``; damage that the decoder conceals is not noticed. ``first_seconds`` are counted
    at the average rate.
    """
    video = VideoFile.inspect(path)
    total = video.packets
    # torchcodec counts frames by their times, turns them since its version 0.11, and mirrors none.
    torchcodec = torchcodec_version() and video.timed and not _turned(video)
    while True:
        used = total
        if first_seconds is not None:
            rate = video.frames_a_second()
            used = max(1, frames_of_first_seconds(total, rate, first_seconds))
        chosen = middle_frames(used, count)
        frames = _by_torchcodec(video, chosen, total) if torchcodec else None
        if frames is not None:
            return frames
        found, seen = _by_pyav(video, set(chosen), used if used < total else None)
        if seen == used:
            return stack(path, [found[index] for index in chosen])
        if not seen:
            raise VideoError(path, "is corrupt: none of its frames can be decoded")
        total = seen  # a packet held no frame, or two; now it is known


def decoder() -> str:
    """What decodes here, with versions; frames of another decoder may differ in rounding."""
    av = pyav()
    libavcodec = ".".join(map(str, av.library_versions["libavcodec"]))
    name = f"PyAV {av.__version__} (libavcodec {libavcodec})"
    return f"torchcodec {version}, {name}" if (version := torchcodec_version()) else name


@cache
def torchcodec_version() -> str | None:
    """The version of torchcodec if it decodes here; None if PyAV does all.

    It can be imported without the FFmpeg it needs, so it is tried, once a process.
    """
    try:
        _torchcodec_decoder(_PROBE).get_frames_at(indices=[0])
        return importlib.metadata.version("torchcodec")
    except Exception:  # missing, or without FFmpeg: it raises what its loader raised
        return None


def _by_pyav(
    video: VideoFile, wanted: set[int], until: int | None
) -> tuple[dict[int, UInt8[Tensor, "H W 3"]], int]:
    """The wanted frames, and how many there are (``until``: no more than that are looked at)."""
    found: dict[int, Tensor] = {}
    seen = 0
    with closing(shown_frames(video)) as frames:
        for seen, frame in enumerate(frames, start=1):
            if seen - 1 in wanted:
                found[seen - 1] = upright(video, frame)
            if seen == until:
                break
    return found, seen


def shown_frames(video: VideoFile) -> Generator[Any, None, None]:
    """All frames of the film, as PyAV decodes them, in the order they are shown."""
    import av

    seen, broken = 0, False
    with video.film() as (container, stream):
        for packet in container.demux(stream):
            # A file that was cut off ends in such a packet. If others follow, it is the middle.
            if packet.is_corrupt:
                broken = True
                continue
            try:
                frames = packet.decode()
            except av.error.InvalidDataError:
                broken = True
                continue
            if broken and packet.size:
                raise VideoError(video.path, f"is corrupt: it cannot be decoded after frame {seen}")
            seen += len(frames)
            yield from frames


def upright(video: VideoFile, frame: Any) -> UInt8[Tensor, "H W 3"]:
    """The pixels of a frame of PyAV, the way up they are shown."""
    pixels = torch.from_numpy(frame.to_ndarray(format="rgb24"))
    return _orientation(video, frame).upright(pixels)


def _orientation(video: VideoFile, frame: Any) -> Orientation:
    try:
        return Orientation.of(frame)
    except InputError as error:
        raise VideoError(video.path, f"is turned by no right angle: it has {error}") from None


def _turned(video: VideoFile) -> bool:
    """Whether frames are shown otherwise than they are stored, which the frames alone say."""
    import av

    with video.film() as (container, stream):
        try:
            frame = next(container.decode(stream), None)
        except av.error.InvalidDataError:
            return True  # PyAV will say what is wrong
        return frame is None or _orientation(video, frame) != Orientation()


def _by_torchcodec(
    video: VideoFile, chosen: list[int], total: int
) -> UInt8[Tensor, "T 3 H W"] | None:
    """The chosen frames, with seeking; None if it fails or counts otherwise: PyAV then decides."""
    try:
        reader = _torchcodec_decoder(str(video.path.absolute()), video.stream)
        if reader.metadata.num_frames != total:
            return None
        return reader.get_frames_at(indices=chosen).data.contiguous()
    except (RuntimeError, ValueError, IndexError):
        return None


def _torchcodec_decoder(source: str | bytes, stream: int | None = None) -> Any:
    decoders = importlib.import_module("torchcodec.decoders")  # an extra of its own
    return decoders.VideoDecoder(
        source, stream_index=stream, seek_mode="exact", num_ffmpeg_threads=1
    )


def stack(path: Path, frames: list[Tensor]) -> UInt8[Tensor, "T 3 H W"]:
    """Upright frames of a video; ``VideoError`` if they are not of one size."""
    if len({frame.shape for frame in frames}) > 1:
        raise VideoError(path, "changes its size from frame to frame")
    return torch.stack(frames).permute(0, 3, 1, 2).contiguous()
