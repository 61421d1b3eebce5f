"""Vim's mixer: what a token hears of those before it and of those after it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from repshift.evaluation.models.vim.scan import selective_scan

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

_LAGS = 4  # tokens that the convolution sees, the present one included


class Mixer(nn.Module):
    """A Mamba layer that scans in both directions (arXiv 2401.09417, algorithm 1; "v2").

    ``in_proj`` and ``out_proj`` serve both; the backward direction, on the flipped sequence, has
    its own convolution, steps, decay and skip (``_b``). Their outputs are averaged.
    """

    def __init__(self, width: int, state: int) -> None:
        super().__init__()
        inner, rank = 2 * width, math.ceil(width / 16)
        self.state, self.rank = state, rank
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        for end in ("", "_b"):
            conv = nn.Conv1d(inner, inner, _LAGS, groups=inner, padding=_LAGS - 1)
            self.add_module(f"conv1d{end}", conv)
            self.add_module(f"x_proj{end}", nn.Linear(inner, rank + 2 * state, bias=False))
            self.add_module(f"dt_proj{end}", _steps(rank, inner))
        decay = torch.arange(1.0, state + 1).log().repeat(inner, 1)
        self.A_log = nn.Parameter(decay)
        self.A_b_log = nn.Parameter(decay.clone())
        self.D = nn.Parameter(torch.ones(inner))
        self.D_b = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(
        self, x: Float[Tensor, "B N C"], positions: Int[Tensor, "b N"] | None = None
    ) -> Float[Tensor, "B N C"]:
        """Tokens at ``positions`` of a longer sequence hear each other as if across the gaps.

        A gap of g tokens between two that are left lets the state fade for the later one's own step
        delta another g times, as if g tokens had passed that had the same step and nothing to say.
        Without positions there are no gaps: the state does not fade where tokens left.
        """
        x, gate = self.in_proj(x).chunk(2, dim=-1)
        ahead = back = None
        if positions is not None:
            ahead = F.pad(positions.diff(dim=1), (1, 0), value=1)
            back = F.pad(positions.diff(dim=1), (0, 1), value=1).flip(1)
        forward = self._scan(x, "", self.A_log, self.D, ahead)
        backward = self._scan(x.flip(1), "_b", self.A_b_log, self.D_b, back).flip(1)
        mixed = (forward + backward) / 2 * F.silu(gate.to(forward.dtype))
        return self.out_proj(mixed.to(x.dtype))

    def _scan(
        self,
        x: Float[Tensor, "B N E"],
        end: str,
        log: Float[Tensor, "E S"],
        skip: Float[Tensor, " E"],
        advance: Int[Tensor, "b N"] | None,
    ) -> Float[Tensor, "B N E"]:
        """One direction; ``advance`` is the distance to the token before, 1 where None left."""
        conv, x_proj, dt_proj = (
            self.get_submodule(f"{part}{end}") for part in ("conv1d", "x_proj", "dt_proj")
        )
        x = F.silu(conv(x.transpose(1, 2))[..., : x.shape[1]]).transpose(1, 2)
        low, write, read = x_proj(x).split((self.rank, self.state, self.state), dim=-1)
        dtype = torch.promote_types(x.dtype, torch.float32)
        x, write, read, log, skip = (part.to(dtype) for part in (x, write, read, log, skip))
        delta = F.softplus(dt_proj(low).to(dtype))
        taken = x
        if advance is not None:
            # Fade for several steps, yet take up the input of one.
            steps = advance[..., None].to(dtype)
            delta, taken = delta * steps, x / steps
        return selective_scan(taken, delta, -log.exp(), write, read) + skip * x


def _steps(rank: int, inner: int) -> nn.Linear:
    """The projection that gives the steps, which begin between 0.001 and 0.1 (as in Mamba)."""
    layer = nn.Linear(rank, inner)
    nn.init.uniform_(layer.weight, -(rank**-0.5), rank**-0.5)
    first = torch.exp(torch.empty(inner).uniform_(math.log(1e-3), math.log(0.1)))
    with torch.no_grad():
        layer.bias.copy_(first + (-torch.expm1(-first)).log())  # the inverse of softplus
    return layer
