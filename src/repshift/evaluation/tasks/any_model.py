"""A bench of a model and images that are there already, neither by name nor in files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from repshift.adapters import check_model, describe
from repshift.compress import compress
from repshift.errors import InputError
from repshift.evaluation.data.batches import LoaderSource, MemorySource
from repshift.evaluation.report.results import ResultFiles
from repshift.evaluation.tasks.image_bench import bench_images
from repshift.evaluation.zoo.load import LoadedModel
from repshift.numbers import whole
from repshift.plan import Plan
from repshift.plan_given import as_plan
from repshift.resnet.spec import ResNetSpec
from repshift.search.fidelity_meter import read_out

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor, nn

    from repshift.adapters import EncoderSpec
    from repshift.evaluation.data.batches import AnySource
    from repshift.evaluation.tasks.bench import Bench, Row
    from repshift.plan_given import PlanLike
    from repshift.search.fidelity_meter import Objective


def bench(
    model: nn.Module,
    images: Tensor | Iterable[Any],
    *,
    plans: Sequence[PlanLike] = (),
    methods: Sequence[str | Plan] = (),
    labels: Tensor | None = None,
    objective: Objective = "kl",
    batch_size: int = 8,
    spec: EncoderSpec | ResNetSpec | None = None,
    name: str | None = None,
    out: Path | str | None = None,
) -> Bench[Row]:
    """Measure what dropping tokens buys on a model: speed, memory, FLOPs, fidelity, accuracy.

    What ``repshift bench`` does, for any model that ``compress`` takes, where it is and in its
    precision: the dense model on eager and on fused attention and on smaller images, and every
    method at every plan, on the same images and timed in turn. Afterwards the model is dense.

    Args:
        model: In evaluation mode. It gives logits or pooled features [B, K], or an output of
            transformers that holds them.
        images: A tensor [N, C, H, W], ready for the model; or batches that can be read again, such
            as a DataLoader, of images or of pairs (images, labels).
        plans: What ``compress`` takes as one; the paper's for this kind of model if left out.
        methods: Labels such as ``"tome"`` and ``"redundancy(keys) + merge"``, or plans that drop
            nothing; attention's score, random dropping, ToMe and the shift if left out.
        labels: The classes [N] of the images of a tensor.
        objective: ``"kl"`` compares logits, ``"cosine"`` pooled features.
        batch_size: Images in a timed forward.
        spec: Names the parts of a model of your own.
        name: What the results call the model; its class if left out.
        out: A directory for bench.json, bench.csv, pareto.png and report.html with pictures.

    Returns:
        The ``rows``, the ``environment``, and a ``title`` that says what was measured.

    Raises:
        InputError: If a plan does not fit the model, or the images are none.
    """
    check_model(model)
    if model.training:
        raise InputError("the model is in training mode; call model.eval() first")
    if objective not in ("kl", "cosine"):
        raise InputError(f"objective is {objective!r}; expected kl or cosine")
    spec = spec or describe(model)
    source = _source(images, labels, objective)
    named = [(_name(given), as_plan(given)) for given in plans]
    files = None if out is None else ResultFiles.below(Path(out))
    if files is not None:
        files.check()
    weight = next(weight for weight in model.parameters() if weight.is_floating_point())
    loaded = _loaded(model, spec, source, weight, objective, name or type(model).__name__)
    return bench_images(
        loaded,
        source,
        named or [(loaded.plan, as_plan(loaded.plan))],
        methods,
        batch_size=whole(batch_size, "batch_size", 1),
        device=weight.device,
        dtype=weight.dtype,
        spec=spec,
        files=files,
    )


def _name(given: PlanLike) -> str:
    return str(given) if isinstance(given, str | Path) else as_plan(given).schedule


def _source(images: Any, labels: Tensor | None, objective: Objective) -> AnySource:
    if labels is not None and objective == "cosine":
        raise InputError("labels are compared with logits; leave them out, or the objective")
    if isinstance(images, torch.Tensor):
        if labels is not None and len(labels) != len(images):
            raise InputError(f"there are {len(images)} images and {len(labels)} labels")
        if not len(images):
            raise InputError("there are no images")
        return MemorySource(images, labels)
    if not isinstance(images, Iterable) or isinstance(images, Iterator | str):
        raise InputError(
            f"images is a {type(images).__name__}; pass a tensor [N, C, H, W], or batches that can "
            "be read again, such as a DataLoader"
        )
    if labels is not None:
        raise InputError("batches bring their labels themselves: make them pairs (images, labels)")
    return LoaderSource(images, labelled=objective == "kl")


def _loaded(
    model: nn.Module,
    spec: EncoderSpec | ResNetSpec,
    source: AnySource,
    weight: Tensor,
    objective: Objective,
    name: str,
) -> LoadedModel:
    """The model, with what a forward tells of it."""
    example = next(source.batches(1)).images[:1]
    with compress(model, Plan({}), spec) as dense, torch.inference_mode():
        try:
            output = read_out(model(example.to(weight)))
        except InputError:
            raise
        except (RuntimeError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(
                f"the model does not take the first image, as a batch {list(example.shape)} "
                f"(images are [N, C, H, W]): {reason}"
            ) from error
    on_grid = not isinstance(spec, ResNetSpec)
    patches = dense.counts[0] - spec.staying if on_grid else 1
    low, extent = example.min().item(), max(1e-6, (example.max() - example.min()).item())
    return LoadedModel(
        name=name,
        model=model,
        prepare=_prepared,
        # Nobody knows how they were normalised: they are drawn from black to white.
        mean=(-low / extent,),
        std=(1 / extent,),
        classes=output.shape[1] if objective == "kl" else 0,
        grid=_grid(patches, *example.shape[-2:]),
        plan="resnet" if not on_grid else "vim" if spec.mixers else "deit",
    )


def _prepared(image: Any) -> Any:
    """Images that are tensors are ready."""
    return image


def _grid(patches: int, height: int, width: int) -> tuple[int, int]:
    """Rows and columns of that many square patches; (0, 0) if they are none of such an image."""
    for rows in range(1, patches + 1):
        if patches % rows == 0 and rows * width == patches // rows * height:
            return rows, patches // rows
    return 0, 0
