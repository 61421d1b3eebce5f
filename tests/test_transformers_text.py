"""Text encoders of transformers: a text drops of its own tokens, but not the special ones."""

import pytest
import torch
import transformers

from repshift import InputError, Merge, Plan, Random, ToMe, compress
from repshift.adapters import describe
from test_transformers import hide, survivors_of

SIZE = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2}
BERT = {**SIZE, "intermediate_size": 64, "max_position_embeddings": 40}
MODERN = {**BERT, "local_attention": 6, "pad_token_id": 0, "global_attn_every_n_layers": 2}
MODERN |= dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id"), 1)
FAMILIES = {
    "bert": ("Bert", BERT),
    "roberta": ("Roberta", {**BERT, "pad_token_id": 0}),
    "xlm-roberta": ("XLMRoberta", {**BERT, "pad_token_id": 0}),
    "camembert": ("Camembert", {**BERT, "pad_token_id": 0}),
    "electra": ("Electra", {**BERT, "embedding_size": 16}),
    "distilbert": (
        "DistilBert",
        {"vocab_size": 50, "dim": 32, "n_layers": 4, "n_heads": 2, "hidden_dim": 64},
    ),
    "mpnet": ("MPNet", {**BERT, "pad_token_id": 0}),
    "modernbert": ("ModernBert", MODERN),
}
FUSED = [family for family in FAMILIES if family != "mpnet"]  # its attention is written out
PLAN = Plan({0: 0.3, 1: 3})
LENGTHS = (19, 12, 15)


def build(family, dtype=torch.float64, kind="Model", attention="sdpa", **settings):
    name, own = FAMILIES[family]
    config = getattr(transformers, f"{name}Config")(**own, **settings)
    attention = {} if family == "mpnet" else {"attn_implementation": attention}
    model = getattr(transformers, f"{name}{kind}")._from_config(config, **attention)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
            elif path.endswith("bias"):
                parameter.normal_(std=0.3)
    return model.eval() if dtype is None else model.eval().to(dtype)


def texts(padded=True):
    """Ids that begin with [CLS], 2, and end with [SEP], 3, padded with 0 to the longest."""
    ids = torch.randint(4, 50, (3, 19))
    ids[:, 0] = 2
    lengths = torch.tensor(LENGTHS if padded else (19, 19, 19))
    mask = torch.arange(19) < lengths[:, None]
    ids[torch.arange(3), lengths - 1] = 3
    return {"input_ids": ids * mask, "attention_mask": mask.long()}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("family", FUSED)
def test_dropping_equals_hiding(family, padded, monkeypatch):
    model, given, streams = build(family), texts(padded), []
    spec = describe(model)
    spec.blocks[-1].register_forward_hook(lambda _, __, output: streams.append(output))
    with compress(model, PLAN) as compression, torch.no_grad():
        model(**given)
        kept = [compression.kept_after(block) for block in range(4)]
    assert compression.counts == [14, 11, 11, 11]
    handles = hide(spec, kept, monkeypatch)
    with torch.no_grad():
        model(**given)
    for handle in handles:
        handle.remove()
    left, dense = streams
    real = given["attention_mask"].gather(1, kept[-1]).bool()
    expected = survivors_of(dense, kept[-1])
    torch.testing.assert_close(left[real], expected[real], atol=1e-9, rtol=0)


@torch.no_grad()
def test_dropping_equals_hiding_in_mpnet():
    """Its attention adds a bias of relative positions, which must follow the tokens."""
    model, given = build("mpnet"), texts(padded=False)
    with compress(model, Plan({0: 0.3}, Random(1))) as compression:
        left, kept = model(**given).last_hidden_state, compression.kept
    layers, bias = model.encoder.layer, model.encoder.compute_position_bias
    hidden = layers[0](
        model.embeddings(given["input_ids"]), position_bias=bias(left.new_empty(3, 19, 1))
    )[0]
    dropped = torch.ones(3, 19, dtype=torch.bool).scatter(1, kept, False)
    mask = torch.zeros(3, 1, 1, 19, dtype=left.dtype).masked_fill(dropped[:, None, None], -1e30)
    for layer in layers[1:]:
        hidden = layer(hidden, mask, position_bias=bias(hidden))[0]
    torch.testing.assert_close(left, survivors_of(hidden, kept), atol=1e-9, rtol=0)


@pytest.mark.parametrize("family", FAMILIES)
def test_special_tokens_stay_and_all_texts_have_one_length(family):
    model, given = build(family), texts()
    with compress(model, Plan({0: 7, 2: 6})) as compression, torch.no_grad():
        model(**given)
    for row, (kept, length) in enumerate(zip(compression.kept.tolist(), LENGTHS, strict=True)):
        assert {0, length - 1} <= set(kept), row
        assert len([place for place in kept if place < length]) == max(length - 13, 3)
    assert compression.counts == [12, 12, 6, 6]


