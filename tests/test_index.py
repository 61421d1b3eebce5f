"""``repshift index`` and ``find``: the table follows the files, whatever stops it."""

import json
import shutil
import sys
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from repshift import InputError, Plan, compress
from repshift.evaluation.collection import table as tables
from repshift.evaluation.collection.comparison import recall
from repshift.evaluation.collection.finding import Finder
from repshift.evaluation.collection.indexing import bring_up_to_date
from repshift.evaluation.collection.local import Local
from repshift.evaluation.collection.models import Named, made_by, open_encoder
from repshift.evaluation.collection.pieces import End, Piece, Pieces, read_pieces
from repshift.evaluation.collection.places import Found, find_files
from repshift.evaluation.collection.table import Row, make_table, open_table
from repshift.evaluation.zoo.digits import held_out_digits, load_digits_vit

DIGITS = ["--model", "digits-vit", "--workers", 0, "--batch-size", 8]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder of 24 digits as PNG files, named by what they show."""
    folder = tmp_path_factory.mktemp("digits")
    images, labels = held_out_digits()
    for number in range(24):
        pixels = ((images[number, 0] + 1) * 127.5).round().byte().numpy()
        Image.fromarray(pixels).save(folder / f"{number:02}-shows-{labels[number]}.png")
    return folder


@pytest.fixture
def folder(digits, tmp_path):
    """A copy of it that may be changed."""
    return shutil.copytree(digits, tmp_path / "digits")


@pytest.fixture(scope="module")
def encoder():
    return open_encoder(Named("digits-vit", batch_size=8))


def table_of(path, encoder):
    named = Named("digits-vit", batch_size=8)
    return make_table(path, made_by(named, encoder, 2.0))


def rows(table):
    """All that the table holds, by file and second; the vectors apart."""
    listed = table._table.search().to_arrow().to_pylist()
    listed.sort(key=lambda row: (row["path"], row["second"] or 0))
    vectors = torch.tensor([row.pop("vector") for row in listed])
    return listed, vectors


def test_find_gives_the_photograph_itself_and_those_like_it(run, folder, tmp_path, monkeypatch):
    monkeypatch.setattr("repshift.evaluation.collection.comparison.ROUNDS", 1)
    status, out, err = run("index", folder, *DIGITS, "--out", "d.lance")
    assert status == 0, err
    assert "24 rows; 24 files added" in out
    report = json.loads((tmp_path / "d-report.json").read_text())
    assert report["comparison"]["pieces"] == 24
    assert report["comparison"]["chance"] == pytest.approx(10 / 23)
    assert report["comparison"]["recall"] > 0.6
    query = sorted(folder.iterdir())[3]
    status, out, err = run("find", "d.lance", query, "--top", 3)
    assert status == 0, err
    assert out.index("1.000") < out.index("0.9")
    assert query.name in out
    page = (tmp_path / "found.html").read_text()
    names = [part.partition('"')[0] for part in page.split('<img alt="')[1:]]
    assert names[0] == query.name
    assert {name[-5] for name in names} == {query.name[-5]}  # all show the same digit


def test_the_vectors_are_what_the_head_is_given_with_fewer_tokens(encoder, digits):
    piece, end = Pieces(find_files(str(digits))[:1], encoder.see, 2.0).read(0)
    assert isinstance(end, End)
    with encoder.attached() as running:
        vectors, kept = running.embed(piece.seen[None])
        assert kept == running.compression.lengths[:1].tolist()
        assert kept[0] < 65
    model = load_digits_vit()
    with compress(model, encoder.plan), torch.inference_mode():
        before = model.forward_head(model.forward_features(piece.seen[None]), pre_logits=True)
    assert torch.allclose(vectors, torch.nn.functional.normalize(before), atol=1e-6)


def test_a_run_that_was_stopped_goes_on_and_ends_with_the_same_table(encoder, digits, tmp_path):
    files = find_files(str(digits))
    whole = table_of(tmp_path / "whole.lance", encoder)
    bring_up_to_date(whole, files, Local(encoder, 0, 2.0))

    def stopped(after):
        def engine(due):
            for number, one in enumerate(Local(encoder, 0, 2.0)(due)):
                if number == after:
                    raise KeyboardInterrupt
                yield one

        return engine

    for after in (0, 5, 9):
        with pytest.raises(KeyboardInterrupt):
            bring_up_to_date(table_of(tmp_path / "t.lance", encoder), files, stopped(after))
    assert len(table_of(tmp_path / "t.lance", encoder)) == 14
    rest = table_of(tmp_path / "t.lance", encoder)
    outcome = bring_up_to_date(rest, files, Local(encoder, 0, 2.0))
    assert (outcome.added, outcome.unchanged) == (10, 14)
    (found, vectors), (expected, their) = rows(rest), rows(whole)
    assert found == expected
    assert torch.equal(vectors, their)


def test_changed_files_are_embedded_again_and_removed_ones_leave(encoder, folder, tmp_path):
    table = table_of(tmp_path / "t.lance", encoder)
    bring_up_to_date(table, find_files(str(folder)), Local(encoder, 0, 2.0))
    before = {row["path"]: vector for row, vector in zip(*rows(table), strict=True)}
    first, second, third, *_ = sorted(folder.iterdir())
    first.unlink()
    shutil.copy(third, second)
    (folder / "new's <b>.png").write_bytes(third.read_bytes())
    (folder / "broken.png").write_bytes(b"no image")
    outcome = bring_up_to_date(table, find_files(str(folder)), Local(encoder, 0, 2.0))
    assert (outcome.added, outcome.changed, outcome.removed, outcome.unchanged) == (1, 1, 1, 22)
    assert len(outcome.skipped) == 1
    assert "broken.png cannot be read as an image" in outcome.skipped[0]
    after = {row["path"]: vector for row, vector in zip(*rows(table), strict=True)}
    assert str(first) not in after
    assert torch.equal(after[str(second)], before[str(third)])
    (folder / "new's <b>.png").unlink()
    assert bring_up_to_date(table, find_files(str(folder)), Local(encoder, 0, 2.0)).removed == 1
    assert len(table) == 23


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (["--model", "digits-vim"], "was made with --model digits-vit, and this is digits-vim"),
        (["--plan", "0:0.1"], "was made with --plan shift(mlp, l2) at 0:0.2,3:0.2,6:0.2, and "),
        (["--every", 5.0], "was made with --every 2.0, and this is 5.0; choose another --out"),
    ],
)
def test_a_table_of_something_else_is_refused(run, digits, encoder, tmp_path, other, says):
    table = table_of(tmp_path / "d.lance", encoder)
    status, _, err = run("index", digits, *DIGITS, *other, "--out", "d.lance")
    assert status == 2
    assert says in err
    assert err.count("\n") == 1
    assert len(table) == 0


SCORE = """
from dataclasses import dataclass
from repshift import Score, register

