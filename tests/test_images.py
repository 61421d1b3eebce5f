"""What can be read is converted; what cannot is named."""

import struct

import numpy as np
import pytest
import torch
from PIL import Image

from repshift import InputError
from repshift.evaluation.data.batches import FileSource
from repshift.evaluation.data.images import find_images, read_image, sample_photographs


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


def test_grey_alpha_and_palette_images_become_rgb(tmp_path, noise):
    image = Image.fromarray(noise)
    clear = Image.fromarray(np.dstack([noise, np.zeros((24, 32), np.uint8)]))
    half = Image.fromarray(np.dstack([noise, np.full((24, 32), 128, np.uint8)]))
    cases = {
        "grey.png": (image.convert("L"), image.convert("L").convert("RGB")),
        "black-and-white.png": (image.convert("1"), image.convert("1").convert("RGB")),
        "clear.png": (clear, Image.new("RGB", (32, 24), "white")),
        "half.png": (half, Image.fromarray((noise * (128 / 255) + 127).round().astype(np.uint8))),
        "grey-clear.png": (clear.convert("LA"), Image.new("RGB", (32, 24), "white")),
        "palette.png": (image.convert("P"), image.convert("P").convert("RGB")),
        "cmyk.tif": (image.convert("CMYK"), image.convert("CMYK").convert("RGB")),
    }
    for name, (stored, wanted) in cases.items():
        stored.save(tmp_path / name)
        read = read_image(tmp_path / name)
        assert (read.mode, read.size) == ("RGB", (32, 24))
        difference = np.asarray(read).astype(int) - np.asarray(wanted)
        assert np.abs(difference).max() <= (1 if name == "half.png" else 0), name


def test_one_clear_colour_of_a_palette_is_white(tmp_path):
    indices = np.arange(24 * 32).reshape(24, 32) % 2
    image = Image.fromarray(indices.astype(np.uint8), "P")
    image.putpalette([200, 0, 0, 0, 0, 200])
    image.save(tmp_path / "a.gif", transparency=1)
    image.save(tmp_path / "a.png", transparency=bytes([255, 0]))
    for name in ("a.gif", "a.png"):
        found = np.asarray(read_image(tmp_path / name))
        assert (found[0, 0].tolist(), found[0, 1].tolist()) == ([200, 0, 0], [255, 255, 255])


