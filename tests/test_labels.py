"""Which image is of which class, by a table or by folders; whatever else would shift them."""

import json

import numpy as np
import pytest
from PIL import Image

from repshift import InputError
from repshift.evaluation.data.images import find_images
from repshift.evaluation.data.labels import first_and_last, read_labels


def photograph(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path):
    for name in ("dog/1.png", "cat/1.png", "cat/2.png"):
        photograph(tmp_path / name)
    return tmp_path


def read(folder, classes=2):
    return read_labels(folder, find_images(folder), classes)


def test_folders_are_numbered_in_alphabetical_order(photos):
    found = read(photos)
    assert (found.numbers.tolist(), found.classes) == ([0, 0, 1], ("cat", "dog"))


@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints/1.png", "__MACOSX/dog/._1.png", "cat/._1.png", ".thumbs/a/1.png"]
)
def test_what_programs_leave_behind_shifts_no_label(photos, name):
    photograph(photos / name)
    found = read(photos)
    assert (found.numbers.tolist(), found.classes) == ([0, 0, 1], ("cat", "dog"))


def test_an_empty_class_is_an_error(photos):
    (photos / "bird").mkdir()
    with pytest.raises(InputError, match="1 of 3 class folders hold no image, the first bird"):
        read(photos, 3)
    (photos / "bird" / ".a.png").write_text("")
    (photos / "bird" / "notes.txt").write_text("")
    with pytest.raises(InputError, match="the first bird"):
        read(photos, 3)


@pytest.mark.parametrize("classes", [1, 3, 1000])
def test_folders_are_all_classes_of_the_model(photos, classes):
    says = rf"has 2 class folders \(0 cat, 1 dog\) and the model {classes} classes; .*labels.csv"
    with pytest.raises(InputError, match=says):
        read(photos, classes)


def test_of_many_classes_some_are_shown():
    assert first_and_last(list("abcde")) == "0 a, 1 b, 2 c, 3 d, 4 e"
    assert first_and_last(list("abcdef")) == "0 a, 1 b, 2 c, ..., 5 f"


TABLE = "file,label\ncat/1.png,4\ncat/2.png,0\ndog/1.png,1\n"


@pytest.mark.parametrize(
    "content",
    [
        TABLE.encode(),
        TABLE.encode("utf-8-sig"),  # Excel's "CSV UTF-8"
        TABLE.replace("\n", "\r\n").encode("utf-8-sig"),
        TABLE.replace("cat/1", "./cat/../cat/1").encode(),
        b'label,note,file\n4,x,cat/1.png\n0,,cat/2.png\n1,"a,b",dog/1.png\n',
    ],
)
def test_a_table_names_files(photos, content):
    (photos / "labels.csv").write_bytes(content)
    found = read(photos, 5)
    assert (found.numbers.tolist(), found.classes) == ([4, 0, 1], ())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (TABLE + "dog/1.png,0\n", "line 5: dog/1.png is on line 4 already"),
        (TABLE + "dog/1.png,1\n", "line 5: dog/1.png is on line 4 already"),
        (TABLE + "dog/./1.png,1\n", "line 5: dog/1.png is on line 4 already"),
        (TABLE + "../x.jpg,1\n", "line 5: file is '../x.jpg'; expected a path below"),
        (TABLE + "cat/../../x.jpg,1\n", "line 5: file is 'cat/../../x.jpg'; expected a path"),
        (TABLE + "/x.jpg,1\n", "line 5: file is '/x.jpg'; expected a path below"),
        (TABLE + ",1\n", "line 5: file is ''; expected a path below"),
        (TABLE + "x.jpg,cat\n", "line 5: label is 'cat'; expected a whole number"),
        (TABLE + "x.jpg,1.5\n", "line 5: label is '1.5'; expected a whole number"),
        (TABLE + "x.jpg\n", "line 5 has not as many values as the first line has columns"),
        (TABLE + "x.jpg,1,2\n", "line 5 has not as many values as the first line has columns"),
        (TABLE[:23], "labels.csv has no label for 2 images, the first cat/2.png"),
        (TABLE.replace("file", "name"), "its first line is 'name,label'"),
        (TABLE.replace(",", ";"), "separated by a comma; its first line is 'file;label'"),
        ("", "its first line is ''"),
        (TABLE + "x" * 200_000 + ",1\n", "labels.csv, line 5: field larger than field limit"),
        (TABLE.replace("4", "5"), "labels.csv run from 0 to 5; the model has 5 classes, 0 to 4"),
        (TABLE.replace("4", "-1"), "labels.csv run from -1 to 1"),
    ],
)
def test_what_a_table_may_not_say_is_named_with_its_line(photos, content, says):
    (photos / "labels.csv").write_text(content)
    with pytest.raises(InputError) as caught:
        read(photos, 5)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_table_that_is_not_utf_8_is_an_error(photos, encoding):
    (photos / "labels.csv").write_bytes((TABLE + "über.png,1\n").encode(encoding))
    line = 1 if encoding == "utf-16" else 5
    with pytest.raises(InputError, match=rf"labels.csv is not UTF-8 \(line {line}, .*; save it"):
        read(photos, 5)


def test_images_without_folders_need_a_table(photos):
    photograph(photos / "1.png")
    with pytest.raises(InputError, match="needs .*labels.csv .* or one folder a class"):
        read(photos)


def test_bench_shows_the_folders_it_numbered(run, tmp_path):
    for digit in range(10):
        photograph(tmp_path / "digits" / f"[{digit}]" / "1.png")
    status, out, err = run(
        "bench", "--model", "digits-vit", "--images", "digits", "--labels", "--methods",
        "shift(mlp)", "--out", "o",
    )  # fmt: skip
    assert status == 0, err
    said = "10 images in 10 class folders (0 [0], 1 [1], 2 [2], ..., 9 [9]); batches of 8"
    assert said in " ".join(out.split())
    assert said in (tmp_path / "o" / "report.html").read_text()
    facts = json.loads((tmp_path / "o" / "bench.json").read_text())["environment"]
    assert facts["classes"] == [f"[{digit}]" for digit in range(10)]
