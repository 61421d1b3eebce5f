"""``repshift bench``, ``plan``, ``show``, ``export``. Thin: it reads arguments and hands over."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from repshift.cli_video import Answer, Retrieve
from repshift.errors import InputError
from repshift.plan import Plan

try:
    import tyro
except ImportError:
    sys.exit("the command line needs more than the core; install it with: pip install '.[bench]'")


TOKEN_PICTURES = (
    "The photo, the score of every token at the first reduction (brighter stays), and the tokens "
    "left after each reduction."
)


@dataclass
class Bench:
    """Measure what dropping tokens buys on one model: speed, memory, fidelity, accuracy."""

    model: str = "saliency-vit-s14"
    """An offline model (saliency-vit-s14, digits-vit, digits-resnet, digits-vim) or timm:NAME."""
    images: Path | None = None
    """Directory of images; the model's own samples if left out."""
    labels: bool = False
    """Also measure accuracy: DIR/labels.csv (file,label), or one folder a class."""
    plan: tuple[str, ...] = ()
    """A plan's name (deit, ...), a schedule such as 0:0.2,3:0.2,6:20, or a JSON file; several. The
    paper's for this kind of model if left out."""
    methods: tuple[str, ...] = ()
    """Labels: a score (which prunes), a reduction or both: 'shift(mlp)' tome 'random + merge'."""
    batch_size: int = 8
    """Images in a timed forward."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of weights and images."""
    threads: int | None = None
    """Threads of PyTorch; its own choice if left out."""
    checkpoint: Path | None = None
    """Weights of a timm model (safetensors, or a torch file with a state dict)."""
    random_weights: bool = False
    """Untrained weights, where only speed matters."""
    json: Path | None = None
    """Also write bench.json under this name."""
    out: Path | None = None
    """Directory of the results; runs/MODEL if left out."""

    def run(self) -> None:
        import torch

        from repshift.adapters import describe
        from repshift.files import write_text
        from repshift.report.page import write_page
        from repshift.report.pictures import pictures
        from repshift.report.plot import plot_pareto
        from repshift.report.table import print_table, to_csv
        from repshift.tasks.bench import run_bench
        from repshift.tasks.variants import fitted, variants
        from repshift.zoo.load import load_model, open_source

        given = [(text, read_plan(text)) for text in self.plan]
        device = _device(self.device)
        _positive("--batch-size", self.batch_size)
        if self.threads is not None:
            _positive("--threads", self.threads)
            torch.set_num_threads(self.threads)
        loaded = load_model(self.model, self.checkpoint, self.random_weights)
        spec = describe(loaded.model)
        given = given or [(loaded.plan, read_plan(loaded.plan))]
        plans = [(text, fitted(plan, spec)) for text, plan in given]
        source = open_source(loaded, self.images, self.labels)
        rows = variants(spec, plans, self.methods)
        bench = run_bench(
            loaded,
            spec,
            source,
            rows,
            batch_size=self.batch_size,
            device=device,
            dtype=getattr(torch, self.dtype),
        )
        out = self.out or Path("runs") / self.model.replace(":", "-").replace("/", "-")
        text = json.dumps(bench.to_dict(), indent=2)
        drawn = []
        first = next(source.batches(min(8, len(source))))
        for name, plan in plans:
            figures = pictures(loaded, spec, plan, first.images, first.names)
            drawn += [(f"{plan.method}, plan {name}", figure) for figure in figures]
        write_text(out / "bench.json", text)
        write_text(out / "bench.csv", to_csv(bench.rows))
        plot_pareto(bench, out / "pareto.png")
        write_page(bench, out / "pareto.png", TOKEN_PICTURES, drawn, out / "report.html")
        if self.json is not None:
            write_text(self.json, text)
        print_table(bench)
        print(f"report: {out / 'report.html'}")


@dataclass
class Calibrate:
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
    samples: int = 128
    """Images to use, drawn by the seed: half to search on, half to check the result."""
    methods: tuple[str, ...] = ()
    """Labels of the methods to try, such as 'redundancy(keys)' tome; a short list if left out."""
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

        from repshift.calibration.calibrate import calibrate
        from repshift.data.batches import draw
        from repshift.files import write_text
        from repshift.report.tried import plot_tried
        from repshift.zoo.load import load_model, open_source

        device = _device(self.device)
        for flag, value in (("--samples", self.samples), ("--batch-size", self.batch_size)):
            _positive(flag, value)
        if self.threads is not None:
            _positive("--threads", self.threads)
            torch.set_num_threads(self.threads)
        loaded = load_model(self.model, self.checkpoint)
        source = open_source(loaded, self.images, False)
        images = draw(source, self.samples, self.seed).images
        dtype = getattr(torch, self.dtype)
        found = calibrate(
            loaded.model.to(device, dtype),
            images.to(device, dtype),
            flops=self.flops,
            speedup=self.speedup,
            fidelity=self.fidelity,
            objective="kl" if loaded.classes else "cosine",
            methods=self.methods or None,
            seed=self.seed,
            batch_size=self.batch_size,
            name=loaded.name,
            state=self.out.with_suffix(".search.json"),
        )
        write_text(self.out, found.to_json())
        plot = self.out.with_suffix(".png")
        plot_tried(found, plot)
        for line in source.skipped:
            print(f"skipped: {line}", file=sys.stderr)
        print(found.summary())
        print(f"plan: {self.out}, plot: {plot}")


