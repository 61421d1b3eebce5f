"""The generated clips and the small UMT: fixed, true to their words, learnt."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from repshift import InputError, Plan, compress
from repshift.evaluation.data.pixels import normalise, resize
from repshift.evaluation.models.umt.tokenizer import pre_text
from repshift.evaluation.zoo import packaged
from repshift.evaluation.zoo.clips import model
from repshift.evaluation.zoo.clips.files import (
    CLIPS,
    clip_scenes,
    encode,
    question_clips,
    write_clips,
)
from repshift.evaluation.zoo.clips.language import ANSWERS, caption, question, vocabulary
from repshift.evaluation.zoo.clips.render import render
from repshift.evaluation.zoo.clips.scene import (
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    TEXTURES,
    draw_scene,
    twin,
)

seeds = st.integers(0, 2**32 - 1)


def some_scenes(count):
    """The first of the test clips."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("repshift.evaluation.zoo.clips.files.CLIPS", count)
        return clip_scenes()


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_a_scene_can_be_seen_and_its_twin_differs_in_what_belongs_together(seed):
    generator = np.random.default_rng(seed)
    one = draw_scene(generator)
    other = twin(one, generator)
    for scene in (one, other):
        assert scene.first.shape != scene.second.shape
        assert scene.first.colour != scene.second.colour
        for time in np.linspace(0, 1, 33):
            (x, y, r), (u, v, s) = (
                thing.at(done)
                for thing, done in zip((scene.first, scene.second), scene.done(time), strict=True)
            )
            assert min(x - r, y - r, u - s, v - s) >= -1e-9
            assert max(x + r, y + r, u + s, v + s) <= 1 + 1e-9
            assert np.hypot(x - u, y - v) > r + s

    def said(scene):
        pair = [(t.shape, t.colour, t.size, t.motion) for t in (scene.first, scene.second)]
        return pair, scene.order, scene.texture

    assert said(one) != said(other)
    for kind in ("shape", "colour", "motion", "size"):
        both = [sorted(getattr(t, kind) for t in (s.first, s.second)) for s in (one, other)]
        assert both[0] == both[1]


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_the_words_are_known_and_the_answers_in_the_list(seed):
    generator = np.random.default_rng(seed)
    scene = draw_scene(generator)
    text, answer = question(scene, generator)
    words = set(vocabulary())
    assert answer in ANSWERS
    for sentence in (caption(scene, generator), text, answer):
        assert set(pre_text(sentence).split()) <= words


def test_enough_of_everything():
    assert len(SHAPES) == len(COLOURS) == len(MOTIONS) == 8
    assert len(SIZES) == 3
    assert len(TEXTURES) == 5
    assert len(set(ANSWERS)) == len(ANSWERS)
    scenes = clip_scenes()
    assert len(scenes) == CLIPS == 500
    assert clip_scenes() == scenes


def test_a_frame_shows_the_colours_where_the_things_are():
    paint = {"red": 0, "green": 1, "blue": 2}
    generator = np.random.default_rng(0)
    tried = 0
    while tried < 20:
        scene = draw_scene(generator)
        for number, thing in enumerate((scene.first, scene.second)):
            if thing.colour in paint and thing.shape in ("circle", "square", "star"):
                frame = render(scene, [0.0], 80)[0]
                x, y, _ = thing.at(scene.done(0.0)[number])
                middle = frame[:, int(y * 80), int(x * 80)].astype(int)
                assert middle.argmax() == paint[thing.colour]
                tried += 1


def test_a_thing_that_blinks_is_gone_half_of_the_time():
    generator = np.random.default_rng(1)
    scene = next(s for s in iter(lambda: draw_scene(generator), None) if s.first.motion == "blinks")
    seen = [scene.first.seen(done) for done in np.linspace(0, 1, 400, endpoint=False)]
    assert 0.45 < np.mean(seen) < 0.55


def test_the_same_frames_each_time():
    scene = some_scenes(2)[0]
    assert np.array_equal(render(scene, [0.2, 0.8], 40), render(scene, [0.2, 0.8], 40))


def test_the_same_file_each_time(tmp_path):
    """What is found in the clips is the same everywhere only if their pixels are."""
    paths = [tmp_path / f"{name}.mp4" for name in "abc"]
    for path in paths:
        encode(some_scenes(2)[0], path)
    assert len({path.read_bytes() for path in paths}) == 1


def test_the_files_are_a_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr("repshift.evaluation.zoo.clips.files.CLIPS", 4)
    data = question_clips(tmp_path)
    assert len(data.videos) == 4
    assert len(data.questions) == 8
    times = {path: path.stat().st_mtime_ns for path in data.videos}
    write_clips(tmp_path)
    assert times == {path: path.stat().st_mtime_ns for path in data.videos}
    scene = clip_scenes()[2]
    clip = model.SAMPLING.read(data.videos[2])
    frames = render(scene, np.linspace(0, 1, 32), 160)[2::4]  # the middle frame of each four
    expected = resize(torch.from_numpy(frames), 80)
    assert (clip.int() - expected.int()).abs().float().mean() < 6  # noise, and H.264's loss of it
    assert len(json.loads((tmp_path / "ret_test.json").read_text())) == 4


def test_damaged_weights_are_named(tmp_path, monkeypatch):
    path = tmp_path / "clips-umt.safetensors"
    path.write_bytes(b"nothing")
    monkeypatch.setattr(packaged, "weights_file", lambda name: tmp_path / name)
    with pytest.raises(InputError, match="weights of clips-umt cannot be read"):
        model.load_clips_retrieval()


@torch.inference_mode()
def test_the_model_tells_clips_apart_dense_and_compressed():
    """24 rendered test clips; chance is 4 % for captions and 3 % for answers."""
    scenes = some_scenes(24)
    times = (np.arange(8) + 0.5) / 8
    video = normalise(torch.from_numpy(np.stack([render(one, times, 80) for one in scenes])))
    generator = np.random.default_rng(0)
    words = model.tokenizer()
    ids, mask = words.captions([caption(one, generator) for one in scenes], 26)
    retrieval, answering = model.load_clips_retrieval(), model.load_clips_answering()
    asked = [question(one, generator) for one in scenes]
    questions = words.captions([text for text, _ in asked], 12)
    answers = words.answers(ANSWERS)

    def right():
        found = retrieval(video, ids, mask).argmax(1) == torch.arange(24)
        best, _ = answering(video, *questions, *answers, k=len(ANSWERS))
        told = [ANSWERS[one] == answer for one, (_, answer) in zip(best[:, 0], asked, strict=True)]
        return found.float().mean().item(), np.mean(told)

    dense = right()
    with compress(retrieval, Plan.paper("umt-qa")), compress(answering, Plan.paper("umt-qa")):
        compressed = right()
    assert min(dense) > 0.5
    assert min(compressed) > 0.4
