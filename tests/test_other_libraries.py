"""Vision towers of torchvision and open_clip, held to the masked dense model.

Both attend with nn.MultiheadAttention, whose dropped keys are hidden by its own mask.
"""

import math

import open_clip
import pytest
import torch
import torchvision
from open_clip.transformer import VisionTransformer
from torch import nn
from torch.nn import functional as F

from repshift import ClassAttention, InputError, Merge, Plan, Prune, Shift, ToMe, compress
from repshift.adapters import describe
from repshift.runtime.attention import AttentionRecorder, EagerAttention
from repshift.sequence.segments import Segments

pytestmark = pytest.mark.lowest


def open_clip_tower(**settings):
    return VisionTransformer(
        40,
        8,
        width=32,
        layers=4,
        heads=2,
        mlp_ratio=2.0,
        output_dim=7,
        **{"ls_init_value": 0.7, **settings},
    )


FAMILIES = {
    "torchvision ViT": lambda: torchvision.models.VisionTransformer(
        image_size=40,
        patch_size=8,
        num_layers=4,
        num_heads=2,
        hidden_dim=32,
        mlp_dim=64,
        num_classes=7,
    ),
    "open_clip, nn.MultiheadAttention": open_clip_tower,
    "open_clip, its own attention": lambda: open_clip_tower(block_type="custom", qk_norm=True),
    "open_clip, average pooling": lambda: open_clip_tower(
        pool_type="avg", final_ln_after_pool=True
    ),
    "open_clip, attention pooling": lambda: open_clip_tower(
        attentional_pool=True, attn_pooler_heads=1, attn_pooler_queries=3
    ),
}
each_family = pytest.mark.parametrize("family", FAMILIES)


def build(family, dtype=torch.float64):
    model = FAMILIES[family]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim < 2:
                parameter.add_(0.3 * torch.randn_like(parameter))
            else:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    return model.eval().to(dtype)


def images(batch=3, dtype=torch.float64):
    return torch.randn(batch, 3, 40, 40, dtype=dtype)


def hidden(model, photos, compression):
    """Every block's output of the dense model, later attention blind to what the plan dropped."""
    streams, spec = [], compression.spec
    dropped = torch.zeros(len(photos), 26, dtype=torch.bool)
    kept = [compression.kept_after(block) for block in range(len(spec.blocks))]
    fused, whole = F.scaled_dot_product_attention, F.multi_head_attention_forward

    def mask(heads):
        blind = torch.zeros(dropped.shape, dtype=photos.dtype).masked_fill(dropped, -math.inf)
        return blind[:, None, None].expand(-1, heads, 26, -1)

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **settings):
        if attn_mask is None and query.shape[2] == 26:
            attn_mask = mask(query.shape[1])
        return fused(query, key, value, attn_mask, **settings)

    def attend_projecting(query, key, value, width, heads, *rest, **settings):
        if query.shape[0] != 26:  # the pooling's own queries see the survivors alone
            return whole(query, key, value, width, heads, *rest, **settings)
        settings["attn_mask"] = mask(heads).flatten(0, 1)
        return whole(query, key, value, width, heads, *rest, **settings)

    def leave(block):
        def hook(module, args, output):
            streams.append(output)
            dropped.fill_(True).scatter_(1, kept[block], False)

        return hook

    hooks = [b.register_forward_hook(leave(index)) for index, b in enumerate(spec.blocks)]
    # The fast path of nn.MultiheadAttention calls neither function.
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(F, "scaled_dot_product_attention", attend)
        patch.setattr(F, "multi_head_attention_forward", attend_projecting)
        model(photos)
    torch.backends.mha.set_fastpath_enabled(fast)
    for hook in hooks:
        hook.remove()
    return streams


@each_family
@pytest.mark.parametrize("score", [Shift(), ClassAttention()], ids=str)
def test_dropping_equals_hiding(family, score):
    model, photos, left = build(family), images(), []
    with compress(model, Plan({0: 0.3, 1: 3}, score)) as compression, torch.no_grad():
        for block in compression.spec.blocks:
            block.register_forward_hook(lambda _, __, output: left.append(output))
        model(photos)
    assert compression.counts == [19, 16, 16, 16]
    for block, stream in enumerate(hidden(model, photos, compression)):
        at = compression.kept_after(block)[..., None].expand(-1, -1, 32)
        torch.testing.assert_close(left[block], stream.gather(1, at), atol=1e-9, rtol=0)


