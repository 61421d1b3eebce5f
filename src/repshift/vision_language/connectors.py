"""What was read of transformers 5.24: how a model makes features of its tower's tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from repshift.adapters.transformers.describe import runs
from repshift.errors import InputError
from repshift.sequence.layout import by_cell

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jaxtyping import Float
    from torch import Tensor

    from repshift.compression import Compression


def _one(_: Any) -> int:
    return 1


@dataclass(frozen=True)
class Connector:
    """Where a model keeps its tower, and how many tokens become one feature.

    Attributes:
        tower: The attribute.
        side: Of the square cell of patches that becomes one feature. (A packed tower has units.)
        layers: Whether the features are those hidden states that ``vision_feature_layer`` names.
        spreads: Methods that lay features out anew, among them rows of their own (newlines).
    """

    tower: str
    side: Callable[[Any], int] = _one
    layers: bool = False
    spreads: Sequence[str] = ()


_PACKED = Connector("visual")
_IDEFICS = Connector("vision_model", lambda model: model.connector.scale_factor)
CONNECTORS = {
    "Qwen2VLModel": _PACKED,
    "Qwen2_5_VLModel": _PACKED,
    "Qwen3VLModel": _PACKED,
    "Qwen3VLMoeModel": _PACKED,
    "Qwen3_5Model": _PACKED,
    "Qwen3_5MoeModel": _PACKED,
    "LlavaModel": Connector("vision_tower", layers=True),
    "LlavaNextModel": Connector("vision_tower", layers=True, spreads=("pack_image_features",)),
    "LlavaOnevisionModel": Connector(
        "vision_tower", layers=True, spreads=("pack_image_features", "apply_pooling")
    ),
    "PaliGemmaModel": Connector("vision_tower"),
    "Gemma3Model": Connector("vision_tower", lambda model: model.multi_modal_projector.kernel_size),
    "InternVLModel": Connector(
        "vision_tower", lambda model: round(1 / model.config.downsample_ratio), layers=True
    ),
    "Idefics3Model": _IDEFICS,
    "SmolVLMModel": _IDEFICS,
}


def reader_of(model: nn.Module) -> nn.Module:
    """The model that calls the tower: this one, or the one that it holds as ``model``."""
    for part in (model, getattr(model, "model", None)):
        if isinstance(part, nn.Module) and runs(part) in CONNECTORS:
            return part
    known = ", ".join(name.removesuffix("Model") for name in CONNECTORS)
    raise InputError(
        f"{type(model).__name__} is no vision-language model whose tower repshift knows; those of "
        f"transformers' {known} are. Another one's tower can be compressed by itself, if what "
        "reads its tokens takes any number of them"
    )


def connector_of(reader: nn.Module) -> Connector:
    """The row of a model that ``reader_of`` found."""
    return CONNECTORS[runs(reader)]


def token_marks(compression: Compression, last: int, watched: int) -> Float[Tensor, "n P 2"]:
    """Whether each unit is kept after block ``last``, 1 or 0, and its score at ``watched``.

    Images by patches; of a packed tower [1, T], all in a row. A score is 0 where there is none.
    """
    trace, spec = compression._last_trace(), compression.spec
    batch, dense = trace.batch, trace.dense
    marks = torch.zeros(batch, dense + 1, 2, device=trace.device)  # a last place for padding
    kept = compression.kept_after(last).to(trace.device)
    marks[..., 0] = marks[..., 0].scatter(1, kept.where(kept >= 0, dense), 1.0)
    if (scores := trace.watched.get(watched)) is not None:
        seen = compression._kept_after(watched - 1).to(trace.device)
        scores = scores.to(marks).masked_fill(scores.to(trace.device).isneginf(), 0)
        marks[..., 1] = marks[..., 1].scatter(1, seen.where(seen >= 0, dense), scores)
    marks = marks[:, spec.prefix_tokens : dense]
    if spec.packing:
        marks = trace.segments_after(-1).stream(marks)
    elif spec.cells:
        rows = round((dense - spec.prefix_tokens) ** 0.5)
        marks = marks[:, by_cell(rows, rows, round(spec.unit**0.5)).to(marks.device)]
    return marks.unflatten(1, (-1, spec.unit)).mean(2)


def feature_marks(output: Any, marks: Float[Tensor, "... 2"], spread: bool) -> Float[Tensor, "R 2"]:
    """The marks of all rows of the features, class tokens and the newlines of videos among them."""
    features = getattr(output, "pooler_output", None)
    if features is None:
        features = output[1]
    lengths = [len(entry) for entry in features]
    line = marks.new_tensor([1.0, torch.inf])
    count, rows = sum(lengths), marks.numel() // 2
    if count == rows + len(lengths) and spread:
        # A newline at the end of every video.
        marks = marks.reshape(len(lengths), -1, 2)
        marks = torch.cat((marks, line.expand(len(lengths), 1, 2)), dim=1)
    elif count == rows + len(marks) and not spread:
        marks = torch.cat((line.expand(len(marks), 1, 2), marks), dim=1)
    elif count != rows:
        raise InputError(
            f"the model made {count} features of {rows} units of its tower; repshift has read it "
            "in transformers 5.24, and this one does it in another way"
        )
    return marks.reshape(-1, 2)
