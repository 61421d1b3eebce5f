"""``repshift bench``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from repshift.cli import options
from repshift.cli.outputs import check_outputs, check_suffix


@dataclass
class Bench:
    """Measure what dropping tokens buys on one model: speed, memory, fidelity, accuracy."""

    model: str = "saliency-vit-s14"
    """Any model by its name: timm:NAME, hf:NAME_OR_FOLDER, open_clip:NAME/PRETRAINED,
    torchvision:NAME, MODULE_OR_FILE.py:FUNCTION of your own, or one that runs offline
    (saliency-vit-s14, digits-vit, digits-resnet, digits-vim)."""
    images: Path | None = None
    """Directory of images; the model's own samples if left out."""
    labels: bool = False
    """Also measure accuracy: DIR/labels.csv (file,label), or one folder a class."""
    plan: tuple[str, ...] = ()
    """A plan's name (deit, ...), a schedule such as 0:0.2,3:0.2,6:20, or a JSON file; several. The
    paper's for this kind of model if left out."""
    methods: tuple[str, ...] = ()
    """Labels: a score (which prunes), a reduction or both: 'shift(mlp)' tome 'random + merge'."""
    imports: options.Imports = ()
    """A module or a .py file with scores or reductions of your own, imported first; repeatable."""
    batch_size: int = 8
    """Images in a timed forward."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of weights and images."""
    threads: int | None = None
    """Threads of PyTorch; its own choice if left out."""
    checkpoint: Path | None = None
    """Weights of the model (safetensors, or a torch file with a state dict)."""
    model_args: options.ModelArgs = ()
    """What the model is made with, as its library calls it: num_classes=10 global_pool=avg."""
    random_weights: bool = False
    """Untrained weights, where only speed matters."""
    json: Path | None = None
    """Also write bench.json under this name."""
    out: Path | None = None
    """Directory of the results; runs/MODEL if left out."""

    def run(self) -> None:
        import torch

        from repshift.adapters import describe
        from repshift.evaluation.data.images import find_images
        from repshift.evaluation.report.pictures import pictures
        from repshift.evaluation.report.results import ResultFiles, write_results
        from repshift.evaluation.tasks.bench import run_bench
        from repshift.evaluation.tasks.variants import check_fit, fitted, variants
        from repshift.evaluation.zoo.load import load_model, open_source

        settings = options.model_args(self.model_args)
        given, methods = options.read_plans(self.plan), options.read_methods(self.methods)
        out = self.out or Path("runs") / options.model_name(self.model)
        files = ResultFiles(
            out / "bench.json", out / "bench.csv", out / "pareto.png", out / "report.html",
            self.json,
        )  # fmt: skip
        check_suffix("--json", self.json, ".json")
        check_outputs(self, files.written)
        options.positive("--batch-size", self.batch_size)
        options.threads(self.threads)
        device = options.device(self.device)
        if self.images is not None:
            find_images(self.images)
        loaded = load_model(self.model, self.checkpoint, self.random_weights, settings)
        spec = describe(loaded.model)
        given = given or options.read_plans([loaded.plan])
        plans = [(text, fitted(plan, spec)) for text, plan in given]
        rows = variants(spec, plans, methods)
        source = open_source(loaded, self.images, self.labels)
        first = next(source.batches(1)).images
        options.batch_fits(self.batch_size, first, device)
        check_fit(rows, loaded.model, spec, first)
        bench = run_bench(
            loaded,
            spec,
            source,
            rows,
            batch_size=self.batch_size,
            device=device,
            dtype=getattr(torch, self.dtype),
        )
        drawn = []
        shown = next(source.batches(min(8, len(source))))
        for name, plan in plans:
            figures = pictures(loaded, spec, plan, shown.images, shown.names)
            drawn += [(f"{plan.method}, plan {name}", figure) for figure in figures]
        write_results(bench, files, drawn)
