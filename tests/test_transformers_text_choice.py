"""Text encoders of transformers: a token that left is a key that no query of the dense model sees.

Which tokens leave is worked out here, text by text, from the dense model's own stream.
"""

import math
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from torch.nn import functional as F

from repshift import (
    ClassAttention,
    ColumnAttention,
    InputError,
    MeanDistance,
    PaddingMask,
    Plan,
    Shift,
    compress,
)
from repshift.adapters import describe
from text_models import FAMILIES, MIDDLES, build, sentences


def mean_of(tokens, among):
    weights = among.index_fill(1, torch.tensor(0), False)[..., None].to(tokens.dtype)
    return (tokens * weights).sum(1, keepdim=True) / weights.sum(1, keepdim=True)


PLAN = Plan({0: 0.3, 2: 4})
PADDED = (20, 13, 9)
FORMULAS = {
    Shift(): lambda at: (at.exit - at.middle - at.middle).norm(dim=-1),
    Shift("attention", "l1", "update"): lambda at: (at.middle - at.entry).abs().sum(-1),
    Shift("block"): lambda at: (at.exit - at.entry).norm(dim=-1),
    ClassAttention(): lambda at: at.attention[:, :, 0].mean(1),
    MeanDistance(): lambda at: 1 - F.cosine_similarity(at.exit, mean_of(at.exit, at.asks), dim=-1),
    ColumnAttention(): lambda at: at.attention.where(at.asks[:, None, :, None], 0).sum((1, 2)),
}


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Threads that share such small products mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


