"""Results appear whole or not at all, and two runs never mix theirs."""

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import repshift
from repshift import InputError
from repshift.files import check_writable, replacing, replacing_all, write_text


def full(*_, **__):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write_all(paths, text, error=None):
    with replacing_all(paths) as temporaries:
        for temporary in temporaries:
            temporary.write_text(text)
        if error is not None:
            raise error


def test_several_files_appear_together_or_not_at_all(tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b" / "c.png"]
    with pytest.raises(ZeroDivisionError):
        write_all(paths, "half", ZeroDivisionError)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    with replacing_all(paths) as [one, other]:
        one.write_text("1")
        other.write_text("2")
        assert not paths[0].exists()
    assert [path.read_text() for path in paths] == ["1", "2"]
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == set(paths)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("moment", [0, 1, 2])
def test_an_interrupt_among_the_names_gives_all_or_none(tmp_path, monkeypatch, error, moment):
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_text("old")
    rename, calls = Path.replace, []

    def interrupted(self, target):
        calls.append(target)
        if len(calls) == moment + 1:
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(error):
        write_all(paths, "new")
    assert {path.read_text() for path in paths} == ({"new"} if moment else {"old"})
    assert sorted(tmp_path.iterdir()) == paths


def test_a_full_disk_is_one_line_and_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "plan.json"
    write_text(path, "old")
    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(InputError, match=r"cannot write .*plan\.json: No space left on device"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_when_a_file_is_closed(tmp_path):
    def write():
        with replacing(tmp_path / "a.txt"):
            Path("/dev/full").write_text("x")

    with pytest.raises(InputError, match="cannot write .*: No space left"):
        write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("folder", "folder: it is a directory; pass the name of a file"),
        ("file/a.json", "Not a directory"),
        ("file/b/a.json", "Not a directory"),
        (f"{'n' * 300}.json", "File name too long"),
        (f"new/{'n' * 300}/a.json", "File name too long"),
        (f"a.{'n' * 250}", "File name too long"),
        ("/".join(["n" * 200] * 30), "File name too long"),
        ("/dev/full", "it is not a regular file"),
        ("loop/a.json", "Too many levels of symbolic links"),
    ],
)
def test_what_cannot_be_written_is_known_before(tmp_path, name, says):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("kept")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(tmp_path.rglob("*"))
    for check in (check_writable, lambda path: write_text(path, "")):
        with pytest.raises(InputError, match="cannot write") as caught:
            check(tmp_path / name)
        assert says in str(caught.value)
        if check is check_writable:
            assert sorted(tmp_path.rglob("*")) == before
    assert (tmp_path / "file").read_text() == "kept"
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize(
    "name", ["a.json", "new/b/a.json", "file", "a" * 255, "ü $x_{1}$ [red].json"]
)
def test_what_can_be_written_is_left_alone_by_the_check(tmp_path, name):
    (tmp_path / "file").write_text("kept")
    check_writable(tmp_path / name)
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]
    write_text(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text"


def test_a_directory_without_permission(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with pytest.raises(InputError, match="cannot write .*: Permission denied"):
        check_writable(tmp_path / "a.json")


def test_files_of_two_threads_are_all_of_one(tmp_path):
    paths = [tmp_path / name for name in "abcd"]

    def write(text):
        for _ in range(50):
            write_all(paths, text)

    threads = [threading.Thread(target=write, args=(text,)) for text in "xyz"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({path.read_text() for path in paths}) == 1


# The package without what it imports, PyTorch for one.
WRITER = """
import sys, types
from pathlib import Path
sys.modules["repshift"] = types.ModuleType("repshift")
sys.modules["repshift"].__path__ = sys.argv[2:]
from repshift.files import replacing_all
paths = [Path(f"{n}.txt") for n in range(40)]
print("ready", flush=True)
sys.stdin.readline()
for _ in range(40):
    with replacing_all(paths) as temporaries:
        for temporary in temporaries:
            temporary.write_text(sys.argv[1])
"""


def test_files_of_two_processes_are_all_of_one(tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, text, *repshift.__path__], cwd=tmp_path, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        for text in "xy"
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate(timeout=120)
        assert writer.returncode == 0
    assert len({path.read_text() for path in tmp_path.iterdir()}) == 1
