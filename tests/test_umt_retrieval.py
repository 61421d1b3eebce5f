"""UMT's retrieval and multiple choice against the reference, and under a plan."""

import pytest
import torch

from repshift import InputError, Plan, compress
from repshift.evaluation.tasks.ranking import rerank, retrieval_result
from umt_models import close, fixture, retrieval_model

_, REF = fixture("umt_retrieval")
_, CHOICES = fixture("umt_mc")
VIDEO, IDS, MASK = REF["input.video"], REF["input.ids"], REF["input.mask"].bool()


def truth(table):
    return [[index for index in row if index >= 0] for row in table.tolist()]


def figures(result):
    both = [result.video_to_text, result.text_to_video]
    found = [f for r in both for f in (r.at_1, r.at_5, r.at_10, r.mean)]
    return torch.tensor([round(f, 2) for f in (*found, result.mean)])


@pytest.fixture(scope="module")
def encoded():
    model = retrieval_model()
    return model, *model.encode_video(VIDEO), model.encode_text(IDS, MASK)


def test_features(encoded):
    model, tokens, pooled, text = encoded
    close(tokens, REF["output.vision_embeds"], 2e-5)
    close(pooled, REF["output.pooled_vision"])
    close(text, REF["output.text_embeds"])
    close(model.vision_proj(pooled), REF["output.vision_proj"])
    close(model.text_proj(text[:, 0]), REF["output.text_proj"])


def test_every_pair_matches_as_in_the_reference(encoded):
    model, tokens, _, text = encoded
    for video, expected in zip(tokens, REF["output.itm_logits_all"], strict=True):
        close(model.match(video[None], text, MASK), expected)
    pairs = model.match(tokens, text[:6], MASK[:6])
    close(pairs, REF["output.itm_logits_all"][range(6), range(6)])


@pytest.mark.parametrize(
    ("layout", "texts"), [("one_to_one", 6), ("multi_text", 9), ("multi_video", 4)]
)
def test_ranking(encoded, layout, texts):
    model, tokens, pooled, text = encoded
    text, mask = text[:texts], MASK[:texts]
    similarity = model.similarity(pooled, text)
    close(similarity, REF[f"output.{layout}.itc_v2t"])
    close(similarity.T, REF[f"output.{layout}.itc_t2v"])
    close(model(VIDEO, IDS[:texts], mask), similarity)
    scores = rerank(
        similarity,
        lambda video, chosen: model.match(tokens[video, None], text[chosen], mask[chosen])[:, 1],
        k=3,
    )
    close(scores[0], REF[f"output.{layout}.v2t"])
    close(scores[1], REF[f"output.{layout}.t2v"])
    matches = truth(REF[f"input.{layout}.img2txt"]), truth(REF[f"input.{layout}.txt2img"])
    ranked = retrieval_result(*scores, *matches)
    close(figures(ranked), REF[f"output.{layout}.metrics_reranked"])
    alone = retrieval_result(similarity, similarity.T, *matches)
    close(figures(alone), REF[f"output.{layout}.metrics_itc_only"])


def test_multiple_choice():
    ids = CHOICES["input.ids"].unflatten(0, (4, 5))
    mask = CHOICES["input.mask"].bool().unflatten(0, (4, 5))
    scores = retrieval_model().choose(CHOICES["input.video"], ids, mask)
    close(scores, CHOICES["output.scores"])
    assert torch.equal(scores.argmax(1), CHOICES["output.pred"])
    assert (scores.argmax(1) == CHOICES["input.answer"]).double().mean() == 0.75


@pytest.mark.parametrize("part", ["model", "encoder"])
def test_tokens_leave_the_vision_encoder(part):
    model = retrieval_model(pool="all")
    whole = model if part == "model" else model.vision_encoder
    dense = model(VIDEO, IDS, MASK)
    with compress(whole, Plan({0: 0.25, 1: 2})) as compression:
        reduced = model(VIDEO, IDS, MASK)
        assert compression.counts == [9, 7, 7]
        tokens, _ = model.encode_video(VIDEO)
        assert tokens.shape == (6, 7, 64)
        assert model.match(tokens, model.encode_text(IDS[:6], MASK[:6]), MASK[:6]).isfinite().all()
    assert not torch.allclose(reduced, dense)
    assert torch.equal(model(VIDEO, IDS, MASK), dense)


def test_frames_cannot_be_pooled_once_tokens_have_left():
    model = retrieval_model()
    with compress(model, Plan({0: 0.25})), pytest.raises(InputError, match='use pool="all"'):
        model(VIDEO, IDS, MASK)
