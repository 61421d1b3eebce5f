"""``repshift index`` of shards: each picture of a tar or Parquet file is a row, as a file is."""

import gzip
import io
import pickle
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from repshift import InputError
from repshift.evaluation.collection import places
from repshift.evaluation.collection.finding import Finder
from repshift.evaluation.collection.indexing import bring_up_to_date
from repshift.evaluation.collection.local import Local
from repshift.evaluation.collection.models import Named, made_by, open_encoder
from repshift.evaluation.collection.pieces import End, Piece, Pieces
from repshift.evaluation.collection.places import find_files, find_one, local_file
from repshift.evaluation.collection.table import make_table

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def picture(number):
    pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path, members):
    with tarfile.open(path, "w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_parquet(path, rows, **columns):
    """As ``datasets`` writes images, in groups of three rows."""
    held = [{"bytes": one, "path": None} for one in rows]
    parquet.write_table(
        pa.table({"image": held, "label": list(range(len(rows))), **columns}), path,
        row_group_size=3,
    )  # fmt: skip


@pytest.fixture
def shards(tmp_path):
    folder = tmp_path / "shards"
    folder.mkdir()
    members = {f"a/{number}.png": picture(number) for number in range(4)}
    write_tar(folder / "0.tar", {
        **members, "a/0.json": b"{}", "a/0.cls": b"7", "a/._0.png": b"", "bad.jpg": b"no image",
        "empty.png": b"", "a/3.png": picture(9),
    })  # fmt: skip
    write_parquet(folder / "1.parquet", [*map(picture, range(5)), None, b"no image", picture(7)])
    return folder


@pytest.fixture(scope="module")
def encoder():
    return open_encoder(Named("digits-vit", batch_size=8))


def table_of(path, encoder):
    return make_table(path, made_by(Named("digits-vit", batch_size=8), encoder, 2.0))


def rows(table):
    listed = table._table.search().to_arrow().to_pylist()
    return {row["path"]: row for row in listed}


def test_a_picture_of_a_shard_is_a_row_like_a_file(encoder, shards, tmp_path):
    expected = {f"0.tar::a/{number}.png": number for number in range(3)} | {"0.tar::a/3.png": 9}
    expected |= {f"1.parquet::{number}": number for number in (0, 1, 2, 3, 4, 7)}
    (tmp_path / "files").mkdir()
    for number in set(expected.values()):
        (tmp_path / "files" / f"{number}.png").write_bytes(picture(number))
    tables, outcomes = [], []
    for name in ("files", "shards"):
        tables.append(table_of(tmp_path / f"{name}.lance", encoder))
        files = find_files(str(tmp_path / name))
        outcomes.append(bring_up_to_date(tables[-1], files, Local(encoder, 0, 2.0)))
    alone, found = map(rows, tables)
    assert found.keys() == {f"{shards}/{key}" for key in expected}
    for key, number in expected.items():
        row, file = found[f"{shards}/{key}"], alone[f"{tmp_path}/files/{number}.png"]
        shard = shards / key.partition("::")[0]
        assert (row["size"], row["modified"]) == (
            shard.stat().st_size, shard.stat().st_mtime_ns
        )  # fmt: skip
        for column in ("second", "kept", "thumbnail"):
            assert row[column] == file[column]
        assert torch.allclose(torch.tensor(row["vector"]), torch.tensor(file["vector"]), atol=1e-6)
    assert outcomes[1].added == 10
    for told, says in zip(
        sorted(outcomes[1].skipped),
        [
            "0.tar::bad.jpg cannot be read as an image",
            "0.tar::empty.png cannot be read as an image",
            "1.parquet::5 has no bytes",
            "1.parquet::6 cannot be read as an image",
        ],
        strict=True,
    ):
        assert told.startswith(f"{shards}/{says}")
        assert "repshift-" not in told


def test_a_stopped_run_goes_on_a_changed_shard_is_read_again_and_what_left_leaves(
    encoder, shards, tmp_path
):
    table = table_of(tmp_path / "t.lance", encoder)

    def stopped(due):
        for number, one in enumerate(Local(encoder, 0, 2.0)(due)):
            if number == 3:
                raise KeyboardInterrupt
            yield one

    def again(*places):
        done = bring_up_to_date(table, find_files(*places), Local(encoder, 0, 2.0))
        return done.added, done.changed, done.removed, done.unchanged

    with pytest.raises(KeyboardInterrupt):
        bring_up_to_date(table, find_files(str(shards)), stopped)
    assert again(str(shards)) == (7, 0, 0, 3)
    before = rows(table)
    write_tar(
        shards / "0.tar", {"a/0.png": picture(1), "a/1.png": picture(1), "new.png": picture(5)}
    )
    assert again(str(shards)) == (1, 2, 2, 6)
    after = rows(table)
    assert after[f"{shards}/0.tar::a/0.png"]["vector"] == pytest.approx(
        before[f"{shards}/0.tar::a/1.png"]["vector"], abs=1e-6
    )
    assert f"{shards}/0.tar::a/2.png" not in after
    # By shard, as the shell expands *.tar, and each once.
    assert again(str(shards / "0.tar"), str(shards / "0.tar")) == (0, 0, 6, 3)


def test_rows_come_in_order_so_that_each_group_is_read_once(encoder, tmp_path, monkeypatch):
    write_parquet(tmp_path / "p.parquet", list(map(picture, range(11))))
    files = pickle.loads(pickle.dumps(find_files(str(tmp_path))))  # as worker processes get them
    assert [one.path.rpartition("::")[2] for one in files] == [str(n) for n in range(11)]
    read, group = [], parquet.ParquetFile.read_row_group
    monkeypatch.setattr(
        parquet.ParquetFile, "read_row_group",
        lambda self, number, **given: read.append(number) or group(self, number, **given),
    )  # fmt: skip
    assert [one.reason for one in Pieces(files, encoder.see, 2.0) if isinstance(one, End)] == (
        [None] * 11
    )
    assert read == [0, 1, 2, 3]


def test_shards_elsewhere_are_read_by_ranges(encoder, shards):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(shards), "/shards", recursive=True)
    for place, count in (
        ("memory://shards", 14), ("memory://shards/*.tar", 6), ("memory://shards/0.tar", 6)
    ):  # fmt: skip
        files = find_files(place)
        assert len(files) == count
        assert files[0].path == "memory:///shards/0.tar::a/0.png"
        assert files[0].size == (shards / "0.tar").stat().st_size
        assert files[0].modified > 0
    here = find_files(str(shards))
    for one, other in zip(here, find_files("memory://shards"), strict=True):
        mine, theirs = (next(Pieces([file], encoder.see, 2.0).read(0)) for file in (one, other))
        assert type(mine) is type(theirs)
        if isinstance(mine, Piece):
            assert torch.equal(mine.seen, theirs.seen)
    memory.rm("/shards", recursive=True)


