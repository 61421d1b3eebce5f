"""How much of the encoder's own rate ``repshift index`` reaches on this machine, and what it costs
to decode: DINOv2 ViT-S/14 (saliency-vit-s14), batches of 32, photographs of scikit-image as JPEG.

Run it alone: OMP_NUM_THREADS=1 python benchmarks/index_rate.py [PHOTOGRAPHS [ROUNDS]]

The CPU times hold on a busy machine too: the share of its CPU time that the process with the
encoder spends in it bounds the share of the rate where decoding has processors of its own.
"""

import json
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch

from repshift.evaluation.collection.indexing import bring_up_to_date
from repshift.evaluation.collection.local import Local
from repshift.evaluation.collection.models import Named, made_by, open_encoder
from repshift.evaluation.collection.pieces import Piece, Pieces, stacked
from repshift.evaluation.collection.places import find_files
from repshift.evaluation.collection.table import make_table
from repshift.evaluation.data.images import read_image, sample_photographs

COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 320
ROUNDS = int(sys.argv[2]) if len(sys.argv) > 2 else 5


def write_photographs(folder: Path) -> None:
    """Cut-outs of 640 x 480 of the sample photographs, no two the same."""
    sources = [read_image(path).resize((800, 600)) for path in sample_photographs()]
    for number in range(COUNT):
        left, top = number % 160, number * 7 % 120
        cut = sources[number % len(sources)].crop((left, top, left + 640, top + 480))
        cut.save(folder / f"{number:05}.jpg", quality=90)


def after_first(engine, told, files):
    """What the engine gives; the times at which its first batch is done go to ``told``."""
    for one in engine(files):
        if not told:
            told.append((time.perf_counter(), time.process_time()))
        yield one


def main() -> None:
    named = Named("saliency-vit-s14", batch_size=32)
    encoder = open_encoder(named)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        folder.mkdir()
        write_photographs(folder)
        files = find_files(str(folder))
        start = time.process_time()
        read = [one for one in Pieces(files[:64], encoder.see, 2.0) if isinstance(one, Piece)]
        decoding = (time.process_time() - start) / 64
        batch = stacked(read[:32])
        ratios, bound, rates, encoding, spent = [], [], [], [], []
        for number in range(ROUNDS):
            with encoder.attached() as running:
                running.embed(batch)
                start, cpu = time.perf_counter(), time.process_time()
                for _ in range(COUNT // 32):
                    running.embed(batch)
                bound.append(COUNT / (time.perf_counter() - start))
                encoding.append((time.process_time() - cpu) / COUNT)
            table = make_table(Path(name) / f"{number}.lance", made_by(named, encoder, 2.0))
            local = Local(encoder, 1, 2.0)
            first: list[tuple[float, float]] = []
            bring_up_to_date(table, files, partial(after_first, local, first))
            # From the first batch on: processes start once, whatever the number of photographs.
            [(start, cpu)] = first
            rates.append((COUNT - 32) / (time.perf_counter() - start))
            spent.append(encoding[-1] * (COUNT - 32) / (time.process_time() - cpu))
            ratios.append(rates[-1] / bound[-1])
    print(json.dumps({
        "photographs": COUNT, "threads": torch.get_num_threads(),
        "encoder alone, images/s": median(bound), "index, images/s": median(rates),
        "share of the encoder's rate": median(ratios), "of each round": ratios,
        "share of the CPU time in the encoder": median(spent),
        "CPU ms an image to decode": 1e3 * decoding,
        "CPU ms an image to embed": 1e3 * median(encoding),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
