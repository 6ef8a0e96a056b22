"""Image folders as people have them: splits, leftovers, links, runs, tables, names; and what is
said about what was left out.
"""

import io
import json
import os
import shutil
import unicodedata
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from softvq_lab.core import read_json, readable, write_json
from softvq_lab.data.datasets import describe_data
from softvq_lab.data.folder import BrokenFiles, folder, hold_out, record_broken
from softvq_lab.data.images import labels_of, stack
from softvq_lab.data.walk import image_suffixes
from softvq_lab.evaluation.references import folder_reference
from softvq_lab.explore.session import read_upload


def picture(path, seed=0, **kw):
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 7, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **kw)
    return path


def pictures(root, each=4, suffix="png"):
    for i in range(each):
        picture(Path(root) / f"{i:03}.{suffix}", i)
    return Path(root)


def tree(root, counts):
    "Folders below `root` with so many pictures each."
    for path, each in counts.items():
        pictures(root / path, each)
    return root


def content(root):
    "(class names, number of training images, number of held-out images, what is said)"
    d = folder(root, 8)
    stack(d.train), stack(d.heldout)  # every file can be read
    return d.class_names, len(d.train), len(d.heldout), "\n".join(d.notes)


def refusal(root):
    with pytest.raises(ValueError) as e:
        folder(root, 8)
    return str(e.value)


# Splits


@pytest.mark.parametrize(
    "train,held",
    [
        ("train", "valid"),
        ("train", "validation"),
        ("Train", "VAL"),
        ("Training", "Testing"),
        ("TRAIN", "Test"),
        ("train", "dev"),
        ("training", "eval"),
        ("train2017", "val2017"),
        ("training_set", "test_set"),
        ("train", "held-out"),
        ("images_train", "images_val"),
    ],
)
def test_splits_are_found_under_their_usual_names(tmp_path, train, held):
    tree(tmp_path, {f"{train}/cat": 5, f"{train}/dog": 4, f"{held}/cat": 3, f"{held}/dog": 2})
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "readme.txt").write_text("about")
    assert content(tmp_path)[:3] == (("cat", "dog"), 9, 5)


def test_of_three_splits_val_is_held_out_and_test_is_said_to_be_left_out(tmp_path):
    counts = {"train/a": 5, "train/b": 5, "test/a": 3, "test/b": 3, "Validation/a": 2, "docs": 1}
    names, train, held, said = content(tree(tmp_path, counts))
    assert (names, train, held) == (("a", "b"), 10, 2)
    assert "test is not used: Validation is held out" in said
    assert "left out: folders beside train: 1, such as " in said and "docs" in said
    assert said in describe_data(folder(tmp_path, 8))


def test_a_test_split_without_classes_is_not_the_held_out_one(tmp_path):
    counts = {"train/a": 30, "train/b": 30, "test": 5}
    names, train, held, said = content(tree(tmp_path, counts))
    assert names == ("a", "b") and train + held == 60 and held >= 1
    assert "test is not used: its images have no classes" in said


def test_an_empty_split_is_no_split(tmp_path):
    (tree(tmp_path, {"train/a": 9, "train/b": 9, "test/b": 2}) / "val").mkdir()
    names, train, held, said = content(tmp_path)
    assert (names, train, held) == (("a", "b"), 18, 2) and "val holds no images" in said


@pytest.mark.parametrize("name", ["test", "val", "train", "dev", "Testing"])
def test_a_class_may_be_called_like_a_split(tmp_path, name):
    assert content(tree(tmp_path, {name: 5, "bus": 5, "car": 5}))[0] == tuple(
        sorted((name, "bus", "car"))
    )


def test_splits_without_a_training_split_are_no_classes(tmp_path):
    said = refusal(tree(tmp_path, {"val/cat": 5, "val/dog": 5, "test/cat": 5}))
    assert "holds test, val and no training split" in said.replace("val, test", "test, val")
    assert f"data_path='{tmp_path}/" in said


@pytest.mark.parametrize(
    "train,held", [("birds_train", "birds_test"), ("0-Train", "1-Val"), ("img.train", "img.dev")]
)
def test_folders_that_differ_in_the_word_of_a_split_are_no_classes(tmp_path, train, held):
    said = refusal(tree(tmp_path, {f"{train}/cat": 3, f"{train}/dog": 3, f"{held}/cat": 3}))
    assert "look like splits" in said and f"Rename {train} to train" in said