def test_a_cmyk_photo_has_its_own_colours(tmp_path):
    Image.new("CMYK", (32, 24), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=100)
    found = np.asarray(read_image(tmp_path / "red.jpg")).reshape(-1, 3)
    assert np.abs(found.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp"])
def test_a_photo_is_turned_as_it_says(tmp_path, name, orientation):
    corners = np.zeros((24, 32, 3), np.uint8)
    corners[:12, :16], corners[:12, 16:], corners[12:, :16] = 80, 160, 240
    shown = {
        1: corners,
        2: np.fliplr(corners),
        3: np.rot90(corners, 2),
        4: np.flipud(corners),
        5: corners.swapaxes(0, 1),
        6: np.rot90(corners, 3),
        7: np.rot90(corners, 2).swapaxes(0, 1),
        8: np.rot90(corners, 1),
    }[orientation]
    image = Image.fromarray(corners)
    exif = image.getexif()
    exif[0x0112] = orientation
    image.save(tmp_path / name, exif=exif, quality=100)
    found = np.asarray(read_image(tmp_path / name)).astype(int)
    assert found.shape == shown.shape
    assert (np.abs(found - shown) < 12).mean() > 0.9


def tiff(path, bits, photometric, data, width=32, height=24):
    """A plain grey TIFF, as few programs write them."""
    tags = {
        256: width, 257: height, 258: bits, 259: 1, 262: photometric, 273: 8 + 2 + 10 * 12 + 4,
        277: 1, 278: height, 279: len(data), 339: 1,
    }  # fmt: skip
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    path.write_bytes(
        b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data
    )


def test_deep_grey_is_scaled_not_clipped(tmp_path):
    grey = np.linspace(0, 255, 24 * 32).astype(np.uint8).reshape(24, 32)
    deep = (grey.astype(np.uint16) << 8) + 17
    Image.fromarray(deep).save(tmp_path / "16.png")
    Image.fromarray(deep).save(tmp_path / "16.tif")
    Image.fromarray(deep.astype(">u2")).save(tmp_path / "16-big.tif")
    tiff(tmp_path / "16-white-is-0.tif", 16, 0, (0xFFFF - deep).tobytes())
    pairs = (grey.astype(int) << 4).reshape(-1, 2)
    packed = b"".join(((one << 12) + two).to_bytes(3, "big") for one, two in pairs.tolist())
    tiff(tmp_path / "12.tif", 12, 1, packed)
    for path in tmp_path.iterdir():
        assert (np.asarray(read_image(path)) == grey[..., None]).all(), path.name


def test_numbers_of_which_nothing_says_which_is_white_are_refused(tmp_path):
    values = np.linspace(0, 1, 24 * 32, dtype=np.float32).reshape(24, 32)
    Image.fromarray(values).save(tmp_path / "float.tif")
    Image.fromarray((values * 1e9).astype(np.int32)).save(tmp_path / "whole.tif")
    with pytest.raises(InputError, match="float.tif holds floating-point numbers, .* 8 or 16 bits"):
        read_image(tmp_path / "float.tif")
    with pytest.raises(InputError, match="whole.tif holds whole numbers of 32 bits, and nothing"):
        read_image(tmp_path / "whole.tif")


def test_the_name_says_nothing_of_what_a_file_holds(tmp_path, noise):
    Image.fromarray(noise).save(tmp_path / "a.jpg", format="png")
    assert (np.asarray(read_image(tmp_path / "a.jpg")) == noise).all()
    (tmp_path / "b.jpg").write_bytes(b"\0\0\0\x18ftypheic" + bytes(99))
    with pytest.raises(InputError, match="b.jpg cannot be read as an image: Pillow knows no such"):
        read_image(tmp_path / "b.jpg")


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.tif", "a.webp", "a.gif", "a.bmp"])
def test_a_file_cut_off_anywhere_is_named(tmp_path, noise, name):
    Image.fromarray(noise).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    for length in range(1, len(content) * 9 // 10, max(1, len(content) // 20)):
        (tmp_path / name).write_bytes(content[:length])
        with pytest.raises(InputError, match=name):
            read_image(tmp_path / name)


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


def test_what_programs_leave_behind_is_no_photograph(tmp_path, noise):
    for name in (
        "b/1.png", "b/._1.png", "b/.ipynb_checkpoints/1-checkpoint.png", "__MACOSX/b/1.png",
        ".cache/1.png", "a/2.JPG", "a/@eaDir/2.JPG/THUMB_M.jpg",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise).save(tmp_path / name)
    (tmp_path / "b" / ".DS_Store").write_text("")
    assert find_images(tmp_path) == [tmp_path / "a/2.JPG", tmp_path / "b/1.png"]
    # The directory itself may have any name.
    assert find_images(tmp_path / ".cache") == [tmp_path / ".cache/1.png"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    def closed(folder):
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(type(tmp_path), "iterdir", closed)
    with pytest.raises(InputError, match=f"{tmp_path} cannot be read: Permission denied"):
        find_images(tmp_path)


def test_links_are_followed_but_not_round_in_circles(tmp_path, noise):
    (tmp_path / "all" / "cat").mkdir(parents=True)
    Image.fromarray(noise).save(tmp_path / "all" / "cat" / "1.png")
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "tiger").symlink_to(tmp_path / "all" / "cat")
    (tmp_path / "all" / "cat" / "again").symlink_to(tmp_path / "all" / "cat")
    assert find_images(tmp_path / "some") == [tmp_path / "some" / "tiger" / "1.png"]


def test_the_sample_photographs_are_there():
    assert all(read_image(path).width >= 200 for path in sample_photographs())
