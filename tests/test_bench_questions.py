"""``repshift bench --questions``: a vision-language model of a folder, and questions of a file."""

import json

import pytest
import torch
from PIL import Image

from repshift import Keep, VisionLanguagePlan
from repshift.evaluation.data.questions import Asked, read_questions
from repshift.evaluation.report import prompt_picture
from repshift.evaluation.tasks import questions_exam, vlm_rows
from repshift.evaluation.tasks.questions_exam import QuestionsExam
from repshift.evaluation.tasks.vlm_bench import bench_vision_language
from repshift.evaluation.tasks.vlm_rows import DENSE, Row
from repshift.evaluation.zoo.vision_language import load_vision_language
from vision_language_folders import save_qwen


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    return save_qwen(tmp_path_factory.mktemp("qwen"))


@pytest.fixture
def asked(qwen, tmp_path):
    """A file of three questions, whose answers are those of the dense model but for one."""
    pictures = [Image.new("RGB", (64, 32), colour) for colour in ("red", "white")]
    pictures[0].save(tmp_path / "a.png")
    pictures[1].save(tmp_path / "b.png")
    loaded = load_vision_language(f"hf:{qwen}")

    def said(images, question):
        inputs = loaded.inputs(images, question)
        told = loaded.model.generate(**inputs, max_new_tokens=3, do_sample=False)
        return loaded.processor.decode(told[0, -3:])

    one, two = said(pictures[:1], "w5 w9"), said(pictures, "w7 w8")
    entries = [
        {"image": "a.png", "question": "w5 w9", "answer": one, "kind": "one"},
        {"image": "b.png", "question": "w6", "answer": "never said", "kind": "one"},
        {"images": ["a.png", "b.png"], "question": "w7 w8", "answer": two, "kind": "two"},
    ]
    (tmp_path / "q.json").write_text(json.dumps(entries))
    return tmp_path / "q.json"


@pytest.fixture
def few(monkeypatch):
    """One budget, timed once, and short answers."""
    monkeypatch.setattr(questions_exam, "WORDS", 3)
    monkeypatch.setattr(prompt_picture, "WORDS", 3)
    whole = vlm_rows.rows
    monkeypatch.setattr(vlm_rows, "rows", lambda depth: whole(depth, (0.25,)))
    monkeypatch.setattr(QuestionsExam, "rounds", 1)
    monkeypatch.setattr(QuestionsExam, "seconds", 0.0)
    monkeypatch.setattr(QuestionsExam, "words", 1)


@pytest.mark.usefixtures("few")
def test_every_row_is_asked(run, qwen, asked, tmp_path):
    VisionLanguagePlan(prompt=Keep(0.5)).save(tmp_path / "mine.json")
    command = ("bench", "--model", f"hf:{qwen}", "--questions", asked, "--plan", "mine.json")
    status, out, err = run(*command, "--out", "o")
    assert status == 0, err
    told = json.loads((tmp_path / "o/bench.json").read_text())
    rows = {row["label"]: row for row in told["outcomes"]}
    dense = rows["dense, fused"]
    assert dense["figures"]["after"]["accuracy"]["one"][0] == 0.5
    right, low, high = dense["figures"]["after"]["accuracy"]["two"]
    assert (right, high) == (1.0, 1.0)
    assert low < 0.3  # one right answer proves little
    assert [rows[name]["tokens"] for name in ("dense, fused", "Keep(share)", "mine")] == [32, 8, 16]
    assert rows["dense, eager"]["figures"]["after"]["agreement"] == 1.0
    assert rows["smaller image"]["tokens"] == 8
    assert rows["no visual tokens"]["tokens"] == 0
    assert rows["Keep(share)"]["cache_mb"] < dense["cache_mb"]
    assert rows["Keep(share)"]["gflops"] < dense["gflops"]
    assert "What a prompt costs" in out
    page = (tmp_path / "o/report.html").read_text()
    assert page.count("<img") == 4  # the curves, and three questions
    assert not (tmp_path / "o/answers").exists()


@pytest.mark.usefixtures("few")
def test_a_result_says_on_what_it_was_measured(qwen, asked):
    loaded = load_vision_language(f"hf:{qwen}")
    loaded.model.to(torch.bfloat16)
    exam = QuestionsExam(loaded, read_questions(asked)[:1])
    facts = bench_vision_language(exam, [Row(DENSE)]).environment
    assert (facts["device"], facts["dtype"], facts["questions"]) == ("cpu", "bfloat16", 1)
    assert facts["versions"].keys() == {"python", "torch", "transformers", "repshift"}


def test_an_answer_may_go_on_and_be_written_otherwise(qwen):
    loaded = load_vision_language(f"hf:{qwen}")
    exam = QuestionsExam(loaded, [Asked((), "w5", "W5, w6!", "question")])
    number = loaded.processor.tokenizer.convert_tokens_to_ids
    for words, right in ((["w5", "w6", "w9"], True), (["w6", "w5"], False), (["w5"], False)):
        assert exam.right("after", 0, torch.tensor([number(words)])).item() is right


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--model", "digits-vit"], "a vision-language model of transformers, named hf:"),
        (["--labels"], "--labels does not apply to a bench with --questions"),
        (["--plan", "deit"], "--plan is deit; a vision-language model takes JSON files"),
        (["--samples", "0"], "--samples is 0; expected 1 or more"),
        (["--questions", "none.json"], "none.json"),
    ],
)
def test_what_cannot_be_asked_is_one_line(run, qwen, asked, arguments, reason):
    model = [] if "--model" in arguments else ["--model", f"hf:{qwen}"]
    questions = [] if "--questions" in arguments else ["--questions", asked]
    status, out, err = run("bench", *model, *questions, *arguments)
    assert (status, out) == (2, "")
    [line] = [one for one in err.splitlines() if one.startswith("repshift:")]
    assert reason in line


def test_questions_without_answers_are_for_a_search(qwen, asked):
    entries = json.loads(asked.read_text())
    del entries[1]["answer"]
    asked.write_text(json.dumps(entries))
    with pytest.raises(Exception, match="'w6' has no answer"):
        QuestionsExam(load_vision_language(f"hf:{qwen}"), read_questions(asked))
