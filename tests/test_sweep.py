"""Sweeps: what a file means, what runs once, and what a killed driver leaves behind."""

import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from softvq_lab import registry
from softvq_lab.cli import app
from softvq_lab.commands import read_settings
from softvq_lab.core import ConfigError, read_json, write_json
from softvq_lab.experiments.execute import Job, _outcome, stop
from softvq_lab.experiments.job import read_lines
from softvq_lab.experiments.parameters import check_parameters
from softvq_lab.experiments.scheduler import Local, drive
from softvq_lab.experiments.slurm import Slurm
from softvq_lab.experiments.sweep import (
    RandomConfig,
    StageConfig,
    SweepConfig,
    Task,
    narrow,
    open_sweep,
    override,
    plan,
    read_report,
    read_sweep,
    settings_of,
)
from softvq_lab.provenance import code_record
from softvq_lab.runs import Run
from softvq_lab.settings.typed_text import read_typed
from softvq_lab.train import images_of, prepare, train_here

FEW = dict(
    steps=6,
    warmup_steps=2,
    batch_size=8,
    tokens=4,
    eval_every=1000,
    checkpoint_every=1000,
    log_every=2,
    tracker="none",
)


# what a file means
def test_a_sweep_is_settings_times_seeds_through_its_stages(tmp_path):
    spec = dict(
        name="a",
        seeds=[0, 5],
        tokenizer=dict(set=FEW, grid=dict(tau=[0.1, 0.2, 0.3])),
        generator=dict(
            set=dict(steps=9, warmup_steps=2),
            list=[{"generator": "sit"}, {"generator": "dit", "lr": 1e-4}],
        ),
        evaluation=dict(set=dict(samples=20)),
    )
    tasks = plan(read_sweep(spec), tmp_path)
    assert Counter(t.stage for t in tasks) == {"tokenizer": 6, "generator": 12, "evaluation": 12}
    by_id = {t.id: t for t in tasks}
    for t in tasks:
        if t.stage == "generator":
            assert (
                t.parameters["tokenizer_run"] == by_id[t.needs].run
                and t.vary["tau"] == by_id[t.needs].vary["tau"]
            )
        if t.stage == "evaluation":
            assert t.parameters["run"] == by_id[t.needs].run == t.run and Path(
                t.output
            ).parent == Path(t.run)
    assert [t.vary["seed"] for t in tasks if t.stage == "tokenizer"] == [
        0,
        0,
        0,
        5,
        5,
        5,
    ]  # every setting once before any twice


def test_equal_settings_are_one_run_whoever_asks_and_however_they_are_written(tmp_path):
    a = plan(
        read_sweep(dict(name="a", tokenizer=dict(set=FEW, grid=dict(tau=[0.07, 0.5])))), tmp_path
    )
    b = plan(
        read_sweep(
            dict(
                name="b",
                tokenizer=dict(
                    set=FEW | dict(tracker="tensorboard", latent_dim=8),
                    list=[{}, {"tau": 0.5, "latent_dim": 4}, {"tau": "0.07"}],
                ),
            )
        ),
        tmp_path,
    )
    assert (
        len(b) == 2
        and b[0].id == a[0].id
        and b[0].output == a[0].output
        and b[1].id not in {t.id for t in a}
    )


def test_a_run_that_was_made_by_hand_is_found(trained, tmp_path):
    import shutil

    shutil.copytree(trained / "tokenizer", tmp_path / "mine")
    (tmp_path / "mine" / "evaluation").mkdir()
    (tmp_path / "mine" / "evaluation" / "reconstruction.json").write_text('{"figures": {}}')
    (t,) = plan(
        read_sweep(
            dict(
                name="a",
                tokenizer=dict(
                    set=dict(
                        tokens=8,
                        steps=40,
                        warmup_steps=5,
                        eval_every=40,
                        checkpoint_every=20,
                        ema_warmup=True,
                    )
                ),
            )
        ),
        tmp_path,
    )
    assert t.found and t.run == str(tmp_path / "mine")