def test_a_word_of_a_split_may_stand_in_the_name_of_a_class(tmp_path):
    counts = {"toy train": 3, "steam train": 3, "test tube": 3}
    assert content(tree(tmp_path, counts))[0] == ("steam train", "test tube", "toy train")


def test_a_training_folder_beside_other_pictures_is_asked_about(tmp_path):
    said = refusal(tree(tmp_path, {"train/cat": 5, "train/dog": 5, "figures": 2}))
    assert "figures" in said and "is it a split or a class?" in said


def test_two_folders_for_one_split_are_refused(tmp_path):
    counts = {"Train/a": 4, "TRAIN/a": 4, "val/a": 2}
    assert "could both be its train split" in refusal(tree(tmp_path, counts))
    names, train, held, said = content(
        tree(tmp_path / "b", {"train/a": 4, "training/a": 9, "val/a": 2, "valid/a": 3})
    )
    assert (
        (train, held) == (4, 2) and "training is not used" in said and "valid is not used" in said
    )


def test_splits_inside_the_class_folders_are_used(tmp_path):
    counts = {"cat/train": 5, "cat/val": 2, "dog/Train": 6, "dog/Val": 3, "dog/test": 4}
    names, train, held, said = content(tree(tmp_path, counts))
    assert (names, train, held) == (("cat", "dog"), 11, 5)
    assert "splits inside the class folders are used; test is not" in said
    mixed = tree(tmp_path / "mixed", {"cat/train": 5, "cat/old": 5, "dog": 5})
    assert content(mixed)[0] == ("cat", "dog") and sum(content(mixed)[1:3]) == 15


def test_an_archive_in_its_own_folder(tmp_path):
    assert content(tree(tmp_path / "a", {"train/train/x": 5, "train/train/y": 5, "val/x": 1}))[
        :3
    ] == (
        ("x", "y"),
        10,
        1,
    )
    said = refusal(tree(tmp_path / "b", {"photos/train/x": 5, "photos/val/x": 5}))
    assert f"Give data_path='{tmp_path}/b/photos'" in said
    names, *_, said = content(tree(tmp_path / "c", {"photos/x": 5, "photos/y": 5}))
    assert names == ("photos",) and f"give data_path='{tmp_path}/c/photos'" in said


def test_classes_that_only_the_held_out_split_has_are_refused_with_a_way_out(tmp_path):
    flat = refusal(tree(tmp_path / "imagenet", {"train/n01": 5, "train/n02": 5, "val": 6}))
    assert "val holds 6 images and no class folders" in flat and "n01, n02" in flat
    assert f"or move {tmp_path}/imagenet/val elsewhere: a tenth of" in flat
    tiny = {"train/n01/images": 5, "train/n02/images": 5, "val/images": 6}
    assert "val/images holds 6 images and no class folders" in refusal(
        tree(tmp_path / "tiny", tiny)
    )
    turned = tree(tmp_path / "turned", {"train": 5, "val/a": 2, "val/b": 2})
    assert "has class folders (a, b)" in refusal(turned) and "has none" in refusal(turned)


# Tables


def test_tiny_imagenet_is_read_by_its_annotations(tmp_path):
    counts = {"train/n01/images": 5, "train/n02/images": 5, "val/images": 4, "test/images": 3}
    tree(tmp_path, counts)
    for c in ("n01", "n02"):
        (tmp_path / "train" / c / f"{c}_boxes.txt").write_text("x\t0\t0\t9\t9\n")
    (tmp_path / "val" / "val_annotations.txt").write_text(
        "".join(
            f"{i:03}.png\t{c}\t0\t0\t9\t9\n" for i, c in enumerate(("n02", "n01", "n02", "n02"))
        )
    )
    d = folder(tmp_path, 8)
    assert d.class_names == ("n01", "n02") and len(d.train) == 10
    by_name = {Path(d.heldout.name(i)).stem: y for i, y in enumerate(d.heldout.labels)}
    assert by_name == {"000": 1, "001": 0, "002": 1, "003": 1}
    assert "test is not used" in "\n".join(d.notes)


