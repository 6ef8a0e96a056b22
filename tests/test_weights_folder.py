"""The setting `weights`: a folder in which pretrained weights are looked for first, in the place of
the older settings that named one file each.
"""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from outside import papermill
from safetensors.torch import save_file

from softvq_lab.core import ConfigError, read_json, write_json
from softvq_lab.data.datasets import digits
from softvq_lab.evaluation.extractors import INCEPTION, find_inception
from softvq_lab.evaluation.image_metrics import load_lpips
from softvq_lab.experiments.parameters import check_parameters
from softvq_lab.hub.models import load_tokenizer, save
from softvq_lab.pretrained import files
from softvq_lab.pretrained.files import VGG, find, find_vgg
from softvq_lab.runs import Run
from softvq_lab.settings.parse import RENAMED
from softvq_lab.settings.sections import TokenizerConfig
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.train import identity_of, images_of, load_config, make_task, prepare

NET = "resnet10t"
WORKFLOWS = ("train", "train_generator", "profile", "evaluate", "guidance", "latent_map")
SMALL = dict(codebook_size=16, tokens=4, latent_dim=4, image_size=16)


@pytest.fixture
def places(tmp_path, monkeypatch):
    "Empty folders: that of the setting, that of the variable, that of the hub."
    made = {name: tmp_path / name for name in ("mine", "variable", "hub/checkpoints")}
    for folder in made.values():
        folder.mkdir(parents=True)
    mine, variable, hub = made.values()

    def cached(repository, name):
        file = hub / f"{repository.removeprefix('timm/')}.safetensors"
        return str(file) if file.exists() else None

    monkeypatch.setenv("SOFTVQ_LAB_WEIGHTS", str(variable))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(hub.parent))
    monkeypatch.setattr(files, "try_to_load_from_cache", cached)
    return SimpleNamespace(mine=mine, variable=variable, hub=hub)


@pytest.fixture
def network(places):
    "The weights of a small network, in the folder of the setting only."
    torch.manual_seed(0)
    save_file(timm.create_model(NET).state_dict(), places.mine / f"{NET}.safetensors")
    return places


# ---------------------------------------------------------------- where a file is looked for

FIND = {
    f"{NET}.safetensors": lambda weights: find(NET, "a test", weights),
    VGG: lambda weights: find_vgg("a test", weights),
    INCEPTION: find_inception,
}


@pytest.mark.parametrize("file", FIND)
def test_the_folder_comes_first_then_that_of_the_variable_then_the_hub(file, places):
    for folder in (places.hub, places.variable, places.mine):
        (folder / file).touch()
        assert FIND[file](str(places.mine)).path == folder / file
    assert FIND[file]("").path == places.variable / file
    (places.variable / file).unlink()
    assert FIND[file]("").path == places.hub / file


@pytest.mark.parametrize("file", FIND)
def test_a_missing_file_says_where_it_was_looked_for_and_how_to_supply_it(file, places):
    says = str(FIND[file](str(places.mine)))
    first, second = (says.index(str(f / file)) for f in (places.mine, places.variable))
    assert first < second and "hub" in says[second:]
    supply = says.partition("Supply it by one of: ")[2]
    assert f"{file} in a folder that you name by weights=FOLDER" in supply
    assert "SOFTVQ_LAB_WEIGHTS" in supply


def test_lpips_of_an_evaluation_is_looked_for_there_too(places):
    assert str(places.mine / VGG) in load_lpips(str(places.mine))[1]


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_what_is_no_folder_is_refused_before_any_work(workflow, tmp_path):
    (tmp_path / "a.safetensors").touch()
    for name, says in {"a.safetensors": "is a file: name the folder", "b": "is not there"}.items():
        with pytest.raises(ConfigError, match=f"{name}' {says}"):
            check_parameters(workflow, {"weights": str(tmp_path / name)})
    given = check_parameters(workflow, {"weights": str(tmp_path)})
    assert getattr(given, "engine", given).weights == str(tmp_path)


@pytest.mark.parametrize("workflow", WORKFLOWS)
@pytest.mark.parametrize("name", RENAMED)
def test_an_older_setting_is_told_what_took_its_place(workflow, name):
    with pytest.raises(ConfigError, match=f"{name}='x': unknown. 'weights' took its place"):
        check_parameters(workflow, {name: "x"})


def test_a_workflow_without_pretrained_networks_is_not_told_so():
    with pytest.raises(ConfigError) as e:
        check_parameters("efficiency", {"percep_file": "x"})
    assert "unknown" in str(e.value) and "weights" not in str(e.value)


# ---------------------------------------------------------------- what takes the folder


def test_everything_in_the_training_of_a_tokenizer_looks_there(network, tmp_path):
    judges = dict.fromkeys(("percep", "adv", "align"), f"timm:{NET}")
    given = SMALL | judges | {"weights": str(network.mine), "run": str(tmp_path / "run")}
    config = check_parameters("train", given)
    run = prepare(config, tmp_path / "run", images_of(config))
    task = make_task(run, config)
    assert task.percep and task.aligner and task.opponent
    assert list(run.info["identity"]["weights"]) == [NET]
    (network.mine / f"{NET}.safetensors").unlink()
    with pytest.raises(ConfigError, match="weights are missing"):
        make_task(run, config)


def test_everything_in_the_training_of_a_generator_looks_there(network, tmp_path):
    save(Tokenizer(TokenizerConfig(**SMALL)).eval(), tmp_path / "tokenizer")
    given = dict(
        tokenizer_run=str(tmp_path / "tokenizer"),
        dataset="digits",
        latents="fly",
        weights=str(network.mine),
    )
    for more in ({"align": f"timm:{NET}"}, {"online_every": 2, "online_extractor": f"timm:{NET}"}):
        folder = tmp_path / next(iter(more))
        config = check_parameters("train_generator", given | more)
        run = prepare(config, folder, images_of(config, load_tokenizer(config.tokenizer_run)))
        task = make_task(run, config)
        assert task.aligner or task.online.extractor.kind == NET


