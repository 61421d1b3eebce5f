"""The fine-tuning script at tiny size: it goes on where it stopped and names what fails."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from repshift import InputError

SCRIPT = Path(__file__).parents[1] / "scripts" / "finetune_resnet.py"


@pytest.fixture
def data(tmp_path):
    """Bright and dark pictures, and the weights of an untrained network for two classes."""
    random = np.random.default_rng(0)
    for part, count in (("train", 8), ("val", 3)):
        for label, (low, high) in {"bright": (150, 256), "dark": (0, 100)}.items():
            folder = tmp_path / part / label
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = random.integers(low, high, (40, 48, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")
    model = torchvision.models.resnet18(num_classes=2)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    return tmp_path


@pytest.fixture
def script(monkeypatch, data):
    spec = importlib.util.spec_from_file_location("finetune_resnet", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def run(out, *more, checkpoint=data / "w.pth"):
        given = ["--checkpoint", checkpoint] if checkpoint else []
        arguments = [
            data, "--model", "resnet18", *given, "--epochs", 2, "--cooldown", 1,
            "--batch-size", 8, "--size", 32, "--workers", 0, "--out", data / out, *more,
        ]  # fmt: skip
        monkeypatch.setattr(sys, "argv", ["finetune_resnet.py", *map(str, arguments)])
        module.main()
        return json.loads((data / out / "figures.json").read_text())

    run.module = module
    return run


def test_an_interrupted_run_ends_with_the_weights_of_a_whole_one(script, data, monkeypatch):
    whole = script("whole")
    assert len(whole["losses"]) == 2
    assert {"dense", "training-free", "fine-tuned"} < whole.keys()
    run_epoch = script.module.run_epoch

    def stop_in_the_second(model, plan, optimizer, batches, epoch, arguments):
        if epoch == 1:
            raise KeyboardInterrupt
        return run_epoch(model, plan, optimizer, batches, epoch, arguments)

    monkeypatch.setattr(script.module, "run_epoch", stop_in_the_second)
    with pytest.raises(KeyboardInterrupt):
        script("twice")
    assert not (data / "twice" / "figures.json").exists()
    monkeypatch.setattr(script.module, "run_epoch", run_epoch)
    assert script("twice") == whole
    first, second = (torch.load(data / out / "resnet18.pth") for out in ("whole", "twice"))
    started = torch.load(data / "w.pth")
    assert first.keys() == started.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["conv1.weight"], started["conv1.weight"])
    with pytest.raises(InputError, match="was trained by another plan"):
        script("twice", "--method", "border + rows-and-columns")


def test_the_rate_falls_and_stays_low_in_the_cool_down(script):
    rates = [script.module.rate(epoch / 90, 0.01) for epoch in range(100)]
    assert rates[0] == 0.01
    assert rates[45] == pytest.approx((0.01 + 1e-5) / 2)
    assert rates[90:] == [1e-5] * 10
    assert sorted(rates, reverse=True) == rates


def test_what_cannot_be_used_is_named(script, data):
    with pytest.raises(InputError, match="the data has 2; pass --checkpoint"):
        script("o", checkpoint=None)
    with pytest.raises(InputError, match="5 epochs of cool-down do not fit 2"):
        script("o", "--cooldown", "5")
    with pytest.raises(InputError, match="fewer images than one batch of 64"):
        script("o", "--batch-size", "64")
    (data / "val" / "dark").rename(data / "val" / "dim")
    with pytest.raises(InputError, match="do not have the same classes"):
        script("o")
