"""UMT's text as the reference reads it."""

import json

import pytest
import torch

from repshift import InputError
from repshift.evaluation.models.umt.tokenizer import Tokenizer, pre_text
from umt_models import FIXTURES, fixture

TEXTS = json.loads((FIXTURES / "pre_text.json").read_text(encoding="utf-8"))
_, REF = fixture("pre_text")
CAPTIONS = [text for text, _ in TEXTS["captions"]]


def write(path, size=30522, words=TEXTS["vocabulary"]):
    """BERT's vocabulary with only the words of the fixture, in their places."""
    lines = [words.get(str(index), f"[unused{index}]") for index in range(size)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def tokenizer(tmp_path):
    return Tokenizer(write(tmp_path / "vocab.txt"))


@pytest.mark.parametrize(("text", "expected"), TEXTS["captions"])
def test_cleaning(text, expected):
    assert pre_text(text) == expected


@pytest.mark.parametrize("length", [25, 32])
def test_captions(tokenizer, length):
    ids, mask = tokenizer.captions(CAPTIONS, length)
    assert torch.equal(ids, REF[f"output.ids{length}"].long())
    assert torch.equal(mask, REF[f"output.mask{length}"])


def test_answers(tokenizer):
    ids, mask = tokenizer.answers(TEXTS["answers"])
    assert torch.equal(ids, REF["output.answer_ids5"].long())
    assert torch.equal(mask, REF["output.answer_mask5"])


def test_text_that_is_not_cleaned(tokenizer):
    ids, mask = tokenizer.encode(CAPTIONS, 32)
    assert torch.equal(ids, REF["output.raw_ids32"].long())
    assert torch.equal(mask, REF["output.raw_mask32"])


def test_another_vocabulary(tmp_path):
    with pytest.raises(InputError, match="no.txt is not a file"):
        Tokenizer(tmp_path / "no.txt")
    with pytest.raises(InputError, match="has 30000 entries"):
        Tokenizer(write(tmp_path / "short.txt", size=30000))
    with pytest.raises(InputError, match="cannot be read as a vocabulary"):
        Tokenizer(write(tmp_path / "none.txt", words={}))
    moved = {"0": "[PAD]", "1": "[UNK]", "2": "[CLS]", "3": "[SEP]", "4": "[MASK]"}
    with pytest.raises(InputError, match=r"puts \[CLS\] at 2"):
        Tokenizer(write(tmp_path / "moved.txt", words=moved))


def test_a_vocabulary_saved_on_windows_is_the_same(tmp_path, tokenizer):
    path = write(tmp_path / "windows.txt")
    lines = path.read_text(encoding="utf-8").split("\n")
    path.write_bytes("\r\n".join(lines).encode("utf-8-sig"))
    assert torch.equal(Tokenizer(path).captions(CAPTIONS)[0], tokenizer.captions(CAPTIONS)[0])
    path.write_bytes("\n".join(lines).encode("utf-16"))
    with pytest.raises(InputError, match="windows.txt is not UTF-8 .* it looks like UTF-16"):
        Tokenizer(path)