class Blindfold:
    """Runs a dense model and hides, after each block of the plan, the tokens that left."""

    def __init__(self, family, model, plan, mask, monkeypatch):
        self.plan, self.real = plan, mask.bool()
        self.dropped = torch.zeros_like(self.real)
        self.at = SimpleNamespace()
        self.fused, self.softmax = F.scaled_dot_product_attention, F.softmax
        monkeypatch.setattr(F, "scaled_dot_product_attention", self.attend)
        monkeypatch.setattr(F, "softmax", self.attend_eagerly)  # where attention is not fused
        path, is_branch = MIDDLES.get(family, ("attention", False))
        self.is_branch = is_branch
        for index, block in enumerate(describe(model).blocks):
            block.register_forward_pre_hook(self.enter, with_kwargs=True)
            block.get_submodule(path).register_forward_hook(self.pass_attention)
            block.register_forward_hook(lambda _, __, out, index=index: self.leave(index, out))

    def enter(self, block, args, kwargs):
        entry = (*args, *kwargs.values())[0]
        self.at = SimpleNamespace(entry=entry, asks=self.real & ~self.dropped)

    def hidden(self, like):
        none = torch.zeros(len(self.dropped), 1, 1, self.dropped.shape[1], dtype=like.dtype)
        return none.masked_fill(self.dropped[:, None, None], -math.inf)

    def attend(self, q, k, v, attn_mask=None, **others):
        mask = self.hidden(q)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            attn_mask = torch.zeros_like(mask).masked_fill(~attn_mask, -math.inf)
        if attn_mask is not None:
            mask = mask + attn_mask
        repeated = k.repeat_interleave(q.shape[1] // k.shape[1], 1)
        logits = q @ repeated.transpose(-2, -1) * q.shape[-1] ** -0.5 + mask
        self.at.attention = logits.softmax(-1)
        return self.fused(q, k, v, attn_mask=mask, **others)

    def attend_eagerly(self, logits, dim):
        return self.softmax(logits + self.hidden(logits), dim=dim)

    def pass_attention(self, part, args, output):
        output = output[0] if isinstance(output, tuple) else output
        self.at.middle = self.at.entry + output if self.is_branch else output

    def leave(self, index, output):
        at, amount = self.at, self.plan.drop.get(index, 0)
        at.exit = output[0] if isinstance(output, tuple) else output
        scores = FORMULAS[self.plan.score](at).tolist() if amount else ()
        for dropped, real, row in zip(self.dropped, self.real, scores, strict=False):
            left = [place for place in range(len(row)) if not dropped[place]]
            words = [place for place in left if real[place]][1:-1]  # less [CLS] and [SEP]
            padding = [place for place in left if not real[place]]
            if amount < 1:
                count, rows = math.floor(amount * len(words)), math.floor(amount * (len(left) - 2))
            else:
                count, rows = min(amount, len(words) - 1), amount
            # Of equals the later leaves: outside a window all words are seen as little.
            words.sort(key=lambda place, row=row: (row[place], -place))
            dropped[words[:count]] = True
            dropped[padding[::-1][: rows - count]] = True  # so that all rows stay of one length

    def survivors(self):
        return torch.stack([(~dropped).nonzero().squeeze(1) for dropped in self.dropped])


def assert_hidden_equals_dropped(family, plan, lengths, monkeypatch):
    model, given = build(family), sentences(lengths)
    with compress(model, plan) as compression, torch.no_grad():
        left = model(**given)[0]
    blindfold = Blindfold(family, model, plan, given["attention_mask"], monkeypatch)
    with torch.no_grad():
        dense = model(**given)[0]
    kept = compression.kept
    assert torch.equal(kept, blindfold.survivors())
    expected = dense.gather(1, kept[..., None].expand(-1, -1, dense.shape[-1]))
    real = given["attention_mask"].bool().gather(1, kept)
    torch.testing.assert_close(left[real], expected[real], atol=1e-9, rtol=0)
    return kept, real


@pytest.mark.lowest
@pytest.mark.parametrize("lengths", [(20, 20, 20), PADDED], ids=["whole", "padded"])
@pytest.mark.parametrize("family", FAMILIES)
def test_dropping_equals_hiding(family, lengths, monkeypatch):
    assert_hidden_equals_dropped(family, PLAN, lengths, monkeypatch)


@pytest.mark.parametrize("score", FORMULAS, ids=str)
@pytest.mark.parametrize("family", ["bert", "modernbert", "eurobert"])
def test_every_score_drops_the_tokens_its_formula_ranks_lowest(family, score, monkeypatch):
    # ModernBERT attends in windows in block 1, where far padding sees nothing at all.
    assert_hidden_equals_dropped(family, Plan({0: 0.2, 1: 3}, score), PADDED, monkeypatch)


@pytest.mark.parametrize("family", ["bert", "mpnet", "modernbert"])
def test_a_text_keeps_the_same_alone_and_among_others_of_its_length(family):
    model, given = build(family), sentences()
    with compress(model, PLAN) as compression, torch.no_grad():
        together, kept = model(**given)[0], compression.kept
        for index in range(3):
            alone = {name: rows[index : index + 1] for name, rows in given.items()}
            torch.testing.assert_close(model(**alone)[0], together[index : index + 1])
            assert torch.equal(compression.kept, kept[index : index + 1])


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_reads_the_first_token_of_what_is_left(family):
    settings = {"classifier_pooling": "bos"} if family == "eurobert" else {}
    model = build(family, head="ForSequenceClassification", **settings)
    inner, given = model.base_model, sentences(PADDED)
    with torch.no_grad():
        dense = model(**given).logits
        with compress(model, PLAN):
            logits = model(**given).logits
            states = inner(**given)[0]
        seen = []
        inner.register_forward_hook(lambda _, __, out: seen.append(out[0]))
        with compress(model, PLAN):
            again = model(**given).logits
    assert logits.shape == dense.shape
    assert not torch.equal(logits, dense)
    assert torch.equal(logits, again)
    torch.testing.assert_close(seen[0], states)


def test_sliding_windows_of_flash_attention_are_refused():
    model = build("modernbert")
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(InputError, match="counts its sliding windows"):
        describe(model)
    bert = build("bert")
    bert.config._attn_implementation = "flash_attention_2"
    assert describe(bert).carriers["attention_mask"] == PaddingMask()


TINY = {"vocab_size": 60, "hidden_size": 32, "num_attention_heads": 2, "num_hidden_layers": 2}
T5 = {"vocab_size": 60, "d_model": 32, "d_kv": 16, "d_ff": 48, "num_layers": 2, "num_heads": 2}
REFUSED = {
    "flex": (lambda: build("bert", attention="flex_attention"), "the mask of flex_attention"),
    "albert": (lambda: hf.AlbertModel(hf.AlbertConfig(**TINY)), "one block, run again"),
    "deberta": (lambda: hf.DebertaV2Model(hf.DebertaV2Config(**TINY)), "relative positions itself"),
    "t5": (lambda: hf.T5EncoderModel(hf.T5Config(**T5)), "relative positions itself"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_lose_tokens_is_refused_with_the_reason(case):
    make, reason = REFUSED[case]
    with pytest.raises(InputError, match=reason):
        compress(make(), PLAN)


def test_a_block_that_was_not_read_is_refused():
    class Louder(hf.models.bert.modeling_bert.BertLayer):
        def forward(self, *args, **kwargs):
            return 2 * super().forward(*args, **kwargs)

    model = build("bert")
    model.encoder.layer[1].__class__ = Louder
    with pytest.raises(InputError, match="not checked with one of its parts"):
        describe(model)


@pytest.mark.parametrize("family", ["modernbert", "roberta pre-norm", "eurobert"])
@pytest.mark.parametrize("method", ["tome", "shift(attention) + vid-tldr"])
def test_the_last_token_is_kept_through_several_matchings(family, method):
    """A matching puts odd tokens last, so that the last in the sequence is no longer last."""
    model, lengths = build(family), (20, 11, 16, 7)
    given = sentences(lengths)
    plan = Plan.from_method(method, {0: 3, 1: 3, 2: 2})
    with compress(model, plan) as compression, torch.no_grad():
        model(**given)
    suffix = compression.spec.suffix_tokens
    for row, length in zip(compression.kept.tolist(), lengths, strict=True):
        assert 0 in row
        if suffix:
            assert length - 1 in row
