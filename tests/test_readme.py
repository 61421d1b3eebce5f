"""What the README shows works as it stands there."""

import re
import shlex
from pathlib import Path

import pytest
import timm
import torch
import tyro
from torch import nn

from repshift import compress
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
    assert names["compression"].counts[-1] == 102
    assert names["logits"].shape == (1, 1000)
    exec(SNIPPETS[2], names)
    assert [one.shape for one in names["maps"]] == [(1, 192, 14, 14)] * 2
    assert names["tokens"].shape == (1, 197, 192)


@torch.no_grad()
def test_any_score_goes_with_any_reduction():
    names = {}
    exec(SNIPPETS[1], names)
    model = timm.create_model("deit_tiny_patch16_224").eval()
    for plan in names["plans"]:
        with compress(model, plan) as compression:
            model(torch.randn(1, 3, 224, 224))
        assert compression.counts[-1] == 197 - 39 - 31 - 40


def test_a_bench_from_python(monkeypatch, capsys):
    monkeypatch.setattr("repshift.evaluation.tasks.bench.ROUNDS", 2)
    model = timm.create_model("deit_tiny_patch16_224", img_size=32, embed_dim=24).eval()
    exec(SNIPPETS[3], {"model": model, "images": torch.randn(2, 3, 32, 32)})
    assert len(capsys.readouterr().out.splitlines()) == 2 + 1 + 2 * 2


@torch.no_grad()
def test_a_model_of_ones_own_takes_a_few_more():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            layer = {"d_model": 8, "nhead": 2, "batch_first": True, "norm_first": True}
            blocks = [nn.TransformerEncoderLayer(**layer) for _ in range(4)]
            self.layers = nn.ModuleList(blocks)

        def forward(self, x):
            for block in self.layers:
                x = block(x)
            return x

    names = {"model": Own().train()}
    exec(SNIPPETS[4], names)
    assert names["model"](torch.randn(2, 21, 8)).shape == (2, 14, 8)


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
