"""Recall and ranks, against the reference and at their edges."""

import pytest
import torch

from repshift import InputError
from repshift.evaluation.tasks.ranking import NOT_RANKED, ranks, recall, rerank, retrieval_result
from test_umt_retrieval import figures, truth
from umt_models import close, fixture

_, REF = fixture("umt_retrieval_metrics")
LAYOUTS = [key.split(".")[1] for key in REF if key.startswith("output.")]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_figures_are_those_of_the_reference(layout):
    v2t, t2v, img2txt, txt2img = (
        REF[f"input.{layout}.{name}"] for name in ("v2t", "t2v", "img2txt", "txt2img")
    )
    result = retrieval_result(v2t, t2v, truth(img2txt), truth(txt2img))
    close(figures(result), REF[f"output.{layout}.metrics"])


def test_of_equal_scores_the_higher_index_comes_first():
    scores = torch.tensor([[2.0, NOT_RANKED, NOT_RANKED, NOT_RANKED]] * 4)
    assert ranks(scores, [[0], [1], [2], [3]]).tolist() == [0, 3, 2, 1]


def test_of_several_matches_the_best_counts():
    scores = torch.tensor([[0.1, 0.9, 0.5]])
    assert ranks(scores, [[0, 2]]).tolist() == [1]


def test_recall_and_median_rank():
    found = recall(torch.tensor([0, 0, 3, 20]))
    assert (found.at_1, found.at_5, found.at_10) == (50, 75, 75)
    assert found.mean == pytest.approx(200 / 3)
    assert found.median_rank == 2.5


def test_a_pair_is_scored_once_and_the_texts_of_a_video_together():
    similarity = torch.rand(5, 4)
    asked = []

    def match(video, texts):
        asked.extend((video, text) for text in texts.tolist())
        return similarity[video, texts] * 10

    v2t, t2v = rerank(similarity, match, k=2)
    assert len(set(asked)) == len(asked) <= 5 * 2 + 4 * 2
    assert (v2t > 0).sum(1).tolist() == [2] * 5
    assert (t2v > 0).sum(1).tolist() == [2] * 4
    assert torch.equal(v2t[v2t > 0], 10 * similarity[v2t > 0])
    assert (v2t == NOT_RANKED).sum() == 10


def test_what_cannot_be_ranked():
    scores = torch.zeros(2, 3)
    with pytest.raises(InputError, match="not all finite"):
        ranks(scores / 0, [[0], [1]])
    with pytest.raises(InputError, match="each of the 2 queries needs one match or more; got 1"):
        ranks(scores, [[0]])
    with pytest.raises(InputError, match="some of them empty"):
        ranks(scores, [[0], []])
    with pytest.raises(InputError, match="k is 0"):
        rerank(scores, lambda _, texts: texts.float(), k=0)
