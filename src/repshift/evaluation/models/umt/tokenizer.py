"""Text as UMT reads it: captions and questions are cleaned, then cut into BERT's word pieces."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from repshift.errors import InputError
from repshift.files import read_text

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Int
    from torch import Tensor

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def pre_text(text: str) -> str:
    """A caption or question in lower case, without punctuation; answers are not treated so."""
    text = re.sub(r"[,.'!?\"()*#:;~]", "", text.lower())
    text = text.replace("-", " ").replace("/", " ").replace("<person>", "person")
    return re.sub(r"\s{2,}", " ", text).rstrip("\n").strip(" ")


class Tokenizer:
    """Word pieces from a ``vocab.txt``: by default that of bert-base-uncased (and -large).

    Another is told apart by its ``size`` and by the place of its [CLS], ``start``.

    A text becomes [CLS] and its pieces, without the [SEP] that BERT puts at the end. All methods
    return ids [B, L] and their mask [B, L], cut or padded to ``length``.
    """

    def __init__(self, vocab: Path | str, size: int = 30522, start: int = 101) -> None:
        try:
            from tokenizers import BertWordPieceTokenizer
        except ImportError:
            raise InputError(
                "UMT's text needs the package tokenizers; install it with: "
                "pip install repshift[umt]"
            ) from None
        if not Path(vocab).is_file():
            raise InputError(f"{vocab} is not a file; give the vocab.txt of bert-base-uncased")
        text = read_text(Path(vocab), "the vocab.txt of bert-base-uncased")
        words = [word.rstrip("\r") for word in text.removesuffix("\n").split("\n")]
        try:
            self._pieces = BertWordPieceTokenizer(
                {word: number for number, word in enumerate(words)}, lowercase=True
            )
        except Exception as error:  # the library raises nothing narrower
            raise InputError(f"{vocab} cannot be read as a vocabulary: {error}") from None
        found = {word: self._pieces.token_to_id(word) for word in _SPECIAL}
        entries = self._pieces.get_vocab_size()
        places = (found["[PAD]"], found["[CLS]"])
        if entries != size or None in found.values() or places != (0, start):
            raise InputError(
                f"{vocab} is not the vocabulary of this model: it has {entries} entries and puts "
                f"[CLS] at {found['[CLS]']}; expected {size} and {start}, and among them "
                f"{', '.join(_SPECIAL)}"
            )
        self._cls = start

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
        ids = torch.zeros(len(texts), length, dtype=torch.long)
        for row, text in zip(ids, texts, strict=True):
            pieces = self._pieces.encode(text, add_special_tokens=False).ids[: length - 1]
            row[: len(pieces) + 1] = torch.tensor([self._cls, *pieces])
        return ids, ids != 0
