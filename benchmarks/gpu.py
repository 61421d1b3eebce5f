"""The GPU figures: benchmarks/speed.py on CUDA, in half precision and at serving batch sizes.

python benchmarks/gpu.py --out docs/results/speed-gpu
"""

import argparse
import subprocess
import sys
from pathlib import Path

import torch


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/speed-gpu"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("benchmarks/gpu.py needs a CUDA device; on CPU run benchmarks/speed.py")
    speed = Path(__file__).with_name("speed.py")
    options = ["--device", "cuda", "--dtype", "bfloat16", "--batches", "1", "8", "64"]
    command = [sys.executable, speed, *options, "--out", arguments.out]
    raise SystemExit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