PLUGIN = """
from pathlib import Path
from softvq_lab.evaluation.extractors import make_extractor
from softvq_lab.registry import register
from softvq_lab.training.align import make_teacher

@register("extractor", "mine")
def judge(images, weights=""):
    assert Path(weights).name == "mine", weights
    return make_extractor("reference", images)

@register("teacher", "mine")
def teach(images, config, weights=""):
    assert Path(weights).name == "mine", weights
    return make_teacher("reference", config, images)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "workflow,given",
    [
        ("evaluate", {"extractor": "mine", "probe": "none", "confidence": 0}),
        ("guidance", {"extractor": "mine", "samples": 20, "scales": "1,2", "confidence": 0}),
        ("latent_map", {"teacher": "mine", "images": 60, "points": 60}),
    ],
)
def test_a_notebook_hands_the_folder_to_its_networks(workflow, given, trained, tmp_path, root):
    (tmp_path / "mine").mkdir()
    (tmp_path / "plugin.py").write_text(PLUGIN)
    shutil.copytree(trained, tmp_path / "runs")
    where = dict(
        run=str(tmp_path / "runs" / ("generator" if workflow == "guidance" else "tokenizer")),
        plugins=str(tmp_path / "plugin.py"),
        weights=str(tmp_path / "mine"),
    )
    done = papermill(root, tmp_path, workflow, "out.ipynb", **given, **where)
    assert done.returncode == 0, done.stderr[-2000:]


# ---------------------------------------------------------------- what a run is made of


def test_what_the_files_hold_is_part_of_a_run_and_where_they_lie_is_not(tmp_path):
    found = []
    for name, content in {"a": b"weights", "b": b"weights", "c": b"others!"}.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{NET}.safetensors").write_bytes(content)
        given = {"percep": f"timm:{NET}", "weights": str(tmp_path / name)}
        found.append(identity_of(check_parameters("train", given), digits(32)))
    a, b, c = found
    assert a == b and a["weights"].keys() == c["weights"].keys() == {NET}
    assert a["weights"] != c["weights"]


@pytest.fixture
def run(tmp_path, monkeypatch) -> Run:
    "A run that is prepared in the folder that one works in, where a folder `of-nets` lies."
    monkeypatch.chdir(tmp_path)
    Path("of-nets").mkdir()
    return again(weights="of-nets")


def again(**given) -> Run:
    config = check_parameters("train", SMALL | {"run": "runs/t"} | given)
    return prepare(config, "runs/t", images_of(config))


def test_a_run_goes_on_with_the_folder_in_another_place(run, tmp_path, monkeypatch):
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    assert Path(load_config(Run(tmp_path / run.path)).engine.weights) == tmp_path / "of-nets"
    monkeypatch.chdir(tmp_path)
    shutil.move("of-nets", "v")
    with pytest.raises(ConfigError, match="weights='of-nets' is not there"):
        again(resume=True)
    assert again(resume=True, weights="v").info["config"]["engine"]["weights"] == "v"


# ---------------------------------------------------------------- older runs


def written_by_an_older_version(run: Run, given: dict):
    "Write the settings of single files into the record, and take `weights` out."
    info = read_json(run.path / "config.json")
    config = info["config"]
    del config["engine"]["weights"]
    config["tokenizer"]["encoder_weights"] = given.get("encoder_weights", "")
    for name in ("percep_file", "adv_file", "align_file"):
        config["loss"][name] = given.get(name, "")
    write_json(run.path / "config.json", info)


@pytest.mark.parametrize(
    "given,weights",
    [
        ({}, ""),
        ({"percep_file": "of-nets/vgg.pth"}, "of-nets"),
        (
            {"percep_file": "of-nets/vgg.pth", "encoder_weights": "of-nets/dino.safetensors"},
            "of-nets",
        ),
        ({"percep_file": "of-nets/vgg.pth", "adv_file": "v/dino.safetensors"}, ""),
    ],
)
def test_an_older_run_goes_on_with_the_one_folder_of_its_files(run, given, weights):
    written_by_an_older_version(run, given)
    assert load_config(run).engine.weights == weights
    again(resume=True)
    config = read_json(run.path / "config.json")["config"]
    assert config["engine"]["weights"] == weights
    assert not RENAMED.keys() & (config["loss"].keys() | config["tokenizer"].keys())


def test_an_older_run_whose_files_are_gone_still_opens(run):
    written_by_an_older_version(run, {"percep_file": "gone/vgg.pth"})
    assert load_config(run).engine.weights == "gone"
    with pytest.raises(ConfigError, match="weights='gone' is not there"):
        again(resume=True)
    again(resume=True, weights="")


@pytest.mark.parametrize("file", ["", "/gone/dino.safetensors"])
def test_a_tokenizer_that_an_older_version_saved_opens(file, tmp_path):
    tokenizer = Tokenizer(TokenizerConfig(**SMALL)).eval()
    save(tokenizer, tmp_path / "t")
    info = read_json(tmp_path / "t" / "config.json")
    info["config"]["encoder_weights"] = file
    then = "0123456789abcdef" if file else info["fingerprint"]  # the path was a part of it
    write_json(tmp_path / "t" / "config.json", info | {"fingerprint": then})
    opened = load_tokenizer(tmp_path / "t")
    assert opened.fingerprint == tokenizer.fingerprint
    assert then in (opened.fingerprint, getattr(opened, "rounded_from", ""))
