"""``--engine ray`` makes the same rows as this machine's own processes."""

import tarfile

import pytest
import torch

from repshift.evaluation.collection.indexing import bring_up_to_date
from repshift.evaluation.collection.local import Local
from repshift.evaluation.collection.models import Named, made_by, open_encoder
from repshift.evaluation.collection.on_ray import OnRay, _whole
from repshift.evaluation.collection.places import Found, find_files
from repshift.evaluation.collection.table import make_table
from video_files import write_video


def test_a_file_is_whole_when_its_end_and_its_pieces_have_come():
    files = [Found("a.mp4", 1, 1), Found("b.png", 1, 1), Found("c.png", 1, 1)]

    def entries(*entries):
        names = ("file", "second", "pieces", "reason", "kept")
        columns = {name: [entry[n] for entry in entries] for n, name in enumerate(names)}
        vectors = [torch.ones(2).numpy().tobytes()] * len(entries)
        return columns | {"thumbnail": [b"x"] * len(entries), "vector": vectors}

    nan = float("nan")
    done = _whole(files, [
        entries((0, 0.5, -1, "", 3), (2, nan, 0, "c.png is empty", 0), (0, nan, 2, "", 0)),
        entries((1, nan, 1, "", 0)),
        entries((1, nan, -1, "", 4), (0, 2.5, -1, "", 3)),
    ])  # fmt: skip
    found = [(one.file.path, [(row.second, row.kept) for row in one.rows], one.reason)
             for one in done]  # fmt: skip
    assert found == [
        ("c.png", [], "c.png is empty"),
        ("b.png", [(None, 4)], None),
        ("a.mp4", [(0.5, 3), (2.5, 3)], None),
    ]


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_ray_makes_the_same_rows(photos, tmp_path):
    ray = pytest.importorskip("ray")
    pytest.importorskip("pandas")
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    write_video(photos / "film.mp4", 100)
    (photos / "broken.png").write_bytes(b"no image")
    with tarfile.open(photos / "shard.tar", "w") as archive:
        archive.add(photos / "broken.png", "broken.png")
        archive.add(photos / "0.png", "a.png")
    picture = (photos / "0.png").read_bytes()
    held = [{"bytes": one, "path": None} for one in (picture, None, picture)]
    parquet.write_table(pa.table({"image": held}), photos / "shard.parquet", row_group_size=2)
    named = Named("digits-vit", batch_size=4)
    encoder = open_encoder(named)
    ray.init(num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    tables, outcomes = [], []
    try:
        for name, engine in (
            ("local", Local(encoder, 0, 1.0)),
            ("ray", OnRay(named, encoder, 1.0)),
        ):
            table = make_table(tmp_path / f"{name}.lance", made_by(named, encoder, 1.0))
            outcomes.append(bring_up_to_date(table, find_files(str(photos)), engine))
            found = table._table.search().to_arrow().to_pylist()
            tables.append(sorted(found, key=lambda row: (row["path"], row["second"] or 0)))
    finally:
        ray.shutdown()
    assert outcomes[0].skipped == outcomes[1].skipped
    assert (outcomes[1].added, outcomes[1].rows) == (7, 10)
    vectors = [torch.tensor([row.pop("vector") for row in rows]) for rows in tables]
    assert tables[0] == tables[1]
    assert torch.allclose(vectors[0], vectors[1], atol=1e-6)
