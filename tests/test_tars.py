"""Tars and tables of images: where they keep their labels and splits, and what is said about it."""

import io
import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from softvq_lab.data.archives import find_tars, hf, webdataset
from softvq_lab.data.datasets import describe_data
from softvq_lab.data.folder import folder
from softvq_lab.data.images import labels_of, stack
from softvq_lab.data.walk import split_of


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTVQ_LAB_CACHE", str(tmp_path / ".cache"))


def png(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 9, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(data := io.BytesIO(), "PNG")
    return data.getvalue()


def write_tar(path, members, **kw):
    "`members`: name -> bytes, text, a JSON value, or 'link to NAME'."
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", **kw) as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            if isinstance(data, tuple):
                member.type, member.linkname = data
                tar.addfile(member)
                continue
            if not isinstance(data, bytes):
                data = (data if isinstance(data, str) else json.dumps(data)).encode()
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def samples(label=None, ext="cls", count=12, first=0, image="png"):
    "`count` images, with `label(i)` in a member of extension `ext`."
    out = {}
    for i in range(first, first + count):
        out[f"{i:03}.{image}"] = png(i)
        if label:
            out[f"{i:03}.{ext}"] = label(i)
    return out


def classes_of(path):
    "Member or path of each image -> name of its class; and what is said."
    d = webdataset(str(path), 8)
    found = {}
    for split in (d.train, d.heldout):
        stack(split)  # all can be read
        for i, y in enumerate(labels_of(split)):
            found[split.name(i).partition(" in ")[0]] = d.class_names[y]
    return found, "\n".join(d.notes)


def by_number(found):
    return {int(Path(n).stem): c for n, c in found.items()}


CAT_DOG = {i: ("big cat", "dog")[i % 2] for i in range(12)}


# Members


@pytest.mark.parametrize(
    "ext,label,expected",
    [
        ("cls", lambda i: f"{i % 3}\n", {i: str(i % 3) for i in range(12)}),
        ("cls", lambda i: CAT_DOG[i], CAT_DOG),
        ("CLS", lambda i: str(i % 2), {i: str(i % 2) for i in range(12)}),
        ("label.txt", lambda i: CAT_DOG[i], CAT_DOG),
        ("json", lambda i: {"label": i % 2}, {i: str(i % 2) for i in range(12)}),
        ("json", lambda i: {"width": 9, "Class": CAT_DOG[i]}, CAT_DOG),
        ("json", lambda i: {"meta": {"a": [{"category": [CAT_DOG[i]]}]}}, CAT_DOG),
        (
            "json",
            lambda i: {"annotations": {"target": {"id": i % 2}}},
            {i: str(i % 2) for i in range(12)},
        ),
        ("json", lambda i: i % 3, {i: str(i % 3) for i in range(12)}),
        ("json", lambda i: [i % 2], {i: str(i % 2) for i in range(12)}),
        ("cls.json", lambda i: json.dumps(CAT_DOG[i]), CAT_DOG),
        ("meta.json", lambda i: {"synset": CAT_DOG[i]}, CAT_DOG),
        ("txt", lambda i: CAT_DOG[i], CAT_DOG),
        ("txt", lambda i: str(i % 4), {i: str(i % 4) for i in range(12)}),
    ],
)
@pytest.mark.parametrize("prefix", ["", "./", "a/b/"])
def test_labels_are_read_from_the_members_of_a_sample(tmp_path, ext, label, expected, prefix):
    members = {prefix + n: d for n, d in samples(label, ext).items()}
    found, said = classes_of(write_tar(tmp_path / "d" / "a-000.tar", members))
    assert by_number(found) == expected
    assert (
        f"labels are in .{ext.lower().rpartition('.')[2] if ext != 'label.txt' else 'cls'}" in said
    )


def test_captions_are_no_labels(tmp_path):
    path = write_tar(tmp_path / "pets" / "a.tar", samples(lambda i: f"a picture of {i}", "txt"))
    found, said = classes_of(path)
    assert set(found.values()) == {"pets"} and "no labels are found" in said
    assert "no labels are found" in describe_data(webdataset(str(path), 8))


def test_of_several_conventions_the_first_counts_and_the_others_are_named(tmp_path):
    members = samples(lambda i: str(i % 3)) | samples(lambda i: {"label": i % 2}, "json")
    members = {f"{'xy'[i % 2]}/{n}": d for i, (n, d) in enumerate(members.items())}
    members = {n.replace("y/", "x/"): d for n, d in members.items()}
    found, said = classes_of(write_tar(tmp_path / "a.tar", members))
    assert by_number(found) == {i: str(i % 3) for i in range(12)}
    assert "labels are in .cls members; those in .json are not used" in said


def test_tars_with_different_conventions_are_one_set_when_their_labels_fit(tmp_path):
    write_tar(tmp_path / "d" / "a-0.tar", samples(lambda i: str(i % 2), "cls", 6))
    write_tar(tmp_path / "d" / "a-1.tar", samples(lambda i: {"cls": i % 2}, "json", 6, first=6))
    found, said = classes_of(tmp_path / "d")
    assert by_number(found) == {i: str(i % 2) for i in range(12)}
    assert ".cls and .json members" in said
    write_tar(tmp_path / "d" / "a-2.tar", samples(lambda i: "cat", "cls", 3, first=12))
    with pytest.raises(
        ValueError, match="012.png in .*a-2.tar is 'cat', and 12 others are numbers"
    ):
        webdataset(str(tmp_path / "d"), 8)
    write_tar(tmp_path / "d" / "a-2.tar", samples(None, count=3, first=12))
    with pytest.raises(
        ValueError, match="3 of 15 images have no .cls and .json member with a label"
    ):
        webdataset(str(tmp_path / "d"), 8)


def test_numbers_are_named_by_classes_txt_and_names_are_not(tmp_path):
    write_tar(tmp_path / "a" / "x.tar", samples(lambda i: {"label": i % 2}, "json"))
    (tmp_path / "a" / "classes.txt").write_text("dog\ncat\nbird\n")
    assert webdataset(str(tmp_path / "a"), 8).class_names == ("dog", "cat", "bird")
    write_tar(tmp_path / "b" / "x.tar", samples(lambda i: CAT_DOG[i], "cls"))
    (tmp_path / "b" / "classes.txt").write_text("x\n")
    assert webdataset(str(tmp_path / "b"), 8).class_names == ("big cat", "dog")


def test_numbers_with_large_gaps_are_classes_by_themselves(tmp_path):
    years = {i: str(10**13 + 7 * (i % 3)) for i in range(12)}
    found, _ = classes_of(write_tar(tmp_path / "a.tar", samples(lambda i: years[i])))
    assert by_number(found) == years
    few = {i: ("5", "900")[i % 2] for i in range(12)}
    d = webdataset(str(write_tar(tmp_path / "b.tar", samples(lambda i: few[i]))), 8)
    assert d.num_classes == 901 and set(labels_of(d.train)) == {5, 900}


# Folders and tars


def test_folders_of_a_tar_are_classes(tmp_path):
    members = {f"./data/{c}/deep/{i:03}.PNG": png(i) for c in ("cat", "big dog") for i in range(6)}
    found, said = classes_of(write_tar(tmp_path / "a.tar", members))
    assert {n.split("/")[2]: c for n, c in found.items()} == {"cat": "cat", "big dog": "big dog"}
    assert len(found) == 12 and "labels are the folders in the tars" in said


def test_a_folder_of_splits_packed_as_a_tar(tmp_path):
    members = {
        f"{s}/{c}/{i}.png": png(i)
        for s, n in (("train", 6), ("val", 2))
        for c in "ab"
        for i in range(n)
    }
    members |= {f"test/{c}/{i}.png": png(i) for c in "ab" for i in range(3)}
    d = webdataset(str(write_tar(tmp_path / "a.tar", members)), 8)
    assert (d.class_names, len(d.train), len(d.heldout)) == (("a", "b"), 12, 4)
    said = "\n".join(d.notes)
    assert (
        "6 images of a test split are not used" in said
        and "said by the folders in the tars" in said
    )


@pytest.mark.parametrize(
    "names",
    [
        ("cat.tar", "dog.TAR"),
        ("cat/000.tar", "dog/000.tar"),
        ("x/cat-000.tar", "y/cat-001.tar", "x/dog-000.tar"),
        ("train-cat.tar", "train-dog.tar", "val-dog.tar"),
    ],
)
def test_a_tar_for_each_class(tmp_path, names):
    for k, name in enumerate(names):
        write_tar(tmp_path / "d" / name, samples(count=6, first=10 * k))
    d = webdataset(str(tmp_path / "d"), 8)
    if names[0].startswith("x"):  # folders go first
        assert d.class_names == ("x", "y")
        return
    assert d.class_names == ("cat", "dog") and "labels are the " in "\n".join(d.notes)
    for split in (d.train, d.heldout):
        for i, y in enumerate(split.labels):
            assert d.class_names[y] in split.name(i).partition(" in ")[2]


def test_imagenet_as_it_is_fetched(tmp_path):
    for c in ("n01440764", "n01443537"):
        members = {f"{c}_{i}.JPEG": png(i) for i in range(6)}
        write_tar(tmp_path / "d" / f"{c}.tar", members)
    found, _ = classes_of(tmp_path / "d")
    assert all(n.startswith(c) for n, c in found.items()) and len(set(found.values())) == 2


@pytest.mark.parametrize(
    "names",
    [
        ("a-000.tar", "a-001.tar"),
        ("00000.tar", "00007.tar"),
        ("part-1.tar", "part-2.tar"),
        ("x-train-0.tar", "x-train-1.tar", "x-val-0.tar"),
        ("train/0.tar", "val/0.tar"),
        ("train.tar", "test.tar"),
        ("0001/a.tar", "0002/a.tar"),
    ],
)
def test_pieces_of_a_set_are_no_classes(tmp_path, names):
    for k, name in enumerate(names):
        folder = f"part-{k}" if k % 2 else f"{k:05}"
        members = samples(count=8, first=10 * k).items()
        write_tar(tmp_path / "d" / name, {f"{folder}/{n}": d for n, d in members})
    found, said = classes_of(tmp_path / "d")
    assert set(found.values()) == {"d"} and "no labels are found" in said


def test_of_three_splits_val_is_held_out(tmp_path):
    for k, split in enumerate(("train", "VALID", "test")):

        def label(i):
            return str(i % 2)

        write_tar(tmp_path / f"x-{split}-0.tar", samples(label, count=6 - k, first=10 * k))
    d = webdataset(str(tmp_path), 8)
    assert (len(d.train), len(d.heldout)) == (6, 5)
    assert "VALID" in d.heldout.name(0) and "4 images of a test split" in "\n".join(d.notes)


# A folder that was packed as a tar is read as the folder


def pack(root, members, tars=("all.tar",)):
    "The same files as a folder and as tars of it, one for each name in `tars`; paths of both."
    for name, data in members.items():
        path = root / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    for tar in tars:
        write_tar(root / "tars" / tar, members)
    return root / "folder", root / "tars"


def split_pictures(**counts):
    "`counts`: path with __ for / -> number of pictures, all of them different."
    places = [(k.replace("__", "/"), i) for k, n in counts.items() for i in range(n)]
    return {f"{p}/{i}.png".lstrip("/"): png(1000 + k) for k, (p, i) in enumerate(places)}


def labelled(data):
    "(class names, labels of the training images by number, of the held-out ones)"
    counts = [
        np.bincount(labels_of(s), minlength=data.num_classes) for s in (data.train, data.heldout)
    ]
    return data.class_names, *(c.tolist() for c in counts)


@pytest.mark.parametrize("prefix", ["", "./", "/data/pets/", "pets/"])
@pytest.mark.parametrize("test", ["test", "Testing", "test_images"])
def test_a_flat_test_split_takes_no_classes_from_the_training_images(tmp_path, prefix, test):
    members = split_pictures(train__cat=9, train__dog=14) | {
        f"{test}/{i}.jpg": png(i) for i in range(5)
    }
    d = webdataset(
        str(write_tar(tmp_path / "a.tar", {prefix + n: x for n, x in members.items()})), 8
    )
    names, train, held = labelled(d)
    assert names == ("cat", "dog") and np.add(train, held).tolist() == [9, 14] and sum(held) >= 1
    members = [s.name(i).partition(" in ")[0] for s in (d.train, d.heldout) for i in range(len(s))]
    assert not any(test in n for n in members)
    said = "\n".join(d.notes)
    assert "5 images of a test split are not used: they have no classes" in said
    assert "what is held out is said by" not in said


def test_a_flat_test_tar_takes_no_classes_from_other_tars(tmp_path):
    write_tar(tmp_path / "a" / "train.tar", split_pictures(cat=9, dog=14))
    write_tar(tmp_path / "a" / "test.tar", split_pictures(shots=1) | samples(count=3))
    for name, count in (("cat", 9), ("dog", 12), ("test", 4)):
        write_tar(tmp_path / "b" / f"{name}.tar", samples(count=count))
    write_tar(tmp_path / "c" / "train-0.tar", samples(lambda i: CAT_DOG[i]))
    write_tar(tmp_path / "c" / "test-0.tar", samples(count=6))
    for place, count in (("b", 4), ("c", 6)):
        d = webdataset(str(tmp_path / place), 8)
        assert len(d.class_names) == 2
        assert f"{count} images of a test split are not used" in "\n".join(d.notes)
    with pytest.raises(
        ValueError,
        match="a/test.tar holds classes that .*a/train.tar does not: .*shots|3 of 4 images",
    ):
        webdataset(str(tmp_path / "a"), 8)


@pytest.mark.parametrize(
    "counts,says",
    [
        (dict(train__a=6, train__b=6, val=4), "holds 4 images and no class folders"),
        (dict(train__a=6, train__b=6, valid__images=4), "holds 4 images and no class folders"),
        (
            dict(train__a=6, train__b=6, val__b=2, val__c=3),
            (
                r"classes that .*train "
                r"does not: \['c'\]"
            ),
        ),
        (dict(train=7, val__a=3, val__b=2), "has class folders .a, b., .*train has none"),
    ],
)
def test_held_out_images_that_do_not_fit_are_refused_in_folder_and_tar_alike(
    tmp_path, counts, says
):
    for path, read in zip(pack(tmp_path, split_pictures(**counts)), (folder, webdataset)):
        with pytest.raises(ValueError, match=says):
            read(str(path), 8)


@pytest.mark.parametrize(
    "counts,expected",
    [
        (dict(train=5, bus=6, car=4), ("bus", "car", "train")),
        (dict(test=5, bus=6, car=4), ("bus", "car", "test")),
        (dict(train__a=5, train__b=4, val__a=3), ("a", "b")),
        (dict(a__train=5, b__train=4, a__val=2, b__val=3), ("a", "b")),
        ({"Train": 0, "Train__10": 4, "Train__9": 3, "Dev__9": 2}, ("10", "9")),
        (dict(train__a=5, train__b=4, val__b=3, test=6), ("a", "b")),
    ],
)
def test_classes_and_splits_are_the_same_in_folder_and_tar(tmp_path, counts, expected):
    paths = pack(tmp_path, split_pictures(**counts))
    a, b = (labelled(read(str(p), 8)) for p, read in zip(paths, (folder, webdataset)))
    assert a[0] == b[0] == expected and np.add(*a[1:]).tolist() == np.add(*b[1:]).tolist()
    if len(counts) > 3 or "train__a" in counts:
        assert a == b


CSV = "file_name,label\n" + "".join(f"{i}.png,{'cat' if i % 3 else 'dog'}\n" for i in range(9))
ANNOTATIONS = "".join(f"{i}.png\tcat\t0\n" for i in range(3))
READERS = (folder, webdataset)
JSONL = "".join(json.dumps({"file_name": f"{i}.png", "label": i % 2}) + "\n" for i in range(9))


@pytest.mark.parametrize(
    "members",
    [
        split_pictures(**{"": 9}) | {"metadata.csv": CSV},
        split_pictures(**{"": 9}) | {"Labels.CSV": CSV.replace(",", ";")},
        split_pictures(**{"": 9}) | {"metadata.jsonl": JSONL},
        split_pictures(photos=9) | {"labels.csv": CSV},
        split_pictures(photos=9) | {"photos/labels.csv": CSV},
        split_pictures(**{"": 9})
        | {"labels.json": json.dumps({f"{i}.png": i % 3 for i in range(9)})},
        split_pictures(train=9, val=4) | {"train/metadata.csv": CSV, "val/metadata.csv": CSV},
        split_pictures(train=9, test=4)
        | {"train/metadata.jsonl": JSONL, "test/metadata.jsonl": JSONL},
        split_pictures(train__dog=4, train__cat=5, val__images=3)
        | {"val/val_annotations.txt": ANNOTATIONS},
    ],
)
def test_a_table_in_a_tar_gives_labels_as_in_a_folder(tmp_path, members):
    paths = pack(tmp_path, members)
    a, b = (read(str(p), 8) for p, read in zip(paths, (folder, webdataset)))
    (names, *of_folder), (in_tar, *of_tar) = labelled(a), labelled(b)
    assert len(names) > 1 and names == in_tar
    if any(split_of(n.partition("/")[0]) for n in members):
        assert of_folder == of_tar
    assert np.add(*of_folder).tolist() == np.add(*of_tar).tolist()
    assert "labels are" in "\n".join(b.notes) and "left out" not in "\n".join(b.notes)


@pytest.mark.parametrize(
    "name,table",
    [
        ("metadata.jsonl", JSONL + '{"file_name": "0.png", "label": 1}\n'),
        ("labels.json", '{"labels": [["0.png", 0], ["0.png", 1]]}'),
        ("labels.csv", "file_name,label\n0.png,0\n0.png,1\n"),
    ],
)
def test_two_labels_of_one_image_are_named_whatever_they_are(tmp_path, name, table):
    for path, read in zip(pack(tmp_path, split_pictures(**{"": 9}) | {name: table}), READERS):
        with pytest.raises(ValueError, match=f"{name} gives 0.png two labels, '0' and '1'"):
            read(str(path), 8)


@pytest.mark.parametrize(
    "more,classes",
    [
        ({"metadata.jsonl": JSONL + '{"label": 0}\n{"label": 1}\n'}, ("0", "1")),
        ({"metadata.csv": CSV + ",cat\n,dog\n"}, ("cat", "dog")),
        ({"metadata.jsonl": JSONL.replace("0}", "0.0}") + JSONL}, ("0", "1")),
        ({"metadata.csv": "name,category\nfoo,1\nfoo,2\n"}, None),
        ({"metadata.csv": CSV + "away.png,cat\naway.png,dog\n"}, ("cat", "dog")),
    ],
)
def test_rows_of_no_image_and_zeros_behind_a_point_are_no_second_label(tmp_path, more, classes):
    for path, read in zip(pack(tmp_path, split_pictures(**{"": 9}) | more), READERS):
        data = read(str(path), 8)
        assert data.class_names == classes if classes else data.num_classes == 1


@pytest.mark.parametrize(
    "table,says",
    [
        (
            "file_name,label\n1.png,a\n2.png,b\n",
            ("7 of 9 (training )?images have no label|has no label for 7 of 9"),
        ),
        (CSV + "4.png,dog\n", "metadata.csv gives 4.png two labels, 'cat' and 'dog'"),
        (b"\xff\xfef\0", "metadata.csv is no table of labels that can be read"),
    ],
)
def test_a_table_that_gives_no_whole_labels_is_refused_in_folder_and_tar_alike(
    tmp_path, table, says
):
    members = split_pictures(**{"": 9}) | {"metadata.csv": table}
    for path, read in zip(pack(tmp_path, members), (folder, webdataset)):
        with pytest.raises(ValueError, match=says):
            read(str(path), 8)


def test_a_table_of_any_size_is_not_read_into_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("softvq_lab.data.layout.MOST_TABLE", 40)
    monkeypatch.setattr("softvq_lab.data.tars.MOST_TABLE", 40)
    members = split_pictures(**{"": 9}) | {"metadata.csv": CSV}
    for path, read in zip(pack(tmp_path, members), (folder, webdataset)):
        with pytest.raises(ValueError, match="metadata.csv is no table .*more than 0 MiB"):
            read(str(path), 8)


def test_what_gives_labels_before_a_table_and_which_table_is_not_read_is_said(tmp_path):
    found, said = classes_of(
        write_tar(tmp_path / "a.tar", split_pictures(x=5, y=6) | {"metadata.csv": CSV})
    )
    assert set(found.values()) == {"x", "y"} and "; tables are not read" in said
    found, said = classes_of(
        write_tar(tmp_path / "b.tar", samples(lambda i: CAT_DOG[i]) | {"labels.json": "{"})
    )
    assert by_number(found) == CAT_DOG
    members = samples() | {"metadata.csv": "a,b\n1,2\n"}
    found, said = classes_of(write_tar(tmp_path / "c.tar", members))
    assert "no labels are found" in said and "tables without columns file_name and label" in said


def test_each_tar_is_labelled_by_its_own_table(tmp_path):
    for k, other in enumerate(("dog", "fox")):
        table = CSV.replace("dog", other)
        write_tar(
            tmp_path / "d" / f"p-{k}.tar", split_pictures(**{"": 9}) | {"metadata.csv": table}
        )
    assert labelled(webdataset(str(tmp_path / "d"), 8))[0] == ("cat", "dog", "fox")


def test_a_table_beside_the_tars_labels_them(tmp_path):
    write_tar(tmp_path / "d" / "p-0.tar", samples(count=9))
    write_tar(tmp_path / "d" / "p-1.tar", samples(count=3, first=9))
    rows = "".join(f"{i:03}.png,{CAT_DOG[i]}\n" for i in range(12))
    (tmp_path / "d" / "labels.csv").write_text("file,label\n" + rows)
    found, said = classes_of(tmp_path / "d")
    assert by_number(found) == CAT_DOG and "labels.csv beside the tars is read" in said


@pytest.mark.parametrize(
    "members,labels",
    [
        (samples(lambda i: CAT_DOG[i], "txt"), ".txt members"),
        (split_pictures(cat=5, dog=6), "the folders in the tars"),
    ],
)
@pytest.mark.parametrize("table", ["file,label\n000.png,x\ncat/0.png,y\n", "\xff\0,\n"])
def test_a_table_beside_tars_that_have_labels_is_neither_read_nor_needed(
    tmp_path, members, labels, table
):
    write_tar(tmp_path / "d" / "p.tar", members)
    (tmp_path / "d" / "labels.csv").write_bytes(table.encode("latin-1"))
    _, said = classes_of(tmp_path / "d")
    assert f"labels are in {labels}" in said or f"labels are {labels}" in said
    assert "is read" not in said


def test_held_out_tars_that_are_the_training_tars_are_refused(tmp_path):
    write_tar(tmp_path / "a" / "train-0.tar", split_pictures(cat=5, dog=6))
    (tmp_path / "a" / "val-0.tar").symlink_to("train-0.tar")
    images = split_pictures(train__cat=5, train__dog=6)
    again = {n.replace("train", "val"): (tarfile.LNKTYPE, n) for n in images}
    write_tar(tmp_path / "b" / "all.tar", images | again)
    for path in "ab":
        with pytest.raises(
            ValueError, match="11 held-out images are the 11 training images themselves"
        ):
            webdataset(str(tmp_path / path), 8)
    part = dict(list(again.items())[:2]) | {"val/dog/new.png": png(7)}
    d = webdataset(str(write_tar(tmp_path / "c.tar", images | part)), 8)
    assert "2 of 3 held-out images are training images, by links (val/cat/0.png in " in "\n".join(
        d.notes
    )
    write_tar(tmp_path / "d" / "train-0.tar", split_pictures(cat=5, dog=6))
    other = {"dog/0.png": png(7), "dog/1.png": png(8)}  # the same names, other pictures
    write_tar(tmp_path / "d" / "val-0.tar", split_pictures(cat=5) | other)
    d = webdataset(str(tmp_path / "d"), 8)
    assert "5 of 7 held-out images that were compared are copies" in "\n".join(d.notes)


# What else is in a tar, and around it


def test_long_and_foreign_names_and_upper_case_suffixes(tmp_path):
    names = ["x" * 150 + "/" + "y" * 120, "größe/café", os.fsdecode(b"caf\xe9"), "two words"]
    members = {f"{n}.{e}": d for n in names for e, d in (("JPG", png()), ("cls", "0"))}
    for kind in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        found, _ = classes_of(write_tar(tmp_path / f"{kind}.tar", members, format=kind))
        assert len(found) == 4 and "caf\\xe9.JPG" in found and f"{names[0]}.JPG" in found
        "".join(found).encode()


def test_leftovers_in_a_tar_and_further_images_of_a_sample_are_counted(tmp_path):
    members = samples(lambda i: str(i % 2))
    members |= {"__MACOSX/._000.png": b"x", "@eaDir/000.png": png(), "a/.thumbs/1.png": png()}
    members |= {"001.seg.png": png(), "002.jpg": png(), "003.npy": b"x", "readme.md": "x"}
    found, said = classes_of(write_tar(tmp_path / "a.tar", members))
    assert len(found) == 12
    assert (
        "hidden files and files that programs leave: 3" in said
        and "further images of a sample: 2" in said
    )
    assert "1 .npy" in said and "1 .md" in said


@pytest.mark.parametrize("ext", ["cls", "cls.txt", "json", "TXT", "meta.json"])
def test_a_dot_in_a_name_is_no_further_image_and_keeps_its_own_label(tmp_path, ext):
    if ext == "meta.json":
        members = {f"{i}.{e}": d for i in range(6) for e, d in (("png", png(i)), (ext, {"y": 0}))}
        members |= {f"{i}.label.json": {"label": f"c{i % 2}"} for i in range(6)}
    else:

        def label(i):
            return {"label": f"c{i % 2}"} if ext == "json" else f"c{i % 2}"

        members = {
            f"v2.{i}.{e}": d for i in range(6) for e, d in (("png", png(i)), (ext, label(i)))
        }
    found, _ = classes_of(write_tar(tmp_path / "a.tar", members))
    assert {int(Path(n).stem.rpartition(".")[2]): c for n, c in found.items()} == {
        i: f"c{i % 2}" for i in range(6)
    }


def test_a_label_of_half_characters_is_written_with_escapes(tmp_path):
    members = samples(lambda i: json.dumps({"label": f"\ud83d{i % 2}"}), "json", count=6)
    found, _ = classes_of(write_tar(tmp_path / "a.tar", members))
    assert set(found.values()) == {"\\ud83d0", "\\ud83d1"}


def test_links_within_a_tar_are_followed(tmp_path):
    members = samples(lambda i: "0", count=4) | {
        "b/hard.png": (tarfile.LNKTYPE, "000.png"),
        "b/hard.cls": "1",
        "b/soft.png": (tarfile.SYMTYPE, "../001.png"),
        "b/soft.cls": "1",
        "b/soft2.png": (tarfile.SYMTYPE, "soft.png"),
        "b/soft2.cls": "1",
        "b/gone.png": (tarfile.SYMTYPE, "nowhere.png"),
        "b/loop.png": (tarfile.SYMTYPE, "loop.png"),
    }
    found, said = classes_of(write_tar(tmp_path / "a.tar", members))
    assert sum(c == "1" for c in found.values()) == 3 and len(found) == 7
    assert "links in tars that lead nowhere: 2" in said


def test_tars_are_found_behind_links_and_not_among_leftovers(tmp_path):
    write_tar(tmp_path / "disk" / "b-1.tar", samples(count=3))
    for name in ("d/a-0.tar", "d/deep/er/c.TAR", "d/.trash/x.tar", "d/@eaDir/y.tar", "d/._a-0.tar"):
        write_tar(tmp_path / name, samples(count=3))
    (tmp_path / "d" / "part1").symlink_to(tmp_path / "disk")
    (tmp_path / "d" / "deep" / "loop").symlink_to(tmp_path / "d")
    found = [os.path.relpath(f, tmp_path / "d") for f in find_tars(str(tmp_path / "d"))]
    assert found == ["a-0.tar", "deep/er/c.TAR", "part1/b-1.tar"]


def test_a_folder_without_tars_says_what_is_there(tmp_path):
    (tmp_path / "a.tar.gz").write_bytes(b"x")
    with pytest.raises(ValueError, match="(?s)finds 0 tar files.*1 .gz"):
        webdataset(str(tmp_path), 8)
    (tmp_path / "a.tar").touch()
    with pytest.raises(ValueError, match="a.tar is damaged or no plain tar .empty file.: fetch it"):
        webdataset(str(tmp_path), 8)


@pytest.mark.parametrize("spelled", ["{}", "./{}", "/{}", "x/../{}"])
def test_of_members_of_one_name_the_last_counts(tmp_path, spelled):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for turn, name in enumerate(("{}", spelled)):
            for i in range(8):
                (m := tarfile.TarInfo(name.format(f"{'ab'[i % 2]}/{i}.png"))).size = len(
                    png(i + turn)
                )
                tar.addfile(m, io.BytesIO(png(i + turn)))
    d = webdataset(str(tmp_path / "a.tar"), 8)
    assert len(d.train) + len(d.heldout) == 8 and d.class_names == ("a", "b")
    assert "members of tars that a later one of the same name replaces: 8" in "\n".join(d.notes)
    for split in (d.train, d.heldout):
        for i in range(len(split)):
            number = int(Path(split.name(i).partition(" in ")[0]).stem)
            assert split.open(i).read() == png(number + 1)


def test_what_a_tar_holds_besides_and_is_not_followed_is_said(tmp_path):
    (tmp_path / "a").mkdir()
    path = write_tar(tmp_path / "a.tar", split_pictures(x=5, y=6) | {"z": (tarfile.SYMTYPE, "x")})
    assert "links in tars to what is no image: 1, such as z" in "\n".join(
        webdataset(str(path), 8).notes
    )
    with tarfile.open(tmp_path / "b.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for i in range(6):
            (m := tarfile.TarInfo(f"{i}.png")).size = len(png(i))
            if i == 2:
                m.pax_headers = {"GNU.sparse.map": f"0,{m.size}", "GNU.sparse.size": str(m.size)}
            tar.addfile(m, io.BytesIO(png(i)))
    said = "\n".join(webdataset(str(tmp_path / "b.tar"), 8).notes)
    assert "images that a tar stores as sparse files: 1, such as 2.png" in said


@pytest.mark.parametrize("at", [0.3, 0.7])
@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_a_damaged_tar_is_refused_by_name(tmp_path, kind, at):
    path = write_tar(
        tmp_path / "shots.tar",
        {f"{'é' * 80}/{n}": d for n, d in samples(lambda i: "1").items()},
        format=kind,
    )
    whole = path.read_bytes()
    headers = [i for i in range(0, len(whole), 512) if whole[i + 257 : i + 262] == b"ustar"]
    cut = headers[int(len(headers) * at)]
    for data in (
        whole[: cut + 100],
        whole[:cut] + b"\xfe" * 512 + whole[cut + 512 :],
        b"words",
        b"",
    ):
        path.write_bytes(data)
        with pytest.raises(
            ValueError, match="shots.tar is damaged or no plain tar .*fetch it again"
        ):
            webdataset(str(path), 8)


# Tables


@pytest.fixture
def datasets():
    found = pytest.importorskip("datasets")
    found.disable_progress_bars()
    return found


def table(datasets, n=6, **columns):
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(n)]}
    rows |= {k: [f(i) for i in range(n)] for k, f in columns.items()}
    return datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())


