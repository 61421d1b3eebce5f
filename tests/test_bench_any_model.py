"""``repshift.evaluation.bench``: what the command measures, of any model, from Python."""

import json
from importlib import import_module

import pytest
import torch
import transformers
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from models import build, images
from repshift import EncoderSpec, InputError, Plan, compress
from repshift.evaluation import bench
from repshift.evaluation.tasks.any_model import _grid

pytestmark = pytest.mark.usefixtures("quick", "unchecked")


def vit():
    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=3, num_attention_heads=2, intermediate_size=64,
        image_size=40, patch_size=8, num_labels=5,
    )  # fmt: skip
    return transformers.ViTForImageClassification(config).eval()


def test_rows_of_a_tensor_and_files_with_pictures(tmp_path):
    model, photos = build("deit"), images(6)
    truth = model(photos).argmax(1)
    plans = ["0:0.5", {1: 5}, Plan({2: 3})]
    done = bench(model, photos, plans=plans, methods=["tome"], labels=truth, out=tmp_path / "o")
    assert [(row.method, row.plan, row.tokens) for row in done.rows] == [
        ("dense, eager attention", "", 36),
        ("dense, fused attention", "", 36),
        ("tome", "0:0.5", 19),
        ("tome", "1:5", 31),
        ("tome", "2:3", 33),
    ]
    for row in done.rows:
        assert row.accuracy == row.fidelity  # the dense model's own answers are the labels
    with compress(model, Plan.from_method("tome", {0: 0.5})):
        same = (model(photos).argmax(1) == truth).double().mean().item()
    assert done.rows[2].fidelity == same
    written = json.loads((tmp_path / "o" / "bench.json").read_text())
    assert written == json.loads(json.dumps(done.to_dict()))
    assert written["environment"]["model"] == "VisionTransformer"
    # The plot, and for each of the plans six images.
    assert (tmp_path / "o" / "report.html").read_text().count("<img") == 1 + 3 * 6


def test_a_dataloader_and_a_model_of_transformers():
    model, photos = vit(), torch.randn(5, 3, 40, 40)
    truth = model(photos).logits.argmax(1)
    pairs = DataLoader(TensorDataset(photos, truth), batch_size=3)
    plan = {"plans": [{0: 6}], "methods": ["tome"], "batch_size": 2}
    done = bench(model, pairs, name="mine", **plan)
    assert done.title.startswith("mine, 5 images; batches of 2 on cpu")
    assert [(row.plan, row.tokens) for row in done.rows][2:] == [("32 pixels", 17), ("0:6", 20)]
    assert [row.accuracy for row in done.rows[:2]] == [1.0, 1.0]
    alone = bench(model, list(photos.split(4)), **plan)
    assert [row.fidelity for row in alone.rows] == [row.fidelity for row in done.rows]
    assert {row.accuracy for row in alone.rows} == {None}


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        layer = {"d_model": 8, "nhead": 2, "batch_first": True, "norm_first": True}
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(**layer) for _ in range(2))

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return x[:, 0]


def test_features_of_a_model_of_ones_own():
    model = Own().eval()
    spec = EncoderSpec(list(model.layers), [layer.norm2 for layer in model.layers], 1)
    done = bench(
        model, torch.randn(4, 9, 8), plans=[{0: 0.5}], methods=["random"], objective="cosine",
        spec=spec,
    )  # fmt: skip
    assert [row.tokens for row in done.rows] == [9, 9, 5]
    assert done.rows[2].kl is None
    assert 0 < done.rows[2].fidelity < 1
    assert "No row has a smaller input: its inputs are no images." in done.title


