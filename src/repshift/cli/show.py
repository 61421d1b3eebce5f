"""``repshift show``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from repshift.cli import options
from repshift.cli.outputs import check_outputs, check_suffix
from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure
    from PIL.Image import Image

    # The picture of an image, and what is printed beside it.
    Draw = Callable[[Image], tuple[Figure, list[str]]]


@dataclass
class Show:
    """Draw one image: what the score sees, and which tokens stay after each reduction.

    With --prompt, what a vision-language model reads of it after each place of its plan.
    """

    image: Annotated[Path, tyro.conf.Positional]
    """The image file."""
    model: str = "digits-vit"
    """Any model by its name: timm:NAME, hf:NAME_OR_FOLDER, open_clip:NAME/PRETRAINED,
    torchvision:NAME, MODULE_OR_FILE.py:FUNCTION of your own, or one that runs offline
    (saliency-vit-s14, digits-vit, digits-resnet, digits-vim); with --prompt hf:NAME_OR_FOLDER."""
    plan: str | None = None
    """A plan's name, a schedule such as 0:0.2,3:0.2, or a JSON file; the paper's if left out.
    With --prompt a JSON file of tower, prompt and decoder; a quarter of the tokens if left out."""
    method: str | None = None
    """The method's label, such as tome or 'shift(mlp, l2) + merge'; the plan's own if left out."""
    prompt: str | None = None
    """A question about the image, for a vision-language model."""
    imports: options.Imports = ()
    """A module or a .py file with scores or reductions of your own, imported first; repeatable."""
    checkpoint: Path | None = None
    """Weights of the model (safetensors, or a torch file with a state dict)."""
    model_args: options.ModelArgs = ()
    """What the model is made with, as its library calls it: num_classes=10 global_pool=avg."""
    out: Path | None = None
    """The PNG file; PHOTO-tokens.png in the current directory if left out, for PHOTO.jpg."""

    def run(self) -> None:
        from repshift.evaluation.data.images import read_image
        from repshift.evaluation.report.names import save
        from repshift.files import replacing

        draw = self._of_encoder() if self.prompt is None else self._of_prompt(self.prompt)
        out = self.out or Path(f"{self.image.stem}-tokens.png")
        check_suffix("--out", self.out, ".png")
        check_outputs(self, [("--out", out)])
        figure, lines = draw(read_image(self.image))
        with replacing(out) as temporary:
            save(figure, temporary, 130)
        print(out, *lines, sep="\n")

    def _of_encoder(self) -> Draw:
        from repshift.adapters import describe
        from repshift.evaluation.report.pictures import pictures
        from repshift.evaluation.tasks.variants import fitted
        from repshift.evaluation.zoo.load import load_model
        from repshift.plan_given import as_plan

        settings = options.model_args(self.model_args)
        given = None if self.plan is None else options.read_plan(self.plan, self.model)
        if self.method is not None:
            options.read_method(self.method)

        def draw(image: Image) -> tuple[Figure, list[str]]:
            loaded = load_model(self.model, self.checkpoint, settings=settings)
            images = loaded.prepare(image).unsqueeze(0)
            spec = describe(loaded.model)
            plan = options.with_method(fitted(given or as_plan(loaded.plan), spec), self.method)
            [figure] = pictures(loaded, spec, plan, images, [self.image.name])
            return figure, []

        return draw

    def _of_prompt(self, prompt: str) -> Draw:
        import torch

        from repshift.compress import compress
        from repshift.evaluation.report.prompt_picture import prompt_picture
        from repshift.evaluation.zoo.vision_language import load_vision_language
        from repshift.vision_language.plan import Keep, VisionLanguagePlan

        refused = {
            "--method": self.method,
            "--checkpoint": self.checkpoint,
            "--model-args": self.model_args,
        }
        for flag, value in refused.items():
            if value:
                raise InputError(f"{flag} does not go with --prompt; leave it out")
        plan = VisionLanguagePlan(prompt=Keep(0.25))
        if self.plan is not None:
            plan = options.read_prompt_plan(self.plan, self.model)

        def draw(image: Image) -> tuple[Figure, list[str]]:
            loaded = load_vision_language(self.model)
            inputs = loaded.inputs([image], prompt)
            with compress(loaded.model, plan) as compression, torch.inference_mode():
                loaded.model(**inputs)
                figure = prompt_picture(compression, loaded.picture(image), self.image.name)
            lines = []
            for number, count in enumerate(compression.counts):
                left = ", ".join(f"{place} {tokens}" for place, tokens in count.items())
                lines.append(f"tokens of image {number}: {left}")
            kept, dense = compression.cache_bytes
            lines.append(f"key-value memory: {kept / 1e6:.3g} MB of {dense / 1e6:.3g}")
            return figure, lines

        return draw
