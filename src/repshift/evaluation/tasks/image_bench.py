"""A bench of images from a loaded model to its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from repshift.adapters import describe
from repshift.evaluation.report.pictures import pictures
from repshift.evaluation.report.results import write_results
from repshift.evaluation.tasks.bench import run_bench
from repshift.evaluation.tasks.outputs import Outputs
from repshift.evaluation.tasks.variants import check_fit, fitted, variants

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from repshift.adapters.spec import EncoderSpec
    from repshift.evaluation.data.batches import AnySource
    from repshift.evaluation.report.results import ResultFiles
    from repshift.evaluation.tasks.bench import Bench, Row
    from repshift.evaluation.zoo.load import LoadedModel
    from repshift.plan import Plan
    from repshift.resnet.spec import ResNetSpec

SHOWN = 8  # images that are drawn


def bench_images(
    loaded: LoadedModel,
    source: AnySource,
    plans: Sequence[tuple[str, Plan]],
    methods: Sequence[str | Plan],
    *,
    batch_size: int,
    device: torch.device,
    dtype: torch.dtype,
    spec: EncoderSpec | ResNetSpec | None = None,
    files: ResultFiles | None = None,
) -> Bench[Row]:
    """Every plan, each with its name, by every method; written to ``files`` where they are given.

    A bench that was stopped goes on from what lies beside them, in ``outputs``. ``InputError``
    before the work where a plan does not fit the model.
    """
    spec = spec or describe(loaded.model)
    plans = [(name, fitted(plan, spec)) for name, plan in plans]
    rows = variants(spec, plans, methods)
    loaded.model.to(device, dtype)
    check_fit(rows, loaded.model, spec, next(source.batches(1)).images[:1].to(device, dtype))
    outputs = Outputs(None if files is None else files.figures.parent / "outputs")
    bench = run_bench(
        loaded, spec, source, rows,
        batch_size=batch_size, device=device, dtype=dtype, outputs=outputs,
    )  # fmt: skip
    if files is not None:
        shown = next(source.batches(SHOWN))
        names = shown.names[:SHOWN]
        drawn = [
            (f"{image}: {plan.method}, plan {name}", figure)
            for name, plan in plans
            for image, figure in zip(
                names, pictures(loaded, spec, plan, shown.images[:SHOWN], names), strict=False
            )
        ]
        write_results(bench, files, drawn)
        outputs.forget()
    return bench
