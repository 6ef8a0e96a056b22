"""Images from folders, Hugging Face data sets and tars: found, cropped, varied, and survived when
broken.
"""

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from softvq_lab.core import ConfigError
from softvq_lab.data.archives import hf, tar_index, webdataset
from softvq_lab.data.datasets import (
    Augmented,
    describe_data,
    digits,
    load_data,
    shapes,
    training_view,
)
from softvq_lab.data.folder import BrokenFiles, folder, hold_out, record_broken
from softvq_lab.data.images import center_crop, labels_of, random_crop, stack
from softvq_lab.settings.parse import parse
from softvq_lab.settings.sections import DataConfig
from softvq_lab.settings.workflows import TrainConfig

pytestmark = pytest.mark.filterwarnings(
    "ignore:This DataLoader will create"
)  # on a machine with one core
COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTVQ_LAB_CACHE", str(tmp_path / ".cache"))


def noise(width, height, seed):
    return Image.fromarray(
        np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    )


def encoded(image, kind="PNG"):
    image.save(data := io.BytesIO(), kind)
    return data.getvalue()


def photos(root, classes=("cat", "dog"), each=20, suffix="jpg"):
    "Noise of different sizes, in one folder a class."
    for k, name in enumerate(classes):
        (root / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            noise(20 + 3 * i, 20 + 7 * i % 41, 100 * k + i).save(root / name / f"{i:03}.{suffix}")
    return root


def truncate(path, keep=0.5):
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])


# Cropping


def ramp(width, height):
    return Image.fromarray(
        np.repeat(np.linspace(0, 255, width).astype(np.uint8)[None, :, None], height, 0).repeat(
            3, 2
        )
    )


@pytest.mark.parametrize(
    "wh,size",
    [((640, 480), 32), ((33, 70), 32), ((10, 12), 32), ((256, 256), (48, 32)), ((5000, 8), 16)],
)
def test_every_place_gives_a_crop_of_the_size(wh, size):
    H, W = (size, size) if isinstance(size, int) else size
    places = [
        (zoom, *where)
        for zoom in np.linspace(0, 0.999, 12)
        for where in ((0, 0), (0.999, 0.999), (0.3, 0.7))
    ]
    assert {random_crop(noise(*wh, 0), size, p).size for p in places} == {(W, H)}


def test_a_random_crop_shows_0_8_to_1_of_the_shorter_side():
    shown = []
    for zoom in np.linspace(0, 0.999, 12):
        line = np.asarray(random_crop(ramp(480, 480), 32, (zoom, 0.5, 0.5)))[0, :, 0].astype(float)
        shown.append((line[-1] - line[0]) / 255 * 32 / 31)
    assert (
        min(shown) == pytest.approx(0.8, abs=0.03)
        and max(shown) == pytest.approx(1, abs=0.03)
        and shown == sorted(shown, reverse=True)
    )


def test_random_crops_reach_both_ends_and_one_of_them_is_the_centre():
    left, right = (
        np.asarray(random_crop(ramp(100, 60), 32, (0.999, 0.5, x)))[0, :, 0] for x in (0, 0.999)
    )
    assert left[0] < 6 and right[-1] > 249
    assert (
        random_crop(ramp(96, 60), 30, (0, 0.5, 0.5)).tobytes()
        == center_crop(ramp(96, 60), 30).tobytes()
    )


# Folders


