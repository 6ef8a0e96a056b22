"""Where the time of a training step goes, of real steps of a real task."""

import json

import pytest
from test_workflows import papermill

from softvq_lab.core import ConfigError
from softvq_lab.settings.parse import parse
from softvq_lab.settings.workflows import ProfileConfig
from softvq_lab.train import images_of, make_task, prepare
from softvq_lab.training.profile import profile_steps

SMALL = dict(steps=10, warmup_steps=2, batch_size=8, tokens=8, tracker="none")


def profiled(folder, **params):
    c = parse(ProfileConfig, SMALL | params)
    run = prepare(c, folder / "run", images_of(c))
    return profile_steps(make_task(run, c), run, c.optim, engine=c.engine, steps=2, warm=1)


def test_more_steps_than_the_training_has_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="profile_steps=9.*steps=10"):
        parse(ProfileConfig, SMALL | {"profile_steps": 9})


def test_every_part_of_a_step_is_named_and_the_shares_are_a_whole(tmp_path):
    found = profiled(tmp_path, percep="reference", adv="reference", align="reference")
    ways = {(r["part"], r["phase"]) for r in found.rows()}
    for part in ("encoder", "quantizer", "decoder", "percep", "aligner", "discriminator"):
        assert {(part, "forward"), (part, "backward")} <= ways, part
    assert {
        ("optimizer", "update"),
        ("averaged weights", "update"),
        ("clipping", "update"),
        ("data", "update"),
    } <= ways
    assert sum(r["share"] for r in found.rows()) == pytest.approx(1) and all(
        r["seconds"] >= 0 for r in found.rows()
    )


def test_the_parts_that_stay_still_have_no_backward_pass(tmp_path, trained):
    found = profiled(tmp_path, start_from=str(trained / "tokenizer"), train_only="decoder")
    assert {r["phase"] for r in found.rows() if r["part"] == "encoder"} == {"forward"}


@pytest.mark.slow
def test_the_notebook_as_papermill_runs_it(root, tmp_path):
    done = papermill(root, tmp_path, "profile", "p.ipynb", profile_steps=1, **SMALL)
    assert done.returncode == 0, done.stderr
    told = (tmp_path / "p.ipynb").read_text()
    assert "s a step of 8 images" in told and "| encoder |" in told.replace("\\n", "\n")
    assert any(
        "application/vnd.plotly.v1+json" in o.get("data", {})
        for c in json.loads(told)["cells"]
        for o in c.get("outputs", [])
    )
    assert not (tmp_path / "runs").exists(), "a profile leaves no run behind"
