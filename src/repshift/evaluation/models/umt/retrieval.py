"""UMT for finding videos by text and texts by video, and for multiple choice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import nn
from torch.nn import functional as F

from repshift.evaluation.models.umt.text import text_encoder
from repshift.evaluation.models.umt.vision import VisionEncoder

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from repshift.evaluation.models.umt.config import UMTConfig


class RetrievalModel(nn.Module):
    """Compares videos [V, T, 3, H, W] with texts (ids and mask [X, L]) in two ways.

    ``similarity`` compares one vector each and is cheap; ``match`` lets a text attend to all tokens
    of a video and is what the best candidates are ranked by. Once tokens leave, the videos must be
    pooled with ``pool="all"``.
    """

    def __init__(self, config: UMTConfig, pool: Literal["frames", "all"] = "frames") -> None:
        super().__init__()
        self.config = config
        self.vision_encoder = VisionEncoder(
            config.vision_width, config.vision_depth, config.vision_heads, config.patch, pool
        )
        self.text_encoder = text_encoder(config)
        self.vision_proj = nn.Linear(config.vision_width, config.embed_width)
        self.text_proj = nn.Linear(config.text_width, config.embed_width)
        self.itm_head = nn.Linear(config.text_width, 2)
        self.temp = nn.Parameter(torch.tensor(0.07))

    def encode_video(
        self, video: Float[Tensor, "V T 3 H W"]
    ) -> tuple[Float[Tensor, "V K C"], Float[Tensor, "V F C"]]:
        """Tokens, and their mean in every frame (or one over all; see ``VisionEncoder``)."""
        return self.vision_encoder(video)

    def encode_text(
        self, ids: Int[Tensor, "X L"], mask: Bool[Tensor, "X L"]
    ) -> Float[Tensor, "X L D"]:
        """Token features that have not yet seen a video."""
        return self.text_encoder.text(ids, mask)

    def similarity(
        self, pooled: Float[Tensor, "V F C"], text: Float[Tensor, "X L D"]
    ) -> Float[Tensor, "V X"]:
        """Cosine of every video with every text, the mean over frames; no temperature."""
        frames = F.normalize(self.vision_proj(pooled), dim=-1)
        texts = F.normalize(self.text_proj(text[:, 0]), dim=-1)
        return frames.mean(1) @ texts.T

    def match(
        self,
        tokens: Float[Tensor, "#X K C"],
        text: Float[Tensor, "X L D"],
        mask: Bool[Tensor, "X L"],
    ) -> Float[Tensor, "X 2"]:
        """Logits (no, yes) of each text belonging to its video, or all to the one given."""
        return self.itm_head(self.text_encoder.fusion(text, mask, tokens)[:, 0])

    def choose(
        self,
        video: Float[Tensor, "V T 3 H W"],
        ids: Int[Tensor, "V O L"],
        mask: Bool[Tensor, "V O L"],
    ) -> Float[Tensor, "V O"]:
        """Score of each of a video's O options, as for MSRVTT-MC; the highest is the answer.

        0.7 times the probability to match, plus 0.3 times the softmax over the options of
        similarity by the learned temperature.
        """
        tokens, pooled = self.encode_video(video)
        scores = []
        for one in range(len(video)):
            text = self.encode_text(ids[one], mask[one])
            matches = self.match(tokens[one, None], text, mask[one]).softmax(-1)[:, 1]
            similar = self.similarity(pooled[one, None], text)[0] / self.temp
            scores.append(0.7 * matches + 0.3 * similar.softmax(-1))
        return torch.stack(scores)

    def forward(
        self,
        video: Float[Tensor, "V T 3 H W"],
        ids: Int[Tensor, "X L"],
        mask: Bool[Tensor, "X L"],
    ) -> Float[Tensor, "V X"]:
        """The similarity of every video with every text."""
        return self.similarity(self.encode_video(video)[1], self.encode_text(ids, mask))
