"""Checkpoints of timm models as people have them: what is wrong in one is named, not measured."""

import re
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image

from repshift import InputError
from repshift.evaluation.zoo.timm import load_timm

NAME = "test_vit"
FIRST, LATER = "blocks.1.mlp.fc1.weight", "blocks.2.mlp.fc1.bias"


@pytest.fixture(scope="module")
def weights():
    return timm.create_model(NAME, img_size=32, num_classes=3).state_dict()


def load(tmp_path, content):
    torch.save(content, tmp_path / "w.pth")
    return load_timm(NAME, tmp_path / "w.pth", False)


@pytest.mark.parametrize("positions", [2, 5, 10, 197])
def test_classes_and_image_size_are_read_off_the_tensors(tmp_path, weights, positions):
    table = torch.randn(1, positions, 64)
    model = load(tmp_path, weights | {"pos_embed": table})
    assert torch.equal(model.pos_embed, table)
    assert model.num_classes == 3
    assert model.patch_embed.img_size == (16 * round((positions - 1) ** 0.5),) * 2


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_are_none_are_named(tmp_path, weights, bad):
    changed = weights[FIRST].clone()
    changed[3, :7] = bad
    with pytest.raises(InputError) as caught:
        load(tmp_path, weights | {FIRST: changed, LATER: changed[:, 0]})
    size = changed.numel()
    assert f"tensor {FIRST} has 7 of {size} numbers that are NaN or infinite" in str(caught.value)


def test_half_precision_that_ran_over_is_named(tmp_path, weights):
    with pytest.raises(InputError, match=f"the tensor {FIRST} has .* NaN or infinite"):
        load(tmp_path, weights | {FIRST: (weights[FIRST] + 1e6).half()})


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int64, torch.bool, torch.cfloat])
def test_numbers_of_another_kind_are_not_cast(tmp_path, weights, dtype):
    kind = str(dtype).removeprefix("torch.")
    with pytest.raises(InputError, match=f"the tensor {FIRST} holds {kind} in place of float32;"):
        load(tmp_path, weights | {FIRST: (100 * weights[FIRST]).to(dtype)})


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_read(tmp_path, weights, dtype):
    model = load(tmp_path, {key: value.to(dtype) for key, value in weights.items()})
    found = model.state_dict()
    assert all(torch.equal(found[key], weights[key].to(dtype).float()) for key in weights)


@pytest.mark.parametrize("counted", [True, False])
def test_a_batch_counter_may_be_of_any_type_or_missing(tmp_path, counted):
    """A script that halves every tensor halves it too; weights of old versions have none."""
    state = timm.create_model("resnet18").state_dict()
    halved = {key: value.half() for key, value in state.items() if counted or "num_b" not in key}
    torch.save(halved, tmp_path / "w.pth")
    found = load_timm("resnet18", tmp_path / "w.pth", False).state_dict()
    assert torch.equal(found["conv1.weight"], state["conv1.weight"].half().float())


@pytest.mark.parametrize("shape", [(), (5,), (3, 3), (1, 0, 64), (1, 1, 64), (1, 4, 64),
                                   (1, 6, 64), (1, 8, 8, 64)])  # fmt: skip
def test_a_table_of_positions_of_no_shape_that_could_be(tmp_path, weights, shape):
    with pytest.raises(InputError, match=r"w.pth is not test_vit.*: 1 of another shape \(pos_emb"):
        load(tmp_path, weights | {"pos_embed": torch.zeros(shape)})