@pytest.mark.parametrize("column", ["Label", "category", "class_name", "target"])
def test_labels_of_a_table_are_found_under_their_usual_names(tmp_path, datasets, column):
    make = {column: lambda i: ("cat", "dog")[i % 2], "score": lambda i: i / 2}
    table(datasets, 12, **make).save_to_disk(tmp_path / "d")
    assert hf(str(tmp_path / "d"), 8).class_names == ("cat", "dog")


def test_splits_of_a_table_under_their_usual_names(tmp_path, datasets):
    label = {"label": lambda i: i % 2}
    splits = {"Test": 4, "DEV": 3, "training": 8, "extra": 2}
    parts = {k: table(datasets, n, **label) for k, n in splits.items()}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "d")
    d = hf(str(tmp_path / "d"), 8)
    assert (len(d.train), len(d.heldout)) == (8, 3)
    said = describe_data(d)
    assert "split 'Test' (4 rows) is not used: another split is held out" in said
    assert "split 'extra' is not used" in said


def test_parquet_files_of_three_splits_behind_a_link(tmp_path, datasets):
    for split, n in (("train", 8), ("validation", 3), ("test", 4)):
        t = table(datasets, n, label=lambda i: i % 2)
        (tmp_path / "disk").mkdir(exist_ok=True)
        t.to_parquet(tmp_path / "disk" / f"{split}-0.parquet")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "data").symlink_to(tmp_path / "disk")
    d = hf(str(tmp_path / "d"), 8)
    assert (len(d.train), len(d.heldout)) == (8, 3) and "'test'" in "\n".join(d.notes)