@pytest.mark.parametrize(
    "table,text",
    [
        ("metadata.csv", "file_name,text,label\n000.png,a,dog\n001.png,b,big cat\n002.png,c,dog\n"),
        ("labels.csv", "Image,Category\n000.png,dog\n001.png,big cat\n002.png,dog\n"),
        (
            "metadata.jsonl",
            "\n".join(
                json.dumps({"file_name": f"{i:03}.png", "label": c})
                for i, c in enumerate(("dog", "big cat", "dog"))
            ),
        ),
        ("Labels.TSV", "img\tclass\n000.png\tdog\n001.png\tbig cat\n002.png\tdog\n"),
        ("annotations.csv", "id;synset\n000;dog\n001;big cat\n002;dog\n"),
        ("labels.json", '{"000.png": "dog", "001.png": "big cat", "002.png": "dog"}'),
        (
            "dataset.json",
            '{"labels": [["000.png", "dog"], ["001.png", "big cat"], ["002.png", "dog"]]}',
        ),
        (
            "labels.json",
            (
                '[{"id": "000", "label": "dog"}, {"id": "001", "label": "big cat"}, {"id": "002", '
                '"label": "dog"}]'
            ),
        ),
    ],
)
@pytest.mark.parametrize("below", ["", "images"])
def test_a_table_beside_the_images_gives_their_labels(tmp_path, table, text, below):
    pictures(tmp_path / below, 3)
    (tmp_path / table).write_text(text)
    d = folder(tmp_path, 8)
    names = {
        Path(s.name(i)).stem: d.class_names[s.labels[i]]
        for s in (d.train, d.heldout)
        for i in range(len(s))
    }
    assert names == {"000": "dog", "001": "big cat", "002": "dog"}
    assert f"labels from {table}" in d.notes and "not read as images" not in str(d.notes)


def test_a_table_of_splits_and_numbers(tmp_path):
    tree(tmp_path, {"train": 12, "test": 12})
    rows = [f"{s}/{i:03}.png,{i}" for s in ("train", "test") for i in range(12)]
    (tmp_path / "labels.csv").write_text("file_name,label\n" + "\n".join(rows))
    d = folder(tmp_path, 8)
    assert d.class_names == tuple(map(str, range(12))) and labels_of(d.heldout).tolist() == [
        *range(12)
    ]


def test_a_table_from_windows_with_texts_of_several_lines(tmp_path):
    tree(tmp_path, {"pics/a": 2, "pics/b": 2})
    rows = [f'pics\\{d}\\{i:03}.png,"one\ntwo, three",{d}{i}' for d in "ab" for i in range(2)]
    text = "\r\n".join(["\ufefffile_name,text,label", *rows])
    (tmp_path / "metadata.csv").write_bytes(text.encode())
    assert folder(tmp_path, 8).class_names == ("a0", "a1", "b0", "b1")


def test_a_table_that_could_mean_two_files_is_not_guessed(tmp_path):
    tree(tmp_path, {"pics/a": 2, "pics/b": 2})
    (tmp_path / "labels.csv").write_text("file,label\n000.png,x\n001.png,y\n")
    names, *_, said = content(tmp_path)
    assert names == ("pics",) and "labels.csv is not read" in said


def test_whole_numbers_that_a_program_wrote_as_floats_are_whole_numbers(tmp_path):
    pictures(tmp_path, 11)
    rows = [f"{i:03}.png,{10 - i}.0" for i in range(11)]
    (tmp_path / "labels.csv").write_text("\n".join(["file_name,label", *rows]))
    assert content(tmp_path)[0] == tuple(map(str, range(11)))


def test_class_folders_go_before_a_table_and_this_is_said(tmp_path):
    tree(tmp_path, {"cat": 5, "dog": 5})
    (tmp_path / "metadata.csv").write_text("file_name,label\ncat/000.png,bird\n")
    names, *_, said = content(tmp_path)
    assert names == ("cat", "dog") and "tables are not read" in said


def test_a_table_with_gaps_or_without_labels(tmp_path):
    pictures(tmp_path, 5)
    (tmp_path / "metadata.csv").write_text("file_name,text\n000.png,a cat\n")
    names, *_, said = content(tmp_path)
    assert names == (tmp_path.name,) and "files that are not read as images: 1 (1 .csv" in said
    (tmp_path / "metadata.csv").write_text("file_name,label\n000.png,cat\n")
    assert "no label for 4 of 5 images, such as 001.png" in refusal(tmp_path)
    (tmp_path / "metadata.csv").write_bytes(b"file_name,label\n000.png,\xff\n")
    assert "metadata.csv is no table of labels that can be read" in refusal(tmp_path)


# Leftovers and runs


