"""Clip art as a data set: which files are taken, what is one picture, what is held out."""

import numpy as np
import pytest
from PIL import Image

from softvq_lab.core import ConfigError
from softvq_lab.data import clipart as module
from softvq_lab.data.clipart import MOST_ALIKE, clip_subject, clipart
from softvq_lab.data.contents import contents, contents_difference
from softvq_lab.data.datasets import load_data
from softvq_lab.data.images import labels_of
from softvq_lab.settings.sections import DataConfig


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTVQ_LAB_CACHE", str(tmp_path / "cache"))


def noise(seed: int, height: int = 20, width: int = 30) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((width, height), Image.Resampling.NEAREST)


@pytest.fixture
def drawings(tmp_path):
    "Forty drawings of forty subjects in three folders."
    for i in range(40):
        name = f"{'animals birds food/fruit'.split()[i % 3]}/{'abcdefghij'[i % 10] * (1 + i // 10)}"
        file = tmp_path / "art" / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        noise(i).save(file)
    return tmp_path / "art"


def test_folders_at_the_top_are_classes_and_pictures_are_whole(drawings):
    d = load_data(DataConfig(dataset="clipart", data_path=str(drawings)), 24)
    assert d.class_names == ("animals", "birds", "food")
    assert len(d.train) + len(d.heldout) == 40 and len(d.heldout)
    x, y = d.train[0]
    assert x.shape == (3, 24, 24) and d.train.names[0].startswith(d.class_names[y])
    assert (x[:, :4] == 1).all() and (x[:, -4:] == 1).all(), "30 x 20 pixels between white"
    assert (x[:, 12] != 1).any()


def test_files_that_differ_in_numbers_are_on_one_side(drawings):
    for i in range(60):
        noise(100 + i).save(drawings / "animals" / f"dog_{i:02}.png")
    d = clipart(str(drawings), 16)
    dogs = [n for s in (d.train, d.heldout) for n in s.names if "dog" in n]
    assert len(dogs) == MOST_ALIKE and len(set(dogs)) == MOST_ALIKE
    sides = [{clip_subject(n) for n in s.names} for s in (d.train, d.heldout)]
    assert not sides[0] & sides[1]


def test_copies_under_another_name_are_on_one_side(drawings):
    for i in range(40, 80):
        noise(i).save(drawings / "animals" / f"{'x' * i}.png")
        noise(i).save(drawings / "birds" / f"{'y' * i}.png")
    d = clipart(str(drawings), 16)
    pixels = [{x.numpy().tobytes() for x, _ in s} for s in (d.train, d.heldout)]
    assert not pixels[0] & pixels[1]


def test_giants_broken_files_and_links_are_left_out_and_counted(drawings, monkeypatch):
    (drawings / "food" / "broken.png").write_bytes(b"no picture")
    noise(99, 70, 80).save(drawings / "food" / "giant.png")
    (drawings / "food" / "link.png").symlink_to(drawings / "animals" / "a.png")
    monkeypatch.setattr(module, "GIANT", 70 * 80 - 1)
    d = clipart(str(drawings), 16)
    assert len(d.train) + len(d.heldout) == 40 and "2 left out" in d.notes[1]
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)  # Pillow itself warns, or refuses
    with pytest.raises(ValueError, match="decompression bomb"):
        module.open_clip(drawings / "animals" / "a.png")


def test_what_is_drawn_is_known_at_any_size_and_changes_with_the_files(drawings):
    first = contents(clipart(str(drawings), 16))
    assert contents_difference(first, contents(clipart(str(drawings), 24))) == ""
    noise(500).save(drawings / "birds" / "new.png")
    assert contents_difference(first, contents(clipart(str(drawings), 16)))


def test_a_folder_without_drawings_says_so(tmp_path):
    with pytest.raises(ConfigError, match="is not a folder"):
        clipart(str(tmp_path / "nowhere"), 16)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="holds 0 drawings in sub-folders; 3 are needed"):
        clipart(str(tmp_path / "empty"), 16)


@pytest.mark.slow
def test_the_real_clip_art_has_22_folders():
    try:
        d = load_data(DataConfig(dataset="clipart"), 32)
    except ConfigError as e:
        pytest.skip(str(e))
    assert d.num_classes == 22 and len(d.train) > 4000 and len(d.heldout) > 300
    assert not {clip_subject(n) for n in d.train.names} & {clip_subject(n) for n in d.heldout.names}
    assert labels_of(d.train).max() == 21