def test_a_split_without_labels_is_not_used(tmp_path, datasets):
    train, test = table(datasets, 12, label=lambda i: i % 2), table(datasets, 4, key=str)
    for name, t in (("train", train), ("test", test)):
        t.save_to_disk(tmp_path / "d" / name)
    (tmp_path / "d" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    d = hf(str(tmp_path / "d"), 8)
    assert len(d.train) + len(d.heldout) == 12
    assert "split 'test' (4 rows) is not used: it has no labels" in "\n".join(d.notes)


def test_a_table_without_labels_says_so(tmp_path, datasets):
    table(datasets, 12, text=lambda i: f"picture {i}").save_to_disk(tmp_path / "d")
    d = hf(str(tmp_path / "d"), 8)
    assert d.class_names == ("d",) and "all images are one class" in describe_data(d)


def test_what_says_the_split_is_named_and_a_second_table_too(tmp_path):
    write_tar(tmp_path / "a" / "train-0.tar", split_pictures(cat=5, dog=6))
    write_tar(tmp_path / "a" / "val-0.tar", split_pictures(val__cat=2, val__dog=2))
    write_tar(tmp_path / "b.tar", split_pictures(train__cat=5, train__dog=6, val__cat=3))
    by_folders = "what is held out is said by the folders in the tars"
    assert by_folders not in classes_of(tmp_path / "a")[1]
    assert by_folders in classes_of(tmp_path / "b.tar")[1]
    tables = {"metadata.csv": CSV, "labels.csv": CSV}
    write_tar(tmp_path / "c.tar", split_pictures(**{"": 9}) | tables)
    said = classes_of(tmp_path / "c.tar")[1]
    assert "tables of images that another table names: 1, such as labels.csv" in said
