"""A user's own questions are read as they stand; what is wrong is named in one line."""

import json

import pytest

from repshift import InputError
from repshift.evaluation.data.questions import Asked, read_questions


@pytest.fixture
def folder(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def read(folder, value):
    text = value if isinstance(value, str) else json.dumps(value)
    (folder / "q.json").write_text(text, encoding="utf-8")
    return read_questions(folder / "q.json")


def test_questions_are_read_with_images_relative_to_the_file(folder):
    (folder / "in").mkdir()
    (folder / "in" / "c.png").write_bytes(b"")
    a, b, c = (folder / name for name in ("a.png", "b.png", "in/c.png"))
    found = read(
        folder,
        [
            {"image": "a.png", "question": "What?"},
            {"images": ["in/c.png", str(b)], "question": "Où?", "answer": "là", "kind": "place"},
            {"images": "b.png", "question": "What?", "answer": None},
        ],
    )
    assert found == [
        Asked((a,), "What?", None, "question"),
        Asked((c, b), "Où?", "là", "place"),
        Asked((b,), "What?", None, "question"),
    ]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("{", "is not JSON"),
        ({"image": "a.png"}, "expected a list of one entry or more"),
        ([], "expected a list of one entry or more"),
        (["a.png"], "entry 0 (from 0) is 'a.png'; expected such as"),
        ([{"question": "What?"}], "has neither of image and images"),
        (
            [{"image": "a.png", "images": ["b.png"], "question": "What?"}],
            "has both of image and images",
        ),
        ([{"image": "a.png"}], "question is missing"),
        ([{"image": "a.png", "question": " "}], "question is ' '"),
        ([{"image": 3, "question": "What?"}], "image is 3"),
        ([{"images": [], "question": "What?"}], "images is []"),
        ([{"image": "no.png", "question": "What?"}], "there is no image"),
        ([{"image": "\0", "question": "What?"}], "there is no image"),
        ([{"image": "a.png", "question": "What?", "answer": 3}], "answer is 3"),
        ([{"image": "a.png", "question": "What?", "kind": ""}], "kind is ''"),
        ([{"image": "a.png", "question": "What?", "hint": 1, "id": 2}], "unknown keys hint, id"),
    ],
)
def test_what_is_wrong_is_named(folder, value, message):
    with pytest.raises(InputError) as caught:
        read(folder, value)
    assert message in str(caught.value)
    assert str(folder / "q.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_says_what_it_should_hold(folder):
    with pytest.raises(InputError, match="q.json cannot be read.*expected a JSON list of questio"):
        read_questions(folder / "q.json")
