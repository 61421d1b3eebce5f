"""The decoder of UMT's question answering: it gives the probability of an answer, word by word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from repshift.evaluation.models.umt.text import Bert

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from repshift.evaluation.models.umt.config import UMTConfig


class Transform(nn.Module):
    """A linear layer, the exact GELU and a norm, before the vocabulary."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L D"]:
        return self.LayerNorm(F.gelu(self.dense(x)))


class Predictions(nn.Module):
    """Logits over the vocabulary."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(vocabulary))
        self.transform = Transform(width)
        self.decoder = nn.Linear(width, vocabulary)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L V"]:
        return self.decoder(self.transform(x))


class Head(nn.Module):
    """The predictions, under the name checkpoints give them."""

    def __init__(self, width: int, vocabulary: int) -> None:
        super().__init__()
        self.predictions = Predictions(width, vocabulary)


class Decoder(nn.Module):
    """A causal BERT that attends to the question in every layer, and its head.

    It has as many layers as the text encoder has from ``fusion_layer`` on.
    """

    def __init__(self, config: UMTConfig) -> None:
        super().__init__()
        self.bert = Bert(
            config.text_width,
            config.text_depth - config.fusion_layer,
            config.text_heads,
            fusion_layer=0,
            context_width=config.vision_width,
            vocabulary=config.vocabulary,
            positions=config.positions,
            causal=True,
            mlp_width=config.text_mlp_width,
        )
        self.cls = Head(config.text_width, config.vocabulary)
        self.tie()

    def tie(self) -> None:
        """Let the head share the word embeddings, and its two biases be one.

        To be called again after weights were assigned rather than copied.
        """
        predictions = self.cls.predictions
        predictions.decoder.weight = self.bert.embeddings.word_embeddings.weight
        predictions.decoder.bias = predictions.bias

    def forward(
        self,
        ids: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        question: Float[Tensor, "#B Q D"],
        question_mask: Bool[Tensor, "#B Q"],
    ) -> Float[Tensor, "B L V"]:
        """Logits of the token after each, given a question (one for all, or each its own)."""
        return self.cls.predictions(self.bert(ids, mask, question, question_mask))
