"""``repshift bench``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from repshift.cli import options
from repshift.cli.outputs import check_outputs, check_suffix
from repshift.evaluation.zoo.scenes import NAMES as SCENES


@dataclass
class Bench:
    """Measure what dropping tokens buys on one model: speed, memory, fidelity, accuracy."""

    model: str = "digits-vit"
    """Any model by its name: timm:NAME, hf:NAME_OR_FOLDER, open_clip:NAME/PRETRAINED,
    torchvision:NAME, MODULE_OR_FILE.py:FUNCTION of your own, or one that runs offline
    (saliency-vit-s14, digits-vit, digits-resnet, digits-vim, scenes-vlm,
    photos-vlm)."""
    images: Path | None = None
    """Directory of images; the model's own samples if left out."""
    questions: Path | None = None
    """For a vision-language model, hf:NAME_OR_FOLDER: a JSON list of image, question and answer."""
    samples: int | None = None
    """Images to use, drawn at random, always the same; all if left out. Of scenes-vlm and
    photos-vlm: questions of each kind, 300 if left out, which take hours; 20 take minutes."""
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
    """Also write bench.json under this name (*.json)."""
    out: Path | None = None
    """Directory of bench.json, bench.csv, pareto.png and report.html; runs/digits-vit,
    runs/timm-NAME if left out. While a bench runs, it holds outputs, too: a stopped one goes on."""

    def run(self) -> None:
        if self.model in SCENES or self.questions is not None:
            from repshift.cli.bench_questions import bench_questions

            bench_questions(self)
            return
        import torch

        from repshift.evaluation.data.batches import sampled
        from repshift.evaluation.data.images import find_images
        from repshift.evaluation.report.results import ResultFiles, show_results
        from repshift.evaluation.tasks.image_bench import bench_images
        from repshift.evaluation.zoo.load import load_model, open_source

        settings = options.model_args(self.model_args)
        plans = options.read_plans(self.plan, self.model)
        methods = options.read_methods(self.methods)
        out = self.out or Path("runs") / options.model_name(self.model)
        files = ResultFiles.below(out, self.json)
        check_suffix("--json", self.json, ".json")
        check_outputs(self, files.written)
        options.positive("--batch-size", self.batch_size)
        if self.samples is not None:
            options.positive("--samples", self.samples)
        options.threads(self.threads)
        device = options.device(self.device)
        if self.images is not None:
            find_images(self.images)
        loaded = load_model(self.model, self.checkpoint, self.random_weights, settings)
        source = open_source(loaded, self.images, self.labels)
        if self.samples is not None:
            source = sampled(source, self.samples, seed=0)
        options.batch_fits(self.batch_size, next(source.batches(1)).images, device)
        bench = bench_images(
            loaded,
            source,
            plans or options.read_plans([loaded.plan], self.model),
            methods,
            batch_size=self.batch_size,
            device=device,
            dtype=getattr(torch, self.dtype),
            files=files,
        )
        show_results(bench, files)
