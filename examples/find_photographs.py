"""Photographs in a table, embedded with half of the tokens, and those like one of them."""

import tempfile
from pathlib import Path

import torch

from repshift.evaluation.collection.finding import open_finder
from repshift.evaluation.collection.models import Named
from repshift.evaluation.collection.run import index
from repshift.evaluation.data.images import sample_photographs

photographs = sample_photographs()
with tempfile.TemporaryDirectory() as folder:
    table = Path(folder) / "photos.lance"
    report = index(str(photographs[0].parent), Named("saliency-vit-s14"), table, every=2.0)
    print(*report.lines(), sep="\n")
    finder = open_finder(table, torch.device("cpu"))
    motorcycle = next(path for path in photographs if path.stem == "motorcycle_left")
    for hit in finder.by_file(motorcycle, 3):
        print(f"{hit.likeness:.3f} {Path(hit.path).name}, {hit.kept} of 257 tokens kept")
