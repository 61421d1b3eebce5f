"""A compressed model outside Python: one ONNX file, checked against PyTorch."""

from __future__ import annotations

import logging
import re
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from repshift.errors import InputError
from repshift.files import replacing

try:
    import onnxruntime
    import onnxscript  # noqa: F401  (torch.onnx.export imports it)
except ImportError:
    raise InputError("export needs ONNX; install it with: pip install 'repshift[export]'") from None

if TYPE_CHECKING:
    from collections.abc import Generator
    from pathlib import Path

    from jaxtyping import Float
    from torch import Tensor, nn

TOLERANCE = 1e-4
LIMIT = 2e9


@dataclass(frozen=True)
class Exported:
    """What was written: bytes, and the largest difference to PyTorch, relative to its outputs."""

    size: int
    difference: float


def export_onnx(model: nn.Module, images: Float[Tensor, "B C H W"], path: Path) -> Exported:
    """Write ``model``, compressed or not, as an ONNX file with a dynamic batch.

    The file is run by onnxruntime on batches of other sizes than ``images`` and appears only if its
    outputs agree with PyTorch's to 1e-4 of their largest value; ``InputError`` otherwise.
    """
    weights = sum(parameter.nbytes for parameter in model.parameters())
    if weights > LIMIT:
        raise InputError(f"the weights take {weights / 1e9:.1f} GB; an ONNX file holds up to 2 GB")
    # A batch of one would be taken for a constant.
    example = images.expand(max(2, len(images)), -1, -1, -1)
    with torch.no_grad():
        model(example)  # a plan that does not fit says so here, not from inside the exporter
    with torch.no_grad(), warnings.catch_warnings(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")
        try:
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                input_names=["images"],
                output_names=["output"],
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise InputError(
                f"PyTorch cannot export this model to ONNX: {_reason(error)}"
            ) from None
    assert program is not None
    with replacing(path) as temporary:
        program.save(temporary)
        difference = max(_difference(model, temporary, batch) for batch in _other(images))
        if not difference <= TOLERANCE:
            raise InputError(
                f"the exported model differs from PyTorch by {difference:.1e} of its largest "
                f"output, more than {TOLERANCE:.0e}; nothing was written"
            )
    return Exported(path.stat().st_size, difference)


def _reason(error: torch.onnx.OnnxExporterError) -> str:
    """One line; of an operator that ONNX lacks, such as the scan of Vision Mamba, its name."""
    said = str(error.__cause__ or error).splitlines()[0]
    unknown = re.search(r"translating node .*target=torch\.ops\.([\w.]+)", said)
    return said if unknown is None else f"ONNX has no operator {unknown[1]}"


@contextmanager
def _quiet(name: str) -> Generator[None]:
    """The exporter logs every step; inside, only its errors."""
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _other(images: Tensor) -> list[Tensor]:
    """The same images, one alone and one more than the example had."""
    return [images[:1], torch.cat((images, images[:1].flip(-1), images[:1]))]


def _difference(model: nn.Module, path: Path, images: Tensor) -> float:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        expected = model(images)
    found = torch.from_numpy(session.run(["output"], {"images": images.numpy()})[0])
    return ((found - expected).abs().max() / expected.abs().max()).item()
