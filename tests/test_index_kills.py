"""``repshift index`` that is killed at any moment goes on, as a process with its workers."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from repshift.evaluation.collection.models import Named
from repshift.evaluation.collection.run import index
from repshift.evaluation.collection.table import open_table

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "repshift", "index", "photos", "--model", "digits-vit", "--out",
           "t.lance", "--batch-size", "4", "--workers", "1", "--import", "slow.py"]  # fmt: skip
# A piece of the table after every batch, and batches that take their time.
SLOW = """
import time
from repshift.evaluation.collection import indexing, encoder
indexing._ROWS = 1
before = encoder.Running.embed
def embed(self, seen):
    time.sleep(0.1)
    return before(self, seen)
encoder.Running.embed = embed
"""


def start(folder):
    return subprocess.Popen(
        COMMAND, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"}, start_new_session=True,
    )  # fmt: skip


def content(path):
    rows = open_table(path)._table.search().to_arrow().to_pylist()
    return sorted(rows, key=lambda row: row["path"])


def test_it_ends_with_the_same_table_whatever_stops_it(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "slow.py").write_text(SLOW)
    pixels = np.random.default_rng(0).integers(0, 256, (96, 32, 32, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number:03}.png")
    named = Named("digits-vit", batch_size=4)
    index(str(tmp_path / "photos"), named, tmp_path / "whole.lance", 2.0, workers=0)
    expected, done = content(tmp_path / "whole.lance"), 0
    assert len(expected) == 96
    for number in (signal.SIGKILL, signal.SIGINT):
        process = start(tmp_path)
        while process.poll() is None and stored(tmp_path / "t.lance") < done + 12:
            time.sleep(0.1)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        _, err = process.communicate(timeout=300)
        assert process.returncode == (-9 if number == signal.SIGKILL else 130), err
        assert "Traceback" not in err
        assert done + 12 <= stored(tmp_path / "t.lance") < 96
        assert not (tmp_path / "t-report.json").exists()
        done = stored(tmp_path / "t.lance")
    assert err.splitlines()[-1] == "repshift: interrupted; no file is half-written"
    last = start(tmp_path)
    out, err = last.communicate(timeout=300)
    assert last.returncode == 0, err
    assert f"96 rows; {96 - done} files added, 0 changed, 0 removed, {done} as before" in out
    assert content(tmp_path / "t.lance") == expected


def stored(path):
    """How many rows there are; none before the table is whole."""
    return len(open_table(path)) if list(path.glob("_versions/*.manifest")) else 0
