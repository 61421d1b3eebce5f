"""What the annotation files say is read as the reference reads it; what is wrong is named."""

import json

import pytest

from repshift import InputError
from repshift.evaluation.data.annotations import (
    LAYOUTS,
    ChoiceLayout,
    QuestionLayout,
    RetrievalLayout,
    layout,
)


@pytest.fixture
def root(tmp_path):
    (tmp_path / "videos").mkdir()
    return tmp_path


def write(root, file, value):
    (root / file).write_text(json.dumps(value), encoding="utf-8")


def read(root, name, entries, **others):
    chosen = layout(name)
    write(root, chosen.file, entries)
    for file, value in others.items():
        write(root, getattr(chosen, file), value)
    return chosen.read(root)


@pytest.mark.parametrize(
    ("name", "length", "seconds"),
    [
        ("msrvtt", 32, None),
        ("msrvtt-train9k", 32, None),
        ("msrvtt-train7k", 32, None),
        ("msvd", 64, None),
        ("activitynet", 150, None),
        ("didemo", 64, 30.0),
        ("lsmdc", 96, None),
        ("ssv2-label", 25, None),
        ("ssv2-template", 25, None),
    ],
)
def test_every_retrieval_set_reads_a_pair(root, name, length, seconds):
    found = read(root, name, [{"video": "a/b.mp4", "caption": "A cat.", "video_id": 3}])
    assert found.videos == [root / "videos" / "a" / "b.mp4"]
    assert (found.texts, found.texts_of, found.videos_of) == (["A cat."], [[0]], [[0]])
    assert (found.text_length, found.first_seconds) == (length, seconds)


def test_a_pair_is_a_video_of_its_own_even_if_another_has_its_name(root):
    names = [*range(39), 0]  # the last once more, as a few of the published sets have it
    found = read(root, "msrvtt", [{"video": f"{n}.mp4", "caption": "x"} for n in names])
    assert (len(found.videos), found.texts_of[-1], found.videos_of[-1]) == (40, [39], [39])


def captioned(videos, captions):
    return [
        {"video": f"{v}.mp4", "caption": f"{v} {c}"} for v in range(videos) for c in range(captions)
    ]


@pytest.mark.parametrize("name", ["msrvtt", "lsmdc", "msvd", "activitynet", "didemo", "ssv2-label"])
def test_files_that_come_again_are_not_so_many_videos(root, name):
    """Of 20 copies of a video the model cannot know which one counts, and finds one in 20."""
    with pytest.raises(InputError) as caught:
        read(root, name, captioned(100, 20))
    message = str(caught.value)
    assert "names 2000 videos, but these are only 100 files" in message
    assert "the layout caption (that of msrvtt-train9k and msrvtt-train7k)" in message
    # In that layout the same entries are what they should be.
    write(root, "right.json", captioned(100, 20))
    found = RetrievalLayout("right.json", "caption", 32).read(root)
    assert (len(found.videos), len(found.texts)) == (100, 2000)
    assert found.texts_of[99] == list(range(1980, 2000))


def test_a_path_that_one_entry_names_twice_counts_too(root):
    with pytest.raises(InputError, match="names 2 videos, but these are only 1 files"):
        read(root, "ssv2-label", [{"video": ["a.mp4", "./a.mp4"], "caption": "x"}])


def test_a_byte_order_mark_is_no_part_of_the_text(root):
    text = json.dumps([{"video": "a", "caption": "Ein Mädchen"}], ensure_ascii=False)
    (root / "x.json").write_text(text, encoding="utf-8-sig")
    assert RetrievalLayout("x.json", "pair", 8).read(root).texts == ["Ein Mädchen"]
    (root / "x.json").write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=r"x.json is not UTF-8 \(line 1, byte 0xe4\); save it"):
        RetrievalLayout("x.json", "pair", 8).read(root)


def test_in_training_splits_a_video_comes_again_for_each_caption(root):
    entries = [{"video": v, "caption": c} for v, c in (("a", "x"), ("b", "y"), ("a", "z"))]
    for name in ("msrvtt-train9k", "msrvtt-train7k"):
        found = read(root, name, entries)
        assert [path.name for path in found.videos] == ["a", "b"]
        assert found.texts == ["x", "y", "z"]
        assert (found.texts_of, found.videos_of) == ([[0, 2], [1]], [[0], [1], [0]])