REDUCED = [PLAN, Plan({0: 4, 1: 0.2, 2: 2}), Plan({0: 0.3, 2: 0.4}, reduction=Merge())]
MATCHED = [Plan({0: 0.45, 2: 4}, reduction=ToMe()), Plan({1: 20, 2: 20}, reduction=ToMe())]
BEFORE_MLP = ["modernbert"]


@pytest.mark.parametrize(
    ("family", "plan"),
    [(family, plan) for family in FAMILIES for plan in REDUCED[: 2 if family == "mpnet" else 3]]
    + [(family, plan) for family in BEFORE_MLP for plan in MATCHED],
    ids=str,
)
@torch.no_grad()
def test_a_text_among_longer_ones_is_what_it_is_alone(family, plan):
    model, given = build(family), texts()
    with compress(model, plan) as compression:
        together, kept = model(**given).last_hidden_state, compression.kept
        sizes = compression.sizes
        for row, length in enumerate(LENGTHS):
            alone = model(given["input_ids"][row : row + 1, :length]).last_hidden_state
            count = alone.shape[1]
            assert torch.equal(kept[row, :count], compression.kept[0])
            torch.testing.assert_close(together[row, :count], alone[0])
            torch.testing.assert_close(sizes[row, :count], compression.sizes[0])
            assert (kept[row, count:] >= length).all()


@pytest.mark.parametrize("family", FUSED)
def test_eager_attention_drops_the_same(family):
    given, outputs, kept = texts(), [], []
    # In double precision ModernBERT's own eager attention gives NaN to padding far from a text.
    dtype = torch.float32 if family == "modernbert" else torch.float64
    weights = build(family, dtype).state_dict()
    for attention in ("sdpa", "eager"):
        model = build(family, dtype, attention=attention)
        model.load_state_dict(weights)
        with compress(model, PLAN) as compression, torch.no_grad():
            outputs.append(model(**given).last_hidden_state)
            kept.append(compression.kept)
    assert torch.equal(*kept)
    real = given["attention_mask"].gather(1, kept[0]).bool()
    atol = 1e-5 if family == "modernbert" else 1e-9
    torch.testing.assert_close(outputs[0][real], outputs[1][real], atol=atol, rtol=0)


@pytest.mark.parametrize("family", FUSED)
def test_merging_leaves_padding_out(family):
    model, given = build(family), texts()
    with torch.no_grad():
        dense = model(**given).last_hidden_state
        with compress(model, Plan({}, reduction=Merge())):
            assert torch.equal(model(**given).last_hidden_state, dense)
        with compress(model, Plan({0: 0.3, 1: 3}, reduction=Merge())) as compression:
            output = model(**given).last_hidden_state
    real = given["attention_mask"].gather(1, compression.kept).bool()
    assert output[real].isfinite().all()
    taken = (compression.sizes * real).sum(1)
    torch.testing.assert_close(taken, torch.tensor(LENGTHS, dtype=taken.dtype))


def test_padding_on_the_left_is_refused():
    given = {name: row.flip(1) for name, row in texts().items()}
    model = build("bert")
    with (
        compress(model, PLAN),
        pytest.raises(InputError, match='padding_side = "right"'),
    ):
        model(**given)


def test_merging_before_the_mlp_is_refused_where_a_norm_follows_it():
    with pytest.raises(InputError, match="does not add its MLP to the stream"):
        compress(build("bert"), Plan({0: 3}, reduction=ToMe()))
    model = build("modernbert")
    with compress(model, Plan({0: 3}, reduction=ToMe())) as compression, torch.no_grad():
        model(**texts())
    assert compression.counts == [16, 16, 16, 16]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_classifier_reads_the_first_token(family):
    model = build(
        family,
        kind="ForSequenceClassification",
        **({"classifier_pooling": "cls"} if family == "modernbert" else {}),
    )
    with compress(model, PLAN) as compression, torch.no_grad():
        assert model(**texts()).logits.isfinite().all()
    assert compression.counts[-1] == 11


REFUSED = {
    "decoder": (lambda: build("bert", is_decoder=True), "configured as a decoder"),
    "chunks": (lambda: build("bert", chunk_size_feed_forward=4), "chunk_size_feed_forward to 0"),
    "masked words": (lambda: build("bert", kind="ForMaskedLM"), "one output for every word"),
    "words": (
        lambda: build("roberta", kind="ForTokenClassification"),
        "one output for every word",
    ),
    "mean of words": (
        lambda: build(
            "modernbert", kind="ForSequenceClassification", classifier_pooling="mean"
        ),
        'the first one, "cls" or "bos"',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_lose_tokens_is_refused_with_the_reason(name):
    make, message = REFUSED[name]
    with pytest.raises(InputError, match=message):
        describe(make())
