"""ImageNet as people have it on disk: the official validation images are the held-out set, whether
they lie in class folders or flat, and wherever the list of their labels lies.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat
from torch import nn
from torch.utils.data import TensorDataset

from softvq_lab.core import rng
from softvq_lab.data.folder import folder
from softvq_lab.data.images import ImageData, labels_of, stack
from softvq_lab.evaluation.extractors import Extractor, ModuleFeatures
from softvq_lab.evaluation.image_metrics import reconstruct_split, reconstruction_metrics
from softvq_lab.evaluation.references import split_reference
from softvq_lab.evaluation.scores import reconstruction_fidelity
from softvq_lab.settings.sections import TokenizerConfig
from softvq_lab.tokenizer.model import Tokenizer

SYNSETS = ("n01440764", "n01443537", "n01484850", "n02119789")
DEVKIT = (398, 7, 1000, 1)  # ILSVRC2012_ID of each: not in the order of the synsets
TRAIN, VAL = 7, 3  # images of each class
TRUTH = "ILSVRC2012_validation_ground_truth.txt"


def jpeg(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def label(i):
    "Class of validation image i, from 1: mixed, as in the original."
    return i * 3 % len(SYNSETS)


IMAGES = range(1, VAL * len(SYNSETS) + 1)


def name(i):
    return f"ILSVRC2012_val_{i:08d}"


def imagenet(root, flat):
    "40 JPEGs: 28 for training, 12 for validation."
    for y, synset in enumerate(SYNSETS):
        for i in range(TRAIN):
            jpeg(root / "train" / synset / f"{synset}_{i}.JPEG", 100 * y + i)
    for i in IMAGES:
        folder_of = root / "val" if flat else root / "val" / SYNSETS[label(i)]
        jpeg(folder_of / f"{name(i)}.JPEG", 1000 + i)
    return root


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return imagenet(tmp_path_factory.mktemp("original"), flat=True)


@pytest.fixture
def flat(original, tmp_path):
    shutil.copytree(original, tmp_path / "imagenet")
    return tmp_path / "imagenet"


def solution(root):
    rows = [f"{name(i)},{SYNSETS[label(i)]} 85 1 499 272 " for i in IMAGES]
    text = "ImageId,PredictionString\n" + "\n".join(reversed(rows)) + "\n"
    (root / "LOC_val_solution.csv").write_text(text)


def ground_truth(root):
    root.mkdir(parents=True, exist_ok=True)
    (root / TRUTH).write_text("".join(f"{DEVKIT[label(i)]}\n" for i in IMAGES))


def meta_mat(root):
    "The table of the devkit: the synsets with images, and one of the synsets above them."
    rows = [(k, s, "words", "gloss", 0, [], 0, 1300) for k, s in zip(DEVKIT, SYNSETS)]
    rows.append((1676, "n00001740", "entity", "all there is", 2, [1, 7], 19, 0))
    kinds = [("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O"), ("gloss", "O")]
    kinds += [(n, "O") for n in ("num_children", "children", "wordnet_height", "num_train_images")]
    savemat(root / "meta.mat", {"synsets": np.array(rows, dtype=kinds)[:, None]})


def val_txt(root, label_of, suffix=".JPEG"):
    (root / "val.txt").write_text("".join(f"{name(i)}{suffix} {label_of(i)}\n" for i in IMAGES))


def expect_official_split(path, said=""):
    d = folder(path, 8)
    assert d.class_names == SYNSETS
    assert (len(d.train), len(d.heldout)) == (28, 12)
    assert np.bincount(labels_of(d.train)).tolist() == [TRAIN] * 4
    names = [Path(d.heldout.name(i)).stem for i in range(12)]
    assert dict(zip(names, labels_of(d.heldout).tolist())) == {name(i): label(i) for i in IMAGES}
    stack(d.train), stack(d.heldout)  # every file can be read
    assert said in "\n".join(d.notes)
    assert "left out" not in "\n".join(d.notes)
    return d


def refusal(path):
    with pytest.raises(ValueError) as e:
        folder(path, 8)
    return str(e.value)


# Layouts


def test_validation_images_in_class_folders(tmp_path):
    expect_official_split(imagenet(tmp_path, flat=False))


@pytest.mark.parametrize("place", ["", "val"])
def test_a_flat_val_with_the_solution_of_kaggle(flat, place):
    solution(flat / place)
    expect_official_split(flat, "labels of val from ")


@pytest.mark.parametrize("place", ["", "val", "ILSVRC2012_devkit_t12/data", "devkit"])
def test_a_flat_val_with_the_list_of_the_devkit(flat, place):
    ground_truth(flat / place)
    meta_mat(flat / place)
    d = folder(flat, 8)
    assert TRUTH in "\n".join(d.notes)
    (flat / place / "meta.mat").unlink()
    lines = [f"{s} {k} some_name" for k, s in zip(DEVKIT, SYNSETS)]
    (flat / place / "map_clsloc.txt").write_text("\n".join(lines))
    for again in (d, folder(flat, 8)):
        names = [Path(again.heldout.name(i)).stem for i in range(12)]
        found = dict(zip(names, labels_of(again.heldout).tolist()))
        assert found == {name(i): label(i) for i in IMAGES}


def test_the_devkits_numbers_are_not_taken_for_places_of_the_classes(flat):
    ground_truth(flat)
    said = refusal(flat)
    assert f"{flat / TRUTH} numbers the classes in the devkit's own order" in said
    assert "meta.mat" in said


@pytest.mark.parametrize("label_of", [lambda i: SYNSETS[label(i)], label], ids=["synset", "place"])
@pytest.mark.parametrize("suffix", [".JPEG", ""])
def test_a_flat_val_with_a_list_of_names_and_labels(flat, label_of, suffix):
    val_txt(flat, label_of, suffix)
    expect_official_split(flat, "labels of val from ")


def test_a_flat_val_with_a_list_of_synsets_in_order(flat):
    lines = "".join(f"{SYNSETS[label(i)]}\n" for i in IMAGES)
    (flat / "imagenet_2012_validation_synset_labels.txt").write_text(lines)
    expect_official_split(flat)


@pytest.mark.parametrize("given", ["", "ILSVRC", "ILSVRC/Data", "ILSVRC/Data/CLS-LOC"])
def test_the_archive_of_kaggle(original, tmp_path, given):
    inner = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    shutil.copytree(original, inner)
    jpeg(inner / "test" / "ILSVRC2012_test_00000001.JPEG", 0)
    solution(tmp_path)
    counts = tmp_path / "ILSVRC" / "ImageSets" / "CLS-LOC"
    counts.mkdir(parents=True)
    val_txt(counts, lambda i: i, suffix="")  # counts the images: no labels
    d = expect_official_split(tmp_path / given, "labels of val from ")
    assert "test is not used: val is held out" in d.notes
    (tmp_path / "LOC_val_solution.csv").unlink()
    shutil.move(counts / "val.txt", tmp_path / "ILSVRC" / "val.txt")
    assert "holds the number 4, but the 4 classes are numbered from 0 to 3" in refusal(
        tmp_path / given
    )


def test_part_of_the_validation_images_with_the_whole_list(flat):
    for i in IMAGES:
        if i > 5:
            (flat / "val" / f"{name(i)}.JPEG").unlink()
    ground_truth(flat)
    meta_mat(flat)
    d = folder(flat, 8)
    assert (len(d.train), len(d.heldout)) == (28, 5)
    assert labels_of(d.heldout).tolist() == sorted(label(i) for i in range(1, 6))


# Errors


def test_a_flat_val_without_a_list_says_which_lists_are_read(flat):
    said = refusal(flat)
    assert "val holds 12 images and no class folders" in said
    assert "LOC_val_solution.csv" in said and TRUTH in said
    (flat / "val.txt").write_text("another.JPEG 1\n")
    assert "val holds 12 images and no class folders" in refusal(flat)


def test_a_validation_image_without_a_label_is_named(flat):
    solution(flat)
    jpeg(flat / "val" / f"{name(50_000)}.JPEG", 1)
    said = refusal(flat)
    assert "LOC_val_solution.csv has no label for 1 of 13 images" in said and name(50_000) in said


def test_a_validation_image_of_an_unknown_class_is_named(flat):
    val_txt(flat, lambda i: "n99999999" if i == 3 else SYNSETS[label(i)])
    said = refusal(flat)
    assert f"val.txt gives val/{name(3)}.JPEG the class n99999999" in said
    assert "no training images" in said
    in_folders = imagenet(flat.parent / "in-folders", flat=False)
    jpeg(in_folders / "val" / "n99999999" / "a.JPEG", 1)
    assert "val holds classes that " in refusal(in_folders) and "n99999999" in refusal(in_folders)


def test_a_list_with_two_labels_of_an_image_is_refused(flat):
    val_txt(flat, label)
    with open(flat / "val.txt", "a") as f:
        f.write(f"{name(1)}.JPEG {(label(1) + 1) % 4}\n")
    assert f"val.txt gives {name(1)}.JPEG two labels, '3' and '0'" in refusal(flat)


@pytest.mark.parametrize("content", [b"", b"no MATLAB file", b"MATLAB 5.0 MAT-file" + bytes(200)])
def test_a_table_of_synsets_that_cannot_be_read_is_named(flat, content):
    ground_truth(flat)
    (flat / "meta.mat").write_bytes(content)
    assert f"{flat / 'meta.mat'} is not the devkit's table of synsets" in refusal(flat)


def test_a_table_of_synsets_of_another_devkit_is_named(flat):
    ground_truth(flat)
    (flat / "map_clsloc.txt").write_text("n01440764 398 tench\n")
    said = refusal(flat)
    assert "map_clsloc.txt does not explain '1' of " in said


def test_a_list_that_is_no_text_is_named(flat):
    (flat / "val.txt").write_bytes(b"\xff\xfe\x00")
    assert "val.txt cannot be read" in refusal(flat)


# Evaluation


@pytest.mark.slow
def test_reconstructions_of_all_50_000_validation_images_are_evaluated():
    size, official = 8, 50_000
    pixels = torch.rand(official, 3, size, size, generator=rng("official", 0)) * 2 - 1
    held = TensorDataset(pixels, torch.arange(official) % 1000)
    names = tuple(map(str, range(1000)))
    data = ImageData(TensorDataset(*held[:8]), held, names, "as many as ImageNet's")
    config = TokenizerConfig(image_size=size, patch_size=4, tokens=2, codebook_size=16)
    pooled = nn.Sequential(nn.AvgPool2d(4), nn.Flatten())
    eye = Extractor("reference", ModuleFeatures(pooled), "means of 4 x 4 pixels")
    result = reconstruct_split(Tokenizer(config).eval(), data, 2000, extractor=eye, hold=False)
    assert len(result["psnr"]) == official
    for measured in (
        reconstruction_metrics(result, data),
        reconstruction_fidelity(result, data, eye, draws=0),
    ):
        assert measured.passport["count"] == official
    assert "50000 images" in split_reference(data, eye, "heldout").name
