"""Vision towers of the Qwen-VL family: the images of a call lie end to end in one stream."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from repshift.adapters.spec import EncoderSpec, Packing
from repshift.runtime.carriers import CuSeqlens, Rows

if TYPE_CHECKING:
    from torch import nn

# A tower, its blocks, their attention and its mergers, by the classes whose forwards were read in
# 5.24.
PACKED = {
    "Qwen2VisionTransformerPretrainedModel": (
        "Qwen2VLVisionBlock",
        "VisionAttention",
        "PatchMerger",
    ),
    "Qwen2_5_VisionTransformerPretrainedModel": (
        "Qwen2_5_VLVisionBlock",
        "Qwen2_5_VLVisionAttention",
        "Qwen2_5_VLPatchMerger",
    ),
    **{
        f"{name}VisionModel": (
            f"{name}VisionBlock",
            f"{name}VisionAttention",
            f"{name}VisionPatchMerger",
        )
        for name in ("Qwen3VL", "Qwen3VLMoe", "Qwen3_5", "Qwen3_5Moe")
    },
}
_CARRIERS = {
    "position_embeddings": Rows(),
    "cu_seqlens": CuSeqlens(longest="max_seqlen"),
}


def mergers_of(model: Any) -> list[nn.Module]:
    """What makes features of units, after the last block and (DeepStack) between blocks."""
    return [model.merger, *getattr(model, "deepstack_merger_list", ())]


def packed_spec(model: Any) -> EncoderSpec:
    """The spec of a packed tower."""
    side, window = model.spatial_merge_size, getattr(model, "window_size", None)
    return EncoderSpec(
        blocks=model.blocks,
        norm2=[block.norm2 for block in model.blocks],
        mlp=[block.mlp for block in model.blocks],
        prefix_tokens=0,
        unit=side**2,
        carriers=_CARRIERS,
        packing=Packing(
            grid="grid_thw",
            mergers=mergers_of(model),
            window=window // side // model.patch_size if window else None,
        ),
    )