def test_a_stopped_bench_goes_on_with_what_it_has_judged(tmp_path, monkeypatch):
    model, photos = build("deit"), images(5)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    given = {"plans": [{0: 9}], "methods": ["random"], "batch_size": 2, "out": tmp_path}

    def judged(photos, stop):
        """How often the model ran before its costs were measured."""

        def measured(*_, **__):
            counted.append(len(calls))
            if stop:
                raise KeyboardInterrupt
            return measure(*_, **__)

        counted = []
        monkeypatch.setattr("repshift.evaluation.tasks.bench.measure_costs", measured)
        calls.clear()
        try:
            done = bench(model, photos, **given)
        except KeyboardInterrupt:
            done = None
        return counted[0], done

    measure = import_module("repshift.evaluation.tasks.bench").measure_costs
    first, _ = judged(photos, stop=True)
    again, _ = judged(photos, stop=True)
    runs = 2 + 5  # dense twice, five seeds
    assert first - again == 3 * runs
    other, _ = judged(torch.cat((photos[:4], photos[:1])), stop=True)
    assert other - again == runs  # of the one batch that is another
    last, done = judged(photos, stop=False)
    assert last == again
    assert {path.name for path in tmp_path.iterdir()} == {
        "bench.json", "bench.csv", "pareto.png", "report.html",
    }  # fmt: skip
    alone = bench(model, photos, **{**given, "out": None})
    assert [row.fidelity for row in done.rows] == [row.fidelity for row in alone.rows]


def test_code_of_the_same_weights_does_not_go_on(tmp_path, monkeypatch):
    model, photos = build("deit"), images(4)
    given = {"plans": [{0: 9}], "methods": ["tome"], "batch_size": 4}
    with monkeypatch.context() as patch:
        patch.setattr("repshift.evaluation.tasks.bench.measure_costs", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            bench(model, photos, **given, out=tmp_path)
    for block in model.blocks:
        block.mlp.act = nn.ReLU()
    done, alone = bench(model, photos, **given, out=tmp_path), bench(model, photos, **given)
    assert [row.kl for row in done.rows] == [row.kl for row in alone.rows]


def test_the_grid_of_an_image():
    assert _grid(35, 40, 56) == (5, 7)
    assert _grid(196, 224, 224) == (14, 14)
    assert _grid(36, 40, 56) == (0, 0)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": None}, "the model is a NoneType; pass a torch.nn.Module"),
        ({"model": build("deit").train()}, r"in training mode; call model.eval\(\) first"),
        ({"images": None}, "images is a NoneType; pass a tensor"),
        ({"images": iter([])}, "batches that can be read again, such as a DataLoader"),
        ({"images": []}, "there are no images"),
        ({"images": torch.zeros(0, 3, 40, 56)}, "there are no images"),
        ({"images": images(2)[0]}, r"not take the first image, as a batch \[1, 40, 56\]"),
        ({"images": [images(2)[0]]}, r"not take the first image, as a batch \[1, 40, 56\]"),
        ({"images": torch.zeros(2, 1, 40, 56)}, r"as a batch \[1, 1, 40, 56\].*3 channels"),
        ({"images": ["a.png"]}, r"a batch is a str; expected images \[B, C, H, W\]"),
        ({"labels": torch.zeros(3)}, "there are 2 images and 3 labels"),
        ({"images": [images(2)], "labels": torch.zeros(2)}, "batches bring their labels"),
        ({"labels": torch.zeros(2), "objective": "cosine"}, "labels are compared with logits"),
        ({"objective": "l2"}, "objective is 'l2'; expected kl or cosine"),
        ({"plans": ["dait"]}, "unknown plan 'dait'"),
        ({"plans": [{0: 35}]}, "drops 35 of the 35 patch tokens at block 0"),
        ({"methods": ["shuft"]}, "'shuft' is not one of"),
        ({"batch_size": 0}, "batch_size is 0; expected a whole number from 1 up"),
        ({"out": "/proc/o"}, "cannot write /proc/o/bench.json"),
    ],
)
def test_what_cannot_be_measured_is_one_clear_line(given, message):
    with pytest.raises(InputError, match=message):
        bench(**{"model": build("deit"), "images": images(2), "plans": [{0: 3}], **given})
