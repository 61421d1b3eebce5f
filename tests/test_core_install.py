"""``pip install repshift`` brings PyTorch alone: what works then, and what names its extra.

A subprocess in which nothing can be imported but the standard library, PyTorch with what PyTorch
itself requires, and this package.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.lowest

ALONE = '''
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder
import importlib.metadata, importlib.util, pathlib, re, sys, sysconfig

def required(name, found):
    """A distribution and all that it cannot do without."""
    if name not in found:
        found.add(name)
        try:
            needs = importlib.metadata.requires(name) or ()
        except importlib.metadata.PackageNotFoundError:
            return found
        for need in needs:
            if "extra ==" not in need:
                required(re.match(r"[\\w.-]+", need)[0].lower().replace("_", "-"), found)
    return found

torchs = required("torch", set())
brought = {
    module
    for module, owners in importlib.metadata.packages_distributions().items()
    if {owner.lower().replace("_", "-") for owner in owners} & torchs
}
allowed = sys.stdlib_module_names | brought | {"torch", "repshift"}
# The standard library's own, whose name says the machine, and what setuptools carries along.
allowed |= {sysconfig._get_sysconfigdata_name()}
if "setuptools" in brought:
    [place] = importlib.util.find_spec("setuptools").submodule_search_locations
    allowed |= {path.stem for path in (pathlib.Path(place) / "_vendor").iterdir()}

class Alone:
    """Finds what is allowed; all else is not there."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in allowed:
            return PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Alone()]
for name in ("numpy", "PIL", "timm", "transformers", "torchvision", "tqdm", "tyro", "safetensors"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise AssertionError(f"{name} can be imported")
'''
WORKS = """
import torch
from torch import nn
import repshift
from repshift import EncoderSpec, Plan, ToMe, compress, search_plan

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        kind = {"d_model": 8, "nhead": 2, "dim_feedforward": 8, "batch_first": True}
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(**kind, dropout=0.0, norm_first=True) for _ in range(3)
        )

    def forward(self, images):
        tokens = images.flatten(2).transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens[:, 0]

torch.manual_seed(0)
model = Own().train().requires_grad_(False)
spec = EncoderSpec(model.layers, [layer.norm2 for layer in model.layers], prefix_tokens=1)
plan = Plan.from_json(Plan({0: 0.5}).to_json())
images = torch.randn(8, 8, 4, 4)
with compress(model, plan, spec) as compression:
    model(images)
print(compression.counts)
found = search_plan(model, images, flops=0.7, objective="cosine", methods=["random"], spec=spec)
told = "% of the dense FLOPs" in found.summary()
print(found.provenance["flops"] <= 0.7, bool(found.plan.drop), told)
try:
    compress(nn.Linear(2, 2), plan)
except repshift.InputError as error:
    print(error)
sys.argv = ["repshift", "bench"]
from repshift.cli import main
main()
"""


def test_the_core_works_with_pytorch_alone():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ALONE + WORKS],
        capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1] / "src")},
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert lines[:2] == ["[9, 9, 9]", "True True True"], done.stderr
    assert "is not a model repshift knows" in lines[2]
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == (
        "repshift: the command line needs more than the core; "
        "install it with: pip install '.[bench]'"
    )


@pytest.mark.parametrize(
    ("name", "module", "extra"),
    [
        ("timm:vit_tiny_patch16_224", "timm", "timm"),
        ("hf:google/vit-base-patch16-224", "transformers", "transformers"),
        ("open_clip:ViT-B-32/openai", "open_clip", "open-clip"),
        ("torchvision:vit_b_16", "torchvision", "timm"),
    ],
)
def test_a_library_that_is_not_there_is_named_with_its_extra(monkeypatch, name, module, extra):
    from repshift import InputError
    from repshift.evaluation.zoo.load import load_model

    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        InputError, match=rf"needs {module}, .* pip install 'repshift\[bench,{extra}"
    ):
        load_model(name)
