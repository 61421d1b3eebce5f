"""Which positions fewer frames of a video should have: clips-umt, 1 - cosine to all eight frames.

    python benchmarks/frames.py --out docs/results/frames.md

Their own among all frames (``repshift.thinned``), those of a shorter video, and the whole table
resampled linearly, as UMT's code does.
"""

import argparse
from pathlib import Path
from unittest.mock import patch

import torch
from torch.nn import functional as F

from repshift import thin_videos
from repshift.evaluation.models.umt import vision
from repshift.files import write_text
from repshift.input_frames import middle_of_parts
from subjects import SUBJECTS

FRAMES, PATCHES = 8, 100
anew = vision.sinusoids


def own(count, width, device=None):
    places = middle_of_parts(count // PATCHES, FRAMES)
    return anew(FRAMES * PATCHES, width).unflatten(0, (FRAMES, PATCHES))[places].flatten(0, 1)


def linear(count, width, device=None):
    table = anew(FRAMES * PATCHES, width).unflatten(0, (FRAMES, PATCHES)).permute(1, 2, 0)
    resampled = F.interpolate(table, size=count // PATCHES, mode="linear")
    return resampled.permute(2, 0, 1).flatten(0, 1)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/frames.md"))
    parser.add_argument("--clips", type=int, default=200)
    arguments = parser.parse_args()
    clips = SUBJECTS["clips"](arguments, 1, arguments.clips)

    @torch.inference_mode()
    def run(frames, positions):
        with patch.object(vision, "sinusoids", positions):
            given = thin_videos(clips.test, frames)
            return torch.cat([clips.model(videos) for videos in given.split(20)])

    dense = run(FRAMES, anew)
    text = ["| frames | their own positions | of a shorter video | resampled linearly |"]
    text.append("|---:|---:|---:|---:|")
    for frames in range(FRAMES - 1, 1, -1):
        away = [
            (1 - F.cosine_similarity(run(frames, one), dense)).mean() for one in (own, anew, linear)
        ]
        text.append(f"| {frames} | {' | '.join(f'{one:.4f}' for one in away)} |")
        print(text[-1], flush=True)
    write_text(arguments.out, "\n".join([*text, ""]))


if __name__ == "__main__":
    main()
