"""Vision Mamba against its reference, at its published sizes, and from its checkpoints."""

import argparse
import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from repshift import InputError, Plan, compress
from repshift.evaluation.models.vim.checkpoint import load_vim, looks_like
from repshift.evaluation.models.vim.config import CONFIGS, VimConfig
from repshift.evaluation.models.vim.model import VisionMamba
from repshift.measure.flops import count_flops
from vim_models import CLASS_PLACE, FIXTURES, HELD, SMALL, WEIGHTS, overlapping, vim

KEYS = json.loads((FIXTURES / "vim_keys.json").read_text())


def on_meta(name):
    with torch.device("meta"):
        return VisionMamba(VimConfig.named(name)).eval()


def close(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=1e-5, check_dtype=False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_model_is_that_of_the_reference(dtype):
    model, seen = vim(dtype), {}
    for number, block in enumerate(model.layers):
        for name, part in (("residual", block), ("normed", block.mixer)):
            key = f"output.layer{number}.{name}"
            part.register_forward_pre_hook(lambda _, args, key=key: seen.update({key: args[0]}))
        block.mixer.register_forward_hook(
            lambda _, __, out, key=f"output.layer{number}.hidden": seen.update({key: out})
        )
    images = HELD["input.image"].to(dtype)
    seen["output.logits"] = model(images)
    seen["output.tokens_in"] = seen["output.layer0.residual"]
    seen["output.cls_feature"] = model.forward_features(images)[:, CLASS_PLACE]
    seen["output.eps_probe.layer0_norm"] = model.layers[0].norm(HELD["input.eps_probe"].to(dtype))
    assert seen.keys() == {key for key in HELD if key.startswith("output.")}
    for key, found in seen.items():
        close(found, HELD[key], 4e-5)


def test_half_precision_keeps_the_stream_in_float32():
    model, streams = vim().bfloat16(), []
    model.layers[2].register_forward_pre_hook(lambda _, args: streams.append(args[0].dtype))
    logits = model(HELD["input.image"].bfloat16())
    assert streams == [torch.float32]
    assert logits.dtype == torch.bfloat16
    close(logits, HELD["output.logits"], 0.1)


def test_every_weight_gets_a_gradient():
    model = VisionMamba(SMALL)
    model(HELD["input.image"]).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.parameters())


@pytest.mark.parametrize(("name", "count"), [("vim-tiny", 7_148_008), ("vim-small", 25_796_584)])
def test_the_weights_are_those_of_the_reference(name, count):
    found = {key: list(value.shape) for key, value in on_meta(name).state_dict().items()}
    layers = {k: v for k, v in KEYS[name].items() if "{0-23}" in k}
    expected = {k: v for k, v in KEYS[name].items() if k not in layers}
    for number in range(24):
        expected |= {k.replace("{0-23}", str(number)): v for k, v in layers.items()}
    assert found == expected
    assert len(found) == 415
    assert sum(parameter.numel() for parameter in on_meta(name).parameters()) == count


def test_the_cost_is_that_of_the_paper():
    model, image = on_meta("vim-tiny"), torch.empty(1, 3, 224, 224, device="meta")
    assert count_flops(lambda: model(image))[0] / 1e9 == pytest.approx(1.5, abs=0.05)
    with compress(model, Plan.paper("vim")) as compression:
        cost, _ = count_flops(lambda: model(image))
    assert cost / 1e9 == pytest.approx(1.28, rel=0.02)
    assert compression.counts[8:20] == [197, *[158] * 10, 127]


def test_the_published_models_with_overlapping_patches_have_27_by_27():
    with torch.device("meta"):
        model = VisionMamba(replace(VimConfig.named("vim-tiny"), stride=8))
    assert model.patch_embed.grid_size == (27, 27)
    assert model.class_place == 364
    expected = {k: v.shape for k, v in on_meta("vim-tiny").state_dict().items()}
    expected["pos_embed"] = (1, 730, 192)
    assert {k: v.shape for k, v in model.state_dict().items()} == expected


def test_overlapping_patches_are_those_every_stride_pixels():
    model, image = overlapping(torch.float64), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    seen = []
    model.layers[0].register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    model(image)
    proj, places = model.patch_embed.proj, model.pos_embed[0]
    rows = [image[0, :, y : y + 16, x : x + 16] for y in range(0, 49, 8) for x in range(0, 49, 8)]
    patches = [(proj.weight * patch).sum((1, 2, 3)) + proj.bias for patch in rows]
    expected = torch.stack([*patches[:24], model.cls_token[0, 0], *patches[24:]]) + places
    torch.testing.assert_close(seen[0], expected)
    tokens = model.forward_features(image)
    torch.testing.assert_close(model(image), model.head(tokens[:, 24]))


@pytest.mark.parametrize("stride", [0, -1, 17])
def test_a_stride_that_leaves_out_pixels_is_refused(stride):
    with pytest.raises(InputError, match=f"vim-fixture: the stride is {stride}; expected 1 to 16"):
        replace(SMALL, stride=stride)


@pytest.mark.parametrize(("image", "patch"), [(8, 16), (64, 0)])
def test_an_image_without_a_patch_is_refused(image, patch):
    with pytest.raises(InputError, match=f"{image} pixels a side hold no patch of {patch}"):
        replace(SMALL, image=image, patch=patch)


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setitem(CONFIGS, SMALL.name, SMALL)
    return SMALL.name


@pytest.mark.parametrize("form", ["bare", "trainer", "safetensors"])
def test_containers(tmp_path, small, form):
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file({key: value.half() for key, value in WEIGHTS.items()}, path)
    elif form == "trainer":
        settings = argparse.Namespace(lr=1e-3, output_dir="x")
        torch.save({"model": WEIGHTS, "model_ema": {}, "epoch": 1, "args": settings}, path)
    else:
        torch.save(WEIGHTS, path)
    model = load_vim(small, path)
    assert not model.training
    halved = form == "safetensors"
    close(model(HELD["input.image"]), HELD["output.logits"], 5e-3 if halved else 1e-5)


