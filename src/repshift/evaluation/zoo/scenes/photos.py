"""photos-vlm: the DINOv2 ViT-S/14 of saliency-vit-s14 in an InternVL, on composed photographs.

The tower is frozen; connector and language model were trained by ``scripts/train_scenes.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from repshift.evaluation.data.pixels import normalise
from repshift.evaluation.zoo.packaged import load_packaged, weights_file
from repshift.evaluation.zoo.saliency_vit import encoder_weights
from repshift.evaluation.zoo.scenes.model import DECODER, MERGE, PATCH, WORDS, built
from repshift.evaluation.zoo.scenes.scene import CELL, EDGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

WEIGHTS = "photos-vlm.safetensors"
TOWER = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    # Later blocks tell what a thing is and forget how it looks: digits cannot be read from them.
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "attention_bias": True,
    "image_size": [EDGE, EDGE],
    "patch_size": [PATCH, PATCH],
    "layer_norm_eps": 1e-6,
    "use_absolute_position_embeddings": True,
    "use_mean_pooling": True,  # the norm behind the last block is the connector's
}


def untrained_photos(kernel: str = "sdpa") -> Any:
    """An InternVLForConditionalGeneration with random weights."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    # Tokens are counted one after the other: no sections for time, rows and columns.
    turns = DECODER["rope_parameters"]
    rotary = {name: turns[name] for name in ("rope_type", "rope_theta")}
    config: Any = InternVLConfig(
        vision_config={"model_type": "internvl_vision", **TOWER},
        text_config={"model_type": "qwen3", **DECODER, "rope_parameters": rotary},
        image_token_id=WORDS["<image>"],
        image_seq_length=(EDGE // CELL) ** 2,
        downsample_ratio=1 / MERGE,
        tie_word_embeddings=True,
    )
    return InternVLForConditionalGeneration._from_config(config, attn_implementation=kernel)


def load_photos(kernel: str = "sdpa") -> Any:
    """The trained model in evaluation mode."""
    model = built("photos-vlm", untrained_photos, kernel)
    core = model.model
    core.vision_tower.load_state_dict(tower_weights())
    trained = nn.ModuleDict(
        {name: core.get_submodule(name) for name in ("multi_modal_projector", "language_model")}
    )
    load_packaged(trained, weights_file(WEIGHTS), "scripts/train_scenes.py")
    return model.eval()


def tower_weights() -> dict[str, Tensor]:
    """The first blocks of saliency-vit-s14 under the names of InternVL's tower."""
    theirs = encoder_weights()
    weights = {
        "embeddings.cls_token": theirs["cls_token"],
        "embeddings.position_embeddings": theirs["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": theirs["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": theirs["patch_embed.proj.bias"],
    }
    for block in range(TOWER["num_hidden_layers"]):
        weights |= _block(theirs, f"blocks.{block}.", f"encoder.layer.{block}.")
    return weights


def _block(theirs: Mapping[str, Tensor], old: str, new: str) -> dict[str, Tensor]:
    weights = {
        f"{new}lambda_1": theirs[f"{old}ls1.gamma"],
        f"{new}lambda_2": theirs[f"{old}ls2.gamma"],
    }
    for kind in ("weight", "bias"):
        parts = theirs[f"{old}attn.qkv.{kind}"].chunk(3)
        for name, part in zip("qkv", parts, strict=True):
            weights[f"{new}attention.{name}_proj.{kind}"] = part
        for ours, name in (
            ("attention.projection_layer", "attn.proj"),
            ("mlp.fc1", "mlp.fc1"),
            ("mlp.fc2", "mlp.fc2"),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
        ):
            weights[f"{new}{ours}.{kind}"] = theirs[f"{old}{name}.{kind}"]
    return weights


def seen_by_photos(
    tokens: Tensor, film: bool, grids: Tensor, images: Tensor | None
) -> dict[str, Any]:
    """What photos-vlm is given beside the words."""
    return {} if images is None else {"pixel_values": normalise(images)}
