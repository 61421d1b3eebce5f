"""Which positions fewer frames of a video should have: clips-umt, 1 - cosine to all eight frames.

    python benchmarks/frames.py --out docs/results/frames

Their own among all frames (``repshift.thinned``), those of a shorter video, and the whole table
resampled linearly, as UMT's code does.
"""

from pathlib import Path
from unittest.mock import patch

import torch
from torch.nn import functional as F

from harness import Report, command
from repshift import thin_videos
from repshift.evaluation.models.umt import vision
from repshift.input_frames import middle_of_parts
from subjects import Given, open_subject

FRAMES, PATCHES = 8, 100
anew = vision.sinusoids


def own(count, width, device=None):
    places = middle_of_parts(count // PATCHES, FRAMES)
    return anew(FRAMES * PATCHES, width).unflatten(0, (FRAMES, PATCHES))[places].flatten(0, 1)


def linear(count, width, device=None):
    table = anew(FRAMES * PATCHES, width).unflatten(0, (FRAMES, PATCHES)).permute(1, 2, 0)
    resampled = F.interpolate(table, size=count // PATCHES, mode="linear")
    return resampled.permute(2, 0, 1).flatten(0, 1)


def main(out: Path = Path("runs/frames"), clips: int = 200):
    subject = open_subject("clips", Given(), 1, clips)

    @torch.inference_mode()
    def run(frames, positions):
        with patch.object(vision, "sinusoids", positions):
            given = thin_videos(subject.test, frames)
            return torch.cat([subject.model(videos) for videos in given.split(20)])

    def rows():
        dense = run(FRAMES, anew)
        for frames in range(FRAMES - 1, 1, -1):
            ways = (run(frames, positions) for positions in (own, anew, linear))
            away = ((1 - F.cosine_similarity(way, dense)).mean() for way in ways)
            yield frames, *(f"{one:.4f}" for one in away)

    heads = ("frames", "their own positions", "of a shorter video", "resampled linearly")
    Report(out, model=subject.name, videos=len(subject.test)).table(heads, rows())


if __name__ == "__main__":
    command(main)