def test_each_caption_of_msvd_is_a_query(root):
    entries = [{"video": "a.avi", "caption": ["x", "y"]}, {"video": "b.avi", "caption": ["z"]}]
    found = read(root, "msvd", entries)
    assert found.texts == ["x", "y", "z"]
    assert (found.texts_of, found.videos_of) == ([[0, 1], [2]], [[0], [0], [1]])


@pytest.mark.parametrize("name", ["activitynet", "didemo"])
def test_sentences_make_a_paragraph(root, name):
    entries = [{"video": "a", "caption": ["One.", "", "Two."]}, {"video": "b", "caption": "x"}]
    found = read(root, name, entries)
    assert found.texts == ["One.  Two.", "x"]
    assert (found.texts_of, found.videos_of) == ([[0], [1]], [[0], [1]])


def test_a_text_of_ssv2_fits_several_videos(root):
    entries = [{"video": ["a", "b"], "caption": "x"}, {"video": "c", "caption": "y"}]
    found = read(root, "ssv2-label", entries)
    assert [path.name for path in found.videos] == ["a", "b", "c"]
    assert (found.texts_of, found.videos_of) == ([[0], [0], [1]], [[0, 1], [2]])


@pytest.mark.parametrize("name", ["msrvtt-qa", "msvd-qa", "activitynet-qa"])
def test_questions_share_videos_and_answers_outside_the_list_are_counted(root, name):
    entries = [
        {"video": "a", "question": "who?", "answer": "man", "question_id": 7},
        {"video": "b", "question": "what?", "answer": "zeppelin", "question_id": "8"},
        {"video": "a", "question": "where?", "answer": "sea", "question_id": 9},
    ]
    found = read(root, name, entries, answer_file=["man", "sea"])
    assert [path.name for path in found.videos] == ["a", "b"]
    assert found.video_of == [0, 1, 0]
    assert found.questions == ["who?", "what?", "where?"]
    assert found.answers == ["man", "zeppelin", "sea"]
    assert found.question_ids == [7, "8", 9]
    assert (found.answer_list, found.unlisted) == (["man", "sea"], 1)
    assert (found.question_length, found.answer_length) == (25, 5)


def test_choices(root):
    entries = [{"video": "a", "caption": list("vwxyz"), "answer": 4}]
    found = read(root, "msrvtt-mc", entries)
    assert (found.options, found.answers, found.video_of) == ([list("vwxyz")], [4], [0])


