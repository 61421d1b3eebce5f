"""photos-vlm: the DINOv2 ViT-S/14 of saliency-vit-s14 in an InternVL, on composed photographs.

The tower is frozen; connector and language model were trained by ``scripts/train_scenes.py``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.evaluation.zoo.packaged import load_packaged, weights_file
from repshift.evaluation.zoo.saliency_vit import encoder_weights
from repshift.evaluation.zoo.scenes.model import DECODER, WORDS
from repshift.evaluation.zoo.scenes.scene import CELL, EDGE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor

WEIGHTS = "photos-vlm.safetensors"
MERGE = 2
TOWER = {
    "hidden_size": 384,
    "intermediate_size": 1536,
    # Later blocks tell what a thing is and forget how it looks: digits cannot be read from them.
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "attention_bias": True,
    "image_size": [EDGE, EDGE],
    "patch_size": [CELL // MERGE, CELL // MERGE],
    "layer_norm_eps": 1e-6,
    "use_absolute_position_embeddings": True,
    "use_mean_pooling": True,  # the norm behind the last block is the connector's
}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def untrained_photos(kernel: str = "sdpa") -> Any:
    """An InternVLForConditionalGeneration with random weights."""
    from transformers import InternVLConfig, InternVLForConditionalGeneration

    words = {name: value for name, value in DECODER.items() if name != "rope_parameters"}
    rotary = {"rope_type": "default", "rope_theta": 100.0}
    config: Any = InternVLConfig(
        vision_config={"model_type": "internvl_vision", **TOWER},
        text_config={"model_type": "qwen3", **words, "rope_parameters": rotary},
        image_token_id=WORDS["<image>"],
        image_seq_length=(EDGE // CELL) ** 2,
        downsample_ratio=1 / MERGE,
        tie_word_embeddings=True,
    )
    return InternVLForConditionalGeneration._from_config(config, attn_implementation=kernel)


def load_photos(kernel: str = "sdpa") -> Any:
    """The trained model in evaluation mode."""
    try:
        model = untrained_photos(kernel)
    except ImportError as error:
        raise InputError(
            "photos-vlm is a model of transformers, which is not installed; install it with: "
            "pip install 'repshift[transformers]'"
        ) from error
    core = model.model
    core.vision_tower.load_state_dict(tower_weights())
    for part in ("multi_modal_projector", "language_model"):
        load_packaged(
            core.get_submodule(part), weights_file(WEIGHTS), "scripts/train_scenes.py", prefix=part
        )
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


def normalised(images: Tensor) -> Tensor:
    """Pixels [B, 3, H, W] from 0 to 255, as the tower takes them."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return (images.float() / 255 - mean) / std


def seen_by_photos(
    tokens: Tensor, film: bool, grids: Tensor, images: Tensor | None
) -> dict[str, Any]:
    """What photos-vlm is given beside the words."""
    return {} if images is None else {"pixel_values": normalised(images)}
