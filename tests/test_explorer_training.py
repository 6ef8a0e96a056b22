"""The tab Runs, for who trains: going on with a run, and beginning another one like it."""

import re
import shutil

import pytest
from test_jobs import LONG, wait_for

from softvq_lab.core import read_json, write_json
from softvq_lab.experiments.job import cancel, is_alive, jobs, jobs_of, progress, start
from softvq_lab.explore.run_again import new_name
from softvq_lab.runs import Run, at_work, log_metrics


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    "The trained pair, and a run that this process says to train."
    runs = tmp_path_factory.mktemp("training") / "runs"
    shutil.copytree(trained, runs)
    config = read_json(runs / "generator" / "config.json")
    config["config"]["tokenizer_run"] = str(runs / "tokenizer")
    write_json(runs / "generator" / "config.json", config)
    shutil.copytree(runs / "tokenizer", runs / "busy")
    busy = Run(runs / "busy")
    with at_work(busy):
        busy.set_status("running", step=10, steps=100, seconds_per_step=2.0, seconds_left=None)
        yield runs


def watch(open_page, app, name: str):
    page = open_page(f"{app.url}?tab=runs&run={name}")
    page.locator(f"#runs-table button[data-run={name}]").click(timeout=60_000)
    page.locator("#watch-status", has_text=f"{name}:").wait_for(timeout=60_000)
    return page


def field(page, elem_id: str):
    return page.locator(f"#{elem_id} input, #{elem_id} textarea").first


def test_the_time_left_is_told_while_it_trains(open_page, app):
    page = watch(open_page, app, "busy")
    page.locator("#watch-status", has_text="running, step 10 of 100, 3 min left").wait_for()
    assert page.locator("#watch-go-on").is_disabled() and not field(page, "watch-until").count()


@pytest.mark.parametrize(
    "until,says",
    [
        ("10", "steps=10, but the run is at step 40 already"),
        ("", "has done all its 40 steps: ask for more"),
        ("40", "has done all its 40 steps: ask for more"),
        ("-3", "steps=-3"),
    ],
)
def test_a_run_that_cannot_go_on_says_so_at_once(until, says, open_page, app, runs):
    page = watch(open_page, app, "tokenizer")
    before = (runs / "tokenizer" / "config.json").read_text()
    assert field(page, "watch-until").input_value() == "40"
    field(page, "watch-until").fill(until)
    page.locator("#watch-go-on").click()
    page.locator("#watch-message", has_text=says).wait_for(timeout=20_000)
    page.wait_for_timeout(2500)  # a tick later it stands there still, and what was typed too
    assert says in page.locator("#watch-message").inner_text()
    assert field(page, "watch-until").input_value() == until
    assert (runs / "tokenizer" / "config.json").read_text() == before
    assert jobs(runs) == [] and Run(runs / "tokenizer").status["state"] == "done"


def test_pictures_of_a_training_by_a_slider(open_page, app, runs, looks):
    folder = runs / "busy" / "samples"
    for step in (10, 20):
        shutil.copy(folder / "step-000040.png", folder / f"step-{step:06d}.png")
    page = watch(open_page, app, "busy")
    page.locator("#training-step", has_text="After step 40").wait_for(timeout=20_000)
    page.locator("#training-picture img").wait_for()
    page.locator("#training-at input[type=number]").fill("1")
    page.locator("#training-step", has_text="After step 10").wait_for(timeout=20_000)
    shutil.copy(folder / "step-000040.png", folder / "step-000050.png")
    log_metrics(Run(runs / "busy"), 50, loss=0.1)
    page.wait_for_function(
        "document.querySelector('#training-at input[type=range]').max === '4'", timeout=20_000
    )
    assert page.locator("#training-step", has_text="After step 10").count()  # it stays there
    looks(page, "runs-training-pictures")


def test_a_finished_run_says_beforehand_that_it_needs_more_steps(open_page, app):
    page = watch(open_page, app, "tokenizer")
    page.locator("#watch-until", has_text="All 40 steps are done: ask for more").wait_for()


