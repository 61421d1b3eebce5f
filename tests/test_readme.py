"""What the README shows works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
import tyro

import repshift
import vision_language_models
from repshift.cli import commands
from repshift.plan_given import as_plan

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
COMMANDS = re.findall(
    r"^repshift (bench|plan|retrieve|answer|show|export) (.*)$", README, re.MULTILINE
)


@torch.no_grad()
def test_three_lines_compress_a_model():
    names = {
        "model": timm.create_model("deit_tiny_patch16_224").eval(),
        "images": torch.randn(1, 3, 224, 224),
    }
    exec(SNIPPETS[0], names)
    assert names["logits"].shape == (1, 1000)
    assert names["compression"].counts[-1] == 102


def test_a_score_goes_with_a_reduction():
    [line] = re.findall(r"`(Plan\(.*?)`\. ", README)
    plan = eval(line, vars(repshift))
    assert plan.method == "redundancy(keys) + merge"


def test_three_lines_compress_a_vision_language_model():
    model = vision_language_models.build("qwen2.5-vl")
    inputs = vision_language_models.inputs(model, "qwen2.5-vl", (1,))
    exec(SNIPPETS[1], names := {"vlm": model, "inputs": inputs})
    assert names["ids"].shape[1] == inputs["input_ids"].shape[1] + 64


def test_it_is_one_page():
    assert len(README.split()) <= 900


@pytest.mark.parametrize(("command", "arguments"), COMMANDS)
def test_commands_are_read(command, arguments):
    read = tyro.cli(commands()[command], args=shlex.split(arguments.partition("#")[0]))
    plans = getattr(read, "plan", None) or ()
    for plan in (plans,) if isinstance(plans, str) else plans:
        assert plan == "plan.json" or as_plan(plan)


def test_paths_and_scripts_exist():
    for path in re.findall(r"\]\(([\w./-]+)\)", README):
        assert (ROOT / path).exists(), path
    for script in re.findall(r"^(scripts/\w+)", README, re.MULTILINE):
        assert (ROOT / script).stat().st_mode & 0o111, script
