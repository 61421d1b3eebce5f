"""A video file: which of its streams is the film, what it says of it, and what is wrong with it."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Generator

OLDEST_PYAV = 17  # earlier ones take the colours of BT.709 for those of BT.601
# FFmpeg draws a text, or follows the names in it to other files.
_TEXTS = {"concat", "dash", "hls", "imf", "sdp", "tty"}
_TIMED = {"matroska,webm", "mov,mp4,m4a,3gp,3g2,mj2"}


class VideoError(InputError):
    """A video that cannot be used: ``path``, and ``reason``, what is wrong with it."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} {reason}")
        self.path, self.reason = path, reason

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:  # it comes back from other processes
        return VideoError, (self.path, self.reason)


@dataclass(frozen=True)
class VideoFile:
    """What a file says of its film before anything is decoded; ``stream`` is its place there.

    ``timed``: the file keeps a time for every frame, and no two have the same. (FFmpeg guesses
    those of an AVI, wrongly where frames are stored in another order than they are shown.)
    """

    path: Path
    stream: int
    packets: int
    timed: bool
    rate: float | None  # frames a second, on average
    lasts: float | None  # seconds, its last frame as long as the mean of the others

    @staticmethod
    def inspect(path: Path) -> VideoFile:
        """Read all packets and choose the film: FFmpeg's best stream that holds more than a still.

        A thumbnail may come first, and even be what FFmpeg takes for the best; it is the film only
        where nothing else is.
        """
        with opened(path) as container:
            streams = _films(path, container)
            times: dict[int, list[int | None]] = {stream.index: [] for stream in streams}
            for packet in container.demux(streams):
                if packet.size > 0 and not (packet.is_corrupt or packet.is_discard):
                    times[packet.stream_index].append(packet.pts)
            best = container.streams.best("video")
            streams.sort(key=lambda stream: stream != best)  # the others keep their order
            film = max(streams, key=lambda stream: min(2, len(times[stream.index])))
            if film.codec_context is None:
                raise VideoError(path, "is in a codec that this FFmpeg does not know")
            if not (shown := times[film.index]):
                raise VideoError(path, "holds no frames")
            timed = container.format.name in _TIMED and len({*shown} - {None}) == len(shown)
            rate = float(film.average_rate) if film.average_rate else None
            lasts = len(shown) / rate if rate else None
            if timed and len(shown) > 1 and film.time_base:
                known = [time for time in shown if time is not None]
                apart = (max(known) - min(known)) / (len(known) - 1)
                lasts = float(apart * len(known) * film.time_base)
            return VideoFile(path, film.index, len(shown), timed, rate, lasts)

    @contextmanager
    def film(self) -> Generator[tuple[Any, Any]]:
        """The container and the stream, to be decoded by one thread."""
        with opened(self.path) as container:
            stream = container.streams[self.stream]
            stream.codec_context.thread_count = 1  # the processes are many already
            yield container, stream

    def frames_a_second(self) -> float:
        """The average rate; ``VideoError`` where the file has none."""
        if not self.rate:
            raise VideoError(self.path, "does not say how many frames it has in a second")
        return self.rate


@contextmanager
def opened(path: Path) -> Generator[Any]:
    """The container; everything FFmpeg objects to becomes a ``VideoError``."""
    av = pyav()
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
            yield container
    except av.FFmpegError as error:
        raise VideoError(path, f"cannot be read as a video: {error.strerror}") from None


def _films(path: Path, container: Any) -> list[Any]:
    """The video streams that may be the film: not the cover of an album."""
    picture = pyav().stream.Disposition.attached_pic
    videos = [s for s in container.streams.video if not s.disposition & picture]
    if not videos:
        kinds = ", ".join(sorted({stream.type for stream in container.streams} - {"video"}))
        raise VideoError(path, f"holds no video, only {kinds or 'a header'}")
    return videos


def pyav() -> Any:
    """PyAV, where it is installed and new enough."""
    install = "install it with: pip install repshift[umt]"
    try:
        import av
    except ImportError:
        raise InputError(
            f"videos are decoded by the package av (PyAV), which is not installed; {install}"
        ) from None
    if int(av.__version__.partition(".")[0]) < OLDEST_PYAV:
        raise InputError(
            f"the package av (PyAV) is version {av.__version__}, which gives wrong colours; "
            f"expected {OLDEST_PYAV} or later; {install}"
        )
    return av