def trained_task(root, **given):
    "The one task of a sweep, trained and measured as its job would have done."
    (task,) = tasks_of(root, **given)
    config = check_parameters(task.workflow, task.parameters)
    train_here(run := prepare(config, task.run, images_of(config)))
    (run.path / "evaluation").mkdir()
    (run.path / "evaluation" / "reconstruction.json").write_text('{"figures": {}}')
    return task


def tasks_of(root, accept="", **given):
    spec = {"name": "s", "tokenizer": {"set": FEW | {"image_size": 16} | given}}
    return plan(read_sweep(spec), root, accept)


SCALED = """
import torch
from softvq_lab.registry import register
from softvq_lab.quantizers.base import Quantizer, QuantOut
@register("quantizer", "doubled")
class Doubled(Quantizer):
    def __init__(self, config, width):
        super().__init__()
        self.s = torch.nn.Parameter(torch.ones(width))
    def forward(self, z):
        return QuantOut(z * self.s * 2.0, z)
"""


def test_a_plugin_that_was_edited_makes_another_job_and_the_plan_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTVQ_LAB_PLUGINS", "")
    (plugin := tmp_path / "doubled.py").write_text(SCALED)
    given = {"plugins": str(plugin), "quantizer": "doubled"}
    old = trained_task(tmp_path / "runs", **given)
    plugin.write_text(SCALED + "\n# nothing new\n")
    (same,) = tasks_of(tmp_path / "runs", **given)
    assert same.found and same.id == old.id and not same.note
    plugin.write_text(SCALED.replace("2.0", "3.0"))
    (new,) = tasks_of(tmp_path / "runs", **given)
    assert not new.found and new.id != old.id and new.run != old.run
    assert f"{old.run} has these settings but was made of something else (plugins:" in new.note
    (taken,) = tasks_of(tmp_path / "runs", accept="plugins", **given)
    assert taken.found and taken.run == old.run and taken.id == old.id
    del registry._registered["quantizer"]["doubled"]


def test_an_edited_library_makes_other_jobs_unless_that_is_accepted(tmp_path, monkeypatch):
    old = trained_task(tmp_path)
    edited = code_record() | {"training": "01234567"}
    monkeypatch.setattr("softvq_lab.experiments.sweep.code_record", lambda: edited)
    (new,) = tasks_of(tmp_path)
    assert new.id != old.id and not new.found and "(code: training)" in new.note
    (taken,) = tasks_of(tmp_path, accept="code")
    assert taken.found and taken.run == old.run
    with pytest.raises(ConfigError, match="'coed' is nothing that may differ"):
        tasks_of(tmp_path, accept="coed")


def test_a_pool_of_a_version_that_kept_no_record_is_taken_when_asked_for(tmp_path):
    old = trained_task(tmp_path)
    info = read_json(Path(old.run) / "config.json")
    write_json(Path(old.run) / "config.json", {k: v for k, v in info.items() if k != "identity"})
    Path(old.run).rename(tmp_path / "pool" / "as-it-was-called-then")
    (new,) = tasks_of(tmp_path)
    assert not new.found and "code: not recorded" in new.note
    assert tasks_of(tmp_path, accept="code")[0].run == str(tmp_path / "pool/as-it-was-called-then")


