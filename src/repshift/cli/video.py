"""``repshift retrieve`` and ``answer``. Thin: they read arguments and hand over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from repshift.cli import options
from repshift.cli.outputs import check_outputs, check_suffix
from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from repshift.adapters.spec import EncoderSpec
    from repshift.evaluation.tasks.bench import Bench
    from repshift.evaluation.tasks.variants import Variant
    from repshift.evaluation.zoo.video import VideoTask
    from repshift.plan import Plan


@dataclass
class Video:
    """What both commands ask."""

    model: str = "clips-umt"
    """clips-umt, which runs offline on generated clips, or umt-b16, umt-l16."""
    checkpoint: Path | None = None
    """Weights of UMT, fine-tuned for the data set."""
    vocab: Path | None = None
    """vocab.txt of bert-base-uncased."""
    data: str | None = None
    """The data set; its annotation files and videos are in --root."""
    root: Path | None = None
    """Directory with the annotation files."""
    videos: Path | None = None
    """Directory of the video files; ROOT/videos if left out."""
    frames: int = 12
    """Frames that UMT sees of a video (4 for weights that are not fine-tuned)."""
    plan: tuple[str, ...] = ()
    """A plan's name, a schedule such as 0:0.2,1:0.2, or a JSON file; several. The paper's if left
    out."""
    methods: tuple[str, ...] = ()
    """Labels: a score (which prunes), a reduction or both; the plan's own if left out."""
    imports: options.Imports = ()
    """A module or a .py file with scores or reductions of your own, imported first; repeatable."""
    compare: bool = False
    """All rows of the paper's tables: attention's columns, the shift, vid-TLDR, both together; and
    random dropping."""
    candidates: int | None = None
    """Candidates (videos, texts, answers) that are ranked again by the fusion layers; 128 for UMT,
    as it is tested, and 32 for clips-umt if left out."""
    batch_size: int = 4
    """Videos in a forward."""
    workers: int = 2
    """Processes that decode."""
    on_error: Literal["stop", "skip"] = "stop"
    """What a video that cannot be decoded does: end the run, or be left out and counted."""
    device: str = "cpu"
    """cpu, cuda or cuda:N."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of weights and videos."""
    threads: int | None = None
    """Threads of PyTorch; its own choice if left out."""
    json: Path | None = None
    """Also write the JSON under this name (*.json)."""
    out: Path | None = None
    """Directory of the results (retrieval or answers .json, .csv, .png and .html), of features and
    clips; runs/clips-umt, runs/umt-b16-DATA if left out."""

    def _run(
        self,
        paper_plan: str,
        open_task: Callable[..., VideoTask],
        bench_task: Callable[..., Bench | None],
        what: str,
    ) -> None:
        import torch

        from repshift.adapters import EncoderSpec, describe
        from repshift.evaluation.data.frame_cache import FrameCache
        from repshift.evaluation.report.results import ResultFiles, show_results, write_results
        from repshift.evaluation.tasks.ranks import Ranks
        from repshift.evaluation.tasks.variants import check_fit
        from repshift.evaluation.tasks.videos import Videos
        from repshift.evaluation.zoo.video import Files

        plans, methods = self._methods(paper_plan)
        name = self.model + (f"-{self.data}" if self.data else "")
        out = self.out or Path("runs") / options.model_name(name)
        files = ResultFiles(
            out / f"{what}.json", out / f"{what}.csv", out / f"{what}.png", out / f"{what}.html",
            self.json,
        )  # fmt: skip
        check_suffix("--json", self.json, ".json")
        check_outputs(self, files.written, self._annotations())
        self._check_numbers()
        options.threads(self.threads)
        device = options.device(self.device)
        given = Files(self.checkpoint, self.vocab, self.data, self.root, self.videos, self.frames)
        ranks = Ranks()
        task = open_task(self.model, given, out / "clips")
        spec = describe(task.model)
        assert isinstance(spec, EncoderSpec)
        rows = self._rows(spec, task, plans, methods)
        size = task.sampling.size
        clip = torch.zeros(1, task.sampling.frames, 3, size, size)
        check_fit(rows, task.model.vision_encoder, spec, clip)
        data = ranks.first(lambda: task.data)
        options.batch_fits(min(self.batch_size, len(data.videos)), clip, device)
        videos = Videos(
            data.videos, task.sampling, self.batch_size, device,
            getattr(torch, self.dtype), FrameCache(out / "frames"), self.workers, self.on_error,
        )  # fmt: skip
        bench = bench_task(
            task, spec, videos, rows,
            candidates=self.candidates or task.candidates, folder=out / "features", ranks=ranks,
        )  # fmt: skip
        if bench is not None:
            write_results(bench, files)
            show_results(bench, files)

    def _annotations(self) -> list[Path]:
        from repshift.evaluation.data.annotations import LAYOUTS

        layout, root = LAYOUTS.get(self.data or ""), self.root
        names = [getattr(layout, name, None) for name in ("file", "answer_file")]
        return [root / name for name in names if name is not None and root is not None]

    def _check_numbers(self) -> None:
        for flag in ("frames", "batch_size", "candidates"):
            if getattr(self, flag) is not None:
                options.positive("--" + flag.replace("_", "-"), getattr(self, flag))
        options.workers(self.workers)

    def _methods(self, paper_plan: str) -> tuple[list[tuple[str, Plan]], list[Plan]]:
        """The plans and the methods that were asked for."""
        plans = options.read_plans(self.plan or (paper_plan,), self.model)
        methods = options.read_methods(self.methods)
        if self.compare and (methods or len(plans) > 1):
            raise InputError(
                "--compare chooses the methods and takes one --plan; leave out the rest"
            )
        if self.compare and (plans[0][1].frames or plans[0][1].input_size):
            raise InputError(
                f"--compare runs every method on all frames, and {plans[0][0]} is for a smaller "
                "input; leave out --compare"
            )
        return plans, methods

    def _rows(
        self,
        spec: EncoderSpec,
        task: VideoTask,
        plans: list[tuple[str, Plan]],
        methods: list[Plan],
    ) -> list[Variant]:
        from repshift.evaluation.tasks.variants import paper_variants, variants
        from repshift.plan import Plan

        name, plan = plans[0]
        if not self.compare:
            own = replace(plan, drop={}, input_size=None, frames=None)  # those go with each plan
            return variants(spec, plans, methods or [own])
        tldr = f"vid-tldr/{task.dataset}-{task.size}" if task.dataset else name
        return paper_variants(spec, name, plan, tldr, Plan.paper(tldr) if task.dataset else plan)


@dataclass
class Retrieve(Video):
    """Find videos by text and texts by video: recall, speed and memory, dense and compressed."""

    def run(self) -> None:
        from repshift.evaluation.tasks.video_bench import bench_retrieval
        from repshift.evaluation.zoo.video import open_retrieval

        self._run("umt-retrieval", open_retrieval, bench_retrieval, "retrieval")


@dataclass
class Answer(Video):
    """Answer questions about videos: accuracy, speed and memory, dense and compressed."""

    def run(self) -> None:
        from repshift.evaluation.tasks.video_bench import bench_answering
        from repshift.evaluation.zoo.video import open_answering

        self._run("umt-qa", open_answering, bench_answering, "answers")
