"""Emoji as a data set: where its files come from, what is one picture, what is held out."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from softvq_lab.core import ConfigError, read_json
from softvq_lab.data.contents import contents, contents_difference
from softvq_lab.data.datasets import describe_data, load_data, training_view
from softvq_lab.data.drawn import DrawnPictures, drawn_once
from softvq_lab.data.emoji import FONT, TABLE, catalogue, emoji, emoji_files, subject
from softvq_lab.data.images import labels_of, stack
from softvq_lab.data.packages import package_files
from softvq_lab.settings.parse import parse
from softvq_lab.settings.sections import DataConfig
from softvq_lab.settings.workflows import TrainConfig

TEST_TABLE = """# Version: 99.0
# group: Smileys & Emotion
# subgroup: face-smiling
1F600          ; fully-qualified     # 😀 E1.0 grinning face
"""
DEJAVU = "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("SOFTVQ_LAB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def files() -> tuple[Path, Path]:
    "The real font and table, from the cache or fetched now; a skip where apt-get gives none."
    try:
        return emoji_files()
    except ConfigError as e:
        pytest.skip(str(e))


@pytest.fixture
def machine(tmp_path, monkeypatch, cache):
    """machine(archive) -> a folder that notes what apt-get is asked for: its own apt-get hands out
    `archive`, its dpkg-deb is the real one.
    """
    place = tmp_path / "bin"
    place.mkdir()
    monkeypatch.setenv("PATH", f"{place}:/bin")

    def make(apt_get: str):
        (place / "apt-get").write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\n{apt_get}\n')
        (place / "apt-get").chmod(0o755)
        return tmp_path / "asked"

    return make


def debian_package(folder: Path, name: str, **files: str) -> Path:
    "A .deb with files (path with __ for / -> content)."
    for path, text in files.items():
        target = folder / "tree" / path.replace("__", "/").replace("_DOT_", ".")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
    (folder / "tree" / "DEBIAN").mkdir(parents=True)
    (folder / "tree" / "DEBIAN" / "control").write_text(
        f"Package: {name}\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <n@example.org>\n"
        "Description: made up\n"
    )
    made = folder / f"{name}_1.0_all.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-b", folder / "tree", made],
        check=True,
        capture_output=True,
    )
    return made


needs_dpkg = pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="no dpkg-deb")


@needs_dpkg
def test_files_of_a_package_are_fetched_once_with_their_sources(tmp_path, machine, cache):
    made = debian_package(
        tmp_path,
        "made-up",
        usr__share__made__a_DOT_txt="abc",
        usr__share__doc__made__copyright="free",
    )
    asked = machine(f"cp {made} .")
    how = dict(wanted=("usr/share/made/*.txt",), licence="free to use", otherwise="Do without.")
    first, second = (package_files("made-up", **how) for _ in range(2))
    assert first == second == cache / "packages" / "made-up"
    assert asked.read_text() == "download made-up\n"
    manifest = read_json(first / "sources.json")
    assert manifest["licence"] == "free to use" and manifest["archive"] == made.name
    assert manifest["files"] == {"usr/share/doc/made/copyright": 4, "usr/share/made/a.txt": 3}
    assert [p.name for p in (cache / "packages").iterdir() if p.is_dir()] == ["made-up"]


@needs_dpkg
def test_old_lists_of_packages_are_renewed_in_the_temporary_folder(tmp_path, machine):
    made = debian_package(tmp_path, "made-up", usr__share__made__a_DOT_txt="abc")
    asked = machine(
        f'case "$*" in *Dir::State::lists=*download*) cp {made} .;; *update) ;; *) exit 100;; esac'
    )
    package_files("made-up", ("usr/share/made/a.txt",), "free", "")
    first, update, again = asked.read_text().splitlines()
    assert first == "download made-up"
    assert "Dir::State::lists=" in update and update.endswith(" update")
    assert "Dir::State::lists=" in again and again.endswith(" download made-up")


@needs_dpkg
def test_processes_that_want_a_package_at_once_fetch_it_once(tmp_path, machine, cache):
    made = debian_package(tmp_path, "made-up", usr__share__made__a_DOT_txt="abc")
    asked = machine(f"sleep 1; cp {made} .")
    ask = (
        "from softvq_lab.data.packages import package_files as f;"
        "print(f('made-up', ('usr/share/made/a.txt',), 'free', ''))"
    )
    both = [
        subprocess.Popen([sys.executable, "-c", ask], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [p.communicate(timeout=120)[0].splitlines()[-1] for p in both]
    assert said == [str(cache / "packages" / "made-up")] * 2
    assert asked.read_text() == "download made-up\n"


@pytest.mark.parametrize(
    ("apt_get", "says"),
    [
        ("echo 'E: Unable to locate package x' >&2; exit 100", "Unable to locate package"),
        ("echo 'E: Failed to fetch http://x' >&2; exit 100", "Failed to fetch"),
        ("exit 0", "gave no archive"),
    ],
)
def test_a_package_that_cannot_be_had_is_one_message_that_says_what_to_do(
    apt_get, says, machine, tmp_path
):
    machine(apt_get)
    with pytest.raises(ConfigError, match=says) as e:
        emoji_files(root=str(tmp_path))
    assert "data_path=FOLDER" in str(e.value) and FONT in str(e.value)


def test_without_apt_get_the_message_says_so(tmp_path, monkeypatch, cache):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="there is no apt-get.*data_path=FOLDER"):
        emoji_files(root=str(tmp_path))


def test_a_font_that_the_person_names_is_taken_with_the_table_beside_it(tmp_path):
    (tmp_path / "deep").mkdir()
    font, table = tmp_path / "deep" / FONT, tmp_path / "deep" / TABLE
    font.write_bytes(b"")
    table.write_text(TEST_TABLE)
    assert emoji_files(str(font)) == emoji_files(str(tmp_path)) == (font, table)
    font.unlink()
    with pytest.raises(ConfigError, match=f"is a folder without {FONT}"):
        emoji_files(str(tmp_path))
    with pytest.raises(ConfigError, match="is not there"):
        emoji_files(str(font))


@pytest.mark.parametrize("kind", ["no font", "black and white"])
def test_a_wrong_font_is_named_and_the_right_one_too(kind, tmp_path, cache):
    font = tmp_path / FONT
    if kind == "no font":
        font.write_bytes(b"abc" * 100)
    elif Path(DEJAVU).is_file():
        shutil.copy(DEJAVU, font)
    else:
        pytest.skip("no black and white font here: make system-deps")
    (tmp_path / TABLE).write_text(TEST_TABLE)
    with pytest.raises(ConfigError, match="no font with colour pictures.*fonts-noto-color-emoji"):
        emoji(str(tmp_path), 32)


def test_a_wrong_table_is_refused(tmp_path, files, cache):
    shutil.copy(files[0], tmp_path / FONT)
    (tmp_path / TABLE).write_text("1F600 ; fully-qualified # 😀 E1.0 grinning face\n")
    with pytest.raises(ConfigError, match="is not Unicode's emoji-test.txt"):
        emoji(str(tmp_path), 32)


def test_what_the_font_does_not_know_is_left_out(tmp_path, files, cache):
    strange = "1F9DE 200D 1F680 ; fully-qualified # x E99.0 genie rocket\n"
    (tmp_path / TABLE).write_text(TEST_TABLE + strange + "1FFFD ; fully-qualified # x E99.0 none\n")
    found, version, _ = catalogue(files[0], tmp_path / TABLE)
    assert [e.name for e, _ in found] == ["grinning face"] and version == "99.0"


def test_the_real_emoji_are_whole_groups_of_colour_pictures(files):
    d = load_data(parse(DataConfig, {"dataset": "emoji"}), 64)
    x, y = stack(d.train, 64)
    assert len(d.train) + len(d.heldout) >= 1800 and d.num_classes == 9
    assert "Food & Drink" in d.class_names and "Component" not in d.class_names
    assert x.shape == (64, 3, 64, 64) and x.min() < -0.9
    assert (x.amax(1) - x.amin(1)).flatten(1).amax(1).gt(0.3).float().mean() > 0.8, "in colour"
    corners = x[:, :, [0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 1).all((1, 2)).float().mean() > 0.75, "on white"
    for split in (d.train, d.heldout):
        assert np.bincount(labels_of(split), minlength=9).min() >= 10
    assert 0.07 < len(d.heldout) / (len(d.heldout) + len(d.train)) < 0.14
    assert "subjects, each wholly in training or wholly held out" in describe_data(d)


def test_no_variant_of_a_held_out_picture_is_trained_on(files):
    cfg = parse(DataConfig, {"dataset": "emoji", "emoji_skin_tones": True})
    toned, plain = load_data(cfg, 16), load_data(DataConfig(dataset="emoji"), 16)
    for d in (toned, plain):
        assert not {subject(n) for n in d.train.names} & {subject(n) for n in d.heldout.names}
        pixels = [{x.numpy().tobytes() for x, _ in s} for s in (d.train, d.heldout)]
        assert not pixels[0] & pixels[1], "not even under another name"
    assert len(toned.train) > 1.5 * len(plain.train)
    assert set(plain.heldout.names) <= set(toned.heldout.names), "the same with and without tones"
    for flags in (("Norway", "Bouvet Island"), ("France", "Clipperton Island")):
        sides = {f"flag: {f}" in plain.heldout.names for f in flags}
        assert len(sides) == 1


def test_labels_may_be_subgroups(files):
    d = load_data(parse(DataConfig, {"dataset": "emoji", "emoji_labels": "subgroup"}), 16)
    assert d.num_classes > 90 and {"face-smiling", "country-flag"} <= set(d.class_names)
    assert labels_of(d.train).max() == d.num_classes - 1


def test_emoji_of_any_shape_are_whole(files):
    d = load_data(DataConfig(dataset="emoji"), (32, 48))
    x, _ = stack(d.train, 50)
    assert x.shape == (50, 3, 32, 48)
    assert (x[..., :8] == 1).all() and (x[..., -8:] == 1).all()


def test_flips_and_crops_work_as_for_any_images(files):
    cfg = DataConfig(dataset="emoji", flip=True, crop="random")
    d = load_data(cfg, 32)
    view = training_view(d, cfg, seed=3)
    draws = torch.stack([view[7, k][0] for k in range(12)])
    assert len({x.numpy().tobytes() for x in draws}) > 6 and view[7, 3][1] == d.train[7][1]
    assert torch.equal(draws[5], view[7, 5][0])


def test_the_contents_are_known_by_font_table_and_settings_at_any_size(files):
    def digest(size, **more):
        return contents(load_data(parse(DataConfig, {"dataset": "emoji", **more}), size))

    assert contents_difference(digest(16), digest(24)) == ""
    assert contents_difference(digest(16), digest(16, emoji_skin_tones=True))
    assert contents_difference(digest(16), digest(16, emoji_labels="subgroup"))


def test_own_settings_belong_to_emoji_only():
    assert parse(TrainConfig, {"dataset": "emoji", "emoji_labels": "subgroup"}).data.dataset
    with pytest.raises(ConfigError, match="emoji_labels='kind': should be 'group' or 'subgroup'"):
        parse(TrainConfig, {"dataset": "emoji", "emoji_labels": "kind"})
    with pytest.raises(ConfigError, match="emoji_labels='group': unknown"):
        parse(TrainConfig, {"dataset": "shapes", "emoji_labels": "group"})


def colour(i: int) -> Image.Image:
    return Image.new("RGB", (4, 4), (i, 0, 0))


def test_pictures_are_drawn_into_memory_where_no_cache_can_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(
        "softvq_lab.data.drawn.cached", lambda *parts: tmp_path / "file" / parts[-1]
    )
    with pytest.warns(UserWarning, match="not kept in the cache"):
        array = drawn_once("x", 3, 4, colour)
    assert array[:, 0, 0, 0].tolist() == [0, 1, 2]


@pytest.mark.slow
def test_several_processes_draw_the_same_file(cache):
    draw = (
        "from softvq_lab.data.drawn import drawn_once; from PIL import Image;"
        "a = drawn_once('x', 200, 16, lambda i: Image.new('RGB', (16, 16), (i, 0, 0)));"
        "print(int(a[:, 0, 3, 3].astype(int).sum()))"
    )
    all_ = [
        subprocess.Popen([sys.executable, "-c", draw], stdout=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    said = [p.communicate(timeout=120)[0].split() for p in all_]  # some tell that they wait
    assert {words[-1] for words in said} == {str(sum(range(200)))}
    left = {p.name for p in (cache / "drawn").iterdir() if not p.name.endswith(".lock")}
    assert left == {"x-16x16.npy", "x-16x16.json"}


def test_a_spawned_process_gets_the_file_and_not_its_bytes(cache):
    import pickle

    array = drawn_once("x", 5000, 32, lambda i: Image.new("RGB", (32, 32), (i % 256, 0, 0)))
    split = DrawnPictures(array, [300, 7], [1, 0], ["b", "a"])
    sent = pickle.dumps(split)
    assert len(sent) < 5000 and torch.equal(pickle.loads(sent)[0][0], split[0][0])


@pytest.mark.slow
def test_a_tokenizer_trains_on_emoji(files, tmp_path, root):
    out = tmp_path / "run"
    subprocess.run(
        [shutil.which("papermill"), "--no-log-output", root / "nbs" / "train.ipynb"]
        + [out / "notebook.ipynb", "-p", "run", out]
        + "-p dataset emoji -p image_size 16 -p patch_size 4 -p tokens 8 -p steps 8".split()
        + "-p warmup_steps 2 -p flip True -p eval_every 8 -p checkpoint_every 8".split(),
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    about = read_json(out / "config.json")
    assert about["config"]["data"]["emoji_labels"] == "group"
    assert about["identity"]["data"]["digest"].startswith("emoji (Unicode ")
    assert json.loads((out / "evaluation" / "reconstruction.json").read_text())["figures"]["psnr"]


@pytest.mark.slow
def test_the_demo_of_pictures_from_training_to_poster(files, root, tmp_path):
    "`make demo-pictures`, a few steps of each."
    if not (root / ".venv").exists():
        pytest.skip("make setup has not been here")
    few = "-p steps 8 -p warmup_steps 2 -p log_every 2 -p eval_every 4 -p batch_size 8"
    made = subprocess.run(
        [
            *("make", "demo-pictures", f"RUNS={tmp_path}"),
            *(f"LARGER={few}", f"LARGER_GENERATOR={few}"),
            "EVALUATION=-p samples 20 -p sample_steps 2 -p confidence 0 -p probe none",
        ],
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert made.returncode == 0, made.stderr[-3000:]
    runs = tmp_path / "pictures"
    assert "Look at it:" in made.stdout
    config = json.loads((runs / "tokenizer" / "config.json").read_text())["config"]
    assert (config["data"]["dataset"], config["optim"]["optimizer"]) == ("emoji", "muon")
    drawn = runs.glob("generator/evaluation/samples-tf_efficientnet_lite0-*.json")
    assert json.loads(next(drawn).read_text())["figures"]["class_accuracy"] >= 0
    with Image.open(runs / "demo.png") as poster:
        assert poster.height > 64 * (1 + 1 + 3 + 3)
