"""Photographs in a table, embedded with half of the tokens, and those like one of them."""

import shutil
import tempfile
from pathlib import Path

import torch

from repshift.evaluation.collection.finding import open_finder
from repshift.evaluation.collection.models import Named
from repshift.evaluation.collection.run import index
from repshift.evaluation.data.images import sample_photographs

with tempfile.TemporaryDirectory() as name:
    photographs, table = Path(name) / "photographs", Path(name) / "photos.lance"
    photographs.mkdir()
    for path in sample_photographs()[::3]:  # your own folder
        shutil.copy(path, photographs)
    report = index(str(photographs), Named("saliency-vit-s14", batch_size=8), table, every=2.0)
    print(*report.lines(), sep="\n")
    finder = open_finder(table, torch.device("cpu"))
    [other] = [path for path in sample_photographs() if path.stem == "motorcycle_left"]
    for hit in finder.by_file(other, 3):
        print(f"{hit.likeness:.3f} {Path(hit.path).name}, {hit.kept} of 257 tokens kept")
