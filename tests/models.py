"""Small timm models of every family claimed: 5 x 7 patches, so no grid is square and no count even.

Weights are drawn anew, because timm starts LayerScale, biases and class tokens at (nearly) zero,
where a lost position or a wrong branch would not show.
"""

import timm
import torch

from repshift import Plan, Shift

FAMILIES = {
    "deit": ("deit_tiny_patch16_224", {}),
    "deit distilled": ("deit_tiny_distilled_patch16_224", {}),
    "augreg": ("vit_tiny_patch16_224", {}),
    "average pooling": ("vit_base_patch16_gap_224", {}),
    "clip": ("vit_base_patch32_clip_quickgelu_224", {}),
    "siglip": ("vit_base_patch16_siglip_224", {}),
    "dinov2": ("vit_small_patch14_dinov2", {}),
    "dinov2 registers": ("vit_small_patch14_reg4_dinov2", {}),
    "deit3": ("deit3_small_patch16_224", {}),
    "deit3 registers": ("vit_medium_patch16_reg4_gap_256", {}),
    "radio": ("vit_base_patch16_radio_v3", {}),
    "aimv2": ("aimv2_large_patch14_224", {}),
    "beit3": ("beit3_base_patch16_224", {}),
    "res-post": ("vit_base_patch16_rpn_224", {}),
    "parallel scaling": ("vit_base_patch16_xp_224", {}),
    "parallel things": ("vit_small_patch16_18x2_224", {}),
    "differential": ("vit_dwee_patch16_reg1_gap_256", {}),
    "parallel differential": ("vit_dpwee_patch16_reg1_gap_256", {}),
    "eva02": ("eva02_tiny_patch14_224", {"global_pool": "token"}),
    "eva02 post-norm": ("eva02_enormous_patch14_clip_224", {}),
    "dinov3": ("vit_small_patch16_dinov3", {"global_pool": "token"}),
    "sapiens2": ("vit_base_patch16_sapiens2", {"num_kv_heads": 1, "global_pool": "token"}),
    "rope": ("vit_small_patch16_rope_224", {}),
    "rope mixed": ("vit_small_patch16_rope_mixed_224", {}),
    "rope mixed absolute": ("vit_small_patch16_rope_mixed_ape_224", {}),
    "pe core": ("vit_pe_core_tiny_patch16_384", {"attn_pool_num_heads": 2}),
    "pe lang": ("vit_pe_lang_large_patch14_448", {}),
}
# Those that the installed release has.
FAMILIES = {name: row for name, row in FAMILIES.items() if timm.is_model(row[0])}
# Every kind of block input and pooling once: for the promises, which do not depend on the family.
SAMPLE = (
    "deit distilled",
    "siglip",
    "dinov2 registers",
    "parallel scaling",
    "dinov3",
    "rope mixed",
)
PARALLEL = ("parallel scaling", "parallel differential")
DEPTH, PATCHES = 4, 35


def build(family, dtype=torch.float32, **settings):
    name, own = FAMILIES[family]
    size = {"img_size": (40, 56), "patch_size": 8, "embed_dim": 32, "num_heads": 2}
    settings = {**size, "depth": DEPTH, "num_classes": 7, **own, **settings}
    model = timm.create_model(name, **settings)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if path == "rope.freqs":
                continue
            if parameter.ndim == 1 and not path.endswith("bias"):
                parameter.uniform_(0.5, 1.5)
            elif parameter.ndim == 2 or path == "patch_embed.proj.weight":
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            else:
                parameter.normal_(std=0.5)
    return model.eval().to(dtype)


def images(batch=3, dtype=torch.float32):
    return torch.randn(batch, 3, 40, 56, dtype=dtype)


def score_for(family):
    """The default score, or the nearest one where attention and MLP run side by side."""
    return Shift("block") if family in PARALLEL else Shift()


def plan_for(family, drop=None):
    """Leave by share and by count, with a gap between."""
    return Plan({0: 0.3, 2: 4} if drop is None else drop, score_for(family))
