"""Official checkpoints: every container is read, every wrong file refused with what it is."""

import sys
import types
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from repshift import InputError
from repshift.evaluation.models.umt.answering import AnsweringModel
from repshift.evaluation.models.umt.checkpoint import load_answering, load_retrieval, looks_like
from repshift.evaluation.models.umt.config import CONFIGS, UMTConfig
from repshift.evaluation.models.umt.retrieval import RetrievalModel
from umt_models import ANSWERING, RETRIEVAL, fixture

WEIGHTS, _ = fixture("umt_retrieval")
QA, _ = fixture("umt_qa")


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    for config in (RETRIEVAL, ANSWERING):
        monkeypatch.setitem(CONFIGS, config.name, config)


def same(model, weights):
    found = model.state_dict()
    assert found.keys() == weights.keys()
    return all(torch.equal(found[key], weights[key]) for key in weights)


def pretrained():
    """As stage 2 of pre-training leaves it."""
    renamed = {k.replace("text_encoder.", "text_encoder.bert."): v for k, v in WEIGHTS.items()}
    extra = (
        "clip_teacher.proj",
        "vision_encoder.clip_decoder.0.head.weight",
        "vision_encoder.clip_decoder.0.norm.bias",
        "text_encoder.cls.predictions.bias",
        "text_encoder.cls.predictions.decoder.weight",
    )
    return renamed | dict.fromkeys(extra, torch.zeros(3))


@pytest.mark.parametrize("form", ["bare", "model", "pretrained"])
def test_containers(tmp_path, form):
    content = {
        "bare": WEIGHTS,
        "model": {"model": WEIGHTS, "optimizer": {"state": {}}, "epoch": 3},
        "pretrained": {"model": pretrained()},
    }[form]
    torch.save(content, tmp_path / "ckpt.pth")
    assert same(load_retrieval("umt-small", tmp_path / "ckpt.pth"), WEIGHTS)


def test_safetensors_in_half_precision(tmp_path):
    half = {k: v.half() if v.is_floating_point() else v for k, v in WEIGHTS.items()}
    save_file(half, tmp_path / "w.safetensors")
    model = load_retrieval("umt-small", tmp_path / "w.safetensors", pool="all")
    assert model.vision_encoder.pool == "all"
    assert model.temp.dtype == torch.float32
    assert not model.training


@pytest.mark.parametrize("form", ["pytorch", "safetensors"])
def test_question_answering_stays_tied(tmp_path, form):
    path = tmp_path / f"qa.{form}"
    if form == "pytorch":
        torch.save({"model": QA}, path)
    else:  # which keeps one of two tied tensors
        tied = ("cls.predictions.bias", "bert.embeddings.word_embeddings.weight")
        save_file({k: v for k, v in QA.items() if not k.endswith(tied) or "_encoder" in k}, path)
    model = load_answering("umt-tiny", path)
    assert same(model, QA)
    decoder = model.text_decoder
    assert decoder.cls.predictions.decoder.weight is decoder.bert.embeddings.word_embeddings.weight


def test_the_settings_of_a_training_checkpoint_are_read_as_plain_values(tmp_path, monkeypatch):
    module = types.ModuleType("utils.easydict")

    class EasyDict(dict):
        def __init__(self, **values):
            super().__init__(values)
            self.__dict__.update(values)

    EasyDict.__module__, EasyDict.__qualname__ = "utils.easydict", "EasyDict"
    module.EasyDict = EasyDict
    monkeypatch.setitem(sys.modules, "utils", types.ModuleType("utils"))
    monkeypatch.setitem(sys.modules, "utils.easydict", module)
    config = EasyDict(lr=0.1, model=EasyDict(name="umt"))
    torch.save({"model": WEIGHTS, "config": config}, tmp_path / "ckpt.pth")
    assert same(load_retrieval("umt-small", tmp_path / "ckpt.pth"), WEIGHTS)


class Bomb:
    def __reduce__(self):
        return (print, ("unpickled!",))


def test_nothing_else_is_unpickled(tmp_path, capsys):
    torch.save({"model": WEIGHTS, "config": Bomb()}, tmp_path / "ckpt.pth")
    with pytest.raises(
        InputError, match="GLOBAL print was not an allowed global .*; if you trust it, save"
    ):
        load_retrieval("umt-small", tmp_path / "ckpt.pth")
    assert "unpickled" not in capsys.readouterr().out


