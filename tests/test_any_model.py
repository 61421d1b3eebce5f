"""Any model by its name: each library's own transform, weights and output; refusals in one line."""

import json

import numpy as np
import open_clip
import pytest
import timm
import torch
import torchvision
import transformers
from PIL import Image

from repshift import InputError, Plan, compress, resize_images, resized
from repshift.evaluation.zoo.load import load_model

pytestmark = pytest.mark.lowest

SMALL = {
    "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64,
    "image_size": 32, "patch_size": 8,
}  # fmt: skip
SIZE = {"height": 32, "width": 32}
OWN = """
import timm
from torchvision import transforms as t

def make(num_classes=5):
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, depth=4, num_classes=num_classes)
    return model.eval(), t.Compose([t.Resize((32, 32)), t.ToTensor(), t.Normalize([0.1], [0.2])])

def number():
    return 3

def needs(size):
    return number()
"""


def photo():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def save_vit(folder, kind="ViTForImageClassification", processor=True, **settings):
    config = transformers.ViTConfig(**SMALL, num_labels=3, **settings)
    model = getattr(transformers, kind)(config).eval()
    model.save_pretrained(folder)
    if processor:
        own = {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.5, 0.4, 0.6], "resample": 2}
        transformers.ViTImageProcessor(size=SIZE, **own).save_pretrained(folder)
    return model


def read(model, folder, **settings):
    """The model as its library reads it: mapped weights lie at other addresses than drawn ones,
    which changes the last bit of a matrix product on some processors."""
    return type(model).from_pretrained(folder, **settings).eval()


@torch.no_grad()
def test_a_classifier_of_transformers_is_fed_by_its_own_processor(tmp_path):
    model = read(save_vit(tmp_path), tmp_path)
    loaded = load_model(f"hf:{tmp_path}")
    own = transformers.AutoImageProcessor.from_pretrained(tmp_path)
    pixels = own(images=photo(), return_tensors="pt")["pixel_values"]
    assert torch.equal(loaded.prepare(photo())[None], pixels)
    assert torch.equal(loaded.model(pixels), model(pixels).logits)
    assert (loaded.classes, loaded.grid, loaded.mean) == (3, (4, 4), (0.1, 0.2, 0.3))
    with compress(loaded.model, Plan({0: 0.5})) as compression:
        loaded.model(pixels)
    assert compression.counts == [9] * 4


@torch.no_grad()
def test_the_vision_part_of_a_clip_gives_its_embedding(tmp_path):
    text = {"vocab_size": 9, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1}
    vision = SMALL | {"projection_dim": 6}
    config = transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=6)
    whole = transformers.CLIPModel(config).eval()
    whole.save_pretrained(tmp_path)
    transformers.CLIPImageProcessor(size=SIZE, crop_size=SIZE).save_pretrained(tmp_path)
    loaded = load_model(f"hf:{tmp_path}")
    pixels = loaded.prepare(photo())[None]
    vision = whole.vision_model(pixel_values=pixels).pooler_output
    assert torch.allclose(loaded.model(pixels), whole.visual_projection(vision), atol=1e-6)
    assert (loaded.classes, loaded.grid) == (0, (4, 4))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["Dinov2", "Dinov2WithRegisters", "Siglip"])
def test_features_of_a_backbone(tmp_path, kind):
    if kind == "Siglip":
        config = transformers.SiglipVisionConfig(**SMALL)
        model = transformers.SiglipVisionModel(config)
    else:
        config = getattr(transformers, f"{kind}Config")(**SMALL)
        model = getattr(transformers, f"{kind}Model")(config)
    model.eval().save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size=SIZE).save_pretrained(tmp_path)
    loaded, model = load_model(f"hf:{tmp_path}"), read(model, tmp_path)
    pixels = loaded.prepare(photo())[None]
    assert torch.equal(loaded.model(pixels), model(pixels).pooler_output)
    small = loaded.at(16)
    images = resize_images(pixels, 16)
    asked = {} if "Dino" in kind else {"interpolate_pos_encoding": True}
    assert torch.equal(small.model(images), model(images, **asked).pooler_output)
    assert small.grid == (2, 2)


