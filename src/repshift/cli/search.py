"""``repshift search``."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from repshift.cli import options
from repshift.cli.outputs import check_outputs, check_suffix
from repshift.errors import InputError
from repshift.evaluation.zoo.scenes import NAMES as SCENES

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from torch import nn

    from repshift.plan import Plan

IMAGES, PROMPTS = 512, 128  # that are used if --samples is left out
# What a search on prompts takes.
_OF_PROMPTS = frozenset(
    {"model", "questions", "flops", "speedup", "fidelity", "samples", "seed", "device", "dtype"}
    | {"threads", "out"}
)


@dataclass
class Search:
    """Find the plan that keeps a model closest to the dense one at a cost, on unlabelled images."""

    model: str = "digits-vit"
    """Any model by its name: timm:NAME, hf:NAME_OR_FOLDER, open_clip:NAME/PRETRAINED,
    torchvision:NAME, MODULE_OR_FILE.py:FUNCTION of your own, or one that runs offline
    (saliency-vit-s14, digits-vit, digits-resnet, digits-vim, scenes-vlm,
    photos-vlm)."""
    images: Path | None = None
    """Directory of images like those to be served; the model's own samples if left out."""
    questions: Path | None = None
    """For a vision-language model, hf:NAME_OR_FOLDER: a JSON file, a list such as
    [{"image": "a.jpg", "question": "What is on the table?"}]."""
    flops: float | None = None
    """Target: the share of the dense FLOPs (of a prompt, tower included), such as 0.65."""
    speedup: float | None = None
    """Target: how many times as fast as the dense model (to the first word), measured here, such as
    1.5."""
    fidelity: float | None = None
    """Target: the least top-1 agreement with the dense model (or feature cosine), such as 0.99."""
    samples: int | None = None
    """Images to use, drawn by the seed, 512 if left out; of prompts 128. Half to search on, half to
    check the result."""
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
    """Weights of the model (safetensors, or a torch file with a state dict)."""
    model_args: options.ModelArgs = ()
    """What the model is made with, as its library calls it: num_classes=10 global_pool=avg."""
    out: Path = Path("plan.json")
    """The plan's file, *.json. Beside it are the plot, *.png (of images), and while it runs
    *.search.json, from which a stopped search goes on."""

    def run(self) -> None:
        if self.model in SCENES or self.questions is not None:
            self._run_prompts()
            return
        import torch

        from repshift.evaluation.data.batches import draw
        from repshift.evaluation.data.images import find_images
        from repshift.evaluation.report.progress import search_bar
        from repshift.evaluation.report.tried import plot_tried
        from repshift.evaluation.zoo.load import load_model, open_source
        from repshift.files import replacing_all
        from repshift.search.search_plan import search_plan

        self._check_numbers()
        settings = options.model_args(self.model_args)
        methods = options.read_methods(self.methods)
        check_suffix("--out", self.out, ".json")
        plot, state = self.out.with_suffix(".png"), self.out.with_suffix(".search.json")
        check_outputs(self, [("--out", path) for path in (self.out, plot, state)])
        options.threads(self.threads)
        device = options.device(self.device)
        if self.images is not None:
            find_images(self.images)
        loaded = load_model(self.model, self.checkpoint, settings=settings)
        self._check_methods(loaded.model, methods)
        source = open_source(loaded, self.images, False)
        images = draw(source, self.samples or IMAGES, self.seed).images
        dtype = getattr(torch, self.dtype)
        with search_bar() as progress, _forgotten_if_refused(state):
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
                state=state,
                progress=progress,
            )
        with replacing_all([self.out, plot]) as [text, picture]:
            text.write_text(found.to_json(), encoding="utf-8")
            plot_tried(found, picture)
        state.unlink(missing_ok=True)  # only now: a search that is stopped before goes on from it
        for line in source.skipped:
            print(f"skipped: {line}", file=sys.stderr)
        print(found.summary())
        print(f"plan: {self.out}, plot: {plot}")

    def _run_prompts(self) -> None:
        import torch

        from repshift.evaluation.data.questions import read_questions
        from repshift.evaluation.report.progress import search_bar
        from repshift.evaluation.tasks.search_prompts import moved, question_prompts, scene_prompts
        from repshift.evaluation.zoo.scenes.models import SCENE_MODELS
        from repshift.evaluation.zoo.vision_language import load_vision_language
        from repshift.files import write_text
        from repshift.search.search_vision_language import search_vision_language

        self._check_numbers()
        for field in fields(self):
            if field.name not in _OF_PROMPTS and getattr(self, field.name) != field.default:
                flag = "import" if field.name == "imports" else field.name.replace("_", "-")
                raise InputError(f"--{flag} does not go with a vision-language model; leave it out")
        if self.model in SCENES and self.questions is not None:
            raise InputError(f"{self.model} asks its own questions; leave --questions out")
        check_suffix("--out", self.out, ".json")
        state = self.out.with_suffix(".search.json")
        asked = [] if self.questions is None else read_questions(self.questions)
        seen = [image for one in asked for image in one.images]
        check_outputs(self, [("--out", path) for path in (self.out, state)], seen)
        options.threads(self.threads)
        device, dtype = options.device(self.device), getattr(torch, self.dtype)
        count = self.samples or PROMPTS
        if self.model in SCENES:
            known = SCENE_MODELS[self.model]
            model, prompts = known.load("sdpa"), scene_prompts(count, self.seed, known)
        else:
            loaded = load_vision_language(self.model)
            model, prompts = loaded.model, question_prompts(loaded, asked, count, self.seed)
        with search_bar() as progress, _forgotten_if_refused(state):
            found = search_vision_language(
                model.to(device, dtype),
                [moved(prompt, device, dtype) for prompt in prompts],
                flops=self.flops,
                speedup=self.speedup,
                fidelity=self.fidelity,
                seed=self.seed,
                name=self.model,
                state=state,
                progress=progress,
            )
        write_text(self.out, found.to_json())
        state.unlink(missing_ok=True)
        print(found.summary())
        print(f"plan: {self.out}")

    def _check_numbers(self) -> None:
        from repshift.search.search_plan import check_target

        check_target(self.flops, self.speedup, self.fidelity)
        for flag, value in (("--samples", self.samples), ("--batch-size", self.batch_size)):
            if value is not None:
                options.positive(flag, value)
        if not 0 <= self.seed < 2**63:
            raise InputError(f"--seed is {self.seed}; expected 0 to {2**63 - 1}")

    def _check_methods(self, model: nn.Module, methods: Sequence[Plan]) -> None:
        """Refuse what does not fit the model or the budget before anything is searched."""
        from repshift.adapters import describe
        from repshift.compress import compress
        from repshift.search.search_plan import probe

        spec = describe(model)
        for method in methods:
            compress(model, replace(method, drop={0: probe(self.budget)}), spec).detach()


@contextmanager
def _forgotten_if_refused(state: Path) -> Generator[None]:
    """Leave no state of a search that cannot be made."""
    known = state.exists()
    try:
        yield
    except InputError:
        if not known:
            state.unlink(missing_ok=True)
        raise
