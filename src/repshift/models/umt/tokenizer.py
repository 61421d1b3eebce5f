"""Text as UMT reads it: captions and questions are cleaned, then cut into BERT's word pieces."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from repshift.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Int
    from torch import Tensor

_SPECIAL = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
_SIZE = 30522


def pre_text(text: str) -> str:
    """A caption or question in lower case, without punctuation; answers are not treated so."""
    text = re.sub(r"[,.'!?\"()*#:;~]", "", text.lower())
    text = text.replace("-", " ").replace("/", " ").replace("<person>", "person")
    return re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")


class Tokenizer:
    """Word pieces of bert-base-uncased (and bert-large-uncased), from its ``vocab.txt``.

    A text becomes [CLS] and its pieces, without the [SEP] that BERT puts at the end. All methods
    return ids [B, L] and their mask [B, L], cut or padded to ``length``.
    """

    def __init__(self, vocab: Path | str) -> None:
        try:
            from tokenizers import BertWordPieceTokenizer
        except ImportError:
            raise InputError(
                "UMT's text needs the package tokenizers; install it with: "
                "pip install repshift[umt]"
            ) from None
        if not Path(vocab).is_file():
            raise InputError(f"{vocab} is not a file; give the vocab.txt of bert-base-uncased")
        try:
            self._pieces = BertWordPieceTokenizer(str(vocab), lowercase=True)
        except Exception as error:  # the library raises nothing narrower
            raise InputError(f"{vocab} cannot be read as a vocabulary: {error}") from None
        size = self._pieces.get_vocab_size()
        found = {word: self._pieces.token_to_id(word) for word in _SPECIAL}
        if size != _SIZE or found != _SPECIAL:
            raise InputError(
                f"{vocab} is not the vocabulary of bert-base-uncased: it has {size} entries and "
                f"puts [CLS] at {found['[CLS]']}; expected {_SIZE} and {_SPECIAL['[CLS]']}"
            )

    def captions(
        self, texts: Sequence[str], length: int = 32
    ) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Captions and questions, cleaned by ``pre_text``.

        The reference's lengths are 32 for MSRVTT, 64 for MSVD and DiDeMo, 96 for LSMDC, 150 for
        ActivityNet, 25 for questions and SSv2.
        """
        return self.encode([pre_text(text) for text in texts], length)

    def answers(
        self, texts: Sequence[str], length: int = 5
    ) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Answers as they are, closed by [SEP] where it fits."""
        return self.encode([f"{text} [SEP]" for text in texts], length)

    def encode(
        self, texts: Sequence[str], length: int
    ) -> tuple[Int[Tensor, "B L"], Bool[Tensor, "B L"]]:
        """Texts as they are."""
        ids = torch.full((len(texts), length), _SPECIAL["[PAD]"])
        for row, text in zip(ids, texts, strict=True):
            pieces = self._pieces.encode(text, add_special_tokens=False).ids[: length - 1]
            row[: len(pieces) + 1] = torch.tensor([_SPECIAL["[CLS]"], *pieces])
        return ids, ids != _SPECIAL["[PAD]"]
