"""What a run is made of: what may change between stop and resume, what may not, and where files are
looked for.
"""

import json
import os
import re
import shutil
import sys

import numpy as np
import pytest
from PIL import Image

from softvq_lab import provenance
from softvq_lab.core import ConfigError, read_json, write_json
from softvq_lab.data.contents import contents
from softvq_lab.data.datasets import load_data
from softvq_lab.data.folder import folder
from softvq_lab.experiments.parameters import check_parameters
from softvq_lab.explore.session import chosen_image, heldout_gallery, load_run, perceptual_soon
from softvq_lab.hub.models import load_tokenizer
from softvq_lab.provenance import identity_differences, normal_source, plugin_record
from softvq_lab.runs import Run
from softvq_lab.settings.parse import flatten
from softvq_lab.settings.sections import OLDER, OptimConfig
from softvq_lab.train import images_of, load_config, prepare, train_here

FEW = dict(
    steps=6,
    batch_size=8,
    log_every=3,
    eval_every=6,
    checkpoint_every=3,
    warmup_steps=1,
    tracker="none",
)
SMALL = dict(codebook_size=16, tokens=4, latent_dim=4, image_size=16)


def picture(path, seed: int, suffix: str = ".bmp"):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (18, 20, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path.with_suffix(suffix))


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    "A folder `pics` of two classes, 17 and 13 pictures, in the folder that one works in."
    monkeypatch.chdir(tmp_path)
    for i in range(30):
        picture(tmp_path / "pics" / ("cat" if i < 17 else "dog") / f"{i:02}", i)
    return tmp_path / "pics"


def ask(run, workflow="train", **given):
    own = SMALL if workflow == "train" else {}
    return check_parameters(workflow, FEW | own | {"run": str(run)} | given)


def begin(run, workflow="train", **given) -> Run:
    "Prepare a run, or with resume=True open it again."
    config = ask(run, workflow, **given)
    if workflow == "train":
        return prepare(config, run, images_of(config))
    return prepare(config, run, images_of(config, load_tokenizer(config.tokenizer_run)))


def stop_half_way(run: Run):
    "As if it had been killed after step 3."
    train_here(run)
    shutil.rmtree(run.path / "checkpoints" / "step-000006")
    run.set_status("interrupted", step=3)


@pytest.fixture
def half(pictures) -> Run:
    "A tokenizer's run on `pics` that was stopped at step 3 of 6, made with relative paths."
    run = begin("runs/t", dataset="folder", data_path="pics")
    stop_half_way(run)
    return run


def goes_on(run: Run, **given) -> str:
    "What is refused when the run is resumed, '' when it goes on."
    try:
        begin(run.path, resume=True, **({"dataset": "folder", "data_path": "pics"} | given))
    except ConfigError as e:
        return str(e)
    return ""


# Where the images lie is nothing that is learned


@pytest.mark.parametrize("how", ["moved", "slash", "linked", "absolute", "home", "copied"])
def test_a_run_goes_on_wherever_its_images_lie_now(half, pictures, monkeypatch, how):
    elsewhere = pictures.parent / "mount" / "photos"
    elsewhere.parent.mkdir()
    if how == "copied":
        shutil.copytree(pictures, elsewhere, copy_function=shutil.copyfile)  # new time stamps
        shutil.rmtree(pictures)
    elif how in ("moved", "home"):
        pictures.rename(elsewhere)
    elif how == "linked":
        elsewhere.symlink_to(pictures)
    monkeypatch.setenv("HOME", str(pictures.parent))
    path = {"slash": "pics/", "absolute": str(pictures), "home": "~/mount/photos"}
    assert not goes_on(half, data_path=path.get(how, str(elsewhere)))
    train_here(Run("runs/t"))
    assert half.status["state"] == "done" and half.status["step"] == 6


def test_a_run_that_moved_with_its_images_goes_on_from_anywhere(half, pictures, monkeypatch):
    top = pictures.parent
    (top / "new").mkdir()
    shutil.move(top / "runs", top / "new" / "runs")
    shutil.move(pictures, top / "new" / "pics")
    (top / "else").mkdir()
    monkeypatch.chdir(top / "else")
    train_here(Run(top / "new" / "runs" / "t"))
    assert Run(top / "new" / "runs" / "t").status["step"] == 6


# Other images are


def rename_class(pics):
    (pics / "dog").rename(pics / "wolf")


