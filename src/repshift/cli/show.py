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
    model: str = "digits-vit"
    """An offline model or timm:NAME."""
    plan: str | None = None
    """A plan's name, a schedule such as 0:0.2,3:0.2, or a JSON file; the paper's if left out."""
    method: str | None = None
    """The method's label, such as tome or 'shift(mlp, l2) + merge'; the plan's own if left out."""
    imports: options.Imports = ()
    """A module or a .py file with scores or reductions of your own, imported first; repeatable."""
    checkpoint: Path | None = None
    """Weights of a timm model."""
    out: Path | None = None
    """The PNG file; PHOTO-tokens.png in the current directory if left out, for PHOTO.jpg."""

    def run(self) -> None:
        from repshift.adapters import describe
        from repshift.evaluation.data.images import read_image
        from repshift.evaluation.report.names import save
        from repshift.evaluation.report.pictures import pictures
        from repshift.evaluation.tasks.variants import fitted
        from repshift.evaluation.zoo.load import load_model
        from repshift.files import replacing
        from repshift.plan_given import as_plan

        plan = None if self.plan is None else as_plan(self.plan)
        if self.method is not None:
            options.read_method(self.method)
        out = self.out or Path(f"{self.image.stem}-tokens.png")
        check_suffix("--out", self.out, ".png")
        check_outputs(self, [("--out", out)])
        image = read_image(self.image)
        loaded = load_model(self.model, self.checkpoint)
        images = loaded.prepare(image).unsqueeze(0)
        spec = describe(loaded.model)
        plan = options.with_method(fitted(plan or as_plan(loaded.plan), spec), self.method)
        [figure] = pictures(loaded, spec, plan, images, [self.image.name])
        with replacing(out) as temporary:
            save(figure, temporary, 130)
        print(out)