@register
@dataclass(frozen=True)
class Loud(Score):
    name = "loud"
    def required(self):
        return frozenset({"exit"})
    def __call__(self, state):
        return state.exit.norm(dim=-1)
"""


def test_edited_code_does_not_go_on_with_the_table_of_another(run, digits, tmp_path, unregistered):
    """Neither the score of the plan, nor the transform of the model, which no weights tell of."""
    score, model = tmp_path / "loud_score.py", tmp_path / "own_index_model.py"
    plan = tmp_path / "plan.json"
    plan.write_text('{"drop": {"0": 0.2}, "score": {"name": "loud"}}')

    def again(*command):
        status, _, err = run(*command)
        for name in ("loud_score", "own_index_model"):
            sys.modules.pop(name, None)
        return status, err

    score.write_text(SCORE)
    given = [*DIGITS, "--import", score, "--plan", plan, "--out", "s.lance"]
    assert again("index", digits, *given)[0] == 0
    assert again("index", digits, *given)[0] == 0
    score.write_text(SCORE.replace("norm(dim=-1)", "sum(-1)"))
    status, err = again("index", digits, *given)
    assert (status, err.count("\n")) == (2, 1)
    assert "s.lance was made with another version of the code of loud; choose another" in err
    query = sorted(digits.iterdir())[0]
    assert "the code of loud" in again("find", "s.lance", query, "--import", score)[1]

    model.write_text(OWN)
    given = ["--model", f"{model}:make", *DIGITS[2:], "--out", "m.lance"]
    assert again("index", digits, *given, "--model-args", "sides=(32, 32)")[0] == 0
    status, err = again("index", digits, *given, "--model-args", "sides=(32, 32)")
    assert status == 0, err
    assert again("find", "m.lance", query)[0] == 0
    model.write_text(OWN.replace("/ 255", "/ 255 * 2 - 1"))
    status, err = again("index", digits, *given, "--model-args", "sides=(32, 32)")
    assert (status, err.count("\n")) == (2, 1)
    assert "as it was (its code, its transform or its library); choose another --out" in err
    assert "as it was" in again("find", "m.lance", query)[1]


def test_what_is_wrong_is_said_in_one_line(run, photos, tmp_path, encoder):
    table_of(tmp_path / "d.lance", encoder)
    for folder in ("empty", "empty.lance"):
        (tmp_path / folder).mkdir()
    for command, says in [
        (["index", "nowhere", *DIGITS], "nowhere is not there; pass a folder, a shard"),
        (["index", *DIGITS], "no photographs are named; pass a folder, shards or a URL"),
        (["index", "empty", *DIGITS], "empty holds no images or videos"),
        (["index", "none://x", *DIGITS], "none://x cannot be listed"),
        (["index", photos, *DIGITS, "--out", "x.db"], "what is written is named *.lance"),
        (["index", photos, *DIGITS, "--every", 0], "--every is 0.0; expected seconds"),
        (["find", "no.lance", "a"], "no.lance is not there; make it with: repshift index"),
        (["find", "empty", "a"], "empty is a folder and no index of one; make it with: repshift"),
        (["find", "empty.lance", "a"], "cannot be read as a table of LanceDB"),
        (["find", "d.lance", "cat.jpg"], "cat.jpg is not a file; pass one that is there"),
        (
            ["find", "d.lance", "a cat " * 99],
            "digits-vit has no tower for texts; search by an image",
        ),
    ]:
        status, _, err = run(*command)
        assert status == 2, command
        assert says in err
        assert err.count("\n") == 1


def test_what_is_not_installed_is_named_with_its_extra(run, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "lancedb", None)
    status, _, err = run("index", photos, *DIGITS)
    assert status == 2
    assert "needs lancedb, which is not installed; install it with: pip install 'rep" in err


def test_two_processes_do_not_write_one_table(encoder, tmp_path):
    table = table_of(tmp_path / "d.lance", encoder)
    with (
        table.alone(),
        pytest.raises(InputError, match="another process is writing"),
        open_table(tmp_path / "d.lance").alone(),
    ):
        pass
    with table.alone():
        pass


def test_what_another_process_wrote_meanwhile_is_seen(encoder, digits, tmp_path):
    """By an index that waited its turn, and by a page that is served for weeks."""
    early, files = table_of(tmp_path / "d.lance", encoder), find_files(str(digits))
    finder = Finder(open_table(tmp_path / "d.lance"), encoder)
    bring_up_to_date(table_of(tmp_path / "d.lance", encoder), files, Local(encoder, 0, 2.0))
    outcome = bring_up_to_date(early, files, Local(encoder, 0, 2.0))
    assert (outcome.added, outcome.unchanged, len(early)) == (0, 24, 24)
    query = sorted(digits.iterdir())[5]
    assert finder.by_file(query, 1)[0].path == files[5].path
    shutil.rmtree(tmp_path / "d.lance")
    other = {**made_by(Named("digits-vit"), encoder, 2.0), "plan": Plan({}).to_json()}
    bring_up_to_date(make_table(tmp_path / "d.lance", other), files, Local(encoder, 0, 2.0))
    with pytest.raises(InputError, match="made anew, by something else; open it again"):
        finder.by_file(query, 1)


def test_files_in_an_archive_are_found_and_read(digits, encoder, tmp_path):
    """Each is called by its URL, which leads to it without the place that was indexed."""
    first = sorted(digits.iterdir())[0]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(first, "d/x.png")
        archive.writestr("d/notes.txt", "")
    [file] = find_files(f"zip://::{tmp_path}/a.zip")
    assert file.path == f"zip://d/x.png::{tmp_path}/a.zip"
    assert not file.is_video
    piece, end = Pieces([file], encoder.see, 2.0).read(0)
    expected = next(Pieces(find_files(str(digits))[:1], encoder.see, 2.0).read(0))
    assert torch.equal(piece.seen, expected.seen)
    assert end.reason is None
    assert Found("zip://film.mp4::a.zip", 0, 0).is_video


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_picture_of_the_same_size_in_an_archive_is_another(tmp_path, kind):
    """No archive says when, but by its sum; a bitmap has the same size whatever it shows."""
    found = []
    for colour in ("red", "blue"):
        Image.new("RGB", (32, 32), colour).save(tmp_path / "x.bmp")
        with zipfile.ZipFile(tmp_path / "a.zip", "w", kind) as archive:
            archive.write(tmp_path / "x.bmp", "x.bmp")
        found += find_files(f"zip://::{tmp_path}/a.zip")
    assert found[0].path == found[1].path
    assert found[0].size == found[1].size
    assert found[0].modified != found[1].modified


def test_a_folder_by_two_names_is_one_place(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    names = [".", f"../{folder.name}", str(folder), f"{folder}/../{folder.name}/"]
    [files] = {tuple(find_files(*names[:count])) for count in (1, 2, 4)}
    assert files == tuple(find_files(str(folder)))
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "deep" / "er")
    shutil.copy(files[0].path, tmp_path / "deep" / "a.png")
    [through] = find_files(f"{tmp_path}/link/..")  # which is not where the link stands
    assert through.path == f"{tmp_path}/link/../a.png"


def test_a_link_to_nothing_does_not_stop_the_others(encoder, folder):
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    files = find_files(str(folder))
    assert len(files) == 25
    ends = [one for one in Pieces(files, encoder.see, 2.0) if isinstance(one, End) and one.reason]
    assert [one.reason for one in ends] == [f"{folder}/gone.png is not a file"]


def test_files_elsewhere_give_the_same_pieces(digits, encoder):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(digits), "/there", recursive=True)
    memory.pipe("/there/.hidden/x.png", b"")
    memory.pipe("/there/notes.txt", b"")
    here, there = find_files(str(digits))[:3], find_files("memory://there")
    assert len(there) == 24
    assert there[0].path == "memory:///there/" + here[0].path.rpartition("/")[2]
    assert [one.size for one in there[:3]] == [one.size for one in here]
    assert there[0].modified > 0
    pieces = [[one for one in Pieces(files, encoder.see, 2.0) if isinstance(one, Piece)]
              for files in (here, there[:3])]  # fmt: skip
    for one, other in zip(*pieces, strict=True):
        assert torch.equal(one.seen, other.seen)
        assert one.thumbnail == other.thumbnail
    memory.pipe("/there/0.png", b"no image")
    [end] = Pieces(find_files("memory://there")[:1], encoder.see, 2.0).read(0)
    assert end.reason.startswith("memory:///there/0.png cannot be read as an image")


OWN = """
from repshift.evaluation.zoo.digits import digits_vit
import numpy, torch

