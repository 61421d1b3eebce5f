"""``repshift search``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from repshift.cli import options


@dataclass
class Search:
    """Find the plan that keeps a model closest to the dense one at a cost, on unlabelled images."""

    model: str = "saliency-vit-s14"
    """An offline model (saliency-vit-s14, digits-vit) or timm:NAME."""
    images: Path | None = None
    """Directory of images like those to be served; the model's own samples if left out."""
    flops: float | None = None
    """Target: the share of the dense FLOPs, such as 0.65."""
    speedup: float | None = None
    """Target: how many times as fast as the dense model, measured here, such as 1.5."""
    fidelity: float | None = None
    """Target: the least top-1 agreement with the dense model (or feature cosine), such as 0.99."""
    samples: int = 512
    """Images to use, drawn by the seed: half to search on, half to check the result."""
    methods: tuple[str, ...] = ()
    """Labels of the methods to try, such as 'redundancy(keys)' tome; a short list if left out."""
    imports: options.Imports = ()
    """A module or a .py file with scores or reductions of your own, imported first; repeatable."""
    budget: Literal["fixed", "adaptive"] = "fixed"
    """adaptive: every image keeps what it needs, with as many tokens on average."""
    seed: int = 0
    """Draws the images and their halves."""
    batch_size: int = 16
    """Images in a forward, a timed one too."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of weights and images."""
    threads: int | None = None
    """Threads of PyTorch; its own choice if left out."""
    checkpoint: Path | None = None
    """Weights of a timm model (safetensors, or a torch file with a state dict)."""
    out: Path = Path("plan.json")
    """The plan's file; the plot is written beside it, and while it runs the state of the search."""

    def run(self) -> None:
        import torch

        from repshift.evaluation.data.batches import draw
        from repshift.evaluation.report.progress import search_bar
        from repshift.evaluation.report.tried import plot_tried
        from repshift.evaluation.zoo.load import load_model, open_source
        from repshift.files import write_text
        from repshift.search.search_plan import search_plan

        device = options.device(self.device)
        for flag, value in (("--samples", self.samples), ("--batch-size", self.batch_size)):
            options.positive(flag, value)
        options.threads(self.threads)
        loaded = load_model(self.model, self.checkpoint)
        source = open_source(loaded, self.images, False)
        images = draw(source, self.samples, self.seed).images
        dtype = getattr(torch, self.dtype)
        with search_bar() as progress:
            found = search_plan(
                loaded.model.to(device, dtype),
                images.to(device, dtype),
                flops=self.flops,
                speedup=self.speedup,
                fidelity=self.fidelity,
                objective="kl" if loaded.classes else "cosine",
                methods=self.methods or None,
                budget=self.budget,
                seed=self.seed,
                batch_size=self.batch_size,
                name=loaded.name,
                state=self.out.with_suffix(".search.json"),
                progress=progress,
            )
        write_text(self.out, found.to_json())
        plot = self.out.with_suffix(".png")
        plot_tried(found, plot)
        for line in source.skipped:
            print(f"skipped: {line}", file=sys.stderr)
        print(found.summary())
        print(f"plan: {self.out}, plot: {plot}")