def add_class(pics):
    picture(pics / "ant" / "1", 99)


def add_image(pics):
    picture(pics / "cat" / "new", 99)


def remove_image(pics):
    (pics / "dog" / "20.bmp").unlink()


def replace_picture(pics):
    before = (pics / "cat" / "03.bmp").stat().st_size
    picture(pics / "cat" / "03", 99)
    assert (pics / "cat" / "03.bmp").stat().st_size == before


def swap_labels(pics):
    (pics / "cat" / "03.bmp").rename(pics / "dog" / "03.bmp")
    (pics / "dog" / "20.bmp").rename(pics / "cat" / "20.bmp")


@pytest.mark.parametrize(
    "change,kinds",
    [
        (rename_class, "data,classes"),
        (add_class, "data,classes"),
        (add_image, "data"),
        (remove_image, "data"),
        (replace_picture, "data"),
        (swap_labels, "data"),
    ],
)
def test_a_run_does_not_go_on_with_other_images(half, pictures, change, kinds):
    before = read_json(half.path / "config.json")
    change(pictures)
    says = goes_on(half)
    assert f"accept={kinds}\n" in says and "give another run folder" in says
    with pytest.raises(ConfigError, match="data: "):
        train_here(half)  # python -m softvq_lab.train asks nobody
    assert read_json(half.path / "config.json") == before


def test_what_was_accepted_is_written_down_and_not_asked_again(half, pictures):
    add_image(pictures)
    assert "'cat' " in goes_on(half)
    assert "data: " in goes_on(half, accept="classes,code")
    assert not goes_on(half, accept="data")
    (segment,) = half.info["segments"]
    assert segment["step"] == 3 and re.search(
        r"data: 2\d \+ \d images there", segment["changed"][0]
    )
    train_here(half)
    state = read_json(half.path / "checkpoints" / "step-000006" / "state.json")
    assert state["identity"]["data"] == contents(folder(pictures, 16))
    assert half.info["config"]["where"]["accept"] == ""  # it counts for one call
    remove_image(pictures)
    assert "data: " in goes_on(half)


def test_only_what_may_differ_can_be_accepted(half):
    assert "Did you mean 'data'?" in goes_on(half, accept="dta")


def test_one_class_is_called_as_its_folder_and_the_folder_may_be_renamed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(12):
        picture(tmp_path / "mine" / f"{i}", i)
    run = begin("r", dataset="folder", data_path="mine")
    (tmp_path / "mine").rename(tmp_path / "yours")
    assert not goes_on(run, data_path="yours")


def test_packed_images_are_known_by_their_members(tmp_path):
    import tarfile

    def pack(name, seeds):
        (tmp_path / name).mkdir()
        with tarfile.open(tmp_path / name / "a.tar", "w") as tar:
            for i, seed in enumerate(seeds):
                picture(tmp_path / "one", seed)
                tar.add(tmp_path / "one.bmp", f"{i:03}.bmp")
        config = ask("r", dataset="webdataset", data_path=str(tmp_path / name))
        return contents(load_data(config.data, 16))

    a, b, c = pack("a", range(9)), pack("b", range(9)), pack("c", [*range(8), 77])
    assert a["digest"] == b["digest"] != c["digest"]


# Settings


@pytest.mark.parametrize(
    "given",
    [
        {"log_every": 1, "eval_every": 2, "checkpoint_every": 1},
        {"accumulate": 2, "recompute": True},
        {"precision": "bf16", "tf32": False},
        {"processes": 2},
        {"steps": 9},
        {"steps": 5},
    ],
)
def test_what_changes_only_how_it_is_computed_may_be_given_anew(half, capsys, given):
    assert not goes_on(half, **given)
    flat = flatten(load_config(half))
    assert {k: flat[k] for k in given} == given
    printed = capsys.readouterr().out
    assert "goes on from step 3, with differences" in printed
    assert all(f"{k}: " in printed for k in given)


@pytest.mark.parametrize("given", [{"lr": 0.01}, {"batch_size": 10}, {"tau": 0.5}, {"seed": 4}])
def test_what_changes_what_is_learned_may_not(half, given):
    ((name, value),) = given.items()
    assert re.search(rf"{name}: .* there, {value} asked for", goes_on(half, **given))