def transform(image):
    return torch.from_numpy(numpy.array(image.convert("L").resize((32, 32))))[None] / 255

def make(hidden=False, sides=()):
    assert isinstance(sides, tuple)
    torch.manual_seed(0)
    return digits_vit(), (lambda image: transform(image)) if hidden else transform
"""


def test_worker_processes_read_all_files_once_by_a_transform_of_the_users(digits, tmp_path):
    (tmp_path / "own_index_model.py").write_text(OWN)
    name = f"{tmp_path / 'own_index_model.py'}:make"
    see = open_encoder(Named(name)).see
    files = find_files(str(digits))
    ends, seen = [], {}
    for one in read_pieces(Pieces(files, see, 2.0), 2):
        if isinstance(one, End):
            ends.append(one)
        else:
            seen[one.file] = one.seen
            assert not one.seen.is_shared()
    assert sorted(one.file for one in ends) == list(range(24))
    assert {(one.pieces, one.reason) for one in ends} == {(1, None)}
    for number in (0, 11, 23):
        assert torch.equal(seen[number], next(Pieces(files, see, 2.0).read(number)).seen)
    hidden = open_encoder(Named(name, settings={"hidden": True})).see
    with pytest.raises(InputError, match="cannot be sent to other processes .* --workers 0"):
        next(read_pieces(Pieces(files, hidden, 2.0), 2))


@pytest.fixture
def own_code(tmp_path):
    """Where the code of a model of the user's own is to be written."""
    sys.modules.pop("own_index_model", None)
    yield tmp_path / "own_index_model.py"
    sys.modules.pop("own_index_model", None)


