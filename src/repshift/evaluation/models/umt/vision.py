"""UMT's video encoder (ICCV 2023, arXiv 2303.16058), with fused attention.

Parameter names are those of the official checkpoints.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional as F

from repshift.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head self-attention whose keys have no bias."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        bias = torch.cat((self.q_bias, torch.zeros_like(self.q_bias), self.v_bias))
        qkv = F.linear(x, self.qkv.weight, bias).unflatten(-1, (3, self.heads, -1))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(query, key, value)
        return self.proj(attended.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two linear layers with an exact GELU between."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=_EPS)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = MLP(width, 4 * width)

    def forward(self, x: Float[Tensor, "B N C"]) -> Float[Tensor, "B N C"]:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """Patches of one frame each, in the order time, height, width."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(3, width, kernel_size=(1, patch, patch), stride=(1, patch, patch))

    def forward(self, video: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B N C"]:
        return self.proj(video.transpose(1, 2)).flatten(2).transpose(1, 2)


class Transformer(nn.Module):
    """Patch embedding, fixed positions, blocks, final norm. No class token."""

    def __init__(self, width: int, depth: int, heads: int, patch: int) -> None:
        super().__init__()
        self.patch_embed = PatchEmbed(width, patch)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width, eps=_EPS)
        self.places: tuple[list[int], int] | None = None

    @property
    def frames(self) -> int | None:
        """How many frames of each video were chosen, None if all are given."""
        return None if self.places is None else len(self.places[0])

    def set_frames(self, places: list[int], of: int) -> None:
        """Take the frames at these places of a video that has ``of`` (``repshift.thinned``)."""
        self.places = places, of

    def forward(self, video: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B K C"]:
        tokens = self.patch_embed(video)
        tokens = tokens + self._positions(tokens, video.shape[1])
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens)

    def _positions(self, tokens: Float[Tensor, "B N C"], given: int) -> Float[Tensor, "N C"]:
        count, width = tokens.shape[1:]
        if self.places is None:
            return sinusoids(count, width, device=tokens.device).to(tokens.dtype)
        places, of = self.places
        if given != len(places):
            raise InputError(
                f"the model is for {len(places)} of {of} frames of a video and was given {given}; "
                f"pass repshift.thin_videos(videos, {len(places)})"
            )
        patches = count // given
        table = sinusoids(of * patches, width, device=tokens.device).to(tokens.dtype)
        return table.unflatten(0, (of, patches))[places].flatten(0, 1)


class VisionEncoder(nn.Module):
    """The vision tower of UMT.

    Returns the tokens [B, K, C] and their pooled feature [B, F, C]: the mean of every frame
    (``pool="frames"``, F = T), as in UMT, or of all tokens (``pool="all"``, F = 1), as in vid-TLDR,
    which is the only one possible once tokens have left.
    """

    def __init__(
        self,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        patch: int = 16,
        pool: Literal["frames", "all"] = "frames",
    ) -> None:
        super().__init__()
        self.encoder = Transformer(width, depth, heads, patch)
        self.pool_norm = nn.LayerNorm(width, eps=_EPS)
        self.pool = pool

    def forward(
        self, video: Float[Tensor, "B T 3 H W"]
    ) -> tuple[Float[Tensor, "B K C"], Float[Tensor, "B F C"]]:
        tokens = self.encoder(video)
        if self.pool == "all":
            return tokens, self.pool_norm(tokens.mean(1, keepdim=True))
        patch = self.encoder.patch_embed.proj.kernel_size[1]
        frames, height, width = video.shape[1], *video.shape[3:]
        if tokens.shape[1] != frames * (height // patch) * (width // patch):
            raise InputError(
                f'pool="frames" needs all tokens of every frame, and {tokens.shape[1]} of '
                f'{frames} frames are left; use pool="all"'
            )
        return tokens, self.pool_norm(tokens.unflatten(1, (frames, -1)).mean(2))


class VideoTokens(nn.Module):
    """The vision tower without pooling, as in question answering; returns the tokens [B, K, C]."""

    def __init__(self, width: int = 768, depth: int = 12, heads: int = 12, patch: int = 16) -> None:
        super().__init__()
        self.encoder = Transformer(width, depth, heads, patch)

    def forward(self, video: Float[Tensor, "B T 3 H W"]) -> Float[Tensor, "B K C"]:
        return self.encoder(video)


def sinusoids(count: int, width: int, device: torch.device | None = None) -> Float[Tensor, "N C"]:
    """The fixed position table over the flattened space-time index, in float32.

    Channel j of position p is the sine (even j) or cosine (odd j) of p / 10000^(2 floor(j/2) / C).
    Made on ``device``, so that a GPU does not wait for the host.
    """
    channel = torch.arange(width, dtype=torch.float64, device=device)
    angle = torch.arange(count, dtype=torch.float64, device=device)[:, None] / 10000 ** (
        2 * (channel // 2) / width
    )
    return torch.where(channel % 2 == 0, angle.sin(), angle.cos()).float()
