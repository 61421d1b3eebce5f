"""``repshift show --prompt``: what a vision-language model reads, from folders made here."""

import re

import pytest
import torch
import transformers
from matplotlib.image import imread
from PIL import Image

from repshift import Keep, Plan, Random, Shift, VisionLanguagePlan
from repshift.evaluation.zoo.vision_language import load_vision_language
from vision_language_folders import save_llava, save_qwen


@pytest.fixture(scope="module")
def llava(tmp_path_factory):
    return save_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return save_qwen(tmp_path_factory.mktemp("qwen"))


def test_a_picture_of_every_place(run, qwen, tmp_path):
    Image.new("RGB", (64, 32), "red").save(tmp_path / "red.png")
    plan = VisionLanguagePlan(
        Plan({0: 0.25}, Shift("block")), Keep(0.5, Random()), Plan({1: 0.5}, Shift("block"))
    )
    (tmp_path / "plan.json").write_text(plan.to_json())
    status, out, err = run(
        "show", "red.png", "--model", f"hf:{qwen}", "--prompt", "w5 w9", "--plan", "plan.json"
    )
    assert status == 0, err
    assert out.splitlines()[0] == "red-tokens.png"
    assert "tokens of image 0: image 32, tower 24, prompt 16, layer 1 8" in out
    assert re.search(r"key-value memory: [\d.]+ MB of [\d.]+", out)
    picture = imread(tmp_path / "red-tokens.png")[..., :3]
    red = (picture[..., 0] > 0.9) & (picture[..., 1:].max(-1) < 0.1)
    panels = [part.sum() for part in torch.tensor(red).chunk(4, dim=1)]
    shares = [float(part / panels[0]) for part in panels]
    assert shares == pytest.approx([1.0, 0.75, 0.5, 0.25], abs=0.03)


def test_a_quarter_if_no_plan_is_named(run, llava, photos):
    show = ("show", photos / "0.png", "--model", f"hf:{llava}", "--out", "x.png", "--prompt")
    status, out, err = run(*show, "w5 <|image_pad|> w9")
    assert status == 0, err
    assert "tokens of image 0: image 16, prompt 4" in out


@pytest.mark.parametrize("size", [(64, 32), (32, 64)])
def test_what_is_cropped_is_not_drawn(llava, size):
    image = Image.new("RGB", size)
    middle = (16, 0) if size[0] > size[1] else (0, 16)
    image.paste("white", (*middle, middle[0] + 32, middle[1] + 32))
    loaded = load_vision_language(f"hf:{llava}")
    assert torch.equal(loaded.picture(image), torch.ones(32, 32, 3))


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "digits-vit"], "a vision-language model of transformers, named hf:"),
        (["--model", "hf:no/where/at/all"], "hf:no/where/at/all cannot be loaded"),
        (["--model", "hf:TEXT"], "is no vision-language model: bert reads no images"),
        (["--model", "hf:LLAVA"], "write <|image_pad|> where the image stands"),
        (["--model", "hf:QWEN", "--prompt", "w5 <|image_pad|>"], "leave the placeholder out"),
        (["--model", "hf:QWEN", "--plan", "deit"], "--plan is deit; a vision-language model takes"),
        (["--model", "hf:QWEN", "--plan", "none.json"], "none.json cannot be read: No such file"),
        (["--model", "hf:QWEN", "--plan", "vit.json"], "unknown keys drop"),
        (["--model", "hf:QWEN", "--plan", "deep.json"], "which has 4"),
        (["--model", "hf:QWEN", "--method", "tome"], "--method does not go with --prompt"),
    ],
)
def test_what_cannot_be_shown_is_one_line(run, arguments, reason, llava, qwen, photos, tmp_path):
    transformers.BertConfig().save_pretrained(tmp_path / "text")
    (tmp_path / "vit.json").write_text(Plan({1: 0.3}).to_json())
    deep = VisionLanguagePlan(decoder=Plan({9: 0.3}, Shift("block")))
    (tmp_path / "deep.json").write_text(deep.to_json())
    folders = {"hf:TEXT": "hf:text", "hf:LLAVA": f"hf:{llava}", "hf:QWEN": f"hf:{qwen}"}
    arguments = [folders.get(one, one) for one in arguments]
    prompt = [] if "--prompt" in arguments else ["--prompt", "w5 w9"]
    status, out, err = run("show", photos / "0.png", *arguments, *prompt, "--out", "x.png")
    assert (status, out) == (2, "")
    [line] = [one for one in err.splitlines() if one.startswith("repshift:")]
    assert reason in line
    assert "Traceback" not in err
    assert not (tmp_path / "x.png").exists()
