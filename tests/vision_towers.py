"""Small towers of vision-language models, with weights drawn anew, and what they take."""

import importlib

import torch

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