def test_class_folders_with_images_of_any_size_and_kind(tmp_path):
    photos(tmp_path, ("zebra", "ant"), 15)
    for kind, mode in [
        ("png", "RGBA"),
        ("webp", "RGB"),
        ("bmp", "L"),
        ("gif", "P"),
        ("tiff", "I;16"),
    ]:
        Image.new(mode, (7, 90)).save(tmp_path / "ant" / f"x.{kind}")
    noise(30, 30, 5).save(tmp_path / "ant" / "UPPER.JPG")
    (tmp_path / "ant" / "deeper").mkdir()
    noise(30, 30, 6).save(tmp_path / "ant" / "deeper" / "y.png")
    (tmp_path / "ant" / "._000.jpg").write_bytes(b"what macOS leaves")
    (tmp_path / "ant" / "notes.txt").write_text("no image")
    (tmp_path / ".git").mkdir()
    (tmp_path / "empty").mkdir()
    d = folder(tmp_path, (24, 40))
    assert (
        d.class_names == ("ant", "zebra")
        and len(d.train) + len(d.heldout) == 37
        and len(d.heldout) >= 1
    )
    assert np.bincount(np.concatenate([labels_of(d.train), labels_of(d.heldout)])).tolist() == [
        22,
        15,
    ]
    for split in (d.train, d.heldout):
        x, y = stack(split)
        assert (
            x.shape == (len(split), 3, 24, 40)
            and x.abs().max() <= 1
            and y.tolist() == labels_of(split).tolist()
        )
    with pytest.raises(IndexError):
        d.train[len(d.train)]


def test_what_is_held_out_stays_so_when_images_are_added(tmp_path):
    before = folder(photos(tmp_path, each=40), 16)
    held = {before.heldout.name(i) for i in range(len(before.heldout))}
    photos(tmp_path, ("bird", "cat"), 60)
    after = folder(tmp_path, 16)
    names = {after.heldout.name(i) for i in range(len(after.heldout))}
    assert held <= names and not names & {after.train.name(i) for i in range(len(after.train))}
    assert (
        hold_out(["a"]).tolist() == [True]
        and [hold_out(map(str, range(n))).sum() >= 1 for n in range(1, 9)] == [True] * 8
    )


@pytest.mark.parametrize("nested", [False, True])
def test_one_class_needs_no_folder(tmp_path, nested):
    root = (
        photos(tmp_path / "my_photos", ("holiday",), 12)
        if nested
        else photos(tmp_path, ("my_photos",), 12) / "my_photos"
    )
    d = folder(root, 16)
    assert (
        d.class_names == (("holiday",) if nested else ("my_photos",))
        and len(d.train) + len(d.heldout) == 12
        and set(labels_of(d.train)) == {0}
    )


def test_many_classes_are_numbered_by_name(tmp_path):
    for i in range(123):
        (tmp_path / f"c{i:03}").mkdir()
        [
            Image.new("RGB", (4, 4), (i, 0, 0)).save(tmp_path / f"c{i:03}" / f"{k}.png")
            for k in range(3)
        ]
    d = folder(tmp_path, 8)
    assert d.num_classes == 123
    for i in range(0, len(d.train), 17):
        x, y = d.train[i]
        assert round((x[0, 0, 0].item() + 1) * 127.5) == y


def test_train_and_val_folders_are_the_splits(tmp_path):
    photos(tmp_path / "train", ("a", "b", "c"), 4)
    photos(tmp_path / "val", ("b", "c"), 2)
    d = folder(tmp_path, 16)
    assert (d.class_names, len(d.train), labels_of(d.heldout).tolist()) == (
        ("a", "b", "c"),
        12,
        [1, 1, 2, 2],
    )
    photos(tmp_path / "val", ("stranger",), 1)
    with pytest.raises(ValueError, match="val holds classes that .*train does not: .'stranger'."):
        folder(tmp_path, 16)
    flat = photos(photos(tmp_path / "flat", ("train",), 5), ("val",), 2)
    assert (
        folder(flat, 16).class_names,
        len(folder(flat, 16).train),
        len(folder(flat, 16).heldout),
    ) == (("flat",), 5, 2)
    assert folder(photos(tmp_path / "only" / "train").parent, 16).class_names == (
        "cat",
        "dog",
    )  # train alone: a tenth of it is held out