def test_a_stopped_run_says_where_it_goes_on(trained, tmp_path):
    from tabs.watch import standing

    run = Run(shutil.copytree(trained / "tokenizer", tmp_path / "a"))
    assert "Resume" not in standing(run)
    run.set_status("preempted", step=40, steps=100)
    assert "<b>Resume</b>, below, continues after step 40." in standing(run)
    shutil.rmtree(run.checkpoints)
    assert "continues at its beginning." in standing(run)


def test_the_page_opens_on_a_finished_run_before_stopped_and_failed_ones(trained, tmp_path):
    from tabs.picker import worth_opening

    created = {
        "older": "2020",
        "done": "2021",
        "stopped": "2022",
        "failed": "2023",
        "empty": "2024",
        "pool/of-a-sweep": "2025",
    }
    for name, date in created.items():
        shutil.copytree(trained / "tokenizer", tmp_path / name)
        config = read_json(tmp_path / name / "config.json") | {"created": f"{date}-01-01T00:00:00"}
        write_json(tmp_path / name / "config.json", config)
    for name, state in {"stopped": "preempted", "failed": "failed"}.items():
        Run(tmp_path / name).set_status(state, step=20, steps=40)
    shutil.rmtree(tmp_path / "empty" / "checkpoints")
    assert worth_opening(str(tmp_path)) == [
        "done",
        "older",
        "pool/of-a-sweep",
        "stopped",
        "failed",
    ]


def test_the_form_takes_a_folder_of_own_pictures_that_the_server_was_given(
    open_page, runs, tmp_path
):
    from served import Explorer

    given, other = tmp_path / "given", tmp_path / "other"
    for folder in (given / "birds", other):
        folder.mkdir(parents=True)
    app = Explorer(runs, tmp_path / "app", "--data", str(given))
    try:
        page = open_page(f"{app.url}?tab=runs&view=start")
        page.locator("#train-data_path", has_text=f"a folder in {given}").wait_for(timeout=60_000)
        page.locator("#train-data_path input").click()
        page.get_by_role("option", name=str(given / "birds")).wait_for()
        page.keyboard.press("Escape")
        field(page, "start-name").fill("mine")
        answer = page.locator("#start-answer textarea")
        for folder, says in {
            other: "lies outside the folders that the explorer was given",
            given / "birds": "data_path is only for dataset=",  # digits is chosen still
        }.items():
            field(page, "train-data_path").fill(str(folder))
            page.keyboard.press("Enter")
            page.locator("#start-go").click()
            page.wait_for_function(
                "says => document.querySelector('#start-answer textarea')?.value.includes(says)",
                arg=says,
            )
        assert answer.count() == 1 and jobs(runs) == []
    finally:
        app.close()


def test_a_form_is_filled_in_with_the_settings_of_a_run(open_page, app, runs, looks):
    page = watch(open_page, app, "tokenizer")
    page.locator("#watch-duplicate").click()
    field(page, "train-tokens").wait_for(timeout=20_000)
    page.wait_for_function(
        "document.querySelector('#start-name textarea, #start-name input').value"
    )
    assert field(page, "start-name").input_value() == "tokenizer-2"
    shown = [field(page, f"train-{n}").input_value() for n in ("tokens", "steps", "quantizer")]
    assert shown == ["8", "40", "softvq"]
    lines = field(page, "start-rest").input_value().splitlines()
    assert {"warmup_steps=5", "eval_every=40", "ema_warmup=true"} <= set(lines)
    assert not [line for line in lines if line.startswith(("run=", "resume=", "tokens=", "steps="))]
    looks(page, "runs-duplicate")
    field(page, "start-name").fill("tokenizer")
    page.locator("#start-go").click()
    page.wait_for_function(
        "document.querySelector('#start-answer textarea')?.value.includes("
        "'There is a run tokenizer already') && "
        "document.querySelector('#start-answer textarea').value.includes('tokenizer-2')"
    )
    assert jobs(runs) == []


