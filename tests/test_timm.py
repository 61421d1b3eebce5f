"""Which of timm's models are taken, and what is said of the others."""

from unittest import mock

import pytest
import timm
import torch
from timm.layers import Attention, AttentionPoolLatent
from timm.models.vision_transformer import Block, VisionTransformer
from torch import nn

from models import build, images
from repshift import InputError
from repshift.adapters import describe

# The prefix tokens of each, and whether the first is a class token.
TAKEN = {
    "deit_tiny_patch16_224": (1, True),
    "deit_small_distilled_patch16_224": (2, True),
    "deit3_small_patch16_224": (1, True),
    "vit_tiny_patch16_224": (1, True),
    "vit_base_patch16_gap_224": (0, False),
    "vit_base_patch32_clip_224": (1, True),
    "vit_base_patch16_siglip_224": (0, False),
    "vit_base_patch16_siglip_gap_224": (0, False),
    "vit_small_patch14_dinov2": (1, True),
    "vit_small_patch14_reg4_dinov2": (5, True),
    "vit_medium_patch16_reg4_gap_256": (4, False),
    "vit_wee_patch16_reg1_gap_256": (1, False),
    "vit_pwee_patch16_reg1_gap_256": (1, False),
    "vit_dpwee_patch16_reg1_gap_256": (1, False),
    "vit_base_patch16_rpn_224": (0, False),
    "vit_base_patch16_xp_224": (1, True),
    "vit_small_patch16_18x2_224": (1, True),
    "vit_base_r26_s32_224": (1, True),
    "vit_base_mci_224": (1, True),
    "flexivit_small": (1, True),
    "vit_base_patch16_radio_v3": (8, True),
    "aimv2_large_patch14_224": (0, False),
    "beit3_base_patch16_224": (1, True),
    "test_vit": (1, True),
    "eva02_tiny_patch14_224": (1, True),
    "eva_large_patch14_196": (1, True),
    "vit_small_patch16_dinov3": (5, True),
    "vit_small_patch16_lingbot": (5, True),
    "vit_small_patch16_rope_224": (1, True),
    "vit_small_patch16_rope_mixed_ape_224": (1, True),
    "vit_medium_patch16_rope_reg1_gap_256": (1, False),
    "vit_base_patch16_sapiens2": (9, True),
    "vit_pe_core_tiny_patch16_384": (1, True),
    "vit_pe_spatial_tiny_patch16_512": (1, True),
}
WINDOWS, POOLED, RELATIVE = "inside fixed windows", "pools its tokens", "relative-position bias"
UNREAD = "was not checked with this class or its parts"
REFUSED = {
    "beit_base_patch16_224": RELATIVE,
    "beitv2_base_patch16_224": RELATIVE,
    "vit_relpos_small_patch16_224": RELATIVE,
    "vit_srelpos_small_patch16_224": RELATIVE,
    "samvit_base_patch16": "attends in windows",
    "swin_tiny_patch4_window7_224": WINDOWS,
    "swinv2_tiny_window8_256": WINDOWS,
    "swinv2_cr_tiny_224": WINDOWS,
    "davit_tiny": WINDOWS,
    "maxvit_tiny_tf_224": WINDOWS,
    "gcvit_xxtiny": WINDOWS,
    "nest_tiny": WINDOWS,
    "mvitv2_tiny": POOLED,
    "hiera_tiny_224": POOLED,
    "sam2_hiera_tiny": POOLED,
    "pvt_v2_b0": POOLED,
    "twins_svt_small": POOLED,
    "pit_ti_224": POOLED,
    "levit_128s": POOLED,
    "levit_256d": POOLED,
    "naflexvit_base_patch16_gap": "packs images of several sizes",
    "xcit_nano_12_p16_224": UNREAD,
    "cait_xxs24_224": UNREAD,
    "tnt_s_patch16_224": UNREAD,
    "crossvit_tiny_240": UNREAD,
    "mixer_s32_224": UNREAD,
    "convnext_atto": UNREAD,
}


def on_meta(name):
    drawing = mock.patch("timm.layers.weight_init._trunc_normal_")  # there is nothing to draw
    with torch.device("meta"), drawing:
        return timm.create_model(name)


@pytest.mark.parametrize("name", TAKEN)
def test_plain_and_rotary_transformers_are_taken(name):
    model = on_meta(name)
    spec = describe(model)
    assert (spec.prefix_tokens, spec.class_token) == TAKEN[name]
    assert list(spec.blocks) == list(model.blocks)


@pytest.mark.parametrize("name", REFUSED)
def test_the_others_are_refused_with_the_reason_and_what_would_work(name):
    model = on_meta(name)
    with pytest.raises(InputError, match=REFUSED[name]) as refusal:
        describe(model)
    assert type(model).__name__ in str(refusal.value)
    assert "Use a plain ViT, such as deit_small_patch16_224" in str(refusal.value)


@pytest.mark.slow
def test_every_model_of_timm_is_taken_or_refused():
    taken = set()
    for name in timm.list_models():
        model = on_meta(name)
        try:
            spec = describe(model)
        except InputError:
            continue
        assert len(spec.blocks) == len(model.blocks)
        taken.add(type(model).__name__)
    assert taken == {"VisionTransformer", "VisionTransformerDistilled", "Eva"}


class Renamed(VisionTransformer):
    pass


class OwnFeatures(VisionTransformer):
    def forward_features(self, x, attn_mask=None, is_causal=False):
        return super().forward_features(x.flip(-1), attn_mask, is_causal)


class OwnPool(VisionTransformer):
    def pool(self, x, pool_type=None):
        return x.unflatten(1, (2, -1)).amax(2).mean(1)


class OwnBlock(Block):
    def forward(self, x, attn_mask=None, is_causal=False):
        return super().forward(x.roll(1, dims=1), attn_mask, is_causal)


class ShiftingAttention(Attention):
    def forward(self, x, attn_mask=None, is_causal=False):
        return super().forward(x.roll(1, dims=1), attn_mask, is_causal)


SMALL = {"img_size": 32, "embed_dim": 16, "depth": 2, "num_heads": 2}


def test_a_variant_that_changes_no_step_is_taken_by_its_structure():
    assert len(describe(Renamed(**SMALL)).blocks) == 2


@pytest.mark.parametrize(
    "model",
    [
        OwnFeatures(**SMALL),
        OwnPool(**SMALL),
        VisionTransformer(**SMALL, block_fn=OwnBlock),
        VisionTransformer(**SMALL, attn_layer=ShiftingAttention),
    ],
    ids=["forward_features", "pool", "block", "attention"],
)
def test_a_variant_with_a_step_of_its_own_is_refused(model):
    with pytest.raises(InputError, match=UNREAD):
        describe(model)


def test_a_single_foreign_block_is_enough_to_refuse():
    model = VisionTransformer(**SMALL)
    model.blocks[1] = nn.Identity()
    with pytest.raises(InputError, match=UNREAD):
        describe(model)


def test_pooling_with_fixed_positions_is_refused():
    model = build("siglip")
    model.attn_pool = AttentionPoolLatent(32, num_heads=2, pos_embed="abs", feat_size=35)
    assert model(images()).shape == (3, 7)
    with pytest.raises(InputError, match="its pooling has fixed positions"):
        describe(model)


def test_a_feature_pyramid_over_a_vit_is_refused():
    model = timm.create_model("test_vit", features_only=True)
    with pytest.raises(InputError, match=UNREAD):
        describe(model)