@pytest.mark.parametrize(
    "make,says",
    [
        (lambda t: None, "is not a folder"),
        (lambda t: t.mkdir(), "holds 0 training and 0 held-out images"),
        (lambda t: photos(t, ("a",), 2), "at least 3 images"),
        (
            lambda t: noise(9, 9, 0).save(photos(t) / "loose.png"),
            r"1 images beside its class folders \(such as loose.png\)",
        ),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(tmp_path, make, says):
    make(tmp_path / "f")
    with pytest.raises(ValueError, match=says):
        folder(tmp_path / "f", 16)


# Broken files

DAMAGES = {
    "cut short": truncate,
    "no image": lambda f: f.write_bytes(b"<html>not found</html>"),
    "empty": lambda f: f.write_bytes(b""),
    "gone": lambda f: f.unlink(),
}


def broken_photos(root, broken, damage=truncate):
    d = folder(photos(root), 16)
    files = [d.train.open(i) for i in broken]
    for f in files:
        damage(f)
    return d, files


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_broken_file_is_noted_and_its_neighbour_stands_in(tmp_path, damage):
    d, files = broken_photos(tmp_path / "p", (3, 4), DAMAGES[damage])
    recorder = record_broken(d, tmp_path)
    assert (
        torch.equal(d.train[3][0], d.train[5][0])
        and torch.equal(d.train[4][0], d.train[5][0])
        and not torch.equal(d.train[2][0], d.train[3][0])
    )
    noted = [json.loads(line) for line in (tmp_path / "broken.jsonl").read_text().splitlines()]
    assert [n["file"] for n in noted] == list(recorder.files) == [str(f) for f in files]
    assert {
        "cut short": "truncated",
        "no image": "a web page",
        "empty": "it is empty",
        "gone": "No such file",
    }[damage] in noted[0]["error"]
    assert all(str(f) in recorder.report() for f in files) and recorder.report().startswith(
        "2 of 40 images cannot be read and were skipped"
    )


def test_the_last_file_is_replaced_by_the_first_and_its_label_comes_with_it(tmp_path):
    d = folder(photos(tmp_path), 16)
    truncate(d.train.open(len(d.train) - 1))
    with pytest.warns(UserWarning, match="cannot be read as an image and is skipped"):
        x, y = d.train[len(d.train) - 1]
    assert torch.equal(x, d.train[0][0]) and y == d.train[0][1] != labels_of(d.train)[-1]


def test_worker_processes_give_the_same_images_and_notes(tmp_path):
    d, files = broken_photos(tmp_path / "p", (0, 21))
    here = record_broken(d, tmp_path)
    alone = torch.cat([x for x, _ in DataLoader(d.train, 5)])
    (tmp_path / "broken.jsonl").unlink()
    recorder = record_broken(d, tmp_path)
    apart = torch.cat([x for x, _ in DataLoader(d.train, 5, num_workers=2)])
    assert torch.equal(alone, apart) and set(recorder.files) == set(here.files) == {
        str(f) for f in files
    }


def test_more_than_one_percent_stops_and_names_the_files(tmp_path):
    recorder = BrokenFiles(tmp_path / "broken.jsonl", total=1000)
    for i in range(2):
        recorder.note(f"{i}.jpg", "cut")
    few = BrokenFiles(recorder.path, total=5)
    few.check()  # one or two are never too many
    recorder.note("2.jpg", "cut")
    recorder.check()
    BrokenFiles(recorder.path, total=300).check()
    with pytest.raises(
        ValueError, match="3 of 5 images are broken, more than 1%:\n  0.jpg: cut\n  1.jpg"
    ):
        few.check()
    with pytest.raises(ValueError, match="3 of 299"):
        BrokenFiles(recorder.path, total=299).check()
    for i in range(3, 30):
        BrokenFiles(tmp_path / "broken.jsonl", 1000).note(f"{i}.jpg", "cut")  # other processes
    with pytest.raises(
        ValueError,
        match="30 of 1000.*and 20 more\nRepair or remove them.*broken.jsonl and resume".replace(
            ".*", "(?s:.*)"
        ),
    ) as e:
        recorder.check()
    assert "9.jpg" in str(e.value)
    assert BrokenFiles(total=5).report() == ""


@pytest.mark.parametrize("workers", [0, 2])
def test_too_many_broken_files_end_the_reading_in_whatever_process(tmp_path, workers):
    d, files = broken_photos(tmp_path / "p", (3, 4, 20))
    record_broken(d, tmp_path)
    with pytest.raises(
        ValueError,
        match=(
            "(?s)3 of 40 images are broken, more than 1%.*003.jpg: OSError: .*Repair or remove them"
        ),
    ):
        list(DataLoader(d.train, 4, num_workers=workers))


def test_two_images_of_which_none_can_be_read_are_no_endless_search(tmp_path):
    d, files = broken_photos(tmp_path / "p", range(2))
    two = type(d.train)(d.train.root, [os.fsdecode(p) for p in d.train.paths[:2]], [0, 0], 16)
    two.broken = BrokenFiles(tmp_path / "broken.jsonl", 2)
    with pytest.raises(ValueError, match="none of 2 images can be read, from .*"):
        two[1]


def test_a_decompression_bomb_is_a_broken_file(tmp_path):
    Image.new("1", (10_000, 10_000)).save(photos(tmp_path, each=5) / "cat" / "000.png")
    d = folder(tmp_path, 16)
    recorder = record_broken(d, tmp_path)
    for split in (d.train, d.heldout):
        stack(split)
    assert [Path(f).name for f in recorder.files] == ["000.png"] and "Bomb" in str(recorder.files)


# Views for training


def views(data, steps, batch, workers=0, rank=0, world=1, start=0):
    "What a loop would see: (index, draw) pairs in a seeded order, shared by ranks."
    order = [((7 * i) % len(data), i // len(data)) for i in range(steps * batch)]
    batches = [order[s * batch : (s + 1) * batch][rank::world] for s in range(start, steps)]
    return [x for x, _ in DataLoader(data, batch_sampler=batches, num_workers=workers)]


@pytest.mark.parametrize("source", ["digits", "shapes", "folder"])
def test_views_follow_from_seed_draw_and_index_alone(tmp_path, source):
    images = {
        "digits": lambda: digits(16),
        "shapes": lambda: shapes(16, 40),
        "folder": lambda: folder(photos(tmp_path), 16),
    }[source]()
    a = Augmented(images.train, "random", flip=True, seed=3)
    whole = views(a, 6, 8)
    assert all(torch.equal(x, y) for x, y in zip(views(a, 6, 8, workers=2), whole))  # whoever reads
    assert all(
        torch.equal(x, y) for x, y in zip(views(a, 6, 8, start=4), whole[4:])
    )  # after a resume
    halves = [views(a, 6, 8, rank=r, world=2) for r in range(2)]
    assert all(
        torch.equal(torch.stack([x, y], 1).flatten(0, 1), w) for x, y, w in zip(*halves, whole)
    )  # whatever the ranks
    assert torch.equal(a[2][0], a[2, 0][0]) and a[2][1] == images.train[2][1]

    def seen(data, index):
        return {data[index, draw][0].numpy().tobytes() for draw in range(8)}

    assert len(seen(a, 2)) > 4 and seen(a, 2) != seen(
        Augmented(images.train, "random", True, seed=4), 2
    )
    assert a[2][0].shape == (3, 16, 16) and a.draws and len(a) == len(images.train)


def test_half_of_the_views_are_mirror_images_and_the_held_out_are_none(tmp_path):
    images = folder(photos(tmp_path), 16)
    a, x = Augmented(images.train, flip=True), images.train[0][0]
    turned = [torch.equal(a[0, draw][0], x.flip(-1)) for draw in range(200)]
    assert (
        all(t or torch.equal(a[0, draw][0], x) for draw, t in enumerate(turned))
        and 70 < sum(turned) < 130
    )
    assert torch.equal(stack(images.heldout)[0], stack(folder(tmp_path, 16).heldout)[0])


def test_the_random_crop_is_cut_from_the_whole_picture_not_from_its_centre(tmp_path):
    for i in range(6):
        ramp(200, 60).save(photos(tmp_path, ("a",), 0) / "a" / f"{i}.png")
    a = Augmented(folder(tmp_path, 16).train, "random")
    seen = torch.stack([a[0, draw][0].mean() for draw in range(60)])
    assert seen.min() < -0.6 and seen.max() > 0.6  # the centre alone is 0 +- 0.2


def test_the_config_chooses_the_view():
    images = shapes(16, 40)
    assert training_view(images, DataConfig(), 0) is images.train
    v = training_view(images, DataConfig(crop="random", flip=True), 5)
    assert (v.crop, v.flip, v.seed) == ("random", True, 5)
    with pytest.raises(ValueError, match="crop='middle'; possible: 'center', 'random'"):
        Augmented(images.train, "middle")
    for bad, says in [
        (dict(dataset="hf"), "dataset='hf' needs data_path: the name of a data set"),
        (dict(dataset="webdataset"), "folder of .tar files"),
        (dict(data_path="x"), "not for dataset='digits'"),
        (dict(crop="centre"), "Did you mean 'center'"),
        (dict(workers=-1), "greater than or equal to 0"),
    ]:
        with pytest.raises(ConfigError) as e:
            parse(TrainConfig, bad)
        assert says in str(e.value)


# Hugging Face data sets


@pytest.fixture
def datasets():
    found = pytest.importorskip("datasets")
    found.disable_progress_bars()
    return found


def table(datasets, labels, feature, broken=(), column="image", label="label"):
    rows = [
        {
            "bytes": b"no image"
            if i in broken
            else encoded(Image.new("RGB", (10 + i, 30), list(COLOURS.values())[i % 3])),
            "path": None,
        }
        for i in range(len(labels))
    ]
    return datasets.Dataset.from_dict(
        {"id": list(range(len(rows))), column: rows, label: labels},
        datasets.Features(
            {"id": datasets.Value("int64"), column: datasets.Image(), label: feature}
        ),
    )


def colours_fit(split, names):
    return all(
        torch.allclose(x[:, 4, 4], torch.tensor(COLOURS[names[y]]) / 127.5 - 1)
        for x, y in (split[i] for i in range(len(split)))
    )


def test_a_saved_data_set_keeps_its_class_names(tmp_path, datasets):
    label = datasets.ClassLabel(names=list(COLOURS))
    table(datasets, [i % 3 for i in range(60)], label, column="img", label="fine_label").shuffle(
        seed=1
    ).save_to_disk(tmp_path / "one")
    d = load_data(DataConfig(dataset="hf", data_path=str(tmp_path / "one")), 16)
    assert (
        d.class_names == ("red", "green", "blue")
        and len(d.train) + len(d.heldout) == 60
        and len(d.heldout) >= 1
    )
    assert colours_fit(d.train, d.class_names) and colours_fit(d.heldout, d.class_names)
    both = datasets.DatasetDict(
        train=table(datasets, [0, 1, 2] * 4, label), test=table(datasets, [0, 1, 2, 0], label)
    )
    both.save_to_disk(tmp_path / "two")
    d = hf(str(tmp_path / "two"), (16, 24))
    assert (len(d.train), len(d.heldout), d.train[5][0].shape) == (
        12,
        4,
        (3, 16, 24),
    ) and colours_fit(d.heldout, d.class_names)


def test_an_unlabelled_test_split_is_not_the_held_out_one(tmp_path, datasets):
    label = datasets.ClassLabel(names=list(COLOURS))
    datasets.DatasetDict(
        train=table(datasets, [0, 1, 2] * 10, label), test=table(datasets, [-1] * 6, label)
    ).save_to_disk(tmp_path / "d")
    d = hf(str(tmp_path / "d"), 16)
    assert len(d.train) + len(d.heldout) == 30 and colours_fit(d.heldout, d.class_names)
    table(datasets, [0, None, 2, 1], label).save_to_disk(tmp_path / "gaps")
    with pytest.raises(ValueError, match="1 rows of 4 have no label .the first is row 1."):
        hf(str(tmp_path / "gaps"), 16)


@pytest.mark.parametrize(
    "labels,kind,names",
    [
        (["red", "green", "blue"], "string", ("blue", "green", "red")),
        ([30, 4, 100], "int64", ("4", "30", "100")),
    ],
)
def test_labels_that_are_words_or_numbers_are_classes_in_their_order(
    tmp_path, datasets, labels, kind, names
):
    table(datasets, labels * 8, datasets.Value(kind)).save_to_disk(tmp_path / "d")
    d = hf(str(tmp_path / "d"), 16)
    assert d.class_names == names and np.bincount(
        np.concatenate([d.train.labels, d.heldout.labels])
    ).tolist() == [8, 8, 8]
    if kind == "string":
        assert colours_fit(d.train, d.class_names)


def test_a_folder_of_parquet_files_and_one_without_labels(tmp_path, datasets):
    t = table(datasets, [0, 1, 2] * 6, datasets.ClassLabel(names=list(COLOURS)))
    (tmp_path / "d" / "data").mkdir(parents=True)
    t.select(range(12)).to_parquet(tmp_path / "d" / "data" / "train-00000-of-00001.parquet")
    t.select(range(12, 18)).to_parquet(
        tmp_path / "d" / "data" / "validation-00000-of-00001.parquet"
    )
    d = hf(str(tmp_path / "d"), 16)
    assert (len(d.train), len(d.heldout), d.class_names) == (
        12,
        6,
        ("red", "green", "blue"),
    ) and colours_fit(d.heldout, d.class_names)
    t.remove_columns("label").save_to_disk(tmp_path / "plain")
    d = hf(str(tmp_path / "plain"), 16)
    assert d.class_names == ("plain",) and len(d.train) + len(d.heldout) == 18
    t.remove_columns("image").save_to_disk(tmp_path / "none")
    with pytest.raises(ValueError, match="no column of images among"):
        hf(str(tmp_path / "none"), 16)


def test_a_broken_row_is_noted_and_skipped_in_workers_too(tmp_path, datasets):
    t = table(datasets, [0, 1, 2] * 10, datasets.ClassLabel(names=list(COLOURS)), broken=(4, 5))
    datasets.DatasetDict(train=t, validation=t.select(range(3))).save_to_disk(tmp_path / "d")
    d = hf(str(tmp_path / "d"), 16)
    recorder = record_broken(d, tmp_path)
    x = torch.cat([x for x, _ in DataLoader(d.train, 6, num_workers=2)])
    assert (
        torch.equal(x[4], x[6])
        and torch.equal(x[5], x[6])
        and set(recorder.files) == {"d row 4", "d row 5"}
    )


def test_a_hub_name_without_a_network_fails_at_once_in_words(datasets, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        ValueError, match="data_path='nobody/nothing' is not a folder .*Hugging Face hub"
    ):
        hf("nobody/nothing", 16)
    (tmp_path / "f").mkdir()
    with pytest.raises(
        ValueError, match="neither a folder of save_to_disk nor one with parquet.*dataset='folder'"
    ):
        hf("f", 16)


# WebDataset tars


def write_tar(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def samples(first, count, labels=True, kind="jpg"):
    "Samples of flat colours, number i of colour i % 3."
    out = {}
    for i in range(first, first + count):
        out[f"./part/{i:05}.{kind}"] = encoded(
            Image.new("RGB", (20 + i % 30, 40), list(COLOURS.values())[i % 3]), "PNG"
        )  # the suffix need not be right
        if labels:
            out[f"./part/{i:05}.cls"] = f"{i % 3}\n".encode()
        out[f"./part/{i:05}.json"] = b'{"a": 1}'
        out[f"./part/{i:05}.pyd"] = b'cos\nsystem\n(S"touch /tmp/unpickled"\ntR.'
    return out


def test_tars_by_folder_pattern_and_braces(tmp_path):
    for k in range(12):
        write_tar(tmp_path / "d" / f"x-{k:03}.tar", samples(10 * k, 10))
    whole = load_data(DataConfig(dataset="webdataset", data_path=str(tmp_path / "d")), 16)
    assert (
        whole.class_names == ("0", "1", "2")
        and len(whole.train) + len(whole.heldout) == 120
        and len(whole.heldout) > 3
    )
    assert colours_fit(whole.train, list(COLOURS)) and colours_fit(whole.heldout, list(COLOURS))
    assert len(webdataset(str(tmp_path / "d" / "x-*.tar"), 16).train) == len(whole.train)
    few = webdataset(str(tmp_path / "d" / "x-{008..010}.tar"), 16)
    assert len(few.train) + len(few.heldout) == 30
    (tmp_path / "d" / "classes.txt").write_text("red\ngreen\nblue\n")
    assert webdataset(str(tmp_path / "d"), 16).class_names == ("red", "green", "blue")
    (tmp_path / "d" / "classes.txt").write_text("red\ngreen")
    with pytest.raises(ValueError, match="classes.txt names 2 classes; label 2 needs at least 3"):
        webdataset(str(tmp_path / "d"), 16)


def test_tars_say_by_their_names_what_is_held_out(tmp_path):
    for name, first in [("a-train-0.tar", 0), ("a-train-1.tar", 10), ("a-validation-0.tar", 20)]:
        write_tar(tmp_path / name, samples(first, 10))
    d = webdataset(str(tmp_path), 16)
    assert (
        (len(d.train), len(d.heldout)) == (20, 10)
        and all("validation" in d.heldout.name(i) for i in range(10))
        and d.heldout.name(0).startswith("./part/00020.jpg in ")
    )
    write_tar(tmp_path / "b" / "train" / "0.tar", samples(0, 9))
    write_tar(tmp_path / "b" / "val" / "0.tar", samples(9, 3))
    d = webdataset(str(tmp_path / "b"), 16)
    assert (len(d.train), len(d.heldout)) == (9, 3)
    assert (
        len(webdataset(str(tmp_path / "b" / "val"), 16).train) == 2
    )  # val alone is a data set like another


def test_tars_are_indexed_once_and_again_when_they_change(tmp_path):
    write_tar(tmp_path / "a.tar", samples(0, 12))
    first = tar_index([str(tmp_path / "a.tar")])
    (kept,) = (tmp_path / ".cache" / "tars").iterdir()
    stamp = kept.stat().st_mtime_ns
    second = tar_index([str(tmp_path / "a.tar")])
    assert (
        all(np.array_equal(first[k], second[k]) for k in first) and kept.stat().st_mtime_ns == stamp
    )
    kept.write_bytes(b"damaged")
    assert len(tar_index([str(tmp_path / "a.tar")])["name"]) == 12
    write_tar(tmp_path / "a.tar", samples(0, 14))
    assert len(tar_index([str(tmp_path / "a.tar")])["name"]) == 14


def test_tars_without_labels_are_one_class(tmp_path):
    write_tar(tmp_path / "pets" / "a.tar", samples(0, 12, labels=False))
    d = webdataset(str(tmp_path / "pets"), 16)
    assert d.class_names == ("pets",) and set(labels_of(d.train)) == {0}


def test_a_broken_image_in_a_tar_is_skipped(tmp_path):
    members = samples(0, 30)
    members["./part/00004.jpg"] = members["./part/00004.jpg"][:40]
    write_tar(tmp_path / "train.tar", members)
    write_tar(tmp_path / "val.tar", samples(30, 3))
    d = webdataset(str(tmp_path), 16)
    recorder = record_broken(d, tmp_path)
    x = torch.cat([x for x, _ in DataLoader(d.train, 7, num_workers=2)])
    assert torch.equal(x[4], x[5]) and list(recorder.files) == [
        f"./part/00004.jpg in {tmp_path}/train.tar"
    ]


def make_bad_tar(kind, path):
    if kind == "cut":
        write_tar(path, samples(0, 12))
        truncate(path, 0.6)
    if kind == "text":
        path.write_text("not a tar")
    if kind == "gz":
        with tarfile.open(path, "w:gz") as tar:
            tar.add(__file__, "x.jpg")
    if kind == "gap":
        write_tar(path, {k: v for k, v in samples(0, 12).items() if k != "./part/00003.cls"})
    if kind == "word":
        write_tar(path, samples(0, 12) | {"./part/00003.cls": b"cat"})
    if kind == "none":
        write_tar(path, {"a.txt": b"1"})


@pytest.mark.parametrize(
    "kind,says",
    [
        ("cut", "a.tar is damaged or no plain tar"),
        ("text", "a.tar is damaged or no plain tar"),
        ("gz", "unpack it if it is compressed"),
        ("gap", "1 of 12 images have no .cls member with a label, such as ./part/00003.jpg in"),
        ("word", "the label of ./part/00003.jpg in .*a.tar is 'cat', and 11 others are numbers"),
        ("none", "no images in 1 tar files"),
    ],
)
def test_a_tar_that_cannot_be_used_says_why(tmp_path, kind, says):
    make_bad_tar(kind, tmp_path / "a.tar")
    with pytest.raises(ValueError, match=says):
        webdataset(str(tmp_path), 16)


def test_tars_that_are_not_there_are_named(tmp_path):
    with pytest.raises(ValueError, match="finds 0 tar files"):
        webdataset(str(tmp_path), 16)
    write_tar(tmp_path / "x-00.tar", samples(0, 3))
    with pytest.raises(ValueError, match="finds 1 tar files; 2 are not there, such as .*x-01.tar"):
        webdataset(str(tmp_path / "x-{00..02}.tar"), 16)


# The look before training, and the workflow


def test_the_description_counts_classes_sizes_and_broken_files(tmp_path):
    d = folder(photos(tmp_path), 48)
    truncate(d.train.open(0))
    text = describe_data(d)
    train, held = (np.bincount(labels_of(s)) for s in (d.train, d.heldout))
    sizes = sorted((Image.open(d.train.open(i)).size for i in range(1, len(d.train))), key=np.prod)
    assert (
        f"cat: {train[0]} + {held[0]}, dog: {train[1]} + {held[1]}" in text
        and f"broken in that sample: 1\n  {d.train.name(0)}: OSError" in text
    )
    assert (
        f"from {sizes[0][0]} x {sizes[0][1]} to {sizes[-1][0]} x {sizes[-1][1]} pixels; "
        f"{sum(min(wh) < 48 for wh in sizes)} are smaller than 48px and are enlarged" in text
    )
    many = shapes(16, 40)
    assert "circle: 5 + 10" in describe_data(many) and "pixels" not in describe_data(many)


@pytest.mark.slow
def test_photos_of_one_class_train_through_the_notebook(root, tmp_path):
    files = sorted((photos(tmp_path / "my_photos", ("x",), 24) / "x").iterdir())
    for f in files:
        f.rename(tmp_path / "my_photos" / f.name)
    (tmp_path / "my_photos" / "x").rmdir()
    for i in (1, 5):
        truncate(tmp_path / "my_photos" / f"{i:03}.jpg")
    run = subprocess.run(
        [
            Path(sys.executable).parent / "papermill",
            root / "nbs" / "train.ipynb",
            "runs/a/notebook.ipynb",
            "-p",
            "dataset",
            "folder",
            "-p",
            "data_path",
            "my_photos",
            *"-p tokens 4 -p steps 4 -p warmup_steps 1 -p batch_size 8".split(),
        ],
        cwd=tmp_path,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert run.returncode == 0, run.stderr[-3000:]
    text = (tmp_path / "runs" / "a" / "notebook.ipynb").read_text()
    assert (
        "1 class" in text
        and "images cannot be read and were skipped" in text
        and (tmp_path / "runs" / "a" / "broken.jsonl").is_file()
    )
    assert json.loads((tmp_path / "runs" / "a" / "config.json").read_text())["class_names"] == [
        "my_photos"
    ]