def test_a_training_without_a_name_gets_the_one_that_the_form_shows(open_page, app, runs):
    page = open_page(f"{app.url}?tab=runs&view=start")
    shown = "document.querySelector('#start-name textarea, #start-name input')?.placeholder"
    page.wait_for_function(f"{shown} === 'softvq-32x8'", timeout=60_000)
    for elem_id, typed in {"train-tokens": "4", "train-data_path": "photos/birds"}.items():
        field(page, elem_id).fill(typed)
        page.keyboard.press("Enter")
        field(page, elem_id).blur()
    page.wait_for_function(f"{shown} === ''", timeout=20_000)  # digits have no folder
    field(page, "train-data_path").fill("")
    page.keyboard.press("Enter")
    page.wait_for_function(f"{shown} === 'softvq-4x8'", timeout=20_000)
    field(page, "start-rest").fill("tau=0.5")
    field(page, "start-rest").blur()
    page.wait_for_function(f"{shown} === 'softvq-4x8_tau-0.5'", timeout=20_000)
    page.locator("#start-go").click()
    page.locator("#watch-status", has_text="softvq-4x8_tau-0.5").or_(
        page.locator("#watch input")
    ).first.wait_for(timeout=60_000)
    (job,) = wait_for(lambda: jobs(runs), 60, "nothing was started")
    assert job.output.parent.name == "softvq-4x8_tau-0.5"
    assert cancel(job) and job.info["state"] == "preempted"
    shutil.rmtree(job.output.parent)


def test_a_name_tells_the_images(tmp_path):
    def name(**params):
        return new_name(tmp_path, "train", params)

    assert name() == "softvq-32x8"  # digits, the usual ones
    assert name(dataset="emoji", image_size=64) == "emoji_softvq-32x8_image_size-64"
    assert name(dataset="folder", data_path="my/birds", tokens=16) == "birds_softvq-16x8"
    of = dict(tokenizer_run="runs/birds", size="S")
    assert new_name(tmp_path, "train_generator", of) == "sit-S-of-birds"
    (tmp_path / "softvq-32x8").mkdir()
    assert name() == "softvq-32x8-2"


def test_the_form_of_a_generator_names_its_tokenizer(open_page, app, runs):
    page = watch(open_page, app, "generator")
    page.locator("#watch-duplicate").click()
    field(page, "train_generator-tokenizer_run").wait_for(timeout=20_000)
    page.wait_for_timeout(1000)  # the change of the workflow has arrived
    told = field(page, "train_generator-tokenizer_run").input_value()
    assert told == str(runs / "tokenizer")
    assert field(page, "train_generator-batch_size").input_value() == "32"
    assert field(page, "start-name").input_value() == "generator-2"


@pytest.mark.slow
def test_a_stopped_training_goes_on_from_its_page(open_page, app, runs):
    job = start("train", runs / "night", LONG | {"tokens": 7})
    wait_for(lambda: progress(job)[2] == "steps" and progress(job)[0] > 3, 200, job.last_lines)
    page = watch(open_page, app, "night")
    page.locator("#watch-status", has_text=re.compile(r"step \d+ of 100000, .* left")).wait_for(
        timeout=20_000
    )
    page.locator("#watch-stop").click()
    page.locator("#watch-status", has_text="night: stopped").first.wait_for(timeout=60_000)
    chosen = "document.querySelector('#run input').value"
    page.wait_for_function(f"{chosen}.includes('night  -  tokenizer, stopped')", timeout=30_000)
    saved = Run(runs / "night").status["step"]
    page.locator("#watch-go-on:not([disabled])").click(timeout=60_000)
    page.locator("#watch-message", has_text=f"go on from step {saved}").wait_for(timeout=30_000)
    page.locator("#watch-status", has_text="running").first.wait_for(timeout=60_000)
    page.wait_for_function(f"{chosen}.includes(', running')", timeout=60_000)
    (again,) = jobs_of(Run(runs / "night"))
    wait_for(lambda: Run(runs / "night").status["step"] > saved + 3, 200, again.last_lines)
    assert is_alive(again) and cancel(again)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tokenizer", "generator"])
def test_a_finished_training_goes_on_for_more_steps(name, open_page, app, runs):
    page = watch(open_page, app, name)
    field(page, "watch-until").fill("44")
    page.locator("#watch-go-on").click()
    page.locator("#watch-status", has_text="done, step 44 of 44").wait_for(timeout=200_000)
    assert read_json(runs / name / "config.json")["config"]["optim"]["steps"] == 44
    (job,) = jobs_of(Run(runs / name))
    wait_for(lambda: not is_alive(job), 100, job.last_lines)  # its notebook goes on a little
    assert job.info["state"] == "done", job.last_lines(40)
