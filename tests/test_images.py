"""What can be read is converted; what cannot is named."""

import numpy as np
import pytest
import torch
from PIL import Image

from repshift import InputError
from repshift.evaluation.data.batches import FileSource
from repshift.evaluation.data.images import find_images, read_image, sample_photographs
from repshift.evaluation.data.labels import read_labels


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def test_grey_alpha_palette_and_sixteen_bit_images_become_rgb(tmp_path, noise):
    grey = noise[..., 0]
    deep = (grey.astype(np.uint16) << 8) + 17
    alpha = np.dstack([noise, np.zeros((24, 32), np.uint8)])
    for name, image in {
        "grey.png": Image.fromarray(grey),
        "deep.png": Image.fromarray(deep),
        "alpha.png": Image.fromarray(alpha),
        "palette.png": Image.fromarray(noise).convert("P"),
        "cmyk.jpg": Image.fromarray(noise).convert("CMYK"),
    }.items():
        image.save(tmp_path / name)
        read = read_image(tmp_path / name)
        assert (read.mode, read.size) == ("RGB", (32, 24))
    assert (np.asarray(read_image(tmp_path / "deep.png"))[..., 0] == grey).all()
    assert (np.asarray(read_image(tmp_path / "alpha.png")) == 255).all()


def test_a_photo_taken_sideways_is_turned(tmp_path, noise):
    image = Image.fromarray(noise)
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_image(tmp_path / "turned.jpg").size == (24, 32)


def test_bad_files_are_named_and_left_out(tmp_path, noise):
    Image.fromarray(noise).save(tmp_path / "a.png")
    (tmp_path / "b.jpg").write_text("not an image")
    (tmp_path / "c.jpg").write_bytes(b"")
    Image.fromarray(noise[:1, :1]).save(tmp_path / "d.png")
    Image.fromarray(noise.repeat(20, 0).repeat(20, 1)).save(tmp_path / "e.jpg")
    (tmp_path / "e.jpg").write_bytes((tmp_path / "e.jpg").read_bytes()[:5000])
    (tmp_path / "notes.txt").write_text("no image at all")
    paths = find_images(tmp_path)
    source = FileSource(paths, lambda image: torch.zeros(3, *image.size[::-1]))
    [batch] = source.batches(8)
    assert batch.names == ["a.png"]
    assert [line.split()[0].rpartition("/")[2] for line in source.skipped] == [
        "b.jpg",
        "c.jpg",
        "d.png",
        "e.jpg",
    ]
    assert "1x1" in source.skipped[2]
    alone = FileSource(paths[1:], source.prepare)
    with pytest.raises(InputError, match="none of the 4 images"):
        list(alone.batches(2))


def test_an_empty_or_missing_directory_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no images"):
        find_images(tmp_path)
    with pytest.raises(InputError, match="not a directory"):
        find_images(tmp_path / "missing")


def test_labels_come_from_a_table_or_from_folders(tmp_path, noise):
    for folder in ("cat", "dog"):
        (tmp_path / folder).mkdir()
        Image.fromarray(noise).save(tmp_path / folder / "1.png")
    paths = find_images(tmp_path)
    assert read_labels(tmp_path, paths, 2).tolist() == [0, 1]
    table = tmp_path / "labels.csv"
    table.write_text("file,label\ncat/1.png,1\ndog/1.png,0\n")
    assert read_labels(tmp_path, paths, 2).tolist() == [1, 0]
    with pytest.raises(InputError, match="the model has 1 classes"):
        read_labels(tmp_path, paths, 1)
    table.write_text("file,label\ncat/1.png,1\n")
    with pytest.raises(InputError, match="no label for 1 images, the first dog/1.png"):
        read_labels(tmp_path, paths, 2)
    table.write_text("name,label\ncat/1.png,1\n")
    with pytest.raises(InputError, match="columns file and label"):
        read_labels(tmp_path, paths, 2)


def test_the_sample_photographs_are_there():
    assert all(read_image(path).width >= 200 for path in sample_photographs())
