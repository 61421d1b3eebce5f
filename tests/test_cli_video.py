"""``repshift retrieve`` and ``answer`` as a user runs them."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from models import build
from repshift import Level, Merge, Plan, Redundancy, ToMe
from repshift.adapters import describe
from repshift.cli.video import Retrieve
from repshift.evaluation.models.umt import config
from repshift.evaluation.models.umt.answering import AnsweringModel
from repshift.evaluation.models.umt.retrieval import RetrievalModel
from umt_models import ANSWERING, RETRIEVAL
from video_files import write_audio, write_video

COSTS = {
    "method", "tokens", "gflops", "videos_per_s", "speedup_vs_eager", "speedup_vs_fused", "peak_mb",
}  # fmt: skip
RECALLS = {"t2v_r1", "t2v_r5", "t2v_r10", "v2t_r1", "v2t_r5", "v2t_r10", "mean_r1"}


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setattr("repshift.evaluation.zoo.clips.files.CLIPS", 4)


@pytest.fixture
def umt(tmp_path, monkeypatch):
    """Files for a UMT in small under the name of the big one: weights, vocabulary, data."""
    monkeypatch.setitem(config.CONFIGS, "umt-b16", replace(RETRIEVAL, name="umt-b16", patch=112))
    monkeypatch.setitem(config.CONFIGS, "umt-l16", replace(ANSWERING, name="umt-l16", patch=112))
    unused = [f"[unused{n}]" for n in range(300)]
    special = ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]  # from 100, as in BERT's
    vocab = ["[PAD]", *unused[:99], *special, *unused[99:], *"abcdefghijklmno"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocab))
    for name, make in (("umt-b16", lambda c: RetrievalModel(c)), ("umt-l16", AnsweringModel)):
        weights = make(config.CONFIGS[name]).state_dict()
        copies = {key: value.clone() for key, value in weights.items()}
        save_file(copies, tmp_path / f"{name}.safetensors")
    root = tmp_path / "data"
    (root / "videos").mkdir(parents=True)
    entries = []
    for number in range(4):
        write_video(root / "videos" / f"{number}.mp4", 6 + number, noise=30)
        entries.append({"video": f"{number}.mp4", "caption": f"a b {'abcd'[number]}"})
    write_audio(root / "videos" / "sound.mp4")
    entries.append({"video": "sound.mp4", "caption": "a c e"})
    (root / "msrvtt_ret_test1k.json").write_text(json.dumps(entries))
    asked = [
        {"video": f"{n}.mp4", "question": "a b?", "answer": "a", "question_id": n} for n in range(4)
    ]
    (root / "msrvtt_qa_test.json").write_text(json.dumps(asked))
    (root / "msrvtt_qa_answer_list.json").write_text(json.dumps(["a", "b", "c d"]))
    return [
        "--vocab", tmp_path / "vocab.txt", "--root", root, "--workers", 0, "--batch-size", 2,
    ]  # fmt: skip


def test_retrieve_offline_compares_as_the_paper_does(run, tmp_path):
    command = ["retrieve", "--compare", "--workers", 0, "--batch-size", 1, "--json", "r.json"]
    status, out, err = run(*command)
    assert status == 0, err
    assert "T2V R@1/5/10" in out
    written = json.loads((tmp_path / "r.json").read_text())
    assert [row["method"] for row in written["rows"]] == [
        "dense, eager attention",
        "dense, fused attention",
        "dense, smaller input",
        "random, mean of 5 seeds",
        "column-attention",
        "shift(mlp, l2)",
        "attention-entropy + vid-tldr",
        "shift(mlp, l2) + vid-tldr",
    ]
    for row in written["rows"]:
        assert row.keys() >= COSTS | RECALLS
        assert row["mean_r1"] == pytest.approx((row["t2v_r1"] + row["v2t_r1"]) / 2)
    tokens = [row["tokens"] for row in written["rows"]]
    assert tokens[:2] + tokens[3:] == [800, 800, *[410] * 5]
    assert 300 < tokens[2] < 700  # fewer frames
    assert written["environment"]["videos"] == 4
    assert written["environment"]["versions"].keys() >= {"av", "torch", "tokenizers"}
    folder = tmp_path / "runs" / "clips-umt"
    assert {path.name for path in folder.iterdir()} >= {
        "retrieval.json", "retrieval.csv", "retrieval.png", "retrieval.html", "clips", "features",
    }  # fmt: skip


def test_answer_offline(run, tmp_path):
    given = "--workers", 0, "--batch-size", 1, "--plan", "umt-qa", "0:0.2"
    status, out, err = run("answer", *given, "--out", "o")
    assert status == 0, err
    written = json.loads((tmp_path / "o" / "answers.json").read_text())
    plans = [row["plan"] for row in written["rows"] if row["method"] != "dense, smaller input"]
    assert plans == ["", "", "umt-qa", "0:0.2"]
    assert any("frames" in row["plan"] for row in written["rows"])
    for row in written["rows"]:
        assert row.keys() >= COSTS | {"accuracy"}
        assert 0 <= row["accuracy"] <= 1
    assert "accuracy" in out


def test_retrieve_with_files_of_a_user(run, umt, tmp_path):
    command = ["retrieve", "--model", "umt-b16", *umt, "--data", "msrvtt", "--compare"]
    command += ["--checkpoint", tmp_path / "umt-b16.safetensors", "--out", "o"]
    status, _, err = run(*command)
    assert status == 2
    assert "sound.mp4 holds no video, only audio" in err
    status, out, err = run(*command, "--on-error", "skip", "--plan", "0:0.1")
    assert status == 0, err
    assert "1 files skipped" in out
    assert "sound.mp4 holds no video" in out
    written = json.loads((tmp_path / "o" / "retrieval.json").read_text())
    assert written["environment"]["skipped"] == 1
    published = {row["method"]: row["published"] for row in written["rows"]}
    assert published["column-attention"] == "47.6/74.1/81.7"
    assert published["shift(mlp, l2) + vid-tldr"] == "50.8"
    assert published["random, mean of 5 seeds"] == "-"


def test_answer_with_files_of_a_user(run, umt, tmp_path):
    status, _, err = run(
        "answer", "--model", "umt-l16", *umt, "--data", "msrvtt-qa", "--plan", "0:0.1",
        "--checkpoint", tmp_path / "umt-l16.safetensors", "--methods", "random", "shift",
    )  # fmt: skip
    assert status == 0, err
    rows = json.loads((tmp_path / "runs/umt-l16-msrvtt-qa/answers.json").read_text())["rows"]
    assert {row["method"]: row["published"] for row in rows}["shift(mlp, l2)"] == "49.0"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "umt-x"], "unknown model 'umt-x'; there are clips-umt, umt-b16, umt-l16"),
        (["--data", "msrvtt"], "clips-umt brings its own weights and clips"),
        (["--model", "umt-b16"], "--data is None; expected one of msrvtt, "),
        (["--model", "umt-b16", "--data", "msrvtt-qa"], "--data is msrvtt-qa; expected one of"),
        (["--model", "umt-b16", "--data", "msvd"], "msvd needs --root DIR, a directory with"),
        (["--model", "umt-b16", "--data", "msvd", "--root", "x"], "cannot be read: No such file"),
        (["--batch-size", "0"], "--batch-size is 0; expected 1 or more"),
        (["--workers", "-1"], "workers is -1"),
        (["--plan", "none"], "unknown plan 'none'"),
        (["--compare", "--methods", "random"], "--compare chooses the methods"),
        (["--plan", "9:0.2"], "block 9"),
        (["--device", "tpu"], "--device tpu cannot be used here"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(run, arguments, message):
    status, _, err = run("retrieve", *arguments)
    assert status == 2
    assert message in err
    assert "Traceback" not in err


def test_a_wrong_checkpoint_is_named(run, umt, tmp_path):
    command = ["retrieve", "--model", "umt-b16", *umt, "--data", "msrvtt"]
    status, _, err = run(*command)
    assert (status, "umt-b16 needs --checkpoint FILE" in err) == (2, True)
    torch.save({"x": torch.ones(1)}, tmp_path / "wrong.pth")
    status, _, err = run(*command, "--checkpoint", tmp_path / "wrong.pth")
    assert (status, "is not umt-b16 for retrieval" in err) == (2, True)


@pytest.mark.usefixtures("unchecked")  # the task does not matter
def test_a_plan_of_any_budget_brings_its_own_method(tmp_path):
    spec = describe(build("deit"))
    for plan in (
        Plan({0: 0.2}, Redundancy(), Merge()),
        Plan({0: Level(0.2)}),
        Plan({0: 0.2}, reduction=ToMe()),
    ):
        (tmp_path / "plan.json").write_text(plan.to_json())
        video = Retrieve(plan=(str(tmp_path / "plan.json"),))
        [*_, row] = rows = video._rows(spec, None, *video._methods("umt-retrieval"))
        assert (len(rows), row.plans) == (3, (plan,))