def test_what_programs_leave_is_no_data_at_any_depth(tmp_path):
    tree(tmp_path, {"a": 5, "b/deep/er": 5})
    leftovers = (
        *(".git", "a/.ipynb_checkpoints", "b/deep/.thumbnails", "@eaDir", "a/@eaDir/000.png"),
        *("__MACOSX/a", "b/deep/er/@EADIR", "lost+found", "System Volume Information", "b/wandb"),
        *("$RECYCLE.BIN", "#recycle", "b/deep/__pycache__"),
    )
    for name in leftovers:
        pictures(tmp_path / name, 2)
    (tmp_path / "b" / "venv").mkdir()
    picture(tmp_path / "b" / "venv" / "lib" / "china.jpg")
    (tmp_path / "b" / "venv" / "pyvenv.cfg").write_text("home = /usr/bin")
    (tmp_path / "a" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "a" / "._000.png").write_bytes(b"x")
    names, train, held, said = content(tmp_path)
    assert names == ("a", "b") and train + held == 10
    assert "hidden folders" in said and "folders that programs leave" in said
    assert "hidden files and files that programs leave: 2" in said and "Python env" in said


@pytest.mark.parametrize("where", ["runs/a", "runs/sweep/trial-1", "experiments/a", "a", "cat/try"])
def test_a_run_among_the_images_is_no_class(tmp_path, where):
    tree(tmp_path, {"cat": 6, "dog": 6})
    before = content(tmp_path)
    run = tmp_path / where
    tree(run, {"samples/x": 3, "reconstructions": 2})
    (run / "checkpoints").mkdir()
    write_json(run / "config.json", {"kind": "tokenizer", "config": {}})
    if where.startswith("runs"):
        picture(tmp_path / "runs" / "figure.png")
    after = content(tmp_path)
    assert after[:3] == before[:3] and "folders of runs: 1" in after[3]


def test_what_is_left_out_is_counted_by_kind(tmp_path):
    tree(tmp_path, {"a": 5, "b": 5})
    for name in ("a/1.heic", "a/2.HEIC", "b/notes.txt", "b/hash0123", "c/only.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    said = describe_data(folder(tmp_path, 8))
    assert (
        "files that are not read as images: 5 (2 .heic, " in said and "1 without a suffix" in said
    )
    assert "folders without images: 1, such as " in said and "/c" in said


# Kinds of pictures


@pytest.mark.parametrize(
    "suffix", ["avif", "ppm", "jfif", "jp2", "tga", "pgm", "qoi", "JPE", "webp", "PCX", "dib"]
)
def test_every_picture_that_pillow_reads_is_read(tmp_path, suffix):
    if f".{suffix.lower()}" not in image_suffixes():
        pytest.skip("this Pillow does not read it")
    kind = {"jfif": {"format": "JPEG"}, "pgm": {"format": "PPM"}}.get(suffix, {})
    for i in range(4):
        picture(tmp_path / "d" / f"{i}.{suffix}", i, **kind)
    d = folder(tmp_path / "d", 8)
    assert len(d.train) + len(d.heldout) == 4 and stack(d.train)[0].std() > 0
    assert read_upload(tmp_path / "d" / f"0.{suffix}", 8).shape == (3, 8, 8)


def test_what_starts_other_programs_is_no_picture(tmp_path):
    pictures(tmp_path, 4)
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    (tmp_path / "x.eps").write_bytes(eps)
    (tmp_path / "000.png").write_bytes(eps)  # under a picture's name
    d = folder(tmp_path, 8)
    recorder = record_broken(d, tmp_path)
    stack(d.train), stack(d.heldout)
    assert len(d.train) + len(d.heldout) == 4
    assert [Path(f).name for f in recorder.files] == ["000.png"]
    assert "a PostScript drawing" in str(recorder.files) and "1 .eps" in str(d.notes)


# Links


def links(root, **targets):
    for name, target in targets.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)


def count(root):
    d = folder(root, 8)
    labels = np.concatenate([labels_of(d.train), labels_of(d.heldout)])
    return dict(zip(d.class_names, np.bincount(labels).tolist()))


def test_links_are_followed_at_every_depth(tmp_path):
    tree(tmp_path, {"disk/x": 3, "disk/y/deep": 2, "d/a": 4, "d/b/c": 5})
    links(tmp_path / "d", a__more=tmp_path / "disk", b__c__one=tmp_path / "disk/x", z="../disk/y")
    picture(tmp_path / "elsewhere.png")
    links(tmp_path / "d", a__file="../../elsewhere.png")
    (tmp_path / "d/a/file").rename(tmp_path / "d/a/file.png")
    assert count(tmp_path / "d") == {"a": 10, "b": 8, "z": 2}