def test_a_longer_run_says_that_its_cosine_is_another(half, capsys):
    assert not goes_on(half, steps=12)
    assert (
        "from step 3 on the learning rate follows the cosine of 12 steps" in capsys.readouterr().out
    )
    train_here(half)
    assert half.status["step"] == 12
    assert "steps=7, but the run is at step 12" in goes_on(half, steps=7)


def test_a_generator_is_lengthened_like_a_tokenizer(half):
    train_here(half)
    given = {"tokenizer_run": "runs/t", "schedule": "constant"}
    train_here(g := begin("runs/g", "train_generator", **given))
    begin("runs/g", "train_generator", steps=8, resume=True, **given)
    train_here(g)
    assert g.status["step"] == 8


def forget(run: Run, *path):
    info = read_json(run.path / "config.json")
    inner = info
    for p in path[:-1]:
        inner = inner[p]
    del inner[path[-1]]
    write_json(run.path / "config.json", info)


@pytest.mark.parametrize(
    "path",
    [
        ("config", "loss", "align_how"),
        ("config", "tokenizer", "latent_noise"),
        ("config", "engine", "tf32"),
        ("config", "where", "accept"),
        ("identity",),
        ("root",),
    ],
)
def test_a_run_of_a_version_without_a_setting_or_a_record_goes_on(half, path):
    forget(half, *path)
    assert not goes_on(half)
    train_here(half)
    assert half.status["step"] == 6 and half.info["identity"]["data"]["images"]


def test_a_setting_that_is_missing_is_what_its_version_did(half):
    forget(half, "config", "optim", "ema_warmup")
    assert OLDER["ema_warmup"] is True and OptimConfig().ema_warmup is False
    assert load_config(half).optim.ema_warmup is True
    assert not goes_on(half) and not goes_on(half)  # as it began, whatever the default is today
    assert half.info["config"]["optim"]["ema_warmup"] is True
    assert "ema_warmup: True there, False asked for" in goes_on(half, ema_warmup=False)


def test_what_is_not_given_is_as_the_run_has_it(half):
    begin("runs/t", resume=True)  # no word of the images
    given = {"run": "runs/t", "resume": True, "log_every": 1}
    config = check_parameters("train", given)
    prepare(config, "runs/t", images_of(config))
    flat = flatten(load_config(half))
    assert flat["tokens"] == 4 and flat["log_every"] == 1 and flat["data_path"].endswith("pics")


def test_an_older_run_still_knows_its_class_names(half, pictures):
    forget(half, "identity")
    rename_class(pictures)
    assert "classes: 2 there, 2 now; gone: dog; new: wolf" in goes_on(half)


# The tokenizer behind a generator


@pytest.fixture
def generator(half) -> Run:
    train_here(half)
    run = begin("runs/g", "train_generator", tokenizer_run="runs/t")
    stop_half_way(run)
    return run


def test_a_tokenizer_that_moved_with_its_generator_is_found_from_anywhere(generator, monkeypatch):
    top = generator.path.absolute().parent.parent
    shutil.move(top / "runs", top / "kept")
    (top / "else").mkdir()
    monkeypatch.chdir(top / "else")
    assert os.path.samefile(load_config(Run(top / "kept/g")).tokenizer_run, top / "kept/t")
    train_here(Run(top / "kept/g"))
    assert Run(top / "kept/g").status["step"] == 6


def test_a_tokenizer_that_was_trained_again_in_place_is_another(generator):
    shutil.rmtree("runs/t")
    train_here(begin("runs/t", dataset="folder", data_path="pics", seed=5))
    with pytest.raises(
        ConfigError, match="tokenizer: tokenizer_run: [0-9a-f]+ there, [0-9a-f]+ now"
    ):
        begin(generator.path, "train_generator", tokenizer_run="runs/t", resume=True)
    with pytest.raises(ConfigError, match="accept=tokenizer"):
        train_here(generator)


def test_the_images_of_a_generator_are_its_tokenizers(generator, pictures):
    add_image(pictures)
    with pytest.raises(ConfigError, match="accept=data"):
        train_here(generator)


# Plug-ins and the library

