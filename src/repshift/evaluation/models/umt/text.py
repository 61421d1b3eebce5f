"""UMT's text model: a BERT whose last layers also attend to the video (as in ALBEF).

Parameter names are those of the official checkpoints. It is for inference: the reference's dropout
is left out. Masks are boolean, True for a real token, so that attention stays fused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from repshift.errors import InputError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from repshift.evaluation.models.umt.config import UMTConfig

_EPS = 1e-12


class Embeddings(nn.Module):
    """Word, position and token-type embedding, summed and normalised."""

    position_ids: Tensor

    def __init__(self, width: int, vocabulary: int, positions: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width, padding_idx=0)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(2, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_EPS)
        # Never needed, but a key of every official checkpoint.
        self.register_buffer("position_ids", torch.arange(positions)[None])

    def forward(self, ids: Int[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        length, most = ids.shape[1], self.position_embeddings.num_embeddings
        if length > most:
            raise InputError(f"a text has {length} tokens; this model takes at most {most}")
        words = self.word_embeddings(ids)
        # A single text is of type 0 throughout.
        places = self.position_embeddings.weight[:length] + self.token_type_embeddings.weight[0]
        return self.LayerNorm(words + places)


class Heads(nn.Module):
    """Multi-head attention of ``x`` to ``context``, before the output layer."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(context_width, width)
        self.value = nn.Linear(context_width, width)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        context: Float[Tensor, "#B N W"],
        allowed: Bool[Tensor, "#B 1 #L N"] | None,
    ) -> Float[Tensor, "B L D"]:
        query, key, value = (
            projected.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projected in (self.query(x), self.key(context), self.value(context))
        )
        # One context for a whole batch is projected once.
        key, value = (part.expand(len(x), -1, -1, -1) for part in (key, value))
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=allowed)
        return attended.transpose(1, 2).flatten(2)


class Joined(nn.Module):
    """A linear layer whose output joins the stream; the norm stands after the sum."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, width)
        self.LayerNorm = nn.LayerNorm(width, eps=_EPS)

    def forward(
        self, x: Float[Tensor, "B L I"], stream: Float[Tensor, "B L D"]
    ) -> Float[Tensor, "B L D"]:
        return self.LayerNorm(self.dense(x) + stream)


class Attention(nn.Module):
    """Attention with its residual and norm."""

    def __init__(self, width: int, heads: int, context_width: int) -> None:
        super().__init__()
        self.self = Heads(width, heads, context_width)
        self.output = Joined(width, width)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        context: Float[Tensor, "#B N W"],
        allowed: Bool[Tensor, "#B 1 #L N"] | None,
    ) -> Float[Tensor, "B L D"]:
        return self.output(self.self(x, context, allowed), x)


class Hidden(nn.Module):
    """The first half of the MLP: a linear layer and the exact GELU."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.dense = nn.Linear(width, inner)

    def forward(self, x: Float[Tensor, "B L D"]) -> Float[Tensor, "B L I"]:
        return F.gelu(self.dense(x))


class Layer(nn.Module):
    """A post-norm layer with an MLP ``mlp_width`` wide inside.

    With ``context_width`` it attends to a context after itself.
    """

    def __init__(self, width: int, heads: int, mlp_width: int, context_width: int | None) -> None:
        super().__init__()
        self.attention = Attention(width, heads, width)
        self.crossattention = Attention(width, heads, context_width) if context_width else None
        self.intermediate = Hidden(width, mlp_width)
        self.output = Joined(mlp_width, width)

    def forward(
        self,
        x: Float[Tensor, "B L D"],
        allowed: Bool[Tensor, "#B 1 #L L"],
        context: Float[Tensor, "#B N W"] | None,
        seen: Bool[Tensor, "#B 1 1 N"] | None,
    ) -> Float[Tensor, "B L D"]:
        x = self.attention(x, x, allowed)
        if self.crossattention is not None:
            x = self.crossattention(x, context, seen)
        return self.output(self.intermediate(x), x)


class Layers(nn.Module):
    """The list of layers, under the name checkpoints give it."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        mlp_width: int,
        fusion_layer: int,
        context_width: int,
    ) -> None:
        super().__init__()
        self.layer = nn.ModuleList(
            Layer(width, heads, mlp_width, context_width if index >= fusion_layer else None)
            for index in range(depth)
        )


class Bert(nn.Module):
    """A text model in two halves: ``text`` reads alone, ``fusion`` goes on with a context.

    Calling it runs both (the reference's mode ``multi_modal``). The layers from ``fusion_layer`` on
    attend to a context of ``context_width`` channels. With ``causal`` a token attends to itself and
    those before it. The MLPs are ``mlp_width`` wide inside, 4 times ``width`` if it is left out.
    """

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        fusion_layer: int,
        context_width: int,
        vocabulary: int = 30522,
        positions: int = 512,
        causal: bool = False,
        mlp_width: int | None = None,
    ) -> None:
        super().__init__()
        self.embeddings = Embeddings(width, vocabulary, positions)
        mlp_width = 4 * width if mlp_width is None else mlp_width
        self.encoder = Layers(width, depth, heads, mlp_width, fusion_layer, context_width)
        self.fusion_layer = fusion_layer
        self.causal = causal

    def text(self, ids: Int[Tensor, "B L"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Embeddings and the layers below ``fusion_layer``; token 0 stands for the whole text."""
        hidden, allowed = self.embeddings(ids), self._allowed(mask)
        for layer in list(self.encoder.layer)[: self.fusion_layer]:
            hidden = layer(hidden, allowed, None, None)
        return hidden

    def fusion(
        self,
        hidden: Float[Tensor, "B L D"],
        mask: Bool[Tensor, "B L"],
        context: Float[Tensor, "#B N W"],
        context_mask: Bool[Tensor, "#B N"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        """The layers from ``fusion_layer`` on, attending to ``context`` (one for all, or each)."""
        allowed = self._allowed(mask)
        seen = None if context_mask is None else context_mask[:, None, None]
        for layer in list(self.encoder.layer)[self.fusion_layer :]:
            hidden = layer(hidden, allowed, context, seen)
        return hidden

    def forward(
        self,
        ids: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        context: Float[Tensor, "#B N W"],
        context_mask: Bool[Tensor, "#B N"] | None = None,
    ) -> Float[Tensor, "B L D"]:
        return self.fusion(self.text(ids, mask), mask, context, context_mask)

    def _allowed(self, mask: Bool[Tensor, "B L"]) -> Bool[Tensor, "B 1 M L"]:
        """Which token may attend to which; every one at least to the first, which is real."""
        allowed = mask[:, None, None]
        if self.causal:
            length = mask.shape[1]
            allowed = allowed & mask.new_ones(length, length).tril()
        return allowed


def text_encoder(config: UMTConfig) -> Bert:
    """The text model of retrieval and of question answering."""
    return Bert(
        config.text_width,
        config.text_depth,
        config.text_heads,
        config.fusion_layer,
        config.vision_width,
        config.vocabulary,
        config.positions,
        mlp_width=config.text_mlp_width,
    )
