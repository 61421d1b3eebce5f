"""Frames of video files: which of them, decoded exactly, and what is wrong with a file."""

from __future__ import annotations

import importlib
import importlib.metadata
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.evaluation.data.frames import first_seconds as frames_of_first_seconds
from repshift.evaluation.data.frames import middle_frames
from repshift.evaluation.data.pixels import resize

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import UInt8
    from torch import Tensor

# FFmpeg draws a text, or follows the names in it to other files.
_TEXTS = {"concat", "dash", "hls", "imf", "sdp", "tty"}
# A video of one frame in the plainest format there is: what decodes it works.
_PROBE = b"YUV4MPEG2 W16 H16 F1:1 Ip A1:1 C420jpeg\nFRAME\n" + bytes(16 * 16 * 3 // 2)


class VideoError(InputError):
    """A video that cannot be used: ``path``, and ``reason``, what is wrong with it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:  # it comes back from other processes
        return VideoError, (self.path, self.reason)


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
    """``count`` middle frames of a video, in RGB, at the size they have in the file.

    Frames are counted as they are shown, whatever their times and the order they are stored in,
    and only those that can be decoded, whatever the header claims: a file that ends early is used
    as far as it goes. One that is damaged before its end, holds no video, or is not there is a
    ``VideoError``; damage that the decoder conceals is not noticed. ``first_seconds`` are counted
    at the average rate.
    """
    video = _inspect(path)
    total = video.packets
    while True:
        used = total
        if first_seconds is not None:
            used = max(1, frames_of_first_seconds(total, video.rate_of(path), first_seconds))
        chosen = middle_frames(used, count)
        frames = _by_torchcodec(path, chosen, total) if torchcodec_version() else None
        if frames is not None:
            return frames
        found, seen = _by_pyav(path, set(chosen), used if used < total else None)
        if seen == used:
            return _stack(path, [found[index] for index in chosen])
        if not seen:
            raise VideoError(path, "is corrupt: none of its frames can be decoded")
        total = seen  # a packet held no frame, or two; now it is known


def decoder() -> str:
    """What decodes here, with versions; frames of another decoder may differ in rounding."""
    av = _pyav()
    name = f"PyAV {av.__version__} (libavcodec {'.'.join(map(str, _libavcodec(av)))})"
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


@dataclass(frozen=True)
class _Video:
    """What a file says of its video before anything is decoded."""

    packets: int
    rate: float | None  # frames a second, on average

    def rate_of(self, path: Path) -> float:
        if not self.rate:
            raise VideoError(path, "does not say how many frames it has in a second")
        return self.rate


def _inspect(path: Path) -> _Video:
    with _opened(path) as (container, stream):
        packets = sum(
            packet.size > 0 and not (packet.is_corrupt or packet.is_discard)
            for packet in container.demux(stream)
        )
        rate = stream.average_rate
    if not packets:
        raise VideoError(path, "holds no frames")
    return _Video(packets, float(rate) if rate else None)


def _by_pyav(
    path: Path, wanted: set[int], until: int | None
) -> tuple[dict[int, UInt8[Tensor, "H W 3"]], int]:
    """The wanted frames, and how many there are (``until``: no more than that are looked at)."""
    import av

    found: dict[int, Tensor] = {}
    seen, broken = 0, False
    with _opened(path) as (container, stream):
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
                raise VideoError(path, f"is corrupt: it cannot be decoded after frame {seen}")
            for frame in frames:
                if seen in wanted:
                    found[seen] = torch.from_numpy(frame.to_ndarray(format="rgb24"))
                seen += 1
                if seen == until:
                    return found, seen
    return found, seen


def _by_torchcodec(path: Path, chosen: list[int], total: int) -> UInt8[Tensor, "T 3 H W"] | None:
    """The chosen frames, with seeking; None if it fails or counts otherwise: PyAV then decides."""
    try:
        video = _torchcodec_decoder(str(path.absolute()))
        if video.metadata.num_frames != total:
            return None
        return video.get_frames_at(indices=chosen).data.contiguous()
    except (RuntimeError, ValueError, IndexError):
        return None


def _torchcodec_decoder(source: str | bytes) -> Any:
    decoders = importlib.import_module("torchcodec.decoders")  # an extra of its own
    return decoders.VideoDecoder(source, seek_mode="exact", num_ffmpeg_threads=1)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The file and its video stream; everything FFmpeg objects to becomes a ``VideoError``."""
    av = _pyav()
    if not path.is_file():
        raise VideoError(path, "is not a file")
    if not path.stat().st_size:
        raise VideoError(path, "is empty (0 bytes)")
    try:
        # Absolute, so that a colon in a name is not read as a protocol.
        with av.open(str(path.absolute()), metadata_errors="ignore") as container:
            form = container.format.name
            if form in _TEXTS or form.endswith("_pipe"):
                raise VideoError(path, f"is {'a text' if form in _TEXTS else 'an image'}, not a "
                                 f"video (FFmpeg's format {form})")  # fmt: skip
            picture = av.stream.Disposition.attached_pic  # the cover of an album
            videos = [s for s in container.streams.video if not s.disposition & picture]
            if not videos:
                kinds = ", ".join(sorted({stream.type for stream in container.streams} - {"video"}))
                raise VideoError(path, f"holds no video, only {kinds or 'a header'}")
            if videos[0].codec_context is None:
                raise VideoError(path, "is in a codec that this FFmpeg does not know")
            videos[0].codec_context.thread_count = 1  # the processes are many already
            yield container, videos[0]
    except av.FFmpegError as error:
        raise VideoError(path, f"cannot be read as a video: {error.strerror}") from None


def _stack(path: Path, frames: list[Tensor]) -> UInt8[Tensor, "T 3 H W"]:
    if len({frame.shape for frame in frames}) > 1:
        raise VideoError(path, "changes its size from frame to frame")
    return torch.stack(frames).permute(0, 3, 1, 2).contiguous()


def _libavcodec(av: Any) -> tuple[int, ...]:
    return av.library_versions["libavcodec"]


def _pyav() -> Any:
    try:
        import av
    except ImportError:
        raise InputError(
            "videos are decoded by the package av (PyAV), which is not installed; install it "
            "with: pip install repshift[umt]"
        ) from None
    return av
