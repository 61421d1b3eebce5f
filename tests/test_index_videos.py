"""Videos in a table: results point to the second, and texts find them."""

import numpy as np
import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from repshift import InputError
from repshift.evaluation.collection.finding import open_finder
from repshift.evaluation.collection.models import Named, open_encoder
from repshift.evaluation.collection.pieces import Pieces
from repshift.evaluation.collection.places import find_files
from repshift.evaluation.collection.run import index
from repshift.evaluation.data.frames import middle_frames
from repshift.evaluation.data.stretches import read_stretches
from repshift.evaluation.data.video_file import VideoError
from repshift.evaluation.report.hits import when
from repshift.evaluation.zoo.clips.files import clip_scenes, encode
from repshift.evaluation.zoo.clips.language import caption
from repshift.evaluation.zoo.texts import load_texts
from video_files import numbers, write_audio, write_video


def stretches(path, seconds, count=1):
    return [(second, numbers(frames)) for second, frames in read_stretches(path, seconds, count)]


def test_a_stretch_gives_its_middle_frames_and_its_second(tmp_path):
    film = write_video(tmp_path / "a.mp4", 100)  # four seconds
    assert stretches(film, 2.0) == [(pytest.approx(0.96), [24]), (pytest.approx(2.96), [74])]
    assert stretches(film, 1.0, 2) == [
        (pytest.approx(n + 0.24), [25 * n + 6, 25 * n + 18]) for n in range(4)
    ]
    [(_, shown)] = stretches(film, 60.0, 10)
    assert shown == middle_frames(100, 10)
    # Half a second is left after three times 1.2 s: less than half of it.
    assert [frames for _, frames in stretches(film, 1.2)] == [[14], [44], [74]]


def test_the_times_of_a_film_count_where_it_has_them(tmp_path):
    slow = write_video(tmp_path / "a.mkv", 6, times=[0, 1000, 2000, 5000, 5100, 6000])
    assert stretches(slow, 2.0) == [(0.0, [0]), (2.0, [2]), (2.0, [2])]
    one = write_video(tmp_path / "b.mp4", 1)
    assert stretches(one, 2.0) == [(0.0, [0])]
    with pytest.raises(VideoError, match="holds no video"):
        stretches(write_audio(tmp_path / "c.mp4"), 1.0)


def test_when():
    assert [when(one) for one in (None, 5.9, 65.0, 3600.0)] == ["", "0:05", "1:05", "1:00:00"]


def test_a_text_finds_a_generated_clip(tmp_path, monkeypatch):
    monkeypatch.setattr("repshift.evaluation.collection.comparison.ROUNDS", 1)
    scenes = clip_scenes()[:12:2]
    (tmp_path / "clips").mkdir()
    for number, scene in enumerate(scenes):
        encode(scene, tmp_path / "clips" / f"{number}.mp4")
    write_audio(tmp_path / "clips" / "sound.mp4")
    named = Named("clips-umt", batch_size=4)
    report = index(str(tmp_path / "clips"), named, tmp_path / "c.lance", 2.0, workers=0)
    assert report.rows == 6
    assert [line.rpartition("/")[2] for line in report.outcome.skipped] == [
        "sound.mp4 holds no video, only audio"
    ]
    finder = open_finder(tmp_path / "c.lance", torch.device("cpu"))
    places = []
    for number, scene in enumerate(scenes):
        text = caption(scene, np.random.default_rng(scene.seed))
        hits = finder.by_query(text, 8)
        places.append([hit.path[-5] for hit in hits].index(str(number)))
        assert hits[0].kept < 800
    assert places.count(0) >= 5
    hits = finder.by_file(tmp_path / "clips" / "3.mp4", 2)
    assert (hits[0].path[-5], round(hits[0].likeness, 4)) == ("3", 1)
    with pytest.raises(InputError, match="the text is empty"):
        finder.by_text(" ", 2)


@pytest.fixture
def clip(tmp_path):
    """A CLIP of transformers in small, as save_pretrained writes it."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    words = [*letters, *(f"{one}</w>" for one in letters), "<|startoftext|>", "<|endoftext|>"]
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
             "num_attention_heads": 2, "projection_dim": 16}  # fmt: skip
    text = small | {"vocab_size": len(words), "max_position_embeddings": 12, "bos_token_id": 52,
                    "eos_token_id": 53}  # fmt: skip
    config = CLIPConfig(
        text_config=text, vision_config=small | {"image_size": 32, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    folder = tmp_path / "clip"
    CLIPModel(config).eval().save_pretrained(folder)
    CLIPImageProcessor(size=32, crop_size=32).save_pretrained(folder)
    CLIPTokenizer(
        vocab={word: number for number, word in enumerate(words)}, merges=[]
    ).save_pretrained(folder)
    return folder


def test_texts_and_pictures_of_clip_are_those_of_the_whole_model(clip, photos):
    whole = CLIPModel.from_pretrained(clip).eval()
    asked = ["a cat", "a red car in the snow and more than fits"]
    given = CLIPTokenizer.from_pretrained(clip)(
        asked, padding=True, truncation=True, max_length=12, return_tensors="pt"
    )
    with torch.inference_mode():
        expected = whole.get_text_features(**given)
    expected = getattr(expected, "pooler_output", expected)
    assert torch.allclose(load_texts(str(clip))(asked), expected, atol=1e-5)
    encoder = open_encoder(Named(f"hf:{clip}", batch_size=2))
    piece, _ = Pieces(find_files(str(photos))[:1], encoder.see, 2.0).read(0)
    with torch.inference_mode():
        features = whole.get_image_features(pixel_values=piece.seen[None])
    features = torch.nn.functional.normalize(getattr(features, "pooler_output", features))
    with encoder.attached(dense=True) as running:
        assert torch.allclose(running.embed(piece.seen[None])[0], features, atol=1e-5)
    assert torch.allclose(encoder.texts(asked), expected, atol=1e-5)
