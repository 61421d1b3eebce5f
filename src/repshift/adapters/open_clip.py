"""open_clip: the vision towers of CLIP models, its own and those of timm."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from open_clip import transformer as clip
from open_clip.model import resize_pos_embed
from open_clip.timm_model import TimmModel
from torch import nn

from repshift.adapters.spec import EncoderSpec, MapMethod, Pooling
from repshift.errors import InputError
from repshift.resnet.spec import ResNetSpec
from repshift.runtime.carriers import AttentionMask

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCKS = (clip.ResidualAttentionBlock, clip.CustomResidualAttentionBlock)
_ATTENTION = (nn.MultiheadAttention, clip.Attention)


def describe(model: nn.Module) -> EncoderSpec | ResNetSpec:
    """The spec of a vision tower; ``InputError`` with the reason if it cannot lose tokens."""
    if isinstance(model, TimmModel) and type(model).forward is TimmModel.forward:
        from repshift.adapters import timm

        return timm.describe(model.trunk)
    if hasattr(model, "visual"):
        raise InputError(
            f"open_clip's {type(model).__name__} holds two encoders; compress its vision tower, "
            "model.visual"
        )
    if reason := _reason(model):
        raise InputError(
            f"open_clip's {type(model).__name__} cannot be compressed: {reason}. Use a plain ViT "
            "tower, such as ViT-B-16; for a model whose blocks take and return [B, N, C] alone, "
            "pass spec=EncoderSpec(...)"
        )
    tower: Any = model
    blocks = list(tower.transformer.resblocks)
    averages = tower.attn_pool is None and tower.pool_type == "avg"
    return EncoderSpec(
        blocks=blocks,
        norm2=[block.ln_2 for block in blocks],
        mlp=[block.mlp for block in blocks],
        prefix_tokens=1,
        class_token=True,
        carriers={"attn_mask": AttentionMask()},
        readers=[] if tower.attn_pool is None else [(tower.attn_pool, {})],
        pooling=Pooling(tokens=blocks[-1], average=tower.ln_post, skipped=1) if averages else None,
        maps=[MapMethod(tower, "forward_intermediates", partial(_grid, tower.patch_size))],
    )


def _grid(patch: tuple[int, int], image: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of the patches of an image."""
    return image[0] // patch[0], image[1] // patch[1]


def resizer(model: nn.Module) -> Callable[[nn.Module, int], None] | None:
    """What resamples the positions of a tower, as open_clip does for its checkpoints."""
    if isinstance(model, TimmModel):
        return _resize_trunk if hasattr(model.trunk, "set_input_size") else None
    return _resize if isinstance(model, clip.VisionTransformer) else None


def _resize(model: Any, size: int) -> None:
    model.image_size, model.grid_size = (size, size), (size // model.patch_size[0],) * 2
    table = {"visual.positional_embedding": model.positional_embedding.detach()}
    resize_pos_embed(table, SimpleNamespace(visual=model))
    model.positional_embedding = nn.Parameter(table["visual.positional_embedding"])


def _resize_trunk(model: Any, size: int) -> None:
    model.trunk.set_input_size(img_size=size)


def _reason(model: Any) -> str | None:
    """Why the model cannot be compressed; None if it can."""
    steps = ("forward", "_embeds", "_pool", "_global_pool")
    if not isinstance(model, clip.VisionTransformer) or any(
        getattr(type(model), step) is not getattr(clip.VisionTransformer, step) for step in steps
    ):
        return "repshift was not checked with this class"
    blocks: Any = model.transformer.resblocks
    if type(model.transformer).forward is not clip.Transformer.forward or any(
        type(block).forward not in [kind.forward for kind in _BLOCKS]
        or type(block.attn).forward not in [kind.forward for kind in _ATTENTION]
        for block in blocks
    ):
        return "repshift was not checked with the classes of its blocks"
    if not model.transformer.batch_first:
        return "its blocks take [N, B, C]; build it with batch_first=True"
    if model.attn_pool is None and model.pool_type == "avg" and not model.final_ln_after_pool:
        return "it averages tokens where merged ones cannot be weighed by their size"
    return None