@torch.no_grad()
def test_a_pooler_that_was_never_trained_is_not_drawn_anew(tmp_path):
    config = transformers.ViTConfig(**SMALL)
    model = transformers.ViTModel(config, add_pooling_layer=False).eval()
    model.save_pretrained(tmp_path)
    transformers.ViTImageProcessor(size=SIZE).save_pretrained(tmp_path)
    loaded, model = load_model(f"hf:{tmp_path}"), read(model, tmp_path, add_pooling_layer=False)
    pixels = loaded.prepare(photo())[None]
    assert torch.equal(loaded.model(pixels), model(pixels).last_hidden_state[:, 0])


def test_weights_that_are_missing_are_named(tmp_path):
    save_vit(tmp_path, "ViTModel")
    file = tmp_path / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"architectures": ["ViTForImageClassification"]}))
    with pytest.raises(InputError, match=r"do not fill a ViTForImage.*2 missing \(classifier.bias"):
        load_model(f"hf:{tmp_path}")
    assert load_model(f"hf:{tmp_path}", random_weights=True).classes == 3


def test_what_the_commands_cannot_feed_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # spares its retries
    transformers.BertConfig().save_pretrained(tmp_path / "text")
    transformers.LlavaConfig().save_pretrained(tmp_path / "speaking")
    save_vit(tmp_path / "bare", processor=False)
    for name, says in (
        (f"hf:{tmp_path}/text", "reads text, and this command feeds images"),
        (f"hf:{tmp_path}/speaking", "is a vision-language model.*--prompt"),
        (f"hf:{tmp_path}/bare", "cannot be loaded"),
        ("hf:google/no-such-model", "cannot be loaded, from the local cache or the hub"),
        ("timm:hf-hub:timm/no-such-model", "cannot be loaded, from the local cache or the hub"),
        ("timm:no_such", "timm has no model 'no_such'"),
        ("open_clip:ViT-B-3", r"no model 'ViT-B-3'; did you mean open_clip:ViT-B-32"),
        ("open_clip:ViT-B-32", "needs weights: /PRETRAINED is one of openai, "),
        ("open_clip:ViT-B-32/nothing", "needs weights: /PRETRAINED is one of openai, "),
        ("torchvision:vit_b_1", r"no model 'vit_b_1'; did you mean torchvision:vit_b_1"),
        ("torchvision:raft_small", "does not classify single images"),
        ("no_such_module:make", "--model no_such_module: there is no such module"),
        ("nothing", "unknown model 'nothing'.*open_clip:NAME/PRETRAINED"),
    ):
        with pytest.raises(InputError, match=says) as caught:
            load_model(name)
        assert "\n" not in str(caught.value)


@torch.no_grad()
def test_open_clip_reads_a_whole_checkpoint_and_feeds_its_tower(tmp_path):
    small = {"vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "patch_size": 8}}
    name = "small-for-tests"
    (tmp_path / f"{name}.json").write_text(json.dumps({
        "embed_dim": 6, **small, "text_cfg": {"width": 16, "heads": 1, "layers": 1},
    }))  # fmt: skip
    open_clip.add_model_config(tmp_path / f"{name}.json")
    whole, _, transform = open_clip.create_model_and_transforms(name)
    state = {f"module.{key}": value for key, value in whole.state_dict().items()}
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "w.pt")
    loaded = load_model(f"open_clip:{name}", tmp_path / "w.pt")
    pixels = loaded.prepare(photo())[None]
    assert torch.equal(pixels[0], transform(photo()))
    assert torch.equal(loaded.model(pixels), whole.eval().encode_image(pixels))
    assert (loaded.classes, loaded.grid) == (0, (4, 4))
    # Smaller images, as open_clip itself makes such a model of the same weights.
    own = open_clip.create_model(name, force_image_size=16).eval()
    weights = dict(whole.state_dict())
    open_clip.model.resize_pos_embed(weights, own)
    own.load_state_dict(weights)
    images = torch.randn(2, 3, 16, 16)
    twin = resized(loaded.model, 16)
    assert torch.equal(twin(images), own.encode_image(images))
    assert loaded.model(pixels).shape == (1, 6)  # as it was
    shared = {id(parameter) for parameter in loaded.model.parameters()}
    moved = [key for key, value in twin.named_parameters() if id(value) not in shared]
    assert moved == ["positional_embedding"]
    with compress(twin, Plan({0: 2}, input_size=16)) as compression:
        twin(images)
    assert compression.counts == [3, 3, 3]


