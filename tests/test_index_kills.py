"""``repshift index`` that is killed at any moment goes on, as a process with its workers."""

import os
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from repshift.evaluation.collection.table import open_table

pytestmark = pytest.mark.slow

COMMAND = [sys.executable, "-m", "repshift", "index", "photos", "--model", "digits-vit", "--out",
           "t.lance", "--batch-size", "4", "--import", "slow.py"]  # fmt: skip
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
    pixels = np.random.default_rng(0).integers(0, 256, (160, 32, 32, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "photos" / f"{number:03}.png")
    whole = start(tmp_path)
    out, err = whole.communicate(timeout=300)
    assert whole.returncode == 0, err
    expected = content(tmp_path / "t.lance")
    assert len(expected) == 160
    for one in ("t.lance", "t-report.json", "t-report.html"):
        os.rename(tmp_path / one, tmp_path / f"before-{one}")
    moments = random.Random(0)
    sizes = []
    for number in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        process = start(tmp_path)
        done = len(content(tmp_path / "t.lance")) if sizes else 0
        while process.poll() is None and (
            not (tmp_path / "t.lance" / "data").exists()
            or len(content(tmp_path / "t.lance")) < done + 12
        ):
            time.sleep(0.2)
        time.sleep(moments.random() / 2)
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        _, err = process.communicate(timeout=120)
        assert process.returncode == (-9 if number == signal.SIGKILL else 128 + number), err
        if number != signal.SIGKILL:
            assert err.splitlines()[-1].endswith("no file is half-written")
            assert "Traceback" not in err
        sizes.append(len(content(tmp_path / "t.lance")))
        assert not (tmp_path / "t-report.json").exists()
    assert sizes == sorted(sizes)
    assert sizes[-1] < 160
    last = start(tmp_path)
    out, err = last.communicate(timeout=300)
    assert last.returncode == 0, err
    assert f"{sizes[-1]} as before" in out
    assert content(tmp_path / "t.lance") == expected