def test_images_that_moved_are_the_same_job_and_other_images_are_not(tmp_path):
    for i in range(20):
        (tmp_path / "a" / "xy"[i % 2]).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (i, 0, 0)).save(tmp_path / "a" / "xy"[i % 2] / f"{i}.bmp")

    def at(path):
        return tasks_of(tmp_path / "runs", dataset="folder", data_path=str(path))[0].id

    before = at(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert at(tmp_path / "b") == before
    Image.new("RGB", (16, 16), (200, 0, 0)).save(tmp_path / "b" / "x" / "4.bmp")
    assert at(tmp_path / "b") != before


@pytest.mark.parametrize(
    "change,says",
    [
        ({"tokenizr": {}}, "Did you mean 'tokenizer'?"),
        ({"name": "a/b"}, "name"),
        ({"seeds": []}, "seeds"),
        ({"tokenizer": {"grd": {}}}, "grd"),
        ({"tokenizer": {"set": {"tokns": 3}}}, "Did you mean 'tokens'?"),
        ({"tokenizer": {"grid": {"tokens": [4, 7], "codebooks": [4]}}}, "tokens=7"),
        ({"tokenizer": {"random": {"count": 2, "over": {"lr": {"low": 1}}}}}, "low"),
        ({"tokenizer": None}, "needs a stage"),
    ],
)
def test_a_mistake_anywhere_stops_before_any_work(tmp_path, change, says):
    with pytest.raises(ConfigError) as e:
        open_sweep({"name": "a", "tokenizer": {}} | change, tmp_path)
    assert says in str(e.value)
    assert not any(tmp_path.iterdir())


def test_settings_on_the_command_line_replace_fixed_ones_only():
    spec = dict(name="a", tokenizer=dict(set=dict(steps=9), grid=dict(tau=[0.1])))
    assert override(spec, {"steps": 7, "lr": 0.1}).tokenizer.set == {"steps": 7, "lr": 0.1}
    for how in ("grid", "list", "random"):
        stage = {
            "grid": {"grid": {"tau": [0.5, 0.7]}},
            "list": {"list": [{"tau": 0.5}, {"lr": 0.1}]},
            "random": {"random": {"count": 2, "over": {"tau": [0.5, 0.7]}}},
        }[how]
        with pytest.raises(ConfigError, match="tau varies in the sweep a"):
            override({"name": "a", "tokenizer": stage}, {"tau": 1.0})
    with pytest.raises(ConfigError, match="tau is drawn at random"):
        narrow({"name": "a", "tokenizer": stage}, {"tau": 0.5})


def test_parts_of_a_sweep_have_names_of_their_own_however_much_they_are_told_by():
    row = dict(quantizer="softvq", tokens=16, latent_dim=64, codebook_size=256, learn_tau=False)
    grid = {k: [v] for k, v in row.items()} | {"revive": [False], "tau": [0.07, 0.1]}
    spec = dict(name="of-many-settings", seeds=[0, 1], tokenizer=dict(grid=grid))
    parts = [
        narrow(spec, row | {"revive": False, "tau": tau, "seed": s}).name
        for tau in (0.07, 0.1)
        for s in (0, 1)
    ]
    assert len(set(parts)) == 4 and max(map(len, parts)) == 100
    assert narrow(spec, {"tau": 0.1, "seed": 1}).name == "of-many-settings-tau-0.1_seed-1"


@pytest.mark.slow
def test_the_sweeps_of_the_project_are_all_valid(root, tmp_path):
    files = sorted((root / "sweeps").glob("*.yaml"))
    sweeps = {f.stem: open_sweep(f, tmp_path) for f in files}
    assert all(name == s.spec.name for name, s in sweeps.items())
    small = {name.removeprefix("digits-") for name in sweeps if name.startswith("digits-table")}
    assert small == {"table3", "table4", "table5", "table8"}
    assert {f"paper-{table}" for table in small} < sweeps.keys()  # the same at the paper's size
    assert all(sweeps[f"digits-{table}"].spec.seeds == [0, 1, 2] for table in small)


def test_an_option_of_an_executor_that_is_unknown_is_named():
    with pytest.raises(ConfigError, match="Did you mean 'partition'?"):
        Slurm(partitions="gpu")
    with pytest.raises(ConfigError, match="at least one job"):
        Local(-1)


def test_what_ended_a_notebook_is_told_apart():
    class Raised(Exception):
        ename, evalue = "Preempted", "SIGTERM asked to stop"

    class DeadKernelError(RuntimeError):
        pass

    assert (
        _outcome(Raised())[0] == "preempted"
        and _outcome(DeadKernelError("Kernel died"))[0] == "interrupted"
        and _outcome(ValueError("x")) == ("failed", "ValueError: x")
    )
    state, reason = _outcome(DeadKernelError("Kernel died"), passed="SIGTERM")
    assert state == "preempted" and "SIGTERM asked to stop" in reason  # nobody killed it


# what a killed driver leaves behind
DRIVER = "import sys; from softvq_lab.cli import app; app()"


def driver(folder: Path, *more) -> subprocess.Popen:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PLOTLY_RENDERER": "plotly_mimetype"}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, "sweep", "eight.yaml", "--jobs", "3", *more],
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_eight_runs_one_fails_the_driver_is_killed_and_started_again(tmp_path):
    (tmp_path / "empty").mkdir()
    eight = (
        [{"latent_dim": d} for d in (4, 6, 8)]
        + [{"dataset": "folder", "data_path": "empty"}]
        + [{"latent_dim": d} for d in (10, 12, 14, 16)]
    )
    (tmp_path / "eight.yaml").write_text(
        yaml.safe_dump(dict(name="eight", tokenizer=dict(set=FEW, list=eight)))
    )
    first, report = driver(tmp_path), tmp_path / "runs" / "sweeps" / "eight" / "sweep.json"
    deadline = time.time() + 200
    while (
        not report.exists()
        or not (counts := read_json(report)["counts"])["done"]
        or not counts["running"]
    ):
        assert time.time() < deadline and first.poll() is None, (
            first.stdout.read() if first.poll() is not None else "no run ended"
        )
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    left = read_report(report)
    assert (
        left["driver"]["state"] == "gone"
        and 0 < left["counts"]["done"] < 8
        and len(left["tasks"]) == 8
    )

    again = driver(tmp_path)
    said, _ = again.communicate(timeout=300)
    end = read_report(report)
    assert again.returncode == 1 and end["driver"]["state"] == "ended", said
    assert end["counts"] == {"planned": 0, "queued": 0, "running": 0, "done": 7, "failed": 1}, said
    (failed,) = [t for t in end["tasks"] if t["state"] == "failed"]
    assert (
        failed["vary"]["data_path"] == "empty"
        and "empty" in failed["reason"]
        and failed["reason"] in Job(tmp_path / failed["output"]).last_lines()
    )
    assert [t["attempts"] for t in end["tasks"]] == [1] * 8, "something ran twice"
    assert all(
        t["state"] != "done" or Run(tmp_path / t["run"]).status["state"] == "done"
        for t in end["tasks"]
    )
    assert all((tmp_path / t["output"]).read_text().count('"papermill"') for t in end["tasks"])

    third = driver(
        tmp_path
    )  # nothing is left to do, and a failure is not tried again unless one asks
    third.communicate(timeout=60)
    assert [t["attempts"] for t in read_report(report)["tasks"]] == [
        1
    ] * 8 and third.returncode == 1


def test_a_job_whose_process_is_killed_is_resumed_and_one_that_always_dies_is_given_up(
    tmp_path, monkeypatch
):
    class Dying:
        "Jobs that die at once, without a word."

        name, begun = "dying", 0

        def room(self, busy):
            return 1

        def start(self, task, busy):
            self.begun += 1

        def states(self, tasks):
            return {t.id: t.job.info for t in tasks}

        def stop(self, tasks):
            pass

    sweep, executor = open_sweep(dict(name="a", tokenizer=dict(set=FEW)), tmp_path), Dying()
    assert not drive([sweep], executor, attempts=3, poll=0)
    (t,) = read_report(sweep.folder)["tasks"]
    assert executor.begun == 3 and t["state"] == "failed" and "ended 3 times" in t["reason"]
    assert not drive([sweep], executor, attempts=3, poll=0) and executor.begun == 3
    assert not drive([sweep], executor, attempts=2, poll=0, retry=True) and executor.begun == 5


def test_a_job_that_a_person_stops_stays_stopped_until_it_is_asked_for_again(tmp_path):
    class Sleeping:
        "Jobs that sleep until a person stops them, and then save and end."

        name, begun = "sleeping", 0

        def room(self, busy):
            return 1

        def start(self, task, busy):
            self.process = subprocess.Popen(["sleep", "60"])
            task.job.say(
                "running",
                pid=self.process.pid,
                created=psutil.Process(self.process.pid).create_time(),
                host=platform.node(),
            )
            self.begun += 1
            assert stop(task.job, for_good=True) and self.process.wait(10) == -signal.SIGTERM
            task.job.say("preempted")

        def states(self, tasks):
            return {t.id: t.job.info for t in tasks}

    sweep, executor = open_sweep(dict(name="a", tokenizer=dict(set=FEW)), tmp_path), Sleeping()
    for retry, begun in ((False, 1), (False, 1), (True, 2)):
        assert not drive([sweep], executor, poll=0, retry=retry) and executor.begun == begun
        (t,) = read_report(sweep.folder)["tasks"]
        assert t["state"] == "failed" and "it was stopped" in t["reason"]


# several sweeps on one page
def test_sweeps_join_to_one_report_in_which_shared_runs_count_once(tmp_path):
    from softvq_lab.experiments.sweep import join_reports

    reports = []
    for name, steps, vary in (("a", 6, "tau"), ("b", 6, "latent_dim"), ("c", 7, "tau")):
        sweep = open_sweep(
            dict(
                name=name,
                tokenizer=dict(
                    set=FEW | dict(steps=steps),
                    grid={vary: [0.07, 0.5] if vary == "tau" else [8, 4]},
                ),
            ),
            tmp_path,
        )
        sweep.write({t.id: {"state": "planned", "reason": None} for t in sweep.tasks}, "local")
        reports.append(read_report(sweep.folder))
    both = join_reports(reports[:2])
    assert len(both["tasks"]) == 3 == both["counts"]["planned"] and both["name"] == "a, b"
    assert [t["label"] for t in both["tasks"]] == [
        "tau=0.07, seed=0, latent_dim=8",
        "tau=0.5, seed=0",
        "latent_dim=4, seed=0",
    ]
    other = join_reports([reports[0], reports[2]])
    assert len({t["label"] for t in other["tasks"]}) == 4, (
        "other steps, other settings: never averaged"
    )


@pytest.mark.parametrize(
    "typed,value",
    [
        ("1e-5", 1e-5),
        ("3E4", 3e4),
        ("-.5", -0.5),
        ("1_000", 1000),
        ("0x20", 32),
        ("true", True),
        ("yes", "yes"),
        ("Off", "Off"),
        ("010", "010"),
        ("1:30", "1:30"),
        ("2026-11-26", "2026-11-26"),
        ("'1e-5'", "1e-5"),
        ("null", None),
        ("=", "="),
    ],
)
def test_a_value_is_what_it_looks_like_wherever_it_is_typed(tmp_path, typed, value):
    (tmp_path / "a.yaml").write_text(f"name: a\ntokenizer:\n  set: {{lr: {typed}}}\n")
    in_file = read_sweep(tmp_path / "a.yaml").tokenizer.set["lr"]
    for found in (in_file, read_settings([f"lr={typed}"])["lr"], read_lines(f"lr = {typed}")["lr"]):
        assert found == value and type(found) is type(value)


BOMB = "a0: &a0 [x, y]\n" + "".join(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]\n" for i in range(1, 15))
WRONG_FILES = {
    "seeds: [0]\nname: a\ntokenizer: {set: {lr: 1, tau: 2, lr: 3}}": "line 3: lr is given twice",
    "name: a\nname: b\ntokenizer: {}": "line 2: name is given twice",
    "name: a\ntokenizer:\n\tset: {}": "line 3: ",
    "name: a\ntokenizer: {set: {1: 2}}": "line 2: 1 is no name",
    "name: a\ntokenizer: {set: {lr: .nan}}": "line 2: .nan is not a number",
    "name: a\n\ntokenizer: {grid: {lr: [1, 1e999]}}": "line 3: 1e999 is not a number",
    "name: a\ntokenizer: {grid: {lr: []}}": "tokenizer.grid.lr (line 2): is empty",
    "name: a\ntokenizer:\n  grid:\n    lr: 0.1": (
        "tokenizer.grid.lr (line 4): should be a valid list"
    ),
    "name: a\ntokenizer:\n  grid:\n    lr: [0.001, 1e-3]": "grid.lr (line 4): 0.001 is there twice",
    "name: a\ntokenizer: {list: [{lr: 1}, {lr: 1}]}": "is there twice",
    "name: a\ntokenizer: {list: []}": "tokenizer.list (line 2): is empty",
    "name: a\nseeds: [1, 2, 1]\ntokenizer: {}": "seeds (line 2): 1 is there twice",
    "name: a\nseeds: 3\ntokenizer: {}": "seeds (line 2): should be a valid list, such as [3]",
    "name: a\nseeds: [true]\ntokenizer: {}": "seeds.0 (line 2)",
    "name: a\nseeds: [-2]\ntokenizer: {}": "seeds.0 (line 2)",
    "name: a\ntokenizer: {set: {lr: [1, 2]}}": "what varies goes into grid",
    "name: a\ntokenizer: {grid: {tokens: [[4], [8]]}}": "tokenizer.grid.tokens.0 (line 2)",
    "name: a\ntokenizer: {set: {run: x}}": "run is given by the sweep",
    "name: a\ntokenizer: {grid: {seed: [1, 2]}}": "seed is given by the seeds",
    "name: a\ntokenizer: {grid: {lr: [1, 2]}, list: [{lr: 3}]}": "lr varies in two of",
    "name: a\ntokenizer: {}\ngenerator:": "generator is empty",
    "name: a\ntokenizer: {}\ndecoder: {}": "decoder (line 3): unknown",
    "name: ../a\ntokenizer: {}": "name (line 1)",
    "name: 2026-11-26T10:00:00\ntokenizer: {}": "name (line 1)",
    "": "is not a sweep",
    "- a": "is not a sweep",
    "name: a\n---\nname: b": "line 2",
    "name: [": "line 1",
    "name: !!python/name:os.system\ntokenizer: {}": "line 1: ",
    f"{BOMB}name: a\ntokenizer: {{grid: {{lr: *a14}}}}": "aliases counted",
    "a: &a {b: *a}\nname: a": "line 1",
    "[" * 20_000: "nested too deeply",
    "a: " + "9" * 5000: "is not a number",
    "# " + "x" * (1 << 20): "larger than 1 MB",
    b"name: a\nabout: caf\xe9": "line 2: it is not UTF-8",
    b"name: a\0": "cannot be read",
}
OVER = {
    "{low: 0, high: 1, log: true}": "log needs a low above 0",
    "{low: -1e-5, high: 1, log: true}": "log needs a low above 0",
    "{low: 1, high: 1}": "low should be less than high",
    "{low: a, high: b}": "should be numbers",
    "{low: false, high: true}": "should be numbers",
    "{low: -1e308, high: 1e308}": "low should be less",
    "{low: 1}": "should be a list to choose from",
    "{low: 1, high: 2, step: 1}": "should be a list to choose from",
    "{low: 1, high: 2, log: yes}": "log should be true or false",
    "[]": "is empty",
    "[a, a]": "is there twice",
}
WRONG_FILES |= {
    f"name: a\ntokenizer: {{random: {{count: 3, over: {{lr: {o}}}}}}}": s for o, s in OVER.items()
}
WRONG_FILES["name: a\ntokenizer: {random: {count: 3, over: {}}}"] = "over (line 2)"
WRONG_FILES["name: a\ntokenizer: {random: {count: 1000000, over: {lr: [1]}}}"] = "count (line 2)"


@pytest.mark.parametrize("text,says", WRONG_FILES.items(), ids=lambda t: str(t)[:40])
def test_a_mistake_in_a_file_is_named_with_its_line(tmp_path, text, says):
    path = tmp_path / "night.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as e:
        open_sweep(path, tmp_path / "runs")
    assert "night.yaml" in str(e.value) and says in str(e.value)
    assert not (tmp_path / "runs").exists()


def test_a_sweep_of_a_million_jobs_is_refused_before_it_is_counted_out():
    grid = {k: list(range(100)) for k in ("tokens", "codebook_size", "steps")}
    with pytest.raises(ConfigError, match="1,000,000 jobs"):
        read_sweep({"name": "a", "tokenizer": {"grid": grid}})
    few = {k: list(range(5)) for k in ("tokens", "steps")}  # stages are multiplied too
    with pytest.raises(ConfigError, match="97,650 jobs"):
        read_sweep(
            {
                "name": "a",
                "seeds": list(range(6)),
                "tokenizer": {"grid": few},
                "generator": {"grid": few},
                "evaluation": {"grid": few},
            }
        )


def test_a_setting_given_to_a_sweep_is_checked_like_the_file():
    sweep = {"name": "a", "tokenizer": {"grid": {"tau": [0.1, 1]}}}
    assert override(sweep, read_settings(["lr=1e-5"])).tokenizer.set == {"lr": 1e-5}
    for words, says in ((["seed=3"], "seeds of the sweep"), (["lr=[1, 2]"], "one value")):
        with pytest.raises(ConfigError, match=says):
            override(sweep, read_settings(words))
    with pytest.raises(ConfigError, match="lr is given twice"):
        read_settings(["lr=1", "lr=2"])


def test_anchors_save_typing_and_a_folder_or_device_is_no_sweep(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "name: a\ntokenizer: {set: &short {steps: 60, tokens: 8}}\ngenerator: {set: {<<: *short, "
        "steps: 70}}\n"
    )
    assert read_sweep(tmp_path / "a.yaml").generator.set == {"steps": 70, "tokens": 8}
    for path in (tmp_path, "/dev/zero"):
        with pytest.raises(ConfigError, match="is not a file"):
            read_sweep(path)


def test_the_example_of_the_page_is_planned_as_the_page_says(root, tmp_path, monkeypatch):
    page = (root / "docs" / "sweeps.md").read_text()
    (example,) = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    (tmp_path / "temperatures.yaml").write_text(example)
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(app, ["sweep", "temperatures.yaml", "--dry"])
    assert told.exit_code == 0, told.output
    count = re.search(r"(\d+) tokenizers, (\d+) generators and (\d+) evaluations: (\d+) jobs", page)
    stages = ("tokenizer", "generator", "evaluation")
    assert [len(re.findall(rf" {s} ", told.output)) for s in stages] == [16, 16, 16]
    assert count.groups() == ("16", "16", "16", "48") and "48 jobs" in told.output
    assert not (tmp_path / "runs").exists(), "a plan writes nothing"


def test_the_page_names_every_key_of_a_sweep_file(root):
    page = (root / "docs" / "sweeps.md").read_text()
    keys = [*SweepConfig.__dataclass_fields__, *StageConfig.__dataclass_fields__]
    assert [k for k in keys if f"`{k}`" not in page] == []
    (random,) = re.findall(r"^\| `random` \|.*`(\{count.*\})` \|$", page, re.M)
    assert settings_of(StageConfig(random=RandomConfig(**read_typed(random, "the page")[0])))


def test_a_stage_of_generators_alone_depends_on_the_tokenizer_it_uses(
    trained, tmp_path, monkeypatch
):
    "Also on the default one: trained anew, it makes other jobs."
    monkeypatch.chdir(tmp_path)
    shutil.copytree(trained / "tokenizer", tmp_path / "runs" / "tokenizer")
    spec = dict(name="s", generator=dict(set=dict(steps=2, warmup_steps=1)))
    (before,) = plan(open_sweep(spec, tmp_path / "runs").spec, tmp_path / "runs")
    info = read_json(tmp_path / "runs" / "tokenizer" / "config.json")
    info["config"]["optim"]["lr"] = 0.5
    write_json(tmp_path / "runs" / "tokenizer" / "config.json", info)
    (after,) = plan(open_sweep(spec, tmp_path / "runs").spec, tmp_path / "runs")
    assert before.id != after.id


def test_jobs_get_the_gpus_that_this_process_may_see(monkeypatch, tmp_path):
    monkeypatch.setattr("softvq_lab.experiments.scheduler.gpus", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-abc")
    given = []
    monkeypatch.setattr(
        "softvq_lab.experiments.scheduler.start", lambda job, env: given.append(env) or Popened()
    )
    executor = Local()
    assert executor.n == 2

    def task(name, **parameters):
        return Task(name, "tokenizer", "train", parameters, str(tmp_path / name / "n.ipynb"), "")

    first, second, both = task("a"), task("b"), task("c", processes=2)
    for t, busy in ((first, []), (second, [first]), (both, [])):
        with t.job.planning():
            t.job.plan("train", {})
        executor.start(t, busy)
    assert [e["CUDA_VISIBLE_DEVICES"] for e in given] == ["2", "GPU-abc", "2,GPU-abc"]
    assert executor.room([first]) == 1 and executor.room([both]) == 0 and Local(5).room([both]) == 4
    with pytest.raises(ConfigError, match="at least one job"):
        Local(0)


class Popened:
    def poll(self):
        return None
