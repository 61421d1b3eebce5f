"""A model of your own: name its blocks and norms, and it drops tokens."""

import torch
from torch import nn

from repshift import EncoderSpec, Plan, compress


class Encoder(nn.Module):
    """A class token and 64 patches through six layers of PyTorch's own."""

    def __init__(self) -> None:
        super().__init__()
        layer = {"d_model": 64, "nhead": 4, "batch_first": True, "norm_first": True}
        self.layers = nn.ModuleList(nn.TransformerEncoderLayer(**layer) for _ in range(6))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens[:, 0]


model = Encoder().eval()
spec = EncoderSpec(
    blocks=model.layers,  # each takes and returns [B, N, C]
    norm2=[layer.norm2 for layer in model.layers],  # reads the stream between attention and MLP
    prefix_tokens=1,  # the class token is never dropped
    class_token=True,
)
with compress(model, Plan({0: 0.2, 2: 0.2, 4: 10}), spec) as compression:
    model(torch.randn(2, 65, 64))
    print("tokens after each block:", compression.counts)
