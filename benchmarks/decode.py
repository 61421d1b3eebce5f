"""Do two processes that decode stay busy, and does memory stay where it is, over 1,000 clips?

Renders H.264 videos of noise and motion into a temporary folder and reads them again and again as
UMT is tested, 12 frames of 224 pixels. Writes clips a second, the share of their time in which the
workers computed (or could have, but others had the cores), and the memory of all processes on the
way, as JSON. It reads /proc, so it runs on Linux alone:

    python benchmarks/decode.py --out docs/results/decode-cpu.json
"""

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import torch
from tqdm import tqdm

from repshift.evaluation.data.clips import Clips
from repshift.evaluation.data.frame_cache import FrameCache
from repshift.evaluation.data.pixels import normalise
from repshift.evaluation.data.videos import Sampling, decoder
from repshift.files import write_text

WIDTH, HEIGHT, RATE, SECONDS = 320, 240, 25, 10  # about what MSRVTT's videos are
POINTS = 10  # measured after each tenth of the clips


def render(path, seed):
    """A bright square on a textured ground; both move, with a little noise."""
    rng = np.random.default_rng(seed)
    ground = rng.integers(0, 256, (HEIGHT // 8, WIDTH // 8, 3), dtype=np.uint8)
    ground = ground.repeat(8, axis=0).repeat(8, axis=1)
    speed = rng.integers(1, 4, 2)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = 1
        for number in range(RATE * SECONDS):
            y, x = number * speed % (HEIGHT - 60, WIDTH - 60)
            picture = np.roll(ground, number, axis=1)
            picture[y : y + 60, x : x + 60] = 240
            picture[rng.random((HEIGHT, WIDTH)) < 0.02] ^= 64
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def megabytes(process):
    """Proportional share of the memory of one process, which counts shared pages once."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text()
    return int(text.split("\nPss:")[1].split()[0]) / 1024


def seconds(process):
    """Time that one process has computed, and that it wanted to but had no core."""
    computed, waited, _ = map(int, Path(f"/proc/{process}/schedstat").read_text().split())
    return np.array([computed, waited]) / 1e9


def measure(taken, begun):
    workers = [child.pid for child in multiprocessing.active_children()]
    computed, waited = sum(map(seconds, workers))
    return {
        "clips": taken,
        "seconds": time.perf_counter() - begun,
        "main_mb": megabytes(os.getpid()),
        "workers_mb": sum(map(megabytes, workers)),
        "workers_computed_s": computed,
        "workers_waited_for_a_core_s": waited,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--distinct", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cached", action="store_true", help="read a second time, from the cache")
    parser.add_argument("--out", type=Path, default=Path("runs/decode.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        videos = [Path(folder) / f"{seed}.mp4" for seed in range(arguments.distinct)]
        for seed, path in enumerate(tqdm(videos, desc="rendering")):
            render(path, seed)
        paths = [videos[index % len(videos)] for index in range(arguments.clips)]
        cache = FrameCache(Path(folder) / "cache") if arguments.cached else None
        if cache:
            for _ in tqdm(Clips(videos, Sampling(), cache, arguments.workers), desc="filling"):
                pass
        points, begun = [], time.perf_counter()
        # The last clips find the workers gone already, so that the last point is before them.
        due = {max(1, arguments.clips * point // POINTS - 8) for point in range(1, POINTS + 1)}
        clips = Clips(paths, Sampling(), cache, arguments.workers)
        for taken, (_, clip) in enumerate(tqdm(clips, desc="decoding"), start=1):
            normalise(clip)
            if taken in due:
                points.append(measure(taken, begun))
    first, last = points[0], points[-1]
    passed = {key: last[key] - first[key] for key in first}
    available = passed["seconds"] * arguments.workers
    computed, waited = passed["workers_computed_s"], passed["workers_waited_for_a_core_s"]
    result = {
        "clips_per_s": passed["clips"] / passed["seconds"],
        "workers": arguments.workers,
        "workers_computing": computed / available,
        "workers_computing_or_waiting_for_a_core": (computed + waited) / available,
        "from_cache": arguments.cached,
        "video": f"{SECONDS} s of {WIDTH}x{HEIGHT} at {RATE} frames/s, H.264",
        "decoder": decoder(),
        "points": points,
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cores": os.cpu_count(),
        },
    }
    write_text(arguments.out, json.dumps(result, indent=2) + "\n")
    print(f"{result['clips_per_s']:.1f} clips/s; of their time the workers computed "
          f"{computed / available:.0%} and had no core {waited / available:.0%}")  # fmt: skip
    for point in points:
        print(f"{point['clips']:5} clips: {point['main_mb']:.0f} MB here, "
              f"{point['workers_mb']:.0f} MB in the workers")  # fmt: skip


if __name__ == "__main__":
    main()