def with_positions(count):
    return WEIGHTS | {"pos_embed": torch.ones(1, count, 48)}


@pytest.mark.parametrize("asked", [None, 8])
def test_the_stride_is_found_from_the_positions(tmp_path, small, asked):
    model, path = overlapping(), tmp_path / "w.pth"
    torch.save({"model": model.state_dict()}, path)
    loaded = load_vim(small, path, stride=asked)
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(loaded(images), model(images))
    assert torch.equal(load_vim(replace(SMALL, stride=8), path)(images), model(images))


def test_a_stride_that_the_positions_do_not_tell_is_asked_for(tmp_path, small):
    path = tmp_path / "w.pth"
    torch.save(with_positions(26), path)
    odd = replace(SMALL, image=63)
    with pytest.raises(
        InputError, match="w.pth has 5 x 5 patches, as strides 10 and 11 give; pass stride="
    ):
        load_vim(odd, path)
    model = load_vim(odd, path, stride=11)
    assert model.patch_embed.proj.stride == (11, 11)
    assert model.patch_embed.grid_size == (5, 5)
    # Of 10, 11 and 12 the last leaves no pixels out.
    assert load_vim(small, path).patch_embed.proj.stride == (12, 12)
    # The sizes' own stride is taken where it fits: 13 to 16 give as many.
    torch.save(WEIGHTS, path)
    assert load_vim(small, path).patch_embed.proj.stride == (16, 16)


@pytest.mark.parametrize(
    ("positions", "stride", "message"),
    [
        (50, 16, r"vim-fixture with stride 16 \(17 positions\); it .* vim-fixture with 50 pos"),
        (17, 8, r"vim-fixture with stride 8 \(50 positions\); it .* vim-fixture with 17 pos"),
        (50, 9, r"vim-fixture with stride 9 \(37 positions\); it .* 1 of another shape \(pos_em"),
        (50, 17, "the stride is 17; expected 1 to 16"),
    ],
)
def test_a_stride_that_does_not_fit(tmp_path, small, positions, stride, message):
    torch.save(with_positions(positions), tmp_path / "w.pth")
    with pytest.raises(InputError, match=message):
        load_vim(small, tmp_path / "w.pth", stride=stride)
    if stride < 17:
        with pytest.raises(InputError, match=message):
            load_vim(replace(SMALL, stride=stride), tmp_path / "w.pth")


@pytest.mark.parametrize("table", [torch.ones(1), torch.ones(1, 0, 48), torch.ones(1, 1, 48)])
def test_a_position_table_of_no_patches(tmp_path, small, table):
    torch.save(WEIGHTS | {"pos_embed": table}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"1 of another shape \(pos_embed\)"):
        load_vim(small, tmp_path / "w.pth")


DEIT = {"blocks.0.attn.qkv.weight": torch.ones(1), "cls_token": torch.ones(1)}
MAMBA = {"backbone.layers.0.mixer.in_proj.weight": torch.ones(2, 2)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (DEIT, "it looks like a vision transformer of timm"),
        (MAMBA, "it looks like a Mamba language model: 75 missing"),
        ({"fc.weight": torch.ones(1)}, r"it looks like no Vim \(its first key is fc.weight\)"),
        ({k: v for k, v in WEIGHTS.items() if k != "head.bias"}, r": 1 missing \(head.bias\)$"),
        (WEIGHTS | {"rope.freqs": torch.ones(1)}, r": 1 unknown \(rope.freqs\)$"),
        (
            WEIGHTS | {"pos_embed": torch.ones(1, 51, 48)},
            r"vim-fixture with 51 positions: 1 of another shape \(pos_embed\)$",
        ),
        (
            WEIGHTS | {"pos_embed": torch.ones(9)},
            r"vim-fixture with 0 positions: 1 of another shape \(pos_embed\)$",
        ),
        (
            WEIGHTS | {"layers.0.mixer.in_proj.weight": torch.ones(9)},
            r"a Mamba language model: 1 of another shape \(layers.0.mixer.in_proj.weight\)$",
        ),
    ],
)
def test_a_wrong_file(tmp_path, small, content, message):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=f"w.pth is not vim-fixture; .*{message}"):
        load_vim(small, tmp_path / "w.pth")


def test_weights_that_are_no_numbers_are_named(tmp_path, small):
    key = "layers.1.mixer.A_log"
    torch.save(
        WEIGHTS | {key: WEIGHTS[key].clone().fill_diagonal_(float("nan"))}, tmp_path / "w.pth"
    )
    with pytest.raises(InputError, match=rf"w.pth: the tensor {key} has \d+ of \d+ numbers that"):
        load_vim(small, tmp_path / "w.pth")


def test_other_sizes_are_told_apart(tmp_path):
    torch.save(WEIGHTS, tmp_path / "w.pth")
    with pytest.raises(InputError, match="is not vim-tiny; it looks like a Vim of width 48"):
        load_vim("vim-tiny", tmp_path / "w.pth")
    for name in CONFIGS:
        assert looks_like(on_meta(name).state_dict()) == f"{name} with 197 positions"
    with pytest.raises(InputError, match="unknown Vim model 'vim-x'; there are vim-tiny, vim-sm"):
        load_vim("vim-x", tmp_path / "w.pth")


def test_a_damaged_file(tmp_path):
    (tmp_path / "text.pth").write_text("hello, this is a text and no checkpoint")
    with pytest.raises(InputError, match="text.pth cannot be read: "):
        load_vim("vim-tiny", tmp_path / "text.pth")
