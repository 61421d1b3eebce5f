"""How much of the encoder's own rate ``repshift index`` reaches, and what it costs to decode.

DINOv2 ViT-S/14 (saliency-vit-s14), batches of 32, photographs of scikit-image as JPEG. Alone:

    OMP_NUM_THREADS=1 python benchmarks/index_rate.py

The CPU times hold on a busy machine too: the share of its CPU time that the process with the
encoder spends in it bounds the share of the rate where decoding has processors of its own.
"""

import json
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

import torch

from harness import command
from repshift.evaluation.collection.indexing import bring_up_to_date
from repshift.evaluation.collection.local import Local
from repshift.evaluation.collection.models import Named, made_by, open_encoder
from repshift.evaluation.collection.pieces import Piece, Pieces, stacked
from repshift.evaluation.collection.places import find_files
from repshift.evaluation.collection.table import make_table
from repshift.evaluation.data.images import read_image, sample_photographs

BATCH, EVERY = 32, 2.0  # EVERY: seconds of a film, of which there is none


def write_photographs(folder, count):
    """Cut-outs of 640 x 480 of the sample photographs, no two the same."""
    sources = [read_image(path).resize((800, 600)) for path in sample_photographs()]
    for number in range(count):
        left, top = number % 160, number * 7 % 120
        cut = sources[number % len(sources)].crop((left, top, left + 640, top + 480))
        cut.save(folder / f"{number:05}.jpg", quality=90)


def now():
    return time.perf_counter(), time.process_time()


def since(start):
    """Seconds, and seconds of this process's CPU time."""
    return [after - before for after, before in zip(now(), start, strict=True)]


def after_first(engine, told, files):
    """What the engine gives; when its first batch is done goes to ``told``."""
    for one in engine(files):
        if not told:
            told.append(now())
        yield one


def main(photographs: int = 320, rounds: int = 5):
    named = Named("saliency-vit-s14", batch_size=BATCH)
    encoder = open_encoder(named)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "photos"
        folder.mkdir()
        write_photographs(folder, photographs)
        files, start = find_files(str(folder)), now()
        read = [one for one in Pieces(files[:64], encoder.see, EVERY) if isinstance(one, Piece)]
        decoding, batch = since(start)[1] / len(read), stacked(read[:BATCH])
        bound, embedding, rates, shares = [], [], [], []
        for number in range(rounds):
            with encoder.attached() as running:
                running.embed(batch)
                start = now()
                for _ in range(photographs // BATCH):
                    running.embed(batch)
                seconds, cpu = since(start)
            bound.append(photographs / seconds)
            embedding.append(cpu / photographs)
            table = make_table(Path(name) / f"{number}.lance", made_by(named, encoder, EVERY))
            first = []
            bring_up_to_date(table, files, partial(after_first, Local(encoder, 1, EVERY), first))
            # From the first batch on: processes start once, whatever the number of photographs.
            seconds, cpu = since(first[0])
            rates.append((photographs - BATCH) / seconds)
            shares.append(embedding[-1] * (photographs - BATCH) / cpu)
    ratios = [rate / alone for rate, alone in zip(rates, bound, strict=True)]
    print(json.dumps({
        "photographs": photographs, "threads": torch.get_num_threads(),
        "encoder alone, images/s": median(bound), "index, images/s": median(rates),
        "share of the encoder's rate": median(ratios), "of each round": ratios,
        "share of the CPU time in the encoder": median(shares),
        "CPU ms an image to decode": 1e3 * decoding,
        "CPU ms an image to embed": 1e3 * median(embedding),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    command(main)
