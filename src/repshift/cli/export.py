"""``repshift export``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from repshift.cli import options
from repshift.cli.outputs import check_outputs, check_suffix


@dataclass
class Export:
    """Write a compressed model as one ONNX file with a dynamic batch, checked in onnxruntime."""

    model: Annotated[str, tyro.conf.Positional]
    """Any model by its name: timm:NAME, hf:NAME_OR_FOLDER, open_clip:NAME/PRETRAINED,
    torchvision:NAME, MODULE_OR_FILE.py:FUNCTION of your own, or one that runs offline
    (saliency-vit-s14, digits-vit, digits-resnet, digits-vim)."""
    plan: str | None = None
    """A plan's name, a schedule such as 0:0.2,3:0.2, or a JSON file; the paper's for this kind of
    model if left out."""
    method: str | None = None
    """The method's label, such as tome or 'shift(mlp, l2) + merge'; the plan's own if left out."""
    imports: options.Imports = ()
    """A module or a .py file with scores or reductions of your own, imported first; repeatable."""
    checkpoint: Path | None = None
    """Weights of the model (safetensors, or a torch file with a state dict)."""
    model_args: options.ModelArgs = ()
    """What the model is made with, as its library calls it: num_classes=10 global_pool=avg."""
    random_weights: bool = False
    """Untrained weights, where only speed matters."""
    out: Path | None = None
    """The ONNX file; digits-vit.onnx, timm-NAME.onnx in the current directory if left out."""

    def run(self) -> None:
        from repshift.adapters import describe
        from repshift.compress import compress
        from repshift.evaluation.tasks.export import export_onnx
        from repshift.evaluation.tasks.variants import fitted
        from repshift.evaluation.zoo.load import load_model, open_source
        from repshift.input_size import resize_images
        from repshift.plan_given import as_plan

        settings = options.model_args(self.model_args)
        given = None if self.plan is None else options.read_plan(self.plan, self.model)
        if self.method is not None:
            options.read_method(self.method)
        out = self.out or Path(f"{options.model_name(self.model)}.onnx")
        check_suffix("--out", self.out, ".onnx")
        check_outputs(self, [("--out", out)])
        loaded = load_model(self.model, self.checkpoint, self.random_weights, settings)
        plan = options.with_method(given or as_plan(loaded.plan), self.method)
        loaded = loaded.at(plan.input_size)
        spec = describe(loaded.model)
        images = next(open_source(loaded, None, False).batches(2)).images
        if plan.input_size is not None:
            images = resize_images(images, plan.input_size)
        with compress(loaded.model, fitted(plan, spec), spec) as compression:
            done = export_onnx(loaded.model, images, out)
            print(
                f"{out}: {done.size / 1e6:.1f} MB, {compression.counts[-1]} tokens kept, "
                f"differs from PyTorch by {done.difference:.0e} of the largest output"
            )
