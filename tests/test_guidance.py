"""The guidance that suits a generator: found on a grid, written into the run, and used from then on
by whatever draws its samples.
"""

import json
import shutil

import pytest
import torch
from outside import papermill

from softvq_lab.core import ConfigError, read_json
from softvq_lab.evaluation.extractors import make_extractor
from softvq_lab.evaluation.guidance import best_of, try_guidance
from softvq_lab.evaluation.references import split_reference
from softvq_lab.evaluation.sampling import sample_settings, sample_to_folder
from softvq_lab.evaluation.scores import score_samples
from softvq_lab.explore.session import load_run
from softvq_lab.generators.base import Guidance
from softvq_lab.hub.models import SAMPLING, load_generator, load_pair, save, save_guidance
from softvq_lab.sample import Request, draw
from softvq_lab.settings.parse import parse
from softvq_lab.settings.workflows import GuidanceConfig


@pytest.fixture
def runs(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "runs")


# The grid


def test_a_setting_has_the_values_of_evaluate(trained, tmp_path):
    loaded = load_run(trained / "generator")
    judge = make_extractor("reference", loaded.images)
    against = split_reference(loaded.images, judge)
    how = dict(steps=2, seed=3)
    tried = try_guidance(
        loaded.generator,
        loaded.tokenizer,
        loaded.images,
        judge,
        against,
        2.0,
        (0.1, 0.6),
        100,
        10,
        **how,
    )
    assert tried.guidance == Guidance(2.0, 0.1, 0.6)
    sample_to_folder(
        loaded.generator,
        loaded.tokenizer,
        tmp_path / "s",
        100,
        guidance=2.0,
        interval=(0.1, 0.6),
        progress=False,
        **how,
    )
    found = score_samples(tmp_path / "s", loaded.images, judge, against, 100, 10)
    m = tried.measured
    assert m.figures == {k: found.figures[k] for k in m.figures} and len(m.figures) == 4
    assert m.intervals["reference_frechet"] == found.intervals["reference_frechet"]
    for name, (low, high) in m.intervals.items():
        assert low <= m.figures[name] <= high
    same = {k: v for k, v in m.passport.items() if k != "evaluator"}
    assert same == {k: found.passport[k] for k in same}
    assert best_of([tried], "reference_frechet") == (tried, [])


def test_the_grid_is_every_scale_with_every_interval_and_no_guidance_once():
    c = parse(GuidanceConfig, dict(scales="2,1,1.5", intervals="0:1,0.2:0.7"))
    whole, part = (0.0, 1.0), (0.2, 0.7)
    assert c.grid == [(1.0, whole), (1.5, whole), (1.5, part), (2.0, whole), (2.0, part)]
    assert parse(GuidanceConfig, dict(scales=3)).grid[0] == (3.0, whole), "typed by papermill"


@pytest.mark.parametrize(
    "given,says",
    [
        (dict(scales="1,two"), "scales='1,two': should be numbers separated by ','"),
        (dict(scales="-1"), "should be from 0 to 100"),
        (dict(intervals="0.7:0.1"), "each should be low:high in"),
        (dict(intervals="0.5"), "each should be low:high in"),
        (dict(by="beauty"), "by='beauty'"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_before_any_work(given, says):
    with pytest.raises(ConfigError) as e:
        parse(GuidanceConfig, given)
    assert says in str(e.value)


# The default of a run


def test_without_a_choice_a_run_is_sampled_as_before(trained):
    g = load_generator(trained / "generator")
    assert g.chosen is None and g.guidance == Guidance(2.25, 0.0, 0.7)


def test_the_choice_is_the_default_of_sampling_the_explorer_and_evaluate(runs):
    before = load_run(runs / "generator").generator
    chosen = Guidance(3.5, 0.2, 0.8)
    save_guidance(runs / "generator", chosen, by="reference_frechet", value=1.5)
    told = read_json(runs / "generator" / SAMPLING)
    assert told["guidance"] == 3.5 and told["chosen"]["by"] == "reference_frechet"

    generator, tokenizer = load_pair(runs / "generator")
    y = torch.arange(4)
    assert generator.guidance == chosen and generator.fingerprint == before.fingerprint
    given = before.sample(y, steps=2, guidance=3.5, interval=(0.2, 0.8))
    assert generator.sample(y, steps=2).equal(given)
    assert not before.sample(y, steps=2).equal(given)
    settings = sample_settings(generator, tokenizer)  # evaluate's, and its passport's
    assert (settings["guidance"], settings["interval"]) == (3.5, [0.2, 0.8])
    assert sample_settings(generator, tokenizer, guidance=1.5)["guidance"] == 1.5

    loaded = load_run(runs / "generator")
    assert loaded.generator.guidance == chosen, "the explorer notices"
    request = Request(runs / "generator", samples=4, steps=2, out=runs / "drawn")
    assert draw(request) == 0
    assert read_json(runs / "drawn" / "samples.json")["guidance"] == 3.5
    (runs / "generator" / SAMPLING).unlink()
    assert load_run(runs / "generator").generator.guidance == Guidance(2.25, 0.0, 0.7)


def test_a_saved_model_takes_its_choice_along(runs):
    save_guidance(runs / "generator", Guidance(3.5, 0.2, 0.8, "linear"))
    save(load_generator(runs / "generator"), runs / "saved")
    assert load_generator(runs / "saved").guidance == Guidance(3.5, 0.2, 0.8, "linear")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"guidance": 2}',
        '{"guidance": "2", "interval": [0, 1]}',
        '{"guidance": 2, "interval": [0, 1, 2]}',
        '{"guidance": 2, "interval": [0.8, 0.2]}',
        '{"guidance": -2, "interval": [0, 1]}',
        '{"guidance": 2, "interval": [0, 1], "schedule": "sine"}',
    ],
)
def test_a_choice_that_cannot_be_read_is_named_and_can_be_deleted(runs, content):
    (runs / "generator" / SAMPLING).write_text(content)
    with pytest.raises(ValueError) as e:
        load_generator(runs / "generator")
    assert f"{runs}/generator/sampling.json" in str(e.value) and "or delete it" in str(e.value)


# The notebook


def draw_grid(root, runs, **params):
    return papermill(root, runs.parent, "guidance", "runs/generator/guidance.ipynb", **params)


@pytest.mark.slow
def test_the_notebook_writes_the_best_only_when_asked(root, runs):
    run = runs / "generator"
    few = dict(run="runs/generator", samples=60, sample_steps=2, confidence=5, scales="1,2,4")
    done = draw_grid(root, runs, **few, intervals="0:1,0:0.5")
    assert done.returncode == 0, done.stderr
    found = json.loads((run / "evaluation" / "guidance.json").read_text())
    assert len(found["rows"]) == 5 and found["by"] == "reference_frechet"
    assert not (run / SAMPLING).exists()

    done = draw_grid(root, runs, **few, intervals="0:0.5", by="class_accuracy", write=True)
    assert done.returncode == 0, done.stderr
    rows = json.loads((run / "evaluation" / "guidance.json").read_text())["rows"]
    best = max(rows, key=lambda r: r["figures"]["class_accuracy"])["guidance"]
    assert load_generator(run).guidance == Guidance(**best)

    done = draw_grid(root, runs, **(few | {"run": "runs/tokenizer"}))
    assert done.returncode != 0 and "this notebook is about generators" in done.stderr