def test_links_in_a_circle_end(tmp_path):
    tree(tmp_path, {"d/a": 4, "d/b/deep": 3})
    d = tmp_path / "d"
    links(d, a__up=d, a__self=".", b__deep__top=tmp_path, b__a="../a", a__b=d / "b", c=d, e="../..")
    assert count(d) == {"a": 7, "b": 7}
    said = "\n".join(folder(d, 8).notes)
    assert "links back to a folder above" in said and "folders without images" in said


def test_a_folder_that_a_class_reaches_twice_is_read_once(tmp_path):
    tree(tmp_path, {"disk": 6, "d/a/real": 5})
    links(tmp_path / "d", a__1="../../disk", a__2="../../disk", a__0="real")
    d = folder(tmp_path / "d", 8)
    found = [s.name(i) for s in (d.train, d.heldout) for i in range(len(s))]
    assert len(found) == 11 and sum("/a/real/" in f for f in found) == 5
    assert "links to a folder that is read already: 2" in "\n".join(d.notes)


def test_splits_and_classes_may_be_links(tmp_path):
    tree(tmp_path, {"disk/cat": 5, "disk/dog": 5, "other/kitten": 2})
    links(tmp_path / "d", train="../disk", val__cat="../../other/kitten")
    assert content(tmp_path / "d")[:3] == (("cat", "dog"), 10, 2)


def test_links_that_lead_nowhere_are_counted(tmp_path):
    pictures(tmp_path / "d", 5)
    links(tmp_path / "d", gone="nowhere", x="x")
    (tmp_path / "d" / "gone").rename(tmp_path / "d" / "gone.png")
    os.mkfifo(tmp_path / "d" / "pipe.png")  # to open it would wait for ever
    names, train, held, said = content(tmp_path / "d")
    assert train + held == 5
    assert "links that lead nowhere: 2" in said and "files of the system: 1" in said
    for i in range(3):
        (tmp_path / "e").mkdir(exist_ok=True)
        (tmp_path / "e" / f"{i}.png").symlink_to(f"/unmounted/{i}.png")
    assert "links that lead nowhere: 3" in refusal(tmp_path / "e")


class Mean:
    kind = name = "mean"

    def __call__(self, x):
        return x.float().mean((2, 3)), None


def test_a_reference_folder_is_walked_like_any_other(tmp_path):
    tree(tmp_path, {"disk": 3, "ref/.thumbnails": 2, "ref/a": 4})
    picture(tmp_path / "ref" / "b.ppm")
    links(tmp_path / "ref", more="../disk", loop=".")
    with pytest.warns(UserWarning, match="(?s)hidden folders: 1.*links back to a folder above: 1"):
        reference = folder_reference(tmp_path / "ref", 8, Mean())
    assert len(reference.features) == 8
    (tmp_path / "plain").mkdir()
    pictures(tmp_path / "plain", 3)
    write_json(tmp_path / "plain" / "samples.json", {})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(folder_reference(tmp_path / "plain", 8, Mean()).features) == 3


def test_a_held_out_split_that_is_the_training_split_is_refused(tmp_path):
    "Linked as a whole, class by class, file by file, both to a third folder, or by hard links."
    a, b, c, d, e = (tree(tmp_path / n, {"train/cat": 5, "train/dog": 4}) for n in "abcde")
    links(a, val="train")
    links(b, val__cat="../train/cat", val__dog="../train/dog")
    for p in sorted((c / "train").glob("*/*")):
        (c / "valid" / p.parent.name).mkdir(parents=True, exist_ok=True)
        (c / "valid" / p.parent.name / f"x{p.name}").symlink_to(p)
    (d / "train").rename(d.parent / "pool")
    links(d, train="../pool", test="../pool")
    shutil.copytree(e / "train", e / "val", copy_function=os.link)
    for root in (a, b, c, d, e):
        assert "the 9 held-out images are the 9 training images themselves, by links: " in refusal(
            root
        )


