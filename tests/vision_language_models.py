"""Small vision-language models of every family, with random weights, and prompts for them.

Placeholders of images have the id 290, those of videos 291; words have ids from 5 to 99.
"""

import torch
import transformers

IMAGE, VIDEO, PAD = 290, 291, 0
TEXT = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 512,
    "pad_token_id": PAD,
    "eos_token_id": None,
    "bos_token_id": None,
}
ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
MIXED = {"rope_parameters": ROPE, "head_dim": 16}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 32,
    "patch_size": 8,
    "projection_dim": 32,
}
SIGLIP = {**CLIP, "model_type": "siglip_vision_model"}
LLAMA = {**TEXT, "model_type": "llama"}
QWEN2 = {**TEXT, "model_type": "qwen2"}
LLAVA = {"vision_config": CLIP, "text_config": LLAMA, "image_token_id": IMAGE}
PINPOINTS = [[32, 64], [64, 32], [64, 64], [32, 96]]
NEXT = {**LLAVA, "image_grid_pinpoints": PINPOINTS}
QWEN_TOWER = {
    "depth": 4,
    "hidden_size": 32,
    "embed_dim": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "in_channels": 3,
    "in_chans": 3,
    "patch_size": 4,
    "spatial_patch_size": 4,
    "temporal_patch_size": 2,
    "spatial_merge_size": 2,
    "out_hidden_size": 64,
    "window_size": 16,
    "fullatt_block_indexes": [1, 3],
    "deepstack_visual_indexes": [0, 1],
    "num_position_embeddings": 64,
}
QWEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": VIDEO,
    "vision_start_token_id": 292,
    "vision_end_token_id": 293,
}
QWEN2_TOWER = {**QWEN_TOWER, "hidden_size": 64, "mlp_ratio": 2}
LINEAR = {
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
GEMMA = {**TEXT, "head_dim": 16}
GEMMA3 = {
    **GEMMA,
    "sliding_window": 128,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "query_pre_attn_scalar": 16,
}
LARGE = {**SIGLIP, "image_size": 64}
IDEFICS = {**LARGE, "model_type": "idefics3_vision"}
SMOL = {**LARGE, "model_type": "smolvlm_vision"}
INTERN = {
    **SIGLIP,
    "model_type": "internvl_vision",
    "image_size": [64, 64],
    "patch_size": [8, 8],
}
SIDES = {"internvl": 64, "idefics3": 64, "smolvlm": 64, "gemma3": 64}
# Family: class, config class, settings.
FAMILIES = {
    "llava": ("LlavaForConditionalGeneration", "LlavaConfig", LLAVA),
    "llava next": ("LlavaNextForConditionalGeneration", "LlavaNextConfig", NEXT),
    "llava onevision": (
        "LlavaOnevisionForConditionalGeneration",
        "LlavaOnevisionConfig",
        {
            "vision_config": SIGLIP,
            "text_config": QWEN2,
            "image_token_id": IMAGE,
            "video_token_id": VIDEO,
            "image_grid_pinpoints": PINPOINTS,
        },
    ),
    "internvl": (
        "InternVLForConditionalGeneration",
        "InternVLConfig",
        {
            "vision_config": INTERN,
            "text_config": QWEN2,
            "image_token_id": IMAGE,
            "downsample_ratio": 0.5,
        },
    ),
    "qwen2-vl": (
        "Qwen2VLForConditionalGeneration",
        "Qwen2VLConfig",
        {"vision_config": QWEN2_TOWER, "text_config": {**TEXT, **MIXED}, **QWEN_IDS},
    ),
    "qwen2.5-vl": (
        "Qwen2_5_VLForConditionalGeneration",
        "Qwen2_5_VLConfig",
        {"vision_config": QWEN_TOWER, "text_config": {**TEXT, **MIXED}, **QWEN_IDS},
    ),
    "qwen3-vl": (
        "Qwen3VLForConditionalGeneration",
        "Qwen3VLConfig",
        {"vision_config": QWEN_TOWER, "text_config": {**TEXT, **MIXED}, **QWEN_IDS},
    ),
    "qwen3.5": (
        "Qwen3_5ForConditionalGeneration",
        "Qwen3_5Config",
        {
            "vision_config": QWEN_TOWER,
            "text_config": {
                **TEXT,
                **LINEAR,
                "head_dim": 32,
                "rope_parameters": {**ROPE, "partial_rotary_factor": 0.5},
            },
            **QWEN_IDS,
        },
    ),
    "idefics3": (
        "Idefics3ForConditionalGeneration",
        "Idefics3Config",
        {
            "vision_config": IDEFICS,
            "text_config": LLAMA,
            "image_token_id": IMAGE,
            "scale_factor": 2,
        },
    ),
    "smolvlm": (
        "SmolVLMForConditionalGeneration",
        "SmolVLMConfig",
        {"vision_config": SMOL, "text_config": LLAMA, "image_token_id": IMAGE, "scale_factor": 2},
    ),
    "paligemma": (
        "PaliGemmaForConditionalGeneration",
        "PaliGemmaConfig",
        {
            "vision_config": {**SIGLIP, "projection_dim": 64, "vision_use_head": False},
            "text_config": {**GEMMA, "model_type": "gemma"},
            "image_token_id": IMAGE,
            "projection_dim": 64,
        },
    ),
    "gemma3": (
        "Gemma3ForConditionalGeneration",
        "Gemma3Config",
        {
            "vision_config": {**LARGE, "vision_use_head": False},
            "text_config": GEMMA3,
            "image_token_id": IMAGE,
            "mm_tokens_per_image": 16,
        },
    ),
}
QWEN = [name for name in FAMILIES if name.startswith("qwen")]
BOTH_WAYS = ("paligemma", "gemma3")


def build(family, kernel="sdpa", **settings):
    """A model of a family, its weights drawn so that images and words matter."""
    model, config, own = FAMILIES[family]
    own = {**own, **settings}
    torch.manual_seed(1)
    made = getattr(transformers, config)(**own)
    made._attn_implementation = kernel
    built = getattr(transformers, model)(made).eval()
    generator = torch.Generator().manual_seed(2)
    for name, weight in built.named_parameters():
        if weight.ndim > 1:
            words = 0.05 if family in BOTH_WAYS else 0.5
            scale = words if "embed" in name else 1.5 * weight[0].numel() ** -0.5
            weight.data = torch.randn(weight.shape, generator=generator) * scale
        elif "newline" in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.5
    built.generation_config.pad_token_id = PAD
    return built


def words(count, seed=0):
    return torch.randint(5, 100, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def image_tokens(model, family, grid=(8, 12)):
    """Placeholders of one image: for Qwen of a grid of patches, elsewhere of a fixed size."""
    if family in QWEN:
        return grid[0] * grid[1] // 4
    if family == "llava next":
        return 16 + 4 * (8 + 1)  # an image of 32 by 64
    if family == "llava onevision":
        return 16 + 4 * (8 + 1)
    return 16


def prompt(model, family, images=1, grids=None, seed=0):
    """The ids of one prompt with ``images`` images, and where they are."""
    ids = words(3, seed)
    for number in range(images):
        grid = (grids or [(8, 12)] * images)[number]
        tokens = [IMAGE] * image_tokens(model, family, grid)
        ids += [292, *tokens, 293, *words(2 + number, seed + number)]
    return [*ids, *words(4, seed + 7)]


def inputs(model, family, images=(1,), grids=None, seed=0):
    """A batch of prompts with as many images each, padded on the left."""
    every, at = [], 0
    for row, count in enumerate(images):
        own = None if grids is None else grids[at : at + count]
        every.append(prompt(model, family, count, own, seed + 10 * row))
        at += count
    longest = max(map(len, every))
    ids = torch.tensor([[PAD] * (longest - len(row)) + row for row in every])
    batch = {"input_ids": ids, "attention_mask": (ids != PAD).long()}
    total = sum(images)
    generator = torch.Generator().manual_seed(100 + seed)
    grids = grids or [(8, 12)] * total
    if not total:
        if family in BOTH_WAYS:
            batch["token_type_ids"] = torch.zeros_like(ids)
        return batch
    if family in QWEN:
        patches = sum(high * wide for high, wide in grids)
        batch["pixel_values"] = torch.randn(patches, 3 * 2 * 4 * 4, generator=generator)
        batch["image_grid_thw"] = torch.tensor([[1, *grid] for grid in grids])
        batch["mm_token_type_ids"] = (ids == IMAGE).long()
        return batch
    side = SIDES.get(family, 32)
    pixels = torch.randn(total, 3, side, side, generator=generator)
    if family in ("llava next", "llava onevision"):
        pixels = torch.randn(total, 3, 3, 32, 32, generator=generator)
        batch["image_sizes"] = torch.tensor([[32, 64]] * total)
    if family in ("idefics3", "smolvlm"):
        most = max(images)
        padded = torch.zeros(len(images), most, 3, side, side)
        at = 0
        for row, count in enumerate(images):
            padded[row, :count] = pixels[at : at + count]
            at += count
        pixels = padded
    if family in BOTH_WAYS:
        batch["token_type_ids"] = (ids == IMAGE).long()
    batch["pixel_values"] = pixels
    return batch


def film(model, family, frames=3, grid=(8, 8)):
    """A prompt with a video of ``frames`` frames, in pixels of which the middle ones change."""
    generator = torch.Generator().manual_seed(9)
    if family == "llava onevision":
        tokens = [VIDEO] * (frames * 4 + 1)
        ids = torch.tensor([[*words(3), *tokens, *words(4, 7)]])
        pixels = torch.randn(1, frames, 3, 32, 32, generator=generator)
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "pixel_values_videos": pixels}
    high, wide = grid
    frame = [VIDEO] * (high * wide // 4)
    # Qwen3 writes the time of a frame before it.
    apart = family in ("qwen3-vl", "qwen3.5")
    between = [[*words(2, at), 292] if apart else [] for at in range(frames)]
    ids = [*words(3), *([] if apart else [292])]
    for at in range(frames):
        ids += [*between[at], *frame, *([293] if apart else [])]
    ids = torch.tensor([[*ids, *([] if apart else [293]), *words(4, 7)]])
    pixels = torch.randn(frames * high * wide, 3 * 2 * 4 * 4, generator=generator)
    return {
        "input_ids": ids,
        "attention_mask": (ids > 0).long(),
        "pixel_values_videos": pixels,
        "video_grid_thw": torch.tensor([[frames, high, wide]]),
        "mm_token_type_ids": 2 * (ids == VIDEO).long(),
    }
