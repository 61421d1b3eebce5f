"""``repshift index``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from repshift.cli import options
from repshift.cli.outputs import check_outputs, check_suffix
from repshift.errors import InputError


@dataclass
class Index:
    """Make your photographs and videos searchable: embed them, with fewer tokens, into a table.

    Run it again to bring the table up to date; a run that was stopped goes on.
    """

    photos: Annotated[tuple[str, ...], tyro.conf.Positional]
    """Folders of photographs and videos, shards of them (.tar, .parquet), or URLs that fsspec
    reads, such as s3://bucket/folder."""
    model: str = "saliency-vit-s14"
    """Any image model by its name, as in repshift bench, or clips-umt, which sees films. Searching
    by text needs clips-umt or hf:NAME_OR_FOLDER of CLIP or SigLIP."""
    plan: str | None = None
    """A plan's name, a schedule such as 0:0.2,3:0.2, or a JSON file; the paper's if left out."""
    every: float = 2.0
    """Seconds of a video for which there is a row."""
    engine: Literal["local", "ray"] = "local"
    """This machine, or the cluster that Ray finds."""
    workers: int = 2
    """Processes that decode."""
    batch_size: int = 32
    """Pictures in a forward."""
    imports: options.Imports = ()
    """A module or a .py file with scores or reductions of your own, imported first; repeatable."""
    checkpoint: Path | None = None
    """Weights of the model (safetensors, or a torch file with a state dict)."""
    model_args: options.ModelArgs = ()
    """What the model is made with, as its library calls it: num_classes=10 global_pool=avg."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of weights and pictures."""
    threads: int | None = None
    """Threads of PyTorch; its own choice if left out."""
    out: Path = Path("photos.lance")
    """The table, a folder *.lance; its report is written beside it."""

    def run(self) -> None:
        import torch

        from repshift.evaluation.collection.models import Named
        from repshift.evaluation.collection.run import index
        from repshift.evaluation.report.collection import IndexReport
        from repshift.evaluation.report.names import plain

        if not self.photos:
            raise InputError("no photographs are named; pass a folder, shards or a URL")
        settings = options.model_args(self.model_args)
        check_suffix("--out", self.out, ".lance")
        if self.out.exists() and not self.out.is_dir():
            raise InputError(f"{self.out} is a file, and a table is a folder; choose another --out")
        check_outputs(self, [("--out", path) for path in IndexReport.files(self.out)])
        options.positive("--batch-size", self.batch_size)
        options.workers(self.workers)
        if not 0 < self.every < float("inf"):
            raise InputError(f"--every is {self.every}; expected seconds, more than 0")
        options.threads(self.threads)
        named = Named(
            self.model,
            None if self.plan is None else options.read_plan(self.plan, self.model),
            self.checkpoint,
            settings,
            self.batch_size,
            options.device(self.device),
            getattr(torch, self.dtype),
        )
        report = index(self.photos, named, self.out, self.every, self.engine, self.workers)
        print(*map(plain, (*report.outcome.skipped, *report.lines())), sep="\n")