PLUGIN = """
import torch
from softvq_lab.registry import register
from softvq_lab.quantizers.base import Quantizer, QuantOut
from halves import HALF

@register("quantizer", "scaled")
class Scaled(Quantizer):
    "Scales."
    def __init__(self, config, width):
        super().__init__()
        self.s = torch.nn.Parameter(torch.ones(width))

    def forward(self, z):
        return QuantOut(z * self.s * 2.0 * HALF, z)  # twice half
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    from softvq_lab import registry

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOFTVQ_LAB_PLUGINS", "")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "scaled.py"
    path.write_text(PLUGIN)
    (tmp_path / "halves.py").write_text("HALF = 0.5\n")
    yield path
    registry._registered["quantizer"].pop("scaled", None)
    sys.modules.pop("halves", None)


@pytest.mark.parametrize(
    "file,old,new,matters",
    [
        ("scaled.py", "2.0", "3.0", True),
        ("halves.py", "0.5", "0.25", True),
        ("scaled.py", "# twice half", "# as it was", False),
        ("scaled.py", '"Scales."', '"Scales latents, token by token."', False),
    ],
)
def test_an_edited_plugin_is_another_and_its_comments_are_not(plugin, file, old, new, matters):
    given = {"quantizer": "scaled", "plugins": "scaled.py"}
    stop_half_way(run := begin("r", **given))
    path = plugin.with_name(file)
    path.write_text(path.read_text().replace(old, new))
    if not matters:
        begin("r", resume=True, **given)
        return
    with pytest.raises(ConfigError, match="plugins: quantizer scaled: .* there, .* now"):
        begin("r", resume=True, **given)
    begin("r", resume=True, accept="plugins", **given)
    assert "plugins" in run.info["segments"][0]["changed"][0]


def test_a_plugin_that_was_edited_is_what_the_next_settings_use(plugin):
    given = {"quantizer": "scaled", "plugins": "scaled.py"}
    before = plugin_record(flatten(ask("r", **given)))
    plugin.with_name("halves.py").write_text("HALF = 4.0\n")
    config = ask("r", **given)
    assert sys.modules["halves"].HALF == 4.0
    assert list(before) == ["quantizer scaled"] and plugin_record(flatten(config)) != before


def test_a_plugin_beside_the_one_in_use_and_a_moved_one_change_nothing(plugin, tmp_path):
    plugin.with_name("other.py").write_text("X = 1\n")
    stop_half_way(begin("r", quantizer="scaled", plugins="scaled.py,other.py"))
    (tmp_path / "sub").mkdir()
    for name in ("scaled.py", "halves.py"):
        shutil.move(tmp_path / name, tmp_path / "sub" / name)
    begin("r", quantizer="scaled", plugins="sub/scaled.py", resume=True)


def test_a_helper_that_lies_elsewhere_belongs_to_its_plugin(plugin, tmp_path, monkeypatch):
    (tmp_path / "lib" / "parts").mkdir(parents=True)
    (tmp_path / "lib" / "parts" / "__init__.py").write_text("from .deep import HALF\n")
    (tmp_path / "lib" / "parts" / "deep.py").write_text("HALF = 0.5\n")
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    plugin.write_text(PLUGIN.replace("from halves", "from parts"))
    given = {"quantizer": "scaled", "plugins": "scaled.py"}
    stop_half_way(begin("r", **given))
    begin("r", resume=True, **given)
    (tmp_path / "lib" / "parts" / "deep.py").write_text("HALF = 0.25\n")
    with pytest.raises(ConfigError, match="plugins: quantizer scaled: .* there, .* now"):
        begin("r", resume=True, **given)
    for name in ("parts", "parts.deep"):
        sys.modules.pop(name, None)


def test_two_plugins_of_one_name_are_both_recorded(plugin, tmp_path):
    for i, place in enumerate("ab"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "more.py").write_text(f"X = {i}\n")
    given = {"quantizer": "scaled", "plugins": "scaled.py,a/more.py,b/more.py"}
    stop_half_way(begin("r", **given))
    (tmp_path / "a" / "more.py").write_text("X = 7\n")
    with pytest.raises(ConfigError, match="plugins: more.py: .* there, .* now"):
        begin("r", resume=True, **given)


def test_a_generator_whose_tokenizer_is_gone_says_how_to_go_on(generator):
    os.rename("runs/t", "elsewhere")
    with pytest.raises(ConfigError, match="without its tokenizer: .*\n.*tokenizer_run=FOLDER"):
        train_here(generator)
    begin(generator.path, "train_generator", tokenizer_run="elsewhere", resume=True)
    train_here(generator)


def test_sources_that_do_the_same_are_equal():
    a = "def f(x):\n    'says'\n    # why\n    return (x +\n        1)\n"
    assert normal_source(a) == normal_source("def f(x):\n  'more'\n  return x + 1\n")
    assert normal_source(a) != normal_source(a.replace("1", "2"))


def test_an_edited_library_is_said_and_written_down(half, monkeypatch, capsys):
    info = half.info
    info["identity"]["code"]["quantizers"] = "01234567"
    write_json(half.path / "config.json", info)
    train_here(half)
    assert "sources of the library that were edited: quantizers" in capsys.readouterr().out
    assert half.status["step"] == 6 and "quantizers" in half.info["segments"][0]["changed"][0]
    train_here(half)
    assert len(half.info["segments"]) == 1


def test_only_kinds_that_both_records_name_are_compared():
    assert identity_differences({"classes": ["a"]}, {"code": {"data": "1"}, "plugins": {}}) == {}


# A run speaks for itself


def test_a_run_without_its_images_opens_and_says_what_needs_them(generator, pictures):
    shutil.move(pictures, pictures.with_name("away"))
    loaded = load_run(generator.path)
    assert loaded.images.class_names == ("cat", "dog") and loaded.heldout_count == 0
    assert loaded.tokenizer.image_size == (16, 16) and loaded.generator.num_classes == 2
    picture(pictures.parent / "mine", 3, ".png")
    assert chosen_image(loaded, f"file:{pictures.parent / 'mine.png'}").shape == (3, 16, 16)
    assert perceptual_soon(loaded) is None
    for wants in (
        lambda: heldout_gallery(loaded),
        lambda: chosen_image(loaded, "heldout:0"),
        lambda: loaded.images.train[0],
    ):
        with pytest.raises(
            ValueError, match="are not there: data_path=.*Sampling and uploads work"
        ):
            wants()
    shutil.move(pictures.with_name("away"), pictures)
    assert load_run(generator.path).heldout_count > 0  # they are there again


def test_a_run_shows_the_classes_that_it_was_trained_on(half, pictures):
    train_here(half)
    rename_class(pictures)
    assert load_run(half.path).images.class_names == ("cat", "dog")
    add_class(pictures)
    loaded = load_run(shutil.copytree(half.path, "runs/copy"))
    assert loaded.images.class_names == ("cat", "dog")
    assert "they have 3 classes, and the run was trained on 2" in loaded.missing


def test_a_run_opens_from_any_folder(generator, pictures, monkeypatch):
    (pictures.parent / "else").mkdir()
    monkeypatch.chdir(pictures.parent / "else")
    loaded = load_run(pictures.parent / "runs" / "g")
    assert not loaded.missing and loaded.heldout_count > 0


def test_the_record_holds_the_path_as_written_and_where_that_was(half):
    info = json.loads((half.path / "config.json").read_text())
    assert info["config"]["data"]["data_path"] == "pics" and info["root"] == os.getcwd()
    assert set(info["identity"]) == set(provenance.KINDS)


def test_a_run_goes_on_without_the_tokenizer_that_it_started_from(half):
    train_here(half)
    stop_half_way(begin("runs/second", start_from="runs/t", dataset="folder", data_path="pics"))
    shutil.rmtree("runs/t")
    with pytest.raises(ConfigError, match="start_from='runs/t'"):
        begin("runs/third", start_from="runs/t", dataset="folder", data_path="pics")
    run = begin("runs/second", start_from="runs/t", dataset="folder", data_path="pics", resume=True)
    train_here(run)
    assert run.status["step"] == 6


def test_weights_that_moved_are_the_same_and_others_are_not(tmp_path):
    from softvq_lab.pretrained.files import Needed
    from softvq_lab.provenance import weights_record

    (tmp_path / "a").write_bytes(b"weights")
    shutil.copy(tmp_path / "a", tmp_path / "b")
    (tmp_path / "c").write_bytes(b"others!")
    a, b, c = (weights_record([Needed("vgg", "loss", (), tmp_path / n)]) for n in "abc")
    assert a == b and not identity_differences({"weights": a}, {"weights": b})
    assert "vgg: " in identity_differences({"weights": a}, {"weights": c})["weights"]


def test_a_run_says_what_was_typed_where_and_with_which_sources(tmp_path, monkeypatch):
    from softvq_lab import runs

    changed = "diff --git a/core.py b/core.py\n+é"
    found = {"commit": "0" * 40, "dirty": True}
    monkeypatch.setattr(runs, "commit_record", lambda: (found, changed))
    monkeypatch.setenv("SOFTVQ_LAB_COMMAND", "papermill nbs/train.ipynb -p tokens 4")
    run = runs.open_run(tmp_path / "a", "tokenizer", {})
    assert run.info["command"] == "papermill nbs/train.ipynb -p tokens 4"
    assert run.info["commit"] == "0" * 40 and run.info["dirty"] is True and run.info["host"]
    assert (run.path / "code.diff").read_text() == changed


def test_a_training_says_how_long_it_took(trained):
    from softvq_lab.runs import Run, read_metrics

    run = Run(trained / "tokenizer")
    s = run.status
    assert s["seconds"] > 0 and s["seconds_per_step"] > 0 and s["peak_memory"] > 1e6
    assert (
        0 <= s["waiting"] < 1
        and s["images_per_second"] > 0
        and s["began"] >= run.info["created"]
        and s["device"]
    )
    assert not any("seconds" in m for m in read_metrics(run)), "a resumed run has the same lines"


# The story of a run


def test_a_run_that_went_on_tells_its_story(half):
    from softvq_lab.history import events, story

    half.set_status("running", step=3)
    half.set_status("stopped")
    train_here(half)
    states = [e["state"] for e in events(half.path)]
    assert states[0] == "prepared" and states[-4:] == ["running", "stopped", "running", "done"]
    stopped, went_on, done = story(half.path).splitlines()[-3:]
    assert "stopped by Ctrl-C or a signal, step 3, after" in stopped
    assert "went on after step 3 on " in went_on and "done, step 6, after" in done


def test_a_training_that_a_person_stops_by_a_signal_ended_once(half):
    "It says that a signal came, and what started it says that a person sent it."
    from softvq_lab.history import story

    for state in ("running", "preempted", "stopped", "running"):
        half.set_status(state, step=3)
    lines = story(half.path).splitlines()
    assert not [x for x in lines if "left for another job" in x]
    assert "stopped by Ctrl-C or a signal, step 3, after" in lines[-2] and "went on" in lines[-1]


def test_a_killed_process_is_in_the_story_though_it_said_nothing(half):
    from softvq_lab.history import story

    half.set_status("running", step=5)
    status = read_json(half.path / "status.json")
    write_json(half.path / "status.json", status | {"pid": 2**22 + 1})
    train_here(half)
    said = story(half.path)
    assert "gone without a word: killed, or the machine was switched off, step 5" in said
    assert "done, step 6" in said.splitlines()[-1]


@pytest.mark.parametrize("state", ["failed", "interrupted", "stopped"])
def test_what_another_process_says_of_a_run_is_told_once(tmp_path, state):
    "A rank that fails, or who takes a run over, is another process than the one that ran."
    from softvq_lab.history import remember, story

    at = {"host": "a", "started": "2026-01-01T10:00:00+00:00", "step": 3}
    running = at | {"state": "running", "pid": 1, "updated": "2026-01-01T10:00:00+00:00"}
    ended = at | {"state": state, "pid": 2, "updated": "2026-01-01T10:05:00+00:00"}
    remember(tmp_path, {}, running)
    remember(tmp_path, running, ended)
    remember(tmp_path, ended, running | {"pid": 3})
    _, end, _ = story(tmp_path).splitlines()
    assert "after 5 min" in end and ("gone without a word" in end) == (state == "interrupted")


def test_the_story_goes_on_after_a_line_that_was_cut_off(tmp_path):
    from softvq_lab.history import HISTORY, events, remember

    (tmp_path / HISTORY).write_text('{"state": "runn')
    remember(tmp_path, {}, {"state": "running", "pid": 1, "updated": "2026-01-01"})
    assert [e["state"] for e in events(tmp_path)] == ["running"]


def test_modules_that_compute_no_numbers_make_no_other_run():
    assert not set(provenance.code_record()) & set(provenance.NO_NUMBERS)
    assert {"tables", "history", "figure_png", "figure_traces"} <= set(provenance.NO_NUMBERS)
    there = {"code": {"tables": "1", "quantizers": "1"}}
    assert not identity_differences(there, {"code": {"quantizers": "1"}}), "of an older version"
    assert identity_differences(there, {"code": {"quantizers": "2"}}) == {"code": "quantizers"}
