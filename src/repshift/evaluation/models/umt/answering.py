"""UMT for answering questions about a video, by ranking a list of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

from repshift.errors import InputError
from repshift.evaluation.models.umt.decoder import Decoder
from repshift.evaluation.models.umt.text import text_encoder
from repshift.evaluation.models.umt.vision import VideoTokens

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from repshift.evaluation.models.umt.config import UMTConfig


class AnsweringModel(nn.Module):
    """Reads a question with a video in sight and says how likely each answer of a list is.

    Answers are ids [A, M] that begin with [CLS] and end with [SEP] where it fits, padded by mask
    [A, M]; questions have no [SEP].
    """

    def __init__(self, config: UMTConfig) -> None:
        super().__init__()
        if config.text_width != config.vision_width:
            raise InputError(
                f"the text is {config.text_width} wide and the video {config.vision_width}; the "
                "decoder of question answering takes both alike"
            )
        self.config = config
        self.vision_encoder = VideoTokens(
            config.vision_width, config.vision_depth, config.vision_heads, config.patch
        )
        self.text_encoder = text_encoder(config)
        self.text_decoder = Decoder(config)

    def begin(
        self, question: Float[Tensor, "B L D"], mask: Bool[Tensor, "B L"], first: int
    ) -> Float[Tensor, "B V"]:
        """Logits of the first word piece of an answer, after the token ``first`` ([CLS])."""
        ids = torch.full((len(question), 1), first, device=question.device)
        return self.text_decoder(ids, torch.ones_like(ids).bool(), question, mask)[:, 0]

    def log_likelihood(
        self,
        question: Float[Tensor, "1 L D"],
        mask: Bool[Tensor, "1 L"],
        answers: Int[Tensor, "A M"],
        answers_mask: Bool[Tensor, "A M"],
    ) -> Float[Tensor, " A"]:
        """Log probability of each answer to one question, its word pieces and [SEP] summed."""
        logits = self.text_decoder(answers, answers_mask, question, mask)[:, :-1]
        pieces = -F.cross_entropy(logits.transpose(1, 2), answers[:, 1:], reduction="none")
        return (pieces * answers_mask[:, 1:]).sum(1)

    def answer(
        self,
        tokens: Float[Tensor, "#B K C"],
        ids: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        answers: Int[Tensor, "A M"],
        answers_mask: Bool[Tensor, "A M"],
        k: int = 128,
    ) -> tuple[Int[Tensor, "B k"], Float[Tensor, "B k"]]:
        """``forward`` from the tokens of each question's video, or of the one of all questions."""
        if not 0 < k <= len(answers):
            raise InputError(f"k is {k}; the list has {len(answers)} answers, and k is among them")
        question = self.text_encoder(ids, mask, tokens)
        start = self.begin(question, mask, int(answers[0, 0])).log_softmax(-1)
        first, shortlist = start[:, answers[:, 1]].topk(k)
        whole = torch.stack(
            [
                self.log_likelihood(question[one, None], mask[one, None], *listed)
                for one, chosen in enumerate(shortlist)
                for listed in [(answers[chosen], answers_mask[chosen])]
            ]
        )
        best, order = (first + whole).softmax(-1).sort(descending=True)
        return shortlist.gather(1, order), best

    def forward(
        self,
        video: Float[Tensor, "B T 3 H W"],
        ids: Int[Tensor, "B L"],
        mask: Bool[Tensor, "B L"],
        answers: Int[Tensor, "A M"],
        answers_mask: Bool[Tensor, "A M"],
        k: int = 128,
    ) -> tuple[Int[Tensor, "B k"], Float[Tensor, "B k"]]:
        """Index in the list of the ``k`` best answers to each question, and their probabilities.

        The ``k`` answers with the likeliest first word piece are ranked by the log probability of
        the whole answer plus, once more, that of its first piece, as the reference does. The first
        of each row is the answer.
        """
        return self.answer(self.vision_encoder(video), ids, mask, answers, answers_mask, k)
