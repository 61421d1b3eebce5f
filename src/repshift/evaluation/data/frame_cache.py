"""Clips kept on disk, so that a second run need not decode.

A clip is found by what it was made from: the bytes of the video, the settings, the versions of
what decodes and resizes. Nothing is ever out of date, it only is not found; and what was damaged
on the disk does not match its own checksum and is made anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from repshift.evaluation.data.video_file import VideoError
from repshift.evaluation.data.videos import CLIP_FORMAT, Sampling, decoder
from repshift.files import replacing

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from torch import Tensor


@dataclass(frozen=True)
class FrameCache:
    """A directory of clips. Several processes may read and write it at once."""

    directory: Path

    def read(self, path: Path, sampling: Sampling) -> UInt8[Tensor, "T 3 S S"]:
        """The clip of a video, from the disk if it is there, else decoded and kept.

        ``VideoError`` where the video cannot be used, which is found out anew each time;
        ``InputError`` where the directory cannot be written.
        """
        file = self.file(path, sampling)
        clip = _load(file, (sampling.frames, 3, sampling.size, sampling.size))
        if clip is None:
            clip = sampling.read(path)
            with replacing(file) as temporary:
                _save(temporary, clip)
        return clip

    def file(self, path: Path, sampling: Sampling) -> Path:
        """Where the clip of a video is, or will be."""
        try:
            with path.open("rb") as opened:
                content = hashlib.file_digest(opened, "sha256").hexdigest()
        except OSError as error:
            raise VideoError(path, f"cannot be read: {error.strerror}") from None
        made_from = {
            "content": content,
            "decoder": decoder(),
            "format": CLIP_FORMAT,
            "torch": torch.__version__,
        }
        text = json.dumps(made_from | asdict(sampling), sort_keys=True)
        name = hashlib.sha256(text.encode()).hexdigest()
        return self.directory / name[:2] / f"{name}.safetensors"


def _save(file: Path, clip: UInt8[Tensor, "T 3 S S"]) -> None:
    from safetensors.torch import save

    # Written by Python, whose error says when the disk is full.
    file.write_bytes(save({"clip": clip}, metadata={"sha256": _checksum(clip)}))


def _load(file: Path, shape: tuple[int, ...]) -> UInt8[Tensor, "T 3 S S"] | None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            wanted = (opened.metadata() or {}).get("sha256")
            clip = opened.get_tensor("clip")
    except (SafetensorError, OSError):  # not there, or damaged
        return None
    intact = clip.dtype == torch.uint8 and clip.shape == shape and _checksum(clip) == wanted
    return clip if intact else None


def _checksum(clip: Tensor) -> str:
    return hashlib.sha256(clip.numpy().tobytes()).hexdigest()