@pytest.mark.parametrize("plan", ["0:0.2", "0:0"])
def test_a_picture_of_one_colour_does_not_stop_the_others(run, folder, own_code, plan):
    """A transform of the user's divides by how much the pixels differ."""
    code = OWN.replace("return torch.from", "x = torch.from")
    code = code.replace("[None] / 255", "[None].float()\n    return (x - x.mean()) / x.std()")
    own_code.write_text(code)
    Image.new("L", (32, 32)).save(folder / "black.png")
    given = ["--model", f"{own_code}:make", *DIGITS[2:], "--plan", plan]
    status, out, err = run("index", folder, *given, "--out", "d.lance")
    assert status == 0, err
    assert "black.png is NaN or infinity once the model's transform has seen it" in out
    assert "24 files added" in out


@pytest.mark.parametrize("command", ["index", "search"])
def test_a_transform_that_keeps_all_sizes_is_one_line(run, photos, own_code, command):
    Image.new("RGB", (64, 40)).save(photos / "wide.png")
    settings = '"vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, dynamic_img_size=True'
    own_code.write_text(f"""
import timm, torch, numpy

def transform(image):
    return torch.from_numpy(numpy.array(image)).permute(2, 0, 1).float() / 255

def make():
    return timm.create_model({settings}), transform
""")
    given = {"index": [photos, "--workers", 0, "--plan", "0:0.2"],
             "search": ["--images", photos, "--flops", 0.8]}  # fmt: skip
    status, _, err = run(command, *given[command], "--model", f"{own_code}:make")
    assert (status, err.count("\n")) == (2, 1), err
    assert "makes images of several sizes, such as [3, 40, 48] and [3, 40, 64]" in err


