"""``repshift show``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from repshift.cli import options
from repshift.cli.outputs import check_outputs, check_suffix


@dataclass
class Show:
    """Draw one image: what the score sees, and which tokens stay after each reduction."""

    image: Annotated[Path, tyro.conf.Positional]
    """The image file."""
    model: str = "saliency-vit-s14"
    """Any model by its name: timm:NAME, hf:NAME_OR_FOLDER, open_clip:NAME/PRETRAINED,
    torchvision:NAME, MODULE_OR_FILE.py:FUNCTION of your own, or one that runs offline
    (saliency-vit-s14, digits-vit, digits-resnet, digits-vim)."""
    plan: str | None = None
    """A plan's name, a schedule such as 0:0.2,3:0.2, or a JSON file; the paper's if left out."""
    method: str | None = None
    """The method's label, such as tome or 'shift(mlp, l2) + merge'; the plan's own if left out."""
    imports: options.Imports = ()
    """A module or a .py file with scores or reductions of your own, imported first; repeatable."""
    checkpoint: Path | None = None
    """Weights of the model (safetensors, or a torch file with a state dict)."""
    model_args: options.ModelArgs = ()
    """What the model is made with, as its library calls it: num_classes=10 global_pool=avg."""
    out: Path | None = None
    """The PNG file; NAME-tokens.png in the current directory if left out."""

    def run(self) -> None:
        from repshift.adapters import describe
        from repshift.evaluation.data.images import read_image
        from repshift.evaluation.report.names import save
        from repshift.evaluation.report.pictures import pictures
        from repshift.evaluation.tasks.variants import fitted
        from repshift.evaluation.zoo.load import load_model
        from repshift.files import replacing

        settings = options.model_args(self.model_args)
        plan = None if self.plan is None else options.read_plan(self.plan)
        if self.method is not None:
            options.read_method(self.method)
        out = self.out or Path(f"{self.image.stem}-tokens.png")
        check_suffix("--out", self.out, ".png")
        check_outputs(self, [("--out", out)])
        image = read_image(self.image)
        loaded = load_model(self.model, self.checkpoint, settings=settings)
        images = loaded.prepare(image).unsqueeze(0)
        spec = describe(loaded.model)
        plan = options.with_method(
            fitted(plan or options.read_plan(loaded.plan), spec), self.method
        )
        [figure] = pictures(loaded, spec, plan, images, [self.image.name])
        with replacing(out) as temporary:
            save(figure, temporary, 130)
        print(out)
