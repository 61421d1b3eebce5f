"""UMT's question answering against the reference, and under a plan."""

from dataclasses import replace

import pytest
import torch

from repshift import InputError, Plan, compress
from repshift.evaluation.models.umt.answering import AnsweringModel
from umt_models import ANSWERING, answering_model, close, fixture

_, REF = fixture("umt_qa")
VIDEO = REF["input.video"]
QUESTION = REF["input.question_ids"], REF["input.question_mask"].bool()
ANSWERS = REF["input.answer_ids"], REF["input.answer_mask"].bool()


@pytest.fixture(scope="module")
def model():
    return answering_model()


def test_the_answers_are_ranked_as_in_the_reference(model):
    found, probabilities = model(VIDEO, *QUESTION, *ANSWERS, k=8)
    assert torch.equal(found, REF["output.topk_ids"])
    assert torch.equal(found[:, 0], REF["output.predicted_index"])
    close(probabilities, REF["output.topk_probs"])


def test_what_the_ranking_is_made_of(model):
    close(model.vision_encoder(VIDEO), REF["output.vision_embeds"], 2e-5)
    ids, mask = QUESTION
    question = model.text_encoder(ids, mask, model.vision_encoder(VIDEO))
    close(question, REF["output.question_states"])
    start = model.begin(question, QUESTION[1], 101)
    close(start, REF["output.start_logits"])
    first = start.softmax(-1)[:, ANSWERS[0][:, 1]]
    close(first, REF["output.first_piece_prob"])
    whole = torch.stack(
        [
            model.log_likelihood(question[one, None], QUESTION[1][one, None], *ANSWERS)
            for one in range(6)
        ]
    )
    close(-whole, REF["output.answer_nll_all"])
    close(first.log() + whole, REF["output.score_all"])
    three = [part[:3] for part in ANSWERS]
    logits = model.text_decoder(*three, question[:1], QUESTION[1][:1])
    close(logits, REF["output.decoder_logits_question0_answers0to2"])


def test_the_head_shares_the_word_embeddings(model):
    predictions = model.text_decoder.cls.predictions
    assert predictions.decoder.weight is model.text_decoder.bert.embeddings.word_embeddings.weight
    assert predictions.decoder.bias is predictions.bias


def test_tokens_leave_the_vision_encoder(model):
    with compress(model, Plan.paper("umt-qa")) as compression:
        found, _ = model(VIDEO, *QUESTION, *ANSWERS, k=8)
        assert compression.counts == [11, 10, 9]
    assert found.shape == (6, 8)


@pytest.mark.parametrize("k", [0, 21])
def test_more_answers_than_there_are(model, k):
    with pytest.raises(InputError, match=f"k is {k}; the list has 20 answers"):
        model(VIDEO, *QUESTION, *ANSWERS, k=k)


def test_text_and_video_of_other_widths():
    with pytest.raises(InputError, match="the text is 48 wide and the video 64"):
        AnsweringModel(replace(ANSWERING, vision_width=64))
