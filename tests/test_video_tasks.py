"""Retrieval and question answering over files: as a plain loop, stopped, skipped, shared."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from repshift import InputError, Plan, Random
from repshift.adapters import describe
from repshift.evaluation.data.annotations import QuestionSet, RetrievalSet
from repshift.evaluation.data.pixels import normalise
from repshift.evaluation.data.video_file import VideoError
from repshift.evaluation.data.videos import Sampling
from repshift.evaluation.models.umt.answering import AnsweringModel
from repshift.evaluation.models.umt.retrieval import RetrievalModel
from repshift.evaluation.tasks.answering import Answering
from repshift.evaluation.tasks.ranks import Ranks
from repshift.evaluation.tasks.retrieval import Retrieval, among
from repshift.evaluation.tasks.store import Store
from repshift.evaluation.tasks.variants import Variant, paper_variants, variants
from repshift.evaluation.tasks.videos import Videos
from umt_models import ANSWERING, RETRIEVAL
from video_files import write_audio, write_video

SAMPLING = Sampling(frames=2, size=32)
PLAN = Plan({0: 0.3})
DENSE, SHIFT = Variant("dense, fused attention"), Variant("shift", "0:0.3", (PLAN,))
RANDOM = Variant("random", "0:0.3", tuple(replace(PLAN, score=Random(seed)) for seed in range(2)))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("videos")
    return [write_video(folder / f"{n}.mp4", 5 + 3 * n, noise=40) for n in range(5)]


def words(count, length, seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(5, 300, (count, length), generator=generator)
    mask = torch.arange(length) < torch.randint(2, length + 1, (count, 1), generator=generator)
    return ids.where(mask, 0), mask


def videos(paths, **options):
    settings = {"batch_size": 2, "device": torch.device("cpu"), "dtype": torch.float32}
    return Videos(paths, SAMPLING, **settings, workers=0, **options)


def retrieval(paths, folder, **options):
    torch.manual_seed(0)
    model = RetrievalModel(RETRIEVAL, "all").eval()
    data = RetrievalSet(
        "small", paths, [f"text {n}" for n in range(7)],
        texts_of=[[0, 5], [1], [2], [3, 6], [4]],
        videos_of=[[0], [1], [2], [3], [4], [0], [3]],
        text_length=6, first_seconds=None,
    )  # fmt: skip
    return Retrieval(
        model, describe(model), data, videos(paths, **options), words(7, 6, 1),
        candidates=3, folder=folder, ranks=Ranks(),
    )  # fmt: skip


def answering(paths, folder, **options):
    torch.manual_seed(0)
    model = AnsweringModel(ANSWERING).eval()
    answers = ["red", "blue", "a star", "left"]
    data = QuestionSet(
        "small", paths, [0, 2, 2, 4, 3, 1], ["?"] * 6, ["red", "left", "blue", "red", "red", "sea"],
        list(range(6)), answers, unlisted=1, question_length=6, answer_length=3,
    )  # fmt: skip
    return Answering(
        model, describe(model), data, videos(paths, **options), words(6, 6, 1), words(4, 3, 2),
        candidates=128, folder=folder, ranks=Ranks(),
    )  # fmt: skip


def batch(paths):
    return normalise(torch.stack([SAMPLING.read(path) for path in paths]))


@torch.inference_mode()
def test_retrieval_is_what_a_plain_loop_finds(paths, tmp_path):
    run = retrieval(paths, tmp_path)
    run.encode([DENSE])
    model, (ids, mask) = run.model, words(7, 6, 1)
    texts = model.encode_text(ids, mask)
    found = [model.encode_video(batch(part)) for part in (paths[:2], paths[2:4], paths[4:])]
    similarity = torch.cat([model.similarity(pooled, texts) for _, pooled in found])
    tokens = torch.cat([tokens for tokens, _ in found])
    right = 0
    for text in range(7):
        best = similarity[:, text].topk(3).indices.tolist()
        scores = [model.match(tokens[v, None], texts[text, None], mask[text, None]) for v in best]
        winner = best[int(torch.cat(scores)[:, 1].argmax())]
        right += winner in run.data.videos_of[text]
    assert run.quality(DENSE)["t2v_r1"] == pytest.approx(100 * right / 7)


@torch.inference_mode()
def test_answers_are_what_the_model_says_of_one_question(paths, tmp_path):
    run = answering(paths, tmp_path)
    run.encode([DENSE])
    ids, mask = words(6, 6, 1)
    right = 0
    for question, video in enumerate(run.data.video_of):
        one = ids[question, None], mask[question, None]
        best, _ = run.model(batch([paths[video]]), *one, *words(4, 3, 2), k=4)
        right += run.data.answer_list[best[0, 0]] == run.data.answers[question]
    assert run.quality(DENSE)["accuracy"] == pytest.approx(right / 6)


@pytest.mark.parametrize("make", [retrieval, answering])
def test_a_plan_changes_what_is_kept_and_seeds_are_averaged(make, paths, tmp_path):
    run = make(paths, tmp_path)
    run.encode([DENSE, SHIFT, RANDOM])
    if make is retrieval:
        dense, shift = (run.store(row, 0).read("videos-00000")["tokens"] for row in (DENSE, SHIFT))
        assert dense.shape[1] > shift.shape[1]
    singles = [Variant("one", "", (plan,)) for plan in RANDOM.plans]
    each = [run.quality(row) for row in singles]
    for name, value in run.quality(RANDOM).items():
        assert value == pytest.approx(sum(one[name] for one in each) / 2)


@pytest.mark.parametrize("make", [retrieval, answering])
def test_a_stopped_run_goes_on_to_the_same_bits(make, paths, tmp_path, monkeypatch):
    whole = make(paths, tmp_path / "whole")
    whole.encode([DENSE, SHIFT])
    run = make(paths, tmp_path / "stopped")
    piece, calls = run.piece, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return piece(*args)

    monkeypatch.setattr(run, "piece", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run.encode([DENSE, SHIFT])
    run.encode([DENSE, SHIFT])
    assert len(calls) == 4 + 3  # of 6 pieces, 3 were there
    for row in (DENSE, SHIFT):
        assert run.quality(row) == whole.quality(row)
        for name in ("videos-00000", "videos-00001", "videos-00002"):
            one, other = whole.store(row, 0).read(name), run.store(row, 0).read(name)
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one)


def test_other_weights_videos_and_plans_are_kept_apart(paths, tmp_path):
    run = retrieval(paths, tmp_path)
    same = retrieval(paths, tmp_path)
    assert run.store(SHIFT, 0).folder == same.store(SHIFT, 0).folder
    torch.nn.init.zeros_(same.model.vision_proj.weight)
    others = [
        run.store(DENSE, 0),
        run.store(RANDOM, 0),
        run.store(RANDOM, 1),
        retrieval(paths[::-1], tmp_path).store(SHIFT, 0),
        Retrieval(
            same.model, same.spec, same.data, same.videos, words(7, 6, 1),
            candidates=3, folder=tmp_path, ranks=Ranks(),
        ).store(SHIFT, 0),
    ]  # fmt: skip
    assert len({run.store(SHIFT, 0).folder, *(store.folder for store in others)}) == 6


@pytest.mark.parametrize("make", [retrieval, answering])
def test_another_vocabulary_does_not_go_on_with_what_was_found_by_the_first(
    make, paths, tmp_path, monkeypatch
):
    """The texts are the same, and what the model reads of them is not."""
    run = make(paths, tmp_path)
    run.encode([DENSE])
    run.quality(DENSE)
    first = words
    monkeypatch.setitem(make.__globals__, "words", lambda *given: first(*given[:2], given[2] + 7))
    other, alone = make(paths, tmp_path), make(paths, tmp_path / "alone")
    other.encode([DENSE])
    alone.encode([DENSE])
    assert other.quality(DENSE) == alone.quality(DENSE)
    assert other.store(DENSE, 0).folder != run.store(DENSE, 0).folder


@pytest.mark.parametrize("make", [retrieval, answering])
def test_a_video_that_cannot_be_used(make, paths, tmp_path):
    broken = [paths[0], write_audio(tmp_path / "sound.mp4"), *paths[2:4], tmp_path / "none.mp4"]
    with pytest.raises(VideoError, match="holds no video, only audio"):
        make(broken, tmp_path).encode([DENSE])
    run = make(broken, tmp_path, on_error="skip")
    run.encode([DENSE])
    assert all(0 <= value <= 100 for value in run.quality(DENSE).values())
    first, second = run.skipped(DENSE)
    assert "sound.mp4 holds no video" in first
    assert "none.mp4 is not a file" in second
    nothing = make(broken[1:2] * 5, tmp_path, on_error="skip")
    nothing.encode([DENSE])
    with pytest.raises(InputError, match="none of the 5 videos can be used"):
        nothing.quality(DENSE)


@pytest.mark.parametrize("make", [retrieval, answering])
def test_a_video_that_could_not_be_read_for_a_while(make, paths, tmp_path, monkeypatch):
    """What the disk of another machine refuses once; the file does not change."""
    read = Sampling.read

    def refused(sampling, path):
        if path == paths[2]:
            raise VideoError(path, "cannot be read: Input/output error")
        return read(sampling, path)

    run = make(paths, tmp_path, on_error="skip")
    with monkeypatch.context() as patch:
        patch.setattr(Sampling, "read", refused)
        run.encode([DENSE])
        run.quality(DENSE)
        assert len(run.skipped(DENSE)) == 1
    [line] = run.skipped(DENSE)
    assert line == f"{paths[2]} could not be read before, and can be now; run again"
    run.encode([DENSE, SHIFT])
    assert run.skipped(DENSE) == run.skipped(SHIFT) == []
    whole = make(paths, tmp_path / "whole")
    whole.encode([DENSE, SHIFT])
    for row in (DENSE, SHIFT):
        assert run.quality(row) == whole.quality(row)


def test_what_is_left_of_a_data_set_when_videos_are():
    data = RetrievalSet("", [], [], [[0, 1], [2], [3]], [[0], [0], [1, 2], [2]], 1, None)
    assert among(data, [0, 1, 2]) == ([0, 1, 2, 3], data.texts_of, data.videos_of)
    assert among(data, [2, 0]) == ([0, 1, 2, 3], [[3], [0, 1]], [[1], [1], [0], [0]])


def test_pooling_by_frame_is_refused(paths, tmp_path):
    run = retrieval(paths, tmp_path)
    run.model.vision_encoder.pool = "frames"
    with pytest.raises(InputError, match='pool="all"'):
        Retrieval(
            run.model, run.spec, run.data, run.videos, words(7, 6, 1),
            candidates=3, folder=tmp_path, ranks=Ranks(),
        )  # fmt: skip


def test_a_store_keeps_what_it_was_given(tmp_path):
    store = Store(tmp_path, {"a": 1})
    assert not store.has("x")
    made = store.get("x", lambda: {"one": torch.arange(3), "two": torch.ones(2)})
    assert store.get("x", lambda: pytest.fail("computed twice")).keys() == made.keys()
    assert list(store.read("x", ("two",))) == ["two"]
    assert Store(tmp_path, {"a": 2}).folder != store.folder


def test_the_rows_of_the_papers_tables():
    spec = describe(RetrievalModel(RETRIEVAL, "all"))
    rows = paper_variants(spec, "p", PLAN, "t", Plan({0: 5}))
    assert [row.label for row in rows] == [
        "dense, eager attention",
        "dense, fused attention",
        "random, mean of 5 seeds",
        "column-attention",
        "shift(mlp, l2)",
        "attention-entropy + vid-tldr",
        "shift(mlp, l2) + vid-tldr",
    ]
    assert [row.schedule for row in rows] == ["", "", "p", "p", "p", "t", "t"]
    assert rows[4] == variants(spec, [("p", PLAN)], ["shift(mlp, l2)"])[2]


def test_two_processes_share_the_work(paths, tmp_path):
    alone = retrieval(paths, tmp_path / "alone")
    alone.encode([SHIFT])
    expected = alone.quality(SHIFT)
    script = tmp_path / "rank.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path\n"
        "import torch\n"
        "torch.set_num_threads(1)\n"
        "from test_video_tasks import SHIFT, retrieval\n"
        "run = retrieval([Path(p) for p in sys.argv[2:]], Path(sys.argv[1]))\n"
        "run.encode([SHIFT])\n"
        "print(run.ranks.rank, sorted(run.quality(SHIFT).items()))\n"
    )
    environment = {
        "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0", "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
    }  # fmt: skip
    import socket

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        environment["MASTER_PORT"] = str(free.getsockname()[1])
    command = [sys.executable, script, tmp_path / "shared", *paths]
    processes = [
        subprocess.Popen(
            list(map(str, command)), env={**os.environ, **environment, "RANK": str(rank)},
            stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]  # fmt: skip
    lines = [process.communicate(timeout=120)[0] for process in processes]
    assert all(process.returncode == 0 for process in processes)
    assert lines == [f"{rank} {sorted(expected.items())}\n" for rank in range(2)]
    one, other = alone.store(SHIFT, 0), Store(tmp_path / "shared", {})
    [shared] = other.folder.parent.iterdir()
    pieces = sorted(path.name for path in one.folder.iterdir())
    assert pieces == sorted(path.name for path in shared.iterdir())
    assert all((one.folder / name).read_bytes() == (shared / name).read_bytes() for name in pieces)
