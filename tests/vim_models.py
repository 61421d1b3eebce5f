"""The small Vim of the fixture."""

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

from repshift.evaluation.models.vim.config import VimConfig
from repshift.evaluation.models.vim.model import VisionMamba

FIXTURES = Path(__file__).parent / "fixtures"
HELD = load_file(FIXTURES / "vim.safetensors")
WEIGHTS = {k: v for k, v in HELD.items() if not k.startswith(("input.", "output."))}
SMALL = VimConfig("vim-fixture", 48, depth=4, image=64, classes=10)
CLASS_PLACE, TOKENS = 8, 17


def vim(dtype=torch.float32):
    model = VisionMamba(SMALL)
    model.load_state_dict(WEIGHTS)
    return model.eval().requires_grad_(False).to(dtype)


def overlapping(dtype=torch.float32):
    """The same with patches every 8 pixels: 7 x 7 of them, the class token after the 24th."""
    torch.manual_seed(0)
    model = VisionMamba(replace(SMALL, name="vim-overlapping", stride=8))
    model.load_state_dict(WEIGHTS | {"pos_embed": 0.1 * torch.randn(1, 50, 48)})
    return model.eval().requires_grad_(False).to(dtype)


def step_by_step(x, delta, decay, write, read):
    """The selective scan word for word."""
    state, outputs = x.new_zeros(x.shape[0], *decay.shape), []
    for t in range(x.shape[1]):
        fade = torch.exp(delta[:, t, :, None] * decay)
        state = fade * state + (delta[:, t] * x[:, t])[..., None] * write[:, t, None]
        outputs.append((state * read[:, t, None]).sum(-1))
    return torch.stack(outputs, dim=1)
