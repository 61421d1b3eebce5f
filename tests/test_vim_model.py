"""Vision Mamba against its reference, at its published sizes, and from its checkpoints."""

import argparse
import json

import pytest
import torch
from safetensors.torch import save_file

from repshift import InputError, Plan, compress
from repshift.evaluation.models.vim.checkpoint import load_vim, looks_like
from repshift.evaluation.models.vim.config import CONFIGS, VimConfig
from repshift.evaluation.models.vim.model import VisionMamba
from repshift.measure.flops import count_flops
from vim_models import CLASS_PLACE, FIXTURES, HELD, SMALL, WEIGHTS, vim

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
            WEIGHTS | {"pos_embed": torch.ones(1, 50, 48)},
            r"vim-fixture with 50 positions: 1 of another shape \(pos_embed\)$",
        ),
    ],
)
def test_a_wrong_file(tmp_path, small, content, message):
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError, match=f"w.pth is not vim-fixture; .*{message}"):
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
