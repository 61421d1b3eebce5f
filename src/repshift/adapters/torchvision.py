"""torchvision: its plain vision transformer and its ResNets."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from torch import nn
from torchvision.models import resnet
from torchvision.models import vision_transformer as vit
from torchvision.models._utils import IntermediateLayerGetter

from repshift.adapters.spec import EncoderSpec
from repshift.errors import InputError
from repshift.resnet.spec import ResNetSpec
from repshift.resnet.stages import stages_of

if TYPE_CHECKING:
    from collections.abc import Callable

_WINDOWS = "its attention runs inside fixed windows of the grid"
_REFUSED = {
    "SwinTransformer": _WINDOWS,
    "MaxVit": _WINDOWS,
    "MViT": "it pools its tokens on the grid from stage to stage",
}


# The module whose output a block adds to its shortcut.
_BRANCHES: dict[type[nn.Module], Any] = {
    resnet.BasicBlock: lambda block: block.bn2,
    resnet.Bottleneck: lambda block: block.bn3,
}


def describe(model: nn.Module) -> EncoderSpec | ResNetSpec:
    """The spec of a torchvision model; ``InputError`` with the reason if it cannot lose tokens."""
    name = type(model).__name__
    if _is_resnet(model) and (spec := stages_of(model, _BRANCHES)):
        return spec
    known = isinstance(model, vit.VisionTransformer)
    blocks: list[Any] = list(model.encoder.layers) if known else []
    parts: list[tuple[Any, Any]] = [(model, vit.VisionTransformer)]
    if known:
        parts.append((model.encoder, vit.Encoder))
    parts += [(block, vit.EncoderBlock) for block in blocks]
    parts += [(block.self_attention, nn.MultiheadAttention) for block in blocks]
    if not known or any(type(part).forward is not kind.forward for part, kind in parts):
        reason = _REFUSED.get(name, "repshift was not checked with this class")
        raise InputError(
            f"torchvision's {name} cannot be compressed: {reason}. Use vit_b_16 or resnet50 "
            "and their like; for a model whose blocks take and return [B, N, C] alone, pass "
            "spec=EncoderSpec(...), for one with stages of feature maps spec=ResNetSpec(...)"
        )
    return EncoderSpec(
        blocks=blocks,
        norm2=[block.ln_2 for block in blocks],
        mlp=[block.mlp for block in blocks],
        prefix_tokens=1,
        class_token=True,
    )


def resizer(model: nn.Module) -> Callable[[nn.Module, int], None] | None:
    """What resamples the positions of a ViT, as torchvision does for its checkpoints."""
    return _resize if isinstance(model, vit.VisionTransformer) else None


def _resize(model: Any, size: int) -> None:
    table = OrderedDict({"encoder.pos_embedding": model.encoder.pos_embedding.detach()})
    table = vit.interpolate_embeddings(size, model.patch_size, table)["encoder.pos_embedding"]
    model.encoder.pos_embedding = nn.Parameter(table)
    model.image_size, model.seq_length = size, table.shape[1]


def _is_resnet(model: nn.Module) -> bool:
    """A classifier, or the backbone that detectors and segmenters of torchvision cut out of it."""
    kind = type(model)
    if kind.forward is IntermediateLayerGetter.forward:
        return True
    whole = resnet.ResNet
    return isinstance(model, whole) and all(
        getattr(kind, step) is getattr(whole, step) for step in ("forward", "_forward_impl")
    )