def test_a_model_that_gives_nan_is_one_line(run, digits, own_code):
    spoilt = "model = digits_vit()\n    model.norm.weight.data /= 0\n    return model, "
    own_code.write_text(OWN.replace("return digits_vit(), ", spoilt))
    given = ["--model", f"{own_code}:make", *DIGITS[2:], "--plan", "0:0"]
    status, _, err = run("index", digits, *given, "--out", "d.lance")
    assert status == 2
    assert err == (
        "repshift: the model gives NaN or infinity; pass --dtype float32, or look at its weights\n"
    )


def test_recall_is_the_share_of_neighbours_that_stay():
    dense = torch.eye(4)[[0, 0, 1, 1]] + torch.tensor([0.0, 0.1, 0.2, 0.3])[:, None]
    few = dense[[0, 2, 1, 3]]
    assert recall(dense, dense, 1) == 1.0
    assert recall(dense, few, 1) == 0.0
    assert recall(dense, few, 3) == 1.0


def test_many_rows_are_found_by_an_index_and_a_video_comes_once(tmp_path, monkeypatch, encoder):
    monkeypatch.setattr(tables, "INDEXED", 300)
    table = table_of(tmp_path / "t.lance", encoder)
    vectors = torch.nn.functional.normalize(torch.randn(320, 64)).numpy()
    film = [Row("film.mp4", float(n), 1, 1, 9, b"", vectors[0] + 0.01 * n * vectors[1])
            for n in (3, 1, 2)]  # fmt: skip
    table.add([*film, *(Row(f"{n}.png", None, 1, 1, 9, b"", one)
                        for n, one in enumerate(vectors) if n)])  # fmt: skip
    table.finish()
    assert len(table._table.list_indices()) == 1
    for number in (5, 200):
        assert table.nearest(vectors[number], 2)[0].path == f"{number}.png"
    hits = table.nearest(vectors[0].astype(np.float32), 20)
    assert (hits[0].path, hits[0].second) == ("film.mp4", 1.0)
    assert hits[0].likeness == pytest.approx(1, abs=1e-3)
    assert len({hit.path for hit in hits}) == 20
    assert table.holds("film.mp4", 2.0)
    assert not table.holds("film.mp4", None)


def test_a_smaller_input_is_compared_with_the_models_own(digits):
    size = open_encoder(Named("digits-vit", Plan({}, input_size=24), batch_size=4))
    piece, _ = Pieces(find_files(str(digits))[:1], size.see, 2.0).read(0)
    with size.attached() as running:
        assert running.embed(piece.seen[None])[1] == [37]
    with size.attached(dense=True) as running:
        assert running.embed(piece.seen[None])[1] == [65]