@torch.no_grad()
def test_torchvision_reads_a_file_of_another_size_and_crops_by_its_own_transform(
    tmp_path, monkeypatch
):
    from torchvision.models import vision_transformer

    whole = vision_transformer._vision_transformer
    monkeypatch.setattr(  # of its 12 layers each is like the first
        vision_transformer,
        "_vision_transformer",
        lambda **settings: whole(**{**settings, "num_layers": 2}),
    )

    model = torchvision.models.vit_b_32(image_size=96, num_classes=4).eval()
    torch.nn.init.normal_(model.heads.head.weight)
    torch.save({"model": model.state_dict()}, tmp_path / "w.pt")
    loaded = load_model("torchvision:vit_b_32", tmp_path / "w.pt")
    pixels = loaded.prepare(photo())[None]
    assert pixels.shape == (1, 3, 96, 96)
    assert torch.equal(loaded.model(pixels), model(pixels))
    assert (loaded.classes, loaded.grid) == (4, (3, 3))
    own = torchvision.models.vit_b_32(image_size=64, num_classes=4).eval()
    own.load_state_dict(vision_transformer.interpolate_embeddings(64, 32, model.state_dict()))
    images = resize_images(pixels, 64)
    assert torch.equal(loaded.at(64).model(images), own(images))
    resnet = load_model("torchvision:resnet18", random_weights=True)
    assert (resnet.plan, resnet.classes) == ("resnet", 1000)
    expected = torchvision.models.ResNet18_Weights.DEFAULT.transforms()(photo())
    assert torch.equal(resnet.prepare(photo()), expected)


@torch.no_grad()
def test_a_folder_of_timm(tmp_path):
    model = timm.create_model("vit_tiny_patch16_224", img_size=32, num_classes=3).eval()
    timm.models.save_for_hf(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["model_args"] = {"img_size": 32}
    config["pretrained_cfg"]["mean"] = [0.1, 0.2, 0.3]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = load_model(f"timm:local-dir:{tmp_path}")
    pixels = loaded.prepare(photo())[None]
    assert torch.equal(loaded.model(pixels), model(pixels))
    assert loaded.mean == (0.1, 0.2, 0.3)


@torch.no_grad()
def test_a_function_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "my_zoo.py").write_text(OWN)
    loaded = load_model(f"{tmp_path}/my_zoo.py:make", settings={"num_classes": 7})
    pixels = loaded.prepare(photo())[None]
    assert loaded.model(pixels).shape == (1, 7)
    assert (loaded.classes, loaded.grid) == (7, (2, 2))
    assert (loaded.mean, loaded.std) == ((0.1,), (0.2,))
    monkeypatch.syspath_prepend(tmp_path)
    assert load_model("my_zoo:make").classes == 5
    state = loaded.model.state_dict()
    torch.save({"state_dict": {f"model.{key}": one for key, one in state.items()}}, tmp_path / "w")
    filled = load_model("my_zoo:make", tmp_path / "w", settings={"num_classes": 7})
    assert torch.equal(filled.model(pixels), loaded.model(pixels))
    for name, settings, says in (
        ("my_zoo:none", {}, "my_zoo has no function none"),
        ("my_zoo.py", {}, "my_zoo.py:FUNCTION"),
        ("my_zoo:number", {}, "returned int; expected a model"),
        ("my_zoo:make", {"size": 3}, "cannot be made with --model-args size=3"),
        ("my_zoo:needs", {}, r"missing .*: 'size'; --model-args are those of needs\(size\)"),
    ):
        with pytest.raises(InputError, match=says):
            load_model(name, settings=settings)


def test_the_commands_take_them_all(run, photos, tmp_path):
    save_vit(tmp_path / "vit")
    (tmp_path / "own_zoo.py").write_text(OWN)
    for name in (f"hf:{tmp_path}/vit", "own_zoo.py:make"):
        status, out, err = run(
            "show", photos / "0.png", "--model", name, "--plan", "0:0.5", "--out", "a.png"
        )
        assert (status, out.strip()) == (0, "a.png"), err
    status, _, err = run(
        "bench", "--model", f"hf:{tmp_path}/vit", "--images", photos, "--plan", "0:0.5",
        "--methods", "random", "--batch-size", 2, "--out", "o",
    )  # fmt: skip
    assert status == 0, err
    told = json.loads((tmp_path / "o" / "bench.json").read_text())
    assert [row["tokens"] for row in told["rows"]] == [17, 17, 10, 9]
    versions = told["environment"]["versions"]
    assert versions["transformers"] == transformers.__version__
    assert "timm" not in versions