@pytest.mark.parametrize("shape", [(), (5,), (0, 64)])
def test_a_head_of_no_shape_that_could_be(tmp_path, weights, shape):
    with pytest.raises(InputError, match=r"w.pth is not test_vit: .*head.weight"):
        load(tmp_path, weights | {"head.weight": torch.zeros(shape)})


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({0: torch.zeros(1)}, "the value of 0 is of the type Tensor"),
        ({"model": {0: torch.zeros(1), "a": torch.zeros(1)}}, "the value of 0 is of the type"),
        ({"a": torch.zeros(1), ("b",): torch.zeros(1)}, "the value of ('b',) is of the type"),
        ({"head.bias": 0.5}, "the value of 'head.bias' is of the type float"),
        ({"head.bias": [0.5]}, "the value of 'head.bias' is of the type list"),
        ({"net": {"head.bias": torch.zeros(1)}}, "the value of 'net' is of the type dict"),
        ({"a": torch.zeros(1, device="meta")}, "the tensor a has no numbers"),
        ({"a": torch.zeros(3).to_sparse()}, "the tensor a is sparse"),
        ({"model": {}}, "does not hold the weights of a model"),
        ([torch.zeros(1)], "does not hold the weights of a model"),
        (torch.zeros(1), "does not hold the weights of a model"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor")
def test_what_holds_no_weights_is_one_clear_line(tmp_path, content, says):
    with pytest.raises(InputError) as caught:
        load(tmp_path, content)
    assert str(tmp_path / "w.pth") in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_random_weights_and_a_file_exclude_each_other():
    with pytest.raises(InputError, match="--random-weights and --checkpoint w.pth exclude each"):
        load_timm(NAME, Path("w.pth"), True)


@pytest.mark.parametrize("command", ["bench", "show", "search", "export"])
def test_every_command_refuses_weights_that_are_nan(run, tmp_path, weights, command):
    torch.save(weights | {FIRST: weights[FIRST] * float("nan")}, tmp_path / "nan.pth")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 40)).save(tmp_path / "photos" / "a.png")
    model = f"timm:{NAME}"
    arguments = {
        "bench": ["bench", "--model", model, "--images", "photos"],
        "show": ["show", "photos/a.png", "--model", model],
        "search": ["search", "--model", model, "--images", "photos", "--flops", "0.6"],
        "export": ["export", model],
    }[command]
    before = sorted(tmp_path.rglob("*"))
    status, _, err = run(*arguments, "--checkpoint", "nan.pth")
    assert status == 2
    assert f"nan.pth: the tensor {FIRST} has" in err
    assert sorted(tmp_path.rglob("*")) == before


@torch.no_grad()
@pytest.mark.parametrize("head", ["fc", "classifier", "head.fc"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.model."])
def test_what_wrappers_put_before_the_names_and_other_heads(tmp_path, weights, prefix, head):
    renamed = {prefix + re.sub(r"^head\.", f"{head}.", key): one for key, one in weights.items()}
    model = load(tmp_path, {"state_dict": renamed, "epoch": 1})
    found = model.state_dict()
    assert all(torch.equal(found[key], weights[key]) for key in weights)


def test_without_a_head_it_gives_features(tmp_path, weights):
    bare = {key: one for key, one in weights.items() if not key.startswith("head.")}
    model = load(tmp_path, bare | {"n_averaged": torch.tensor(3)})
    assert model.num_classes == 0
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 64)


@pytest.mark.parametrize("head", ["head", "fc"])
def test_a_model_that_timm_makes_without_a_head_gets_that_of_the_file(tmp_path, head):
    """As of DINOv2, which timm lists without classes."""
    name = "vit_small_patch14_dinov2"
    assert timm.create_model(name, img_size=28, depth=1).num_classes == 0
    trained = timm.create_model(name, img_size=28, depth=1, num_classes=3).state_dict()
    renamed = {re.sub(r"^head\.", f"{head}.", key): one for key, one in trained.items()}
    torch.save(renamed, tmp_path / "w.pth")
    model = load_timm(name, tmp_path / "w.pth", False, {"depth": 1})
    assert (model.num_classes, model.patch_embed.img_size) == (3, (28, 28))
    assert all(torch.equal(model.state_dict()[key], one) for key, one in trained.items())
    with pytest.raises(InputError, match="2 unknown"):
        load_timm(name, tmp_path / "w.pth", False, {"depth": 1, "num_classes": 0})


def test_a_fine_tune_on_the_mean_names_the_flag_that_it_needs(tmp_path):
    own = timm.create_model(NAME, img_size=32, num_classes=3, global_pool="avg")
    with pytest.raises(InputError) as caught:
        load(tmp_path, own.state_dict())
    said = str(caught.value)
    assert "2 missing (norm.bias, norm.weight); 2 unknown (fc_norm.bias, fc_norm.weight)" in said
    assert said.endswith("pass --model-args global_pool=avg")
    model = load_timm(NAME, tmp_path / "w.pth", False, {"global_pool": "avg"})
    assert torch.equal(model.fc_norm.weight, own.fc_norm.weight)
    assert (model.num_classes, model.patch_embed.img_size) == (3, (32, 32))


def test_settings_go_before_what_is_read_off(tmp_path, weights):
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"1 of another shape \(head.weight|2 of another shape"):
        load_timm(NAME, tmp_path / "w.pth", False, {"num_classes": 9})
    with pytest.raises(InputError, match="cannot be made with --model-args colour=red"):
        load_timm(NAME, None, True, {"colour": "red"})
