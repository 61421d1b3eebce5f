"""``repshift index`` of a bucket: the objects and shards of S3, as moto's server has them."""

import pytest

from repshift.evaluation.collection.pieces import End, Piece, Pieces
from repshift.evaluation.collection.places import find_files
from test_index_shards import encoder, picture, write_parquet, write_tar

pytest.importorskip("s3fs", reason="s3fs is not installed")
moto = pytest.importorskip("moto.server", reason="moto[server] is not installed")

__all__ = ["encoder"]  # a fixture


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    import fsspec

    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    files = fsspec.filesystem("s3", skip_instance_cache=True)
    files.mkdir("bucket")
    for number in range(2):
        files.pipe(f"bucket/set/{number}.png", picture(number))
    write_tar(tmp_path / "x.tar", {f"{number}.png": picture(number) for number in (0, 1)})
    write_parquet(tmp_path / "x.parquet", [picture(0), picture(1)])
    for name in ("x.tar", "x.parquet"):
        files.put(str(tmp_path / name), f"bucket/set/{name}")
    yield "s3://bucket/set"
    server.stop()


@pytest.mark.filterwarnings("ignore")
def test_objects_and_shards_of_a_bucket_give_the_same_pictures(bucket, encoder):
    files = find_files(bucket)
    assert [one.path for one in files] == [
        f"{bucket}/{name}" for name in ("0.png", "1.png", "x.parquet::0", "x.parquet::1",
                                        "x.tar::0.png", "x.tar::1.png")
    ]  # fmt: skip
    assert all(one.modified > 0 for one in files)
    read = list(Pieces(files, encoder.see, 2.0))
    assert [one.reason for one in read if isinstance(one, End)] == [None] * 6
    seen = [one.seen for one in read if isinstance(one, Piece)]
    for number in range(2):
        assert all(one.equal(seen[number]) for one in seen[number::2])
    assert [one.path for one in find_files(f"{bucket}/*.tar")] == [
        f"{bucket}/x.tar::0.png", f"{bucket}/x.tar::1.png"
    ]  # fmt: skip