def damage(path, how):
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: content.index(b"d.png") + 1500])
    elif how == "a header":  # of the third member: two are before it
        at = content.index(b"c.png")
        path.write_bytes(content[:at] + b"\xff" * 512 + content[at + 512 :])
    elif how == "packed":
        path.write_bytes(gzip.compress(content))
    else:
        path.write_bytes(b"")


@pytest.mark.parametrize(
    ("how", "left", "says"),
    [
        ("cut", 3, "is damaged, or not whole"),
        ("a header", 2, "is damaged, or not whole; 2 pictures of it were found"),
        ("packed", 0, "is not a tar file, or a compressed one"),
        ("empty", 0, "is not a tar file, or a compressed one"),
    ],
)
def test_a_damaged_shard_is_named_and_what_is_whole_of_it_stays(encoder, tmp_path, how, left, says):
    (tmp_path / "s").mkdir()
    write_tar(tmp_path / "s" / "x.tar", {f"{name}.png": picture(1) for name in "abcd"})
    damage(tmp_path / "s" / "x.tar", how)
    ends = [one for one in Pieces(find_files(str(tmp_path / "s")), encoder.see, 2.0)
            if isinstance(one, End)]  # fmt: skip
    assert sum(one.reason is None for one in ends) == left
    assert any(f"x.tar {says}" in (one.reason or "") for one in ends)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"image": [1, 2]}, "needs a column of bytes, the pictures, and has none"),
        ({"a": [b"1"], "b": [b"2"]}, "has several (a, b), none of them named image"),
        (None, "cannot be read as Parquet"),
    ],
)
def test_a_parquet_file_without_pictures_is_named(encoder, tmp_path, columns, says):
    if columns:
        parquet.write_table(pa.table(columns), tmp_path / "x.parquet")
    else:
        (tmp_path / "x.parquet").write_bytes(b"PAR1 no such PAR1")
    [end] = Pieces(find_files(str(tmp_path)), encoder.see, 2.0).read(0)
    assert end.reason.startswith(f"{tmp_path}/x.parquet ")
    assert says in end.reason


