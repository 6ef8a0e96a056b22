"""A page of the explorer that is left open while its first training begins."""

import json
import shutil

import pytest

from softvq_lab.core import read_json, write_json
from softvq_lab.runs import Run, at_work


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    runs = tmp_path_factory.mktemp("waiting") / "runs"
    runs.mkdir()
    return runs


def test_what_comes_appears_without_a_reload(open_page, app, runs, trained):
    page = open_page(app.url)
    page.get_by_text("No run yet.").wait_for(timeout=60_000)
    unfinished = shutil.ignore_patterns("step-*")
    shutil.copytree(trained / "tokenizer", runs / "first", ignore=unfinished)
    page.wait_for_function(
        "document.querySelector('#run input')?.value.startsWith('first ')", timeout=20_000
    )
    assert not page.get_by_text("No run yet.").is_visible()
    page.wait_for_timeout(1000)
    assert page.locator("#rec-reconstruction img").count() == 0
    shutil.copytree(trained / "tokenizer", runs / "first", dirs_exist_ok=True)
    page.locator("#rec-reconstruction img").first.wait_for(timeout=30_000)
    page.locator("#rec-heldout button img").nth(3).wait_for(timeout=30_000)
    page.wait_for_function("location.search.includes('run=first')")


def test_nothing_is_asked_while_nothing_is_awaited(open_page, app, runs, trained):
    shutil.copytree(trained / "tokenizer", runs / "first", dirs_exist_ok=True)
    page = open_page(f"{app.url}?run=first")
    page.locator("#rec-reconstruction img").first.wait_for(timeout=60_000)
    page.wait_for_timeout(4000)  # a look that was asked for before
    asked = []
    page.on("request", lambda r: asked.append(r) if "queue/join" in r.url else None)
    page.wait_for_timeout(8000)
    assert asked == []


def test_the_chosen_run_stays_while_another_one_begins(open_page, app, runs, trained):
    shutil.copytree(trained / "tokenizer", runs / "first", dirs_exist_ok=True)
    config = json.loads((trained / "tokenizer" / "config.json").read_text())
    (runs / "begun").mkdir()
    (runs / "begun" / "config.json").write_text(json.dumps(config | {"created": "2999-01-01"}))
    page = open_page(f"{app.url}?run=begun")
    page.wait_for_function(
        "document.querySelector('#run input')?.value.startsWith('begun ')", timeout=60_000
    )
    page.wait_for_timeout(4000)
    shutil.copytree(trained / "tokenizer", runs / "third")
    page.locator("#run input").click()
    page.get_by_role("option", name="third").wait_for(timeout=20_000)
    page.keyboard.press("Escape")
    assert page.locator("#run input").input_value().startswith("begun ")


def test_sample_says_how_far_the_only_generator_is_and_waits_for_it(open_page, app, runs, trained):
    shutil.copytree(trained / "tokenizer", runs / "first", dirs_exist_ok=True)
    run = Run(runs / "drawer")
    shutil.copytree(trained / "generator", run.path, ignore=shutil.ignore_patterns("step-*"))
    config = read_json(run.path / "config.json")
    config["config"]["tokenizer_run"] = str(runs / "first")
    write_json(run.path / "config.json", config)
    page = open_page(f"{app.url}?run=first&tab=sample")
    says = page.locator("#sample-message")
    with at_work(run):
        run.set_status("running", step=120, steps=2000, seconds_per_step=0.1, seconds_left=180.0)
        page.locator(
            "#sample-message", has_text="drawer is in training: step 120 of 2000"
        ).wait_for(timeout=60_000)
        assert "3 min left" in says.inner_text() and page.locator("#go").is_disabled()
        run.set_status("running", step=140)
        page.locator("#sample-message", has_text="step 140 of 2000").wait_for(timeout=20_000)
    run.set_status("preempted")
    page.locator("#sample-message", has_text="it ended at step 140 of 2000 (preempted)").wait_for(
        timeout=20_000
    )
    shutil.copytree(trained / "generator" / "checkpoints", run.checkpoints, dirs_exist_ok=True)
    page.locator("#go:not([disabled])").wait_for(timeout=30_000)
    assert "drawer draws" in says.inner_text()