@dataclass
class Show:
    """Draw one image: what the score sees, and which tokens stay after each reduction."""

    image: Annotated[Path, tyro.conf.Positional]
    """The image file."""
    model: str = "saliency-vit-s14"
    """An offline model or timm:NAME."""
    plan: str | None = None
    """A plan's name, a schedule such as 0:0.2,3:0.2, or a JSON file; the paper's if left out."""
    method: str | None = None
    """The method's label, such as tome or 'shift(mlp, l2) + merge'; the plan's own if left out."""
    checkpoint: Path | None = None
    """Weights of a timm model."""
    out: Path | None = None
    """The PNG file; NAME-tokens.png in the current directory if left out."""

    def run(self) -> None:
        from repshift.adapters import describe
        from repshift.data.images import read_image
        from repshift.files import replacing
        from repshift.report.pictures import pictures
        from repshift.tasks.variants import fitted
        from repshift.zoo.load import load_model

        plan = None if self.plan is None else read_plan(self.plan)
        image = read_image(self.image)
        loaded = load_model(self.model, self.checkpoint)
        images = loaded.prepare(image).unsqueeze(0)
        spec = describe(loaded.model)
        plan = _with_method(fitted(plan or read_plan(loaded.plan), spec), self.method)
        [figure] = pictures(loaded, spec, plan, images, [self.image.name])
        out = self.out or Path(f"{self.image.stem}-tokens.png")
        with replacing(out) as temporary:
            figure.savefig(temporary, dpi=130, format="png")
        print(out)


@dataclass
class Export:
    """Write a compressed model as one ONNX file with a dynamic batch, checked in onnxruntime."""

    model: Annotated[str, tyro.conf.Positional]
    """An offline model (saliency-vit-s14, digits-vit) or timm:NAME."""
    plan: str = "deit"
    """A plan's name, a schedule such as 0:0.2,3:0.2, or a JSON file."""
    method: str | None = None
    """The method's label, such as tome or 'shift(mlp, l2) + merge'; the plan's own if left out."""
    checkpoint: Path | None = None
    """Weights of a timm model."""
    random_weights: bool = False
    """Untrained weights, where only speed matters."""
    out: Path | None = None
    """The ONNX file; NAME.onnx in the current directory if left out."""

    def run(self) -> None:
        from repshift.adapters import describe
        from repshift.compress import compress
        from repshift.tasks.export import export_onnx
        from repshift.tasks.variants import fitted
        from repshift.zoo.load import load_model, open_source

        plan = _with_method(read_plan(self.plan), self.method)
        loaded = load_model(self.model, self.checkpoint, self.random_weights)
        images = next(open_source(loaded, None, False).batches(2)).images
        out = self.out or Path(f"{self.model.replace(':', '-').replace('/', '-')}.onnx")
        spec = describe(loaded.model)
        with compress(loaded.model, fitted(plan, spec), spec) as compression:
            done = export_onnx(loaded.model, images, out)
            print(
                f"{out}: {done.size / 1e6:.1f} MB, {compression.counts[-1]} tokens at the end, "
                f"differs from PyTorch by {done.difference:.0e} of the largest output"
            )


def read_plan(text: str) -> Plan:
    """A plan from a JSON file, a schedule ``0:0.2,3:0.2`` or one of the paper's names."""
    path = Path(text)
    if path.suffix == ".json" or path.is_file():
        try:
            return Plan.from_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"the plan file {path} does not exist") from None
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"the plan file {path} cannot be read: {error}") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    return Plan.from_schedule(text) if ":" in text else Plan.paper(text)


def _with_method(plan: Plan, method: str | None) -> Plan:
    return plan if method is None else Plan.from_method(method, plan.drop)


def _device(name: str):
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name} cannot be used here: {reason}") from None
    return device


def _positive(flag: str, value: int) -> None:
    if value < 1:
        raise InputError(f"{flag} is {value}; expected 1 or more")


def main() -> None:
    """Entry point; bad input ends in one line and status 2."""
    command = tyro.extras.SubcommandApp()
    command.command(name="bench")(Bench)
    command.command(name="plan")(Calibrate)
    command.command(name="show")(Show)
    command.command(name="export")(Export)
    command.command(name="retrieve")(Retrieve)
    command.command(name="answer")(Answer)
    try:
        command.cli(prog="repshift").run()
    except InputError as error:
        print(f"repshift: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("repshift: interrupted; no file is half-written", file=sys.stderr)
        sys.exit(130)