def test_plain_bytes_beside_others_are_the_pictures_where_they_are_named_image(encoder, tmp_path):
    table = pa.table({"mask": [b"x"], "image": pa.array([picture(1)], pa.large_binary())})
    parquet.write_table(table, tmp_path / "x.parquet")
    piece, _ = Pieces(find_files(str(tmp_path)), encoder.see, 2.0).read(0)
    assert isinstance(piece, Piece)


def test_the_command_and_the_page_show_pictures_of_shards(run, shards, tmp_path, monkeypatch):
    monkeypatch.setattr("repshift.evaluation.collection.comparison.ROUNDS", 1)
    options = ["--model", "digits-vit", "--workers", 0, "--batch-size", 8]
    status, out, err = run(
        "index", shards / "0.tar", shards / "1.parquet", *options, "--out", "t.lance"
    )
    assert status == 0, err
    assert "10 rows; 10 files added, 0 changed, 0 removed, 0 as before, 4 skipped" in out
    (tmp_path / "query.png").write_bytes(picture(9))
    status, out, err = run("find", "t.lance", "query.png", "--top", 2)
    assert status == 0, err
    assert f"{shards}/0.tar::a/3.png" in out
    page = (tmp_path / "found.html").read_text()
    assert f'title="{shards}/0.tar::a/3.png">3.png<' in page
    assert "<a href" not in page


def test_what_was_kept_of_a_picture_of_a_shard_is_drawn(encoder, shards, tmp_path):
    table = table_of(tmp_path / "t.lance", encoder)
    bring_up_to_date(table, find_files(str(shards)), Local(encoder, 0, 2.0))
    finder = Finder(table, encoder)
    for key in ("0.tar::a/3.png", "1.parquet::7"):
        drawn = finder.kept_tokens(f"{shards}/{key}", None)
        assert Image.open(io.BytesIO(drawn)).width > 500
    write_tar(shards / "0.tar", {"a/0.png": picture(1)})
    with pytest.raises(InputError, match=r"a/3.png is not there any more; index again"):
        finder.kept_tokens(f"{shards}/0.tar::a/3.png", None)
    assert find_one(f"{shards}/0.tar::a/0.png").inside is not None


def test_a_shard_is_listed_once_for_many_of_its_pictures(shards, monkeypatch):
    listed = []
    pictures_in = places.pictures_in

    def counted(shard, *rest):
        listed.append(shard)
        return pictures_in(shard, *rest)

    monkeypatch.setattr(places, "pictures_in", counted)
    for name in ("0", "1", "2"):
        found = find_one(f"{shards}/0.tar::a/{name}.png")
        with local_file(found) as copy:
            assert copy.read_bytes() == picture(int(name))
    assert listed == [f"{shards}/0.tar"]
    write_tar(shards / "0.tar", {"a/0.png": picture(1)})
    with local_file(find_one(f"{shards}/0.tar::a/0.png")) as copy:
        assert copy.read_bytes() == picture(1)
    assert len(listed) == 2