def test_videos_may_be_elsewhere(root, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write(root, "x.json", [{"video": "a/../b.mp4", "caption": "x"}])
    found = RetrievalLayout("x.json", "pair", 8).read(root, elsewhere)
    assert found.videos == [elsewhere / "b.mp4"]


GOOD = {
    "msrvtt": {"video": "a", "caption": "x"},
    "msvd": {"video": "a", "caption": ["x"]},
    "didemo": {"video": "a", "caption": ["x"]},
    "ssv2-label": {"video": ["a"], "caption": "x"},
    "msrvtt-qa": {"video": "a", "question": "x", "answer": "man", "question_id": 0},
    "msrvtt-mc": {"video": "a", "caption": list("vwxyz"), "answer": 0},
}
TEXT = "a text that is not empty"


@pytest.mark.parametrize(
    ("name", "change", "expected"),
    [
        ("msrvtt", {"video": None}, "video is None; expected the path of a video"),
        ("msrvtt", {"video": " "}, "video is ' '; expected the path"),
        ("msrvtt", {"video": "a\0b"}, "expected the path"),
        ("msrvtt", {"video": "/etc/passwd"}, "video is '/etc/passwd'; expected a path below"),
        ("msrvtt", {"video": "a/../../b"}, "expected a path below"),
        ("msrvtt", {"video": "."}, "expected a path below"),
        ("msrvtt", {"caption": ["x"]}, f"caption is ['x']; expected {TEXT}"),
        ("msrvtt", {"caption": " \n"}, f"expected {TEXT}"),
        ("msvd", {"caption": []}, "expected a text or a list of texts"),
        ("msvd", {"caption": ["x", ""]}, "none of them empty"),
        ("msvd", {"caption": ["x", 1]}, "expected a text or a list of texts"),
        ("didemo", {"caption": ["x", 1]}, "expected a list of sentences"),
        ("didemo", {"caption": {"x": 1}}, "expected a list of sentences"),
        ("didemo", {"caption": ["", " "]}, "expected sentences that are not all empty"),
        ("ssv2-label", {"video": []}, "expected a path or a list of paths"),
        ("ssv2-label", {"video": ["a", "../b"]}, "expected a path below"),
        ("msrvtt-qa", {"question": 3}, f"question is 3; expected {TEXT}"),
        ("msrvtt-qa", {"answer": None}, f"answer is None; expected {TEXT}"),
        ("msrvtt-qa", {"question_id": 1.5}, "expected a whole number or a text"),
        ("msrvtt-qa", {"question_id": True}, "expected a whole number or a text"),
        ("msrvtt-mc", {"caption": list("wxyz")}, "expected a list of 5 texts"),
        ("msrvtt-mc", {"answer": 5}, "answer is 5; expected a whole number from 0 to 4"),
        ("msrvtt-mc", {"answer": "1"}, "expected a whole number from 0 to 4"),
        ("msrvtt-mc", {"answer": True}, "expected a whole number from 0 to 4"),
    ],
)
def test_a_wrong_value_is_named_with_file_entry_and_key(root, name, change, expected):
    others = {"answer_file": ["man"]} if name == "msrvtt-qa" else {}
    with pytest.raises(InputError) as caught:
        read(root, name, [GOOD[name], GOOD[name] | change | {"x": 1}], **others)
    message = str(caught.value)
    assert message.startswith(f"{root / layout(name).file}, entry 1 (from 0): {next(iter(change))}")
    assert expected in message


@pytest.mark.parametrize(
    ("name", "key"), [(name, key) for name, entry in GOOD.items() for key in entry]
)
def test_a_missing_key_is_named(root, name, key):
    others = {"answer_file": ["man"]} if name == "msrvtt-qa" else {}
    bad = {other: value for other, value in GOOD[name].items() if other != key}
    with pytest.raises(InputError, match=rf"entry 0 \(from 0\): {key} is missing; expected"):
        read(root, name, [bad], **others)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is not JSON"),
        (b'[{"video": "a"', "is not JSON: Expecting ',' delimiter: line 1"),
        (b"\xff\xfe[", "is not UTF-8 (line 1, byte 0xff; it looks like UTF-16); save it"),
        (b"[" * 100_000, "is not JSON"),
        (b"{}", "holds {}; expected a list"),
        (b"[]", "holds []; expected a list of one entry"),
        (b'["a"]', "entry 0 (from 0) is 'a'; expected an object"),
    ],
)
def test_a_file_that_is_no_list_of_objects(root, content, expected):
    (root / "x.json").write_bytes(content)
    with pytest.raises(InputError) as caught:
        RetrievalLayout("x.json", "pair", 8).read(root)
    assert str(root / "x.json") in str(caught.value)
    assert expected in str(caught.value)


def test_missing_files_and_folders(root):
    with pytest.raises(InputError, match="msrvtt_ret_test1k.json cannot be read: No such file"):
        LAYOUTS["msrvtt"].read(root)
    write(root, "msrvtt_ret_test1k.json", [GOOD["msrvtt"]])
    with pytest.raises(InputError, match="clips is not a directory; expected the videos"):
        LAYOUTS["msrvtt"].read(root, root / "clips")
    with pytest.raises(InputError, match="no data set is called 'imagenet'; known are msrvtt, "):
        layout("imagenet")


def test_answers_that_cannot_be(root):
    entry = GOOD["msrvtt-qa"]
    with pytest.raises(InputError, match="none of its answers is in msrvtt_qa_answer_list.json"):
        read(root, "msrvtt-qa", [entry], answer_file=["woman"])
    with pytest.raises(InputError, match=r"entry 1 \(from 0\) is 3; expected an answer"):
        read(root, "msrvtt-qa", [entry], answer_file=["man", 3])
    with pytest.raises(InputError, match="question_id is 0; .*entry 0 has the same"):
        read(root, "msrvtt-qa", [entry, entry], answer_file=["man"])
    write(root, "q.json", [entry, entry | {"answer": "woman", "question_id": 1}])
    write(root, "a.json", ["man"])
    with pytest.raises(InputError, match=r"entry 1 \(from 0\): answer is 'woman'; .* a.json"):
        QuestionLayout("q.json", "a.json", complete=True).read(root)


def test_a_choice_of_another_size(root):
    write(root, "c.json", [{"video": "a", "caption": ["x", "y"], "answer": 1}])
    assert ChoiceLayout("c.json", options=2, text_length=8).read(root).answers == [1]