@each_family
@pytest.mark.parametrize("reduction", [Merge(), ToMe()], ids=str)
def test_merging(family, reduction):
    model, photos = build(family), images()
    with torch.no_grad():
        dense = model(photos)
        for drop in ({}, {1: 0}):
            with compress(model, Plan(drop, reduction=reduction)):
                assert torch.equal(model(photos), dense)
        with compress(model, Plan({0: 5, 2: 4}, reduction=reduction)) as compression:
            assert model(photos).isfinite().all()
        assert compression.counts == [21, 21, 17, 17]
        assert torch.equal(compression.sizes.sum(1), torch.full((3,), 26.0, dtype=torch.float64))


def test_average_pooling_weighs_merged_tokens_by_their_size():
    model, photos, left = build("open_clip, average pooling"), images(), []
    with compress(model, Plan({1: 9}, reduction=Merge())) as compression, torch.no_grad():
        model.transformer.resblocks[-1].register_forward_hook(lambda _, __, out: left.append(out))
        output = model(photos)
    sizes = compression.sizes[:, 1:, None]
    pooled = (left[0][:, 1:] * sizes).sum(1) / sizes.sum(1)
    torch.testing.assert_close(output, model.ln_post(pooled) @ model.proj)


@pytest.mark.parametrize("masked", [False, True])
def test_multihead_attention_weighs_keys_by_their_size(masked):
    layer, x = nn.MultiheadAttention(16, 2, batch_first=True).double().eval(), torch.randn(2, 5, 16)
    x, size = x.double(), torch.rand(2, 5, dtype=torch.float64) * 9 + 0.1
    mask = torch.randn(5, 5, dtype=torch.float64) if masked else None
    bias = (size.log()[:, None, None] + (0 if mask is None else mask)).expand(2, 2, 5, 5)
    with torch.no_grad():
        expected, _ = layer(x, x, x, attn_mask=bias.flatten(0, 1), average_attn_weights=False)
        free = layer(x, x, x, attn_mask=mask, average_attn_weights=False)[1]
        with AttentionRecorder({"attention", "keys"}, size, Segments(*size.shape)) as watch:
            found, weights = layer(x, x, x, attn_mask=mask, need_weights=False)
    assert weights is None
    assert watch.calls == 1
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(watch.map, free, atol=1e-12, rtol=0)
    key = F.linear(x, layer.in_proj_weight[16:32], layer.in_proj_bias[16:32])
    torch.testing.assert_close(watch.keys, key.unflatten(-1, (2, 8)).transpose(1, 2))


@each_family
def test_eager_attention_is_the_same_attention(family):
    model, photos = build(family), images()
    with torch.no_grad():
        expected = model(photos)
        with EagerAttention():
            torch.testing.assert_close(model(photos), expected)


def test_a_timm_tower_of_open_clip_is_its_trunk():
    model = open_clip.create_model("vit_medium_patch16_gap_256")
    assert describe(model.visual).blocks == list(model.visual.trunk.blocks)


REFUSED = {
    "torchvision Swin": (lambda: torchvision.models.swin_t(), "fixed windows"),
    "open_clip CLIP": (lambda: small_resnet_clip(), "compress its vision tower"),
    "open_clip ResNet": (
        lambda: small_resnet_clip().visual,
        "was not checked with this class",
    ),
    "open_clip, sequence first": (lambda: sequence_first(), r"take \[N, B, C\]"),
    "open_clip, average after its norm": (
        lambda: open_clip_tower(pool_type="avg"),
        "cannot be weighed by their size",
    ),
}


def small_resnet_clip():
    vision = open_clip.CLIPVisionCfg(layers=(1, 1, 1, 1), width=8, image_size=32)
    text = open_clip.CLIPTextCfg(width=8, heads=1, layers=1, vocab_size=16)
    return open_clip.CLIP(8, vision, text)


def sequence_first():
    model = open_clip_tower()
    model.transformer.batch_first = False
    return model


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_lose_tokens_is_refused_with_the_reason(name):
    make, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        describe(make())


@torch.no_grad()
@pytest.mark.parametrize("reduction", [Prune(), Merge(), ToMe()])
def test_a_batch_of_no_images_stays_empty(reduction):
    model = build("torchvision ViT")  # those of open_clip take none
    images = torch.randn(0, 3, 40, 40, dtype=torch.float64)
    dense = model(images)
    score = () if isinstance(reduction, ToMe) else (Shift(),)
    with compress(model, Plan({0: 5, 2: 5}, *score, reduction=reduction)) as compression:
        assert model(images).shape == dense.shape
    assert compression.counts[-1] == 16
    assert compression.kept.shape == compression.sizes.shape == (0, 16)
