"""Every cell of the paper's tables has a command that is right up to its first step."""

import csv
import importlib.util
import shlex
from pathlib import Path

import pytest
import torch
from PIL import Image

from softvq_lab.data.datasets import load_data
from softvq_lab.evaluation.efficiency import bare_generator
from softvq_lab.experiments.parameters import check_parameters
from softvq_lab.experiments.sweep import narrow, open_sweep, override, settings_of
from softvq_lab.pretrained.files import VGG, preflight
from softvq_lab.settings.sections import PRETRAINED
from softvq_lab.tokenizer.model import Tokenizer

ROOT = Path(__file__).parents[1]
PAPER = ROOT / "docs" / "paper"


def _script():
    spec = importlib.util.spec_from_file_location("reproduction", ROOT / "docs" / "reproduction.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


r = _script()
ROWS = [(t, row) for t in r.tables().values() for row in t.rows]
SWEPT = {row.command: row for _, row in ROWS if row.only is not None}


def _id(text: str) -> str:
    return text.rpartition("sweeps/")[2].replace(" data_path=/data/imagenet --only ", ":")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    "40 images in the folders of ImageNet: train/SYNSET and val/SYNSET."
    root = tmp_path_factory.mktemp("imagenet")
    for split, count in (("train", 16), ("val", 4)):
        for synset in ("n01440764", "n01443537"):
            (root / split / synset).mkdir(parents=True)
            for i in range(count):
                image = Image.effect_noise((80, 60), 20 + i).convert("RGB")
                image.save(root / split / synset / f"{synset}_{i}.JPEG")
    return root


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    "A folder with an empty file for each pretrained network: what is looked for is found."
    folder = tmp_path_factory.mktemp("weights")
    names = {*PRETRAINED.values(), "vit_small_patch16_224.dino"}
    for name in names:
        (folder / f"{name}.safetensors").touch()
    (folder / VGG).touch()
    return folder


def test_each_row_of_the_paper_has_a_command_or_says_why_not():
    for _, row in ROWS:
        assert bool(row.command) != bool(row.none), row.name


def test_the_tables_have_all_rows_and_numbers_of_the_paper():
    files = sorted(PAPER.glob("table*.csv"))
    counted = {p.name: sum(1 for _ in csv.reader(p.open())) - 1 for p in files}
    assert sum(counted.values()) == 144
    shown = {about["csv"] for about in r.described().values()}
    shown |= {about["also"] for about in r.described().values() if "also" in about}
    assert shown == set(counted)


def test_no_setting_of_a_sweep_belongs_to_no_row_of_a_table():
    "The sweep of a table makes what its rows ask for, and nothing else."
    asked, made = {}, {}
    for _, row in ROWS:
        if row.only is not None:
            whole = override(ROOT / "sweeps" / f"{row.sweep}.yaml", {})
            part = narrow(whole, row.only)
            made[row.sweep] = {str(s) for s in _settings(whole)}
            asked[row.sweep] = asked.get(row.sweep, set()) | {str(s) for s in _settings(part)}
    assert asked == made


def _settings(spec) -> list:
    generators = settings_of(spec.generator) if spec.generator else [{}]
    return [(t, g) for t in settings_of(spec.tokenizer) for g in generators]


@pytest.mark.slow
@pytest.mark.parametrize("command", SWEPT, ids=_id)
def test_a_command_is_right_up_to_its_first_step(command, imagenet, weights, tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTVQ_LAB_WEIGHTS", str(weights))
    words = shlex.split(command.replace(r.IMAGENET, str(imagenet)))
    assert words[:2] == ["softvq-lab", "sweep"] and words[-2] == "--only"
    given = dict(w.split("=") for w in words[3:-2])
    only = SWEPT[command].only
    spec = narrow(override(ROOT / words[2], given), only)
    tasks = open_sweep(spec, tmp_path).tasks
    trained = [t for t in tasks if t.stage != "evaluation"]
    assert len({t.workflow for t in trained}) == 1 + bool(spec.generator)
    assert len(tasks) > len(trained) or any(t.parameters.get("online_every") for t in trained)
    c = check_parameters("train", trained[0].parameters)
    images = load_data(c.data, c.tokenizer.image_shape)
    assert (len(images.train), len(images.heldout), images.num_classes) == (32, 8, 2)
    assert all(needed.path for needed in preflight(c.tokenizer, c.loss))
    with torch.device("meta"):
        Tokenizer(c.tokenizer)
        if len(trained) > 1:
            g = check_parameters("train_generator", trained[1].parameters).generator
            bare_generator(g, c.tokenizer.tokens, c.tokenizer.latent_dim, 1000)


def test_commands_of_other_systems_have_known_parameters():
    for _, row in ROWS:
        if not row.run:
            continue
        _, notebook, _, *words = shlex.split(row.run)
        given = dict(zip(words[1::3], words[2::3]))
        assert words[::3] == ["-p"] * len(given)
        check_parameters(Path(notebook).stem, given)


@pytest.mark.parametrize(
    "table,scale",
    [pytest.param(t, s, id=f"{t.key}-{s}") for t in r.tables().values() for s in t.scales],
)
def test_the_rows_at_a_smaller_scale_are_parts_of_their_sweep(table, scale):
    "And the sweep has no others."
    spec, found = override(ROOT / "sweeps" / f"{table.sweeps[scale]}.yaml", {}), []
    for row in table.rows:
        if scale in row.small:
            own = {k: v for k, v in row.small[scale].items() if k != "step"}
            found += (part := narrow(spec, own)).tokenizer.list
            assert len(part.tokenizer.list) == 1
            check_parameters("train", part.tokenizer.set | part.tokenizer.list[0])
            if part.generator:
                check_parameters("train_generator", part.generator.set)
    assert all(entry in found for entry in spec.tokenizer.list)


def test_what_was_measured_again_replaces_what_was_before():
    def job(seed, value):
        return {"vary": {"tau": 0.07, "seed": seed}, "figures": {"fid": value}}

    before = {"a": [job(0, 1.0), job(1, 2.0)], "b": [job(0, 3.0)]}
    found = r.merged(before, {"a": [job(1, 5.0), job(2, 6.0)]})
    assert sorted(j["figures"]["fid"] for j in found["a"]) == [1.0, 5.0, 6.0]
    assert found["b"] == before["b"]


def test_a_claim_is_told_with_both_numbers_and_its_verdict():
    table = r.tables()["table3"]
    claim = {"says": "it is better", "column": "rfid", "pairs": [[13, 5], [14, 6], [15, 7]]}

    def job(quantizer, tokens, seed, value):
        vary = {"quantizer": quantizer, "tokens": tokens, "seed": seed}
        return {"vary": vary, "figures": {"r_reference_frechet": value}}

    measured = [
        *(job("softvq", 16, s, 1.0 + s / 10) for s in (0, 1)),
        *(job("vq", 16, s, 2.0 + s / 10) for s in (0, 1)),
        *(job("softvq", 8, s, 1.0 + s) for s in (0, 1)),
        *(job("vq", 8, s, 1.5 + s) for s in (0, 1)),
    ]
    first, second, third = r.comparison(table, {"digits-table3": measured}, claim)
    names = "SoftVQ-S, 256 x 8 : VQ-S, 256 x 8"
    assert first == ["rFID: it is better", names, "0.80 : 1.45", "1.05 : 2.05", "same"]
    assert second[::4] == ["", "undecided"] and third[3:] == ["not run : not run", ""]
    counts = [r.tally(table, {"digits-table3": measured}, claim, s) for s in r.SCALES]
    assert counts == ["1 same, 1 undecided", "not run"]
    pictures = job("softvq", 64, 0, 1.0)
    pictures["figures"] = {"r_tf_efficientnet_lite0_frechet": 1.0}
    first = r.comparison(table, {"digits-table3": measured, "pictures-table3": [pictures]}, claim)[
        0
    ]
    assert first[5:] == ["1 : not run", ""], "columns come with what was measured"
    one_seed = r.comparison(table, {"digits-table3": measured[:3]}, claim)[0]
    assert one_seed[4] == "same, one seed"


def test_reconstruction_and_generation_are_told_of_every_training():
    "A training that is in two tables counts once."
    rows = [row.small["digits"] for row in r.tables()["table3"].rows if row.small]
    both = ("r_reference_frechet", "reference_frechet")
    jobs = {
        "digits-table3": [
            {
                "vary": v | {"seed": seed},
                "figures": dict(zip(both, (2 * i + seed, 100 - 2 * i - seed))),
            }
            for i, v in enumerate(rows)
            for seed in (0, 1)
        ],
        "digits-table4": [
            {"vary": {"align": "none", "seed": 0}, "figures": dict(zip(both, (99.0, 1.0)))},
            {"vary": {"align": "reference", "seed": 0}, "figures": dict(zip(both, (0, 100)))},
        ],
    }
    found = r.both_distances(jobs, "digits")
    assert {k: len(v) for k, v in found.items()} == {
        "VQ-S": 8,
        "AE-S": 8,
        "SoftVQ-S": 8,
        "SoftVQ, teacher or none": 1,
    }
    assert r.scales_of_both(jobs) == ["paper", "digits"]
    paper, digits = r.both_lines(jobs)
    assert "over 23 trainings" in paper  # 17 and 6 rows
    assert "rank correlation -1.00 over 25 trainings" in digits
    assert "lowest rFID has place 25 in gFID" in digits
    panels = {t.xaxis for t in r.both_figure(jobs).data}
    assert panels == {"x", "x2"}


@pytest.mark.slow
def test_the_page_is_up_to_date():
    assert r.PAGE.read_text() == r.page()