def test_held_out_images_that_are_training_images_are_said(tmp_path):
    a = tree(tmp_path / "a", {"train/cat": 5, "train/dog": 4})
    picture(a / "val" / "dog" / "new.png", 77)
    links(a, val__cat="../train/cat")
    assert "5 of 6 held-out images are training images, by links (" in content(a)[3]
    b = tree(tmp_path / "b", {"train/cat": 5, "train/dog": 4, "val/cat": 2})
    picture(b / "val" / "cat" / "001.png", 77)
    assert "1 of 2 held-out images that were compared are copies" in content(b)[3]
    c = tree(tmp_path / "c", {"train/cat": 5})
    for i in range(5):
        picture(c / "val" / "cat" / f"{i:03}.png", 100 + i)  # the same names, other pictures
    assert content(c)[3] == ""


def test_images_that_two_classes_share_by_a_link_are_said(tmp_path):
    root = tree(tmp_path, {"cat": 30, "dog": 20})
    links(root, tiger="cat")
    said = content(root)[3]
    assert "images are read a second time, by links (" in said
    assert "held-out images are training images, by links (" in said


# Names


def test_names_in_another_encoding_reach_every_record(tmp_path):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/fotos-\xfc"))
    try:
        tree(root, {os.fsdecode(b"caf\xe9"): 5, "tea": 5})
    except OSError:
        pytest.skip("this file system takes UTF-8 only")
    (root / "tea" / os.fsdecode(b"bro\xdfken.png")).write_bytes(b"x")
    d = folder(root, 8)
    assert d.class_names == ("caf\\xe9", "tea")
    recorder = record_broken(d, tmp_path)
    stack(d.train), stack(d.heldout)
    lines = [json.loads(line) for line in (tmp_path / "broken.jsonl").read_text().splitlines()]
    assert [n["file"] for n in lines] == [readable(root / "tea" / os.fsdecode(b"bro\xdfken.png"))]
    write_json(tmp_path / "a.json", {"names": d.class_names, "source": d.source, "path": str(root)})
    assert Path(read_json(tmp_path / "a.json")["path"]).is_dir()  # the path still opens it
    said = [describe_data(d), d.source, recorder.report(), *d.notes, refusal(root / "nowhere")]
    for text in said:
        io.TextIOWrapper(io.BytesIO(), encoding="utf-8").write(text)
        text.encode()


def test_a_table_of_the_explorer_shows_such_a_path(root, monkeypatch):
    monkeypatch.syspath_prepend(root / "apps")
    from tabs.tables import sheet

    html = sheet(["setting", "a"], [["data_path", os.fsdecode(b"fotos-\xfc")]])
    assert "fotos-\\xfc" in html and html.encode()


def test_broken_files_with_such_names_are_noted_once_and_read_back(tmp_path):
    recorder = BrokenFiles(tmp_path / "broken.jsonl", 1000)
    for _ in range(2):
        recorder.note(os.fsdecode(b"caf\xe9.png"), "cut\nshort")
    assert recorder.files == BrokenFiles(tmp_path / "broken.jsonl", 1000).files
    assert recorder.files == {"caf\\xe9.png": "cut\\nshort"}


def test_one_name_in_two_unicode_forms_is_one_class(tmp_path):
    composed, decomposed = (unicodedata.normalize(f, "café") for f in ("NFC", "NFD"))
    tree(tmp_path, {f"train/{composed}": 5, "train/tea": 5, f"val/{decomposed}": 2, "val/tea": 1})
    d = folder(tmp_path, 8)
    assert d.class_names == (composed, "tea") and labels_of(d.heldout).tolist() == [0, 0, 1]
    tree(tmp_path / "both", {composed: 4, decomposed: 4})
    if len(os.listdir(tmp_path / "both")) == 2:  # a Mac does not tell them apart
        assert "differ in their Unicode form only" in refusal(tmp_path / "both")
    assert folder(tree(tmp_path / "mac", {decomposed: 4, "tea": 4}), 8).class_names == d.class_names


def test_what_is_held_out_of_a_folder_is_what_it_was_always(tmp_path):
    held = np.flatnonzero(hold_out(f"cat/{i:03}.jpg" for i in range(40)))
    assert held.tolist() == [9, 19, 34, 39]  # as version 0.1 chose
    tree(tmp_path, {"cat": 20, "dog": 20})
    d = folder(tmp_path, 8)
    names = [f"{c}/{i:03}.png" for c in ("cat", "dog") for i in range(20)]
    held = [str(tmp_path / n) for n, h in zip(names, hold_out(names)) if h]
    assert [d.heldout.name(i) for i in range(len(d.heldout))] == held
    assert torch.equal(stack(d.train)[1], torch.from_numpy(labels_of(d.train)))