PATCHES = "vision_encoder.encoder.patch_embed.proj.weight"
TEXT_MLP = "text_encoder.encoder.layer.0.intermediate.dense.weight"
POSITIONS = "text_encoder.embeddings.position_ids"
DEIT = {"cls_token": torch.ones(1), "blocks.0.attn.qkv.weight": torch.ones(1)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (QA, "is not umt-small for retrieval; it looks like umt-tiny for question answering"),
        (DEIT, "a vision transformer of timm, such as DeiT: 142 missing (itm_head.bias, "),
        (DEIT, "; 2 unknown (blocks.0.attn.qkv.weight, cls_token)"),
        ({"fc.weight": torch.ones(1)}, r"it looks like no UMT \(its first key is fc.weight\)"),
        ({"epoch": 3}, "does not hold the weights of a model"),
        ({}, "does not hold the weights of a model"),
        ([1, 2], "does not hold the weights of a model"),
        ({0: torch.ones(1)}, "tensors by name: the value of 0 is of the type Tensor"),
        (WEIGHTS | {"temp": 0.07}, "tensors by name: the value of 'temp' is of the type float"),
        (WEIGHTS | {PATCHES: torch.tensor(1.0)}, "1 of another shape (vision_encoder"),
        (WEIGHTS | {TEXT_MLP: torch.tensor(1.0)}, "1 of another shape (text_encoder"),
        (
            WEIGHTS | {"temp": torch.tensor(float("nan"))},
            "ckpt.pth: the tensor temp has 1 of 1 numbers that are NaN or infinite",
        ),
        (
            WEIGHTS | {PATCHES: WEIGHTS[PATCHES].to(torch.int8)},
            f"ckpt.pth: the tensor {PATCHES} holds int8 in place of float32; save the weights",
        ),
        (
            WEIGHTS | {POSITIONS: WEIGHTS[POSITIONS].half()},
            f"ckpt.pth: the tensor {POSITIONS} holds float32 in place of int64; save",
        ),
        (
            {k: v for k, v in WEIGHTS.items() if k != "temp"},
            r"it looks like umt-small for retrieval: 1 missing \(temp\)$",
        ),
        (
            WEIGHTS | {"text_proj.weight": torch.ones(9, 9)},
            r"1 of another shape \(text_proj.weight\)$",
        ),
    ],
)
def test_a_wrong_file_for_retrieval(tmp_path, content, message):
    torch.save(content, tmp_path / "ckpt.pth")
    pattern = message if "\\" in message else message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(InputError, match=pattern):
        load_retrieval("umt-small", tmp_path / "ckpt.pth")


def test_another_size(tmp_path):
    torch.save(WEIGHTS, tmp_path / "ckpt.pth")
    with pytest.raises(InputError, match="is not umt-b16 .* it looks like umt-small for retrieval"):
        load_retrieval("umt-b16", tmp_path / "ckpt.pth")


def test_a_retrieval_file_for_question_answering(tmp_path):
    torch.save(WEIGHTS, tmp_path / "ckpt.pth")
    with pytest.raises(InputError, match="not umt-tiny for question answering; it looks like umt-"):
        load_answering("umt-tiny", tmp_path / "ckpt.pth")


def test_a_head_that_does_not_share_its_words(tmp_path):
    key = "text_decoder.cls.predictions.decoder.weight"
    torch.save(QA | {key: QA[key] + 1}, tmp_path / "ckpt.pth")
    with pytest.raises(InputError, match="has two different tensors for"):
        load_answering("umt-tiny", tmp_path / "ckpt.pth")


def test_the_published_sizes_are_told_apart():
    key = "vision_encoder.encoder.patch_embed.proj.weight"
    for name in ("umt-b16", "umt-l16"):
        patches = torch.empty(UMTConfig.named(name).vision_width, 3, 1, 16, 16, device="meta")
        assert looks_like({key: patches, "itm_head.weight": patches}) == f"{name} for retrieval"
        assert looks_like({key: patches, "text_decoder.x": patches}).startswith(f"{name} for quest")
    odd = torch.empty(5, 3, 1, 16, 16, device="meta")
    assert looks_like({key: odd}) == "a UMT of width 5 for no task"


def narrower(config, ratio, make):
    """Random weights of that model with a text MLP of another width, and its configuration."""
    config = replace(config, name="umt-other", text_mlp_ratio=ratio)
    return config, make(config).state_dict()


@pytest.mark.parametrize(("ratio", "width"), [(2, 96), (2.5, 120), (100 / 48, 100)])
@pytest.mark.parametrize(
    ("base", "make", "load"),
    [
        (RETRIEVAL, RetrievalModel, load_retrieval),
        (ANSWERING, AnsweringModel, load_answering),
    ],
)
def test_the_text_mlp_may_have_another_width(tmp_path, base, make, load, ratio, width):
    config, weights = narrower(base, ratio, make)
    key = "text_encoder.encoder.layer.3.intermediate.dense.weight"
    assert weights[key].shape == (width, 48)
    torch.save(weights, tmp_path / "ckpt.pth")
    model = load(config, tmp_path / "ckpt.pth")
    assert same(model, weights)
    assert model.config == config
    with pytest.raises(
        InputError,
        match=rf"ckpt.pth has a text MLP {width} wide, .* of 192 .*text_mlp_ratio={width / 48:g}\)",
    ):
        load(base, tmp_path / "ckpt.pth")


def test_a_file_of_another_size_is_not_taken_for_one_of_another_ratio(tmp_path):
    config = replace(RETRIEVAL, text_depth=3)
    _, weights = narrower(config, 2, RetrievalModel)
    torch.save(weights, tmp_path / "ckpt.pth")
    with pytest.raises(InputError, match=r"is not umt-small .*: \d+ missing \(text_encoder"):
        load_retrieval("umt-small", tmp_path / "ckpt.pth")


@pytest.mark.parametrize("ratio", [0, -1, float("nan"), float("inf"), 0.001])
def test_a_ratio_that_gives_no_mlp_is_refused(ratio):
    with pytest.raises(InputError, match=f"umt-small: text_mlp_ratio is {ratio!r}; expected"):
        replace(RETRIEVAL, text_mlp_ratio=ratio)


def test_not_a_checkpoint(tmp_path):
    with pytest.raises(InputError, match="no.pth is not a file"):
        load_retrieval("umt-small", tmp_path / "no.pth")
    for name in ("text.pth", "text.safetensors"):
        (tmp_path / name).write_text("hello, this is a text and no checkpoint")
        with pytest.raises(InputError, match=f"{name} cannot be read: "):
            load_retrieval("umt-small", tmp_path / name)
    with pytest.raises(InputError, match="unknown UMT model 'umt-x'; there are umt-b16, umt-l16"):
        load_retrieval("umt-x", tmp_path / "text.pth")
