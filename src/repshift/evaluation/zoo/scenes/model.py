"""scenes-vlm: Qwen3-VL in small, trained on generated scenes (``scripts/train_scenes.py``)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from repshift.errors import InputError
from repshift.evaluation.zoo.packaged import load_packaged, weights_file
from repshift.evaluation.zoo.scenes.language import vocabulary
from repshift.evaluation.zoo.scenes.scene import CELL

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float, Shaped
    from torch import Tensor

WEIGHTS = "scenes-vlm.safetensors"
WORDS = {word: number for number, word in enumerate(vocabulary())}
MERGE = 2
PATCH = CELL // MERGE
TOWER = {
    "depth": 6,
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_heads": 4,
    "patch_size": PATCH,
    "temporal_patch_size": 1,  # a film is told frame by frame
    "spatial_merge_size": MERGE,
    "out_hidden_size": 128,
    # One for all patches: where they are is told by rotary positions alone, as in Qwen2.5-VL.
    "num_position_embeddings": 1,
    "deepstack_visual_indexes": [1, 3],
}
DECODER = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": len(WORDS),
    "max_position_embeddings": 512,
    "pad_token_id": WORDS["<pad>"],
    "eos_token_id": WORDS["<end>"],
    "bos_token_id": None,
    "tie_word_embeddings": True,
    # Turns that tell apart the cells of a grid of 8; sections for time, rows and columns.
    "rope_parameters": {"rope_type": "default", "rope_theta": 100.0, "mrope_section": [6, 5, 5]},
}


def untrained_scenes(kernel: str = "sdpa") -> Any:
    """A Qwen3VLForConditionalGeneration with random weights."""
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    config: Any = Qwen3VLConfig(
        vision_config=TOWER,
        text_config=DECODER,
        image_token_id=WORDS["<image>"],
        video_token_id=WORDS["<video>"],
        vision_start_token_id=WORDS["<vision>"],
        vision_end_token_id=WORDS["</vision>"],
        tie_word_embeddings=True,
    )
    return Qwen3VLForConditionalGeneration._from_config(config, attn_implementation=kernel)


def load_scenes(kernel: str = "sdpa") -> Any:
    """The trained model in evaluation mode."""
    model = built("scenes-vlm", untrained_scenes, kernel)
    load_packaged(model.model, weights_file(WEIGHTS), "scripts/train_scenes.py")
    return model.eval()


def built(name: str, untrained: Callable[[str], Any], kernel: str) -> Any:
    """What ``untrained`` makes; ``InputError`` if transformers is not installed."""
    try:
        return untrained(kernel)
    except ImportError as error:
        raise InputError(
            f"{name} is a model of transformers, which is not installed; install it with: "
            "pip install 'repshift[transformers]'"
        ) from error


def seen_by_scenes(
    tokens: Tensor, film: bool, grids: Tensor, images: Tensor | None
) -> dict[str, Any]:
    """What scenes-vlm is given beside the words."""
    name, kind, pixels = "image", 1, "pixel_values"
    if film:
        name, kind, pixels = "video", 2, "pixel_values_videos"
    given: dict[str, Any] = {
        f"{name}_grid_thw": grids * torch.tensor([1, MERGE, MERGE]),
        "mm_token_type_ids": (tokens == WORDS[f"<{name}>"]).long() * kind,
    }
    if images is not None:
        given[pixels] = patches(images).flatten(0, 1)
    return given


def patches(images: Shaped[Tensor, "B 3 H W"]) -> Float[Tensor, "B N P"]:
    """Pixels from -1 to 1, patch by patch in the order of Qwen-VL: those that merge together."""
    cut = images.unflatten(3, (-1, MERGE, PATCH)).unflatten(2, (-1, MERGE, PATCH))
    # B 3 rows merge patch columns merge patch
    cut = cut.permute(0, 2, 5, 3, 6, 1, 4, 7).flatten(5).flatten(1, 4)
    return cut.float() / 127.5 - 1
