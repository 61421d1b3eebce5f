"""What should stand for a token that left, where a dense output is wanted?

Compares, on saliency-vit-s14, the map drawn from restored tokens with the dense model's map:

    python benchmarks/restore.py --images DIR --out docs/results/restore
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import torch
from tqdm import tqdm

from harness import Report, command
from repshift import Plan, Random, Score, Shift, compress
from repshift.evaluation.data.batches import FileSource
from repshift.evaluation.data.images import find_images, sample_photographs
from repshift.evaluation.zoo.load import load_model
from repshift.evaluation.zoo.saliency_vit import GRID, load_saliency_vit

PLANS = {
    "0:0.2,3:0.2,6:0.2": {0: 0.2, 3: 0.2, 6: 0.2},
    "6:0.3,9:0.3": {6: 0.3, 9: 0.3},
    "16 after each of blocks 0 to 10": dict.fromkeys(range(11), 16),
}


def index(positions, width):
    return positions[..., None].expand(-1, -1, width)


@dataclass(frozen=True)
class Watched(Score):
    """Another score, that remembers the streams from which tokens leave."""

    name: ClassVar[str] = "watched"
    inner: Score
    streams: dict = field(default_factory=dict, compare=False)

    def required(self):
        return self.inner.required() | {"exit"}

    def __call__(self, snapshot):
        self.streams[snapshot.block] = snapshot.exit
        return self.inner(snapshot)


def restorations(model, compression, watched, images):
    """The tokens of the compressed encoder, put back in three ways."""
    tokens = model.encode(images)
    yield "most similar survivor", compression.restore(tokens)

    grid = torch.cartesian_prod(torch.arange(GRID), torch.arange(GRID)).float()
    survivors = grid[compression.kept[:, 1:] - 1]
    nearest = torch.cdist(grid.expand(len(tokens), -1, -1), survivors).argmin(-1) + 1
    patches = tokens.gather(1, index(nearest, tokens.shape[-1]))
    yield "nearest position", torch.cat((tokens[:, :1], patches), dim=1)

    # Each token as it was when it left, through the last norm.
    first, *others = watched.streams.items()
    whole = first[1].clone()
    for block, stream in others:
        whole.scatter_(1, index(compression.kept_after(block - 1), whole.shape[-1]), stream)
    whole = model.encoder.norm(whole)
    yield "own last value", whole.scatter(1, index(compression.kept, whole.shape[-1]), tokens)


@torch.inference_mode()
def main(images: Path | None = None, out: Path = Path("runs/restore")):
    """``images``: a directory; the sample photographs if left out."""
    paths = find_images(images) if images else sample_photographs()
    source = FileSource(paths, load_model("saliency-vit-s14").prepare)
    model, found = load_saliency_vit(), {}
    for batch in tqdm(source.batches(8), total=-(-len(source) // 8)):
        dense = model(batch.images).flatten(1)
        for plan, drop in PLANS.items():
            for score in (Shift(), Shift(definition="update"), Random()):
                watched = Watched(score)
                with compress(model.encoder, Plan(drop, watched)) as compression:
                    for way, tokens in restorations(model, compression, watched, batch.images):
                        error = (model.decode(tokens).flatten(1) - dense).abs().mean(1)
                        found.setdefault((plan, str(score), way), []).append(error)
    report = Report(out, images=len(source) - len(source.skipped))
    report.add(
        "Mean absolute difference of the saliency map (0 to 1) of saliency-vit-s14 to the dense "
        "model's."
    )
    rows = ((*key, f"{torch.cat(errors).mean():.4f}") for key, errors in found.items())
    report.table(("plan", "score", "restored by", "difference"), rows)


if __name__ == "__main__":
    command(main)
