"""Vision Mamba (Vim, arXiv 2401.09417), with the class token in the middle of the sequence.

Parameter names are those of the official checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from repshift.evaluation.models.vim.mixer import Mixer

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from repshift.evaluation.models.vim.config import VimConfig


class RMSNorm(nn.Module):
    """Division by the root mean square over channels, in the stream's precision."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*batch C"]) -> Float[Tensor, "*batch C"]:
        return F.rms_norm(x, x.shape[-1:], self.weight.to(x.dtype), 1e-5).to(self.weight.dtype)


class Block(nn.Module):
    """x + Mixer(norm(x)), the stream x in float32 at least.

    The reference hands on the mixer's output and the residual apart and adds them in the next
    block, where one kernel adds and normalises. Their sum is the same stream.
    """

    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.mixer = Mixer(width, state)

    def forward(
        self, x: Float[Tensor, "B N C"], positions: Int[Tensor, "b N"] | None = None
    ) -> Float[Tensor, "B N C"]:
        """``positions`` are explained at ``Mixer.forward``."""
        return x + self.mixer(self.norm(x), positions)


class PatchEmbed(nn.Module):
    """Patches, row by row; they overlap where the stride is smaller than a patch."""

    def __init__(self, config: VimConfig) -> None:
        super().__init__()
        self.img_size = (config.image, config.image)
        self.grid_size = (config.side, config.side)
        self.proj = nn.Conv2d(config.channels, config.width, config.patch, config.step)

    def forward(self, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B P C"]:
        return self.proj(images).flatten(2).transpose(1, 2)


class Readout(nn.Module):
    """The one token of every image that is marked: the class token, wherever it stands."""

    def forward(
        self, tokens: Float[Tensor, "B N C"], marked: Bool[Tensor, "b N"]
    ) -> Float[Tensor, "B C"]:
        place = marked.long().argmax(1).view(-1, 1, 1)
        return tokens.gather(1, place.expand(len(tokens), 1, tokens.shape[2])).squeeze(1)


class VisionMamba(nn.Module):
    """An image classifier of Mamba layers: images [B, c, H, W] to logits [B, classes]."""

    def __init__(self, config: VimConfig) -> None:
        super().__init__()
        width = config.width
        self.num_classes, self.in_chans = config.classes, config.channels
        self.patch_embed = PatchEmbed(config)
        patches = config.side**2
        self.class_place = patches // 2
        self.cls_token = nn.Parameter(0.02 * torch.randn(1, 1, width))
        self.pos_embed = nn.Parameter(0.02 * torch.randn(1, patches + 1, width))
        self.layers = nn.ModuleList(Block(width, config.state) for _ in range(config.depth))
        self.norm_f = RMSNorm(width)
        self.readout = Readout()
        self.head = nn.Linear(width, config.classes)

    def forward_features(self, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B N C"]:
        """All tokens after the last norm, the class token among them."""
        patches, middle = self.patch_embed(images), self.class_place
        token = self.cls_token.expand(len(patches), -1, -1)
        tokens = torch.cat((patches[:, :middle], token, patches[:, middle:]), dim=1)
        tokens = tokens + self.pos_embed
        tokens = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        for block in self.layers:
            tokens = block(tokens)
        return self.norm_f(tokens)

    def forward(self, images: Float[Tensor, "B c H W"]) -> Float[Tensor, "B K"]:
        tokens = self.forward_features(images)
        marked = torch.arange(self.pos_embed.shape[1], device=tokens.device) == self.class_place
        return self.head(self.readout(tokens, marked[None]))
