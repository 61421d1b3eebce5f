"""Small towers of vision-language models, with weights drawn anew, and what they take."""

import importlib

import torch
import transformers

SIZE = {"num_heads": 2, "depth": 4, "spatial_merge_size": 2, "patch_size": 4}
# Family: module, tower, settings of its config.
PACKED = {
    "qwen2 vl": (
        "qwen2_vl",
        "Qwen2VisionTransformerPretrainedModel",
        {**SIZE, "embed_dim": 32, "hidden_size": 48, "mlp_ratio": 2},
    ),
    "qwen2.5 vl": (
        "qwen2_5_vl",
        "Qwen2_5_VisionTransformerPretrainedModel",
        # Windows of 2 x 2 units; full attention in the blocks 1 and 3.
        {
            **SIZE,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 48,
            "window_size": 16,
            "fullatt_block_indexes": [1, 3],
        },
    ),
    "qwen3 vl": (
        "qwen3_vl",
        "Qwen3VLVisionModel",
        {
            **SIZE,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 48,
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1, 2],
        },
    ),
    "qwen3.5": (
        "qwen3_5",
        "Qwen3_5VisionModel",
        {
            **SIZE,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 48,
            "num_position_embeddings": 64,
        },
    ),
}
# Two images of other sizes, a video of two frames: frames of 24, 48, 40 and 40 patches.
GRIDS = torch.tensor([[1, 4, 6], [1, 6, 8], [2, 10, 4]])


def draw(model):
    """Weights under which every token matters."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def packed_tower(family, attention="sdpa", dtype=torch.float64, **settings):
    module, name, own = PACKED[family]
    kind = getattr(importlib.import_module(f"transformers.models.{module}.modeling_{module}"), name)
    config = kind.config_class(**own | settings)
    return draw(kind._from_config(config, attn_implementation=attention)).to(dtype)


def pixels(tower, grids=GRIDS):
    config = tower.config
    channels = config.in_channels * config.temporal_patch_size * config.patch_size**2
    return torch.randn(int(grids.prod(1).sum()), channels, dtype=tower.dtype)


TEXT = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "vocab_size": 100,
}
SEEN = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "patch_size": 4,
}
CLIP = {"model_type": "clip_vision_model", **SEEN, "image_size": 24, "projection_dim": 32}
SIGLIP = {"model_type": "siglip_vision_model", **SEEN, "vision_use_head": False}
LLAMA = {"model_type": "llama", **TEXT}
QWEN = {"model_type": "qwen2", **TEXT}
ROPE = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
PINPOINTS = [[24, 48], [48, 24], [48, 48]]


def _packed(family, text=None):
    module, name, own = PACKED[family]
    kind = getattr(importlib.import_module(f"transformers.models.{module}.modeling_{module}"), name)
    width = "hidden_size" if family == "qwen2 vl" else "out_hidden_size"
    text = {**TEXT, "rope_parameters": ROPE} | (text or {})
    return {"text_config": text, "vision_config": kind.config_class(**own | {width: 32}).to_dict()}


# Family: the model around tower and language model, settings of its config.
MODELS = {
    "llava": ("Llava", {"vision_config": CLIP, "text_config": LLAMA}),
    "llava next": (
        "LlavaNext",
        {"vision_config": CLIP, "text_config": LLAMA, "image_grid_pinpoints": PINPOINTS},
    ),
    "llava onevision": (
        "LlavaOnevision",
        {
            "vision_config": {**SIGLIP, "image_size": 24},
            "text_config": QWEN,
            "image_grid_pinpoints": PINPOINTS,
            "vision_aspect_ratio": "anyres_max_2",
        },
    ),
    "paligemma": (
        "PaliGemma",
        {
            "vision_config": {**SIGLIP, "image_size": 24, "projection_dim": 32},
            "text_config": {"model_type": "gemma", **TEXT, "head_dim": 16},
            "projection_dim": 32,
        },
    ),
    "gemma3": (
        "Gemma3",
        {
            "vision_config": {**SIGLIP, "image_size": 24},
            "text_config": {"model_type": "gemma3_text", **TEXT, "head_dim": 16},
            "mm_tokens_per_image": 9,
        },
    ),
    "internvl": (
        "InternVL",
        {
            "vision_config": {**SEEN, "image_size": [24, 24], "patch_size": [4, 4]},
            "text_config": QWEN,
        },
    ),
    "idefics3": (
        "Idefics3",
        {
            "vision_config": {**SEEN, "image_size": 24},
            "text_config": {**LLAMA, "pad_token_id": 0},
            "scale_factor": 3,
        },
    ),
    "smolvlm": (
        "SmolVLM",
        {
            "vision_config": {**SEEN, "image_size": 24},
            "text_config": {**LLAMA, "pad_token_id": 0},
            "scale_factor": 2,
        },
    ),
    "qwen2 vl": ("Qwen2VL", _packed("qwen2 vl")),
    "qwen2.5 vl": ("Qwen2_5_VL", _packed("qwen2.5 vl")),
    "qwen3 vl": ("Qwen3VL", _packed("qwen3 vl", {"head_dim": 16})),
    "qwen3.5": ("Qwen3_5", _packed("qwen3.5", {"head_dim": 16})),
}


def vision_language_model(family, attention="sdpa", dtype=torch.float64, **settings):
    name, own = MODELS[family]
    config = getattr(transformers, f"{name}Config")(**own | settings)
    kind = getattr(transformers, f"{name}ForConditionalGeneration")
    model = draw(kind._from_config(config, attn_implementation=attention))
    return model.to(dtype)


def images(model, count=3):
    """What ``get_image_features`` is given for so many images."""
    family, dtype = model.config.model_type, model.dtype
    if family.startswith("qwen"):
        return {"pixel_values": pixels(model.model.visual), "image_grid_thw": GRIDS}
    if family in ("llava_next", "llava_onevision"):
        # Of 3, 3 and 5 tiles, the first one.
        sizes = torch.tensor([[24, 40], [48, 24], [40, 48]])[:count]
        return {
            "pixel_values": torch.randn(count, 5, 3, 24, 24, dtype=dtype),
            "image_sizes": sizes,
        }
    if family in ("idefics3", "smolvlm"):
        # The second prompt has one image, and none in the place of its second.
        given = torch.randn(2, 2, 3, 24, 24, dtype=dtype)
        given[1, 1] = 0
        return {"pixel_values": given}
    return {"pixel_values": torch.randn(count, 3, 24, 24, dtype=dtype)}
