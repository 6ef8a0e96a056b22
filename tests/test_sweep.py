"""Sweeps: what a file means, what runs once, and what a killed driver leaves behind."""

import os
import platform
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest
import yaml

from softvq_lab.core import read_json
from softvq_lab.runs import Run
from softvq_lab.strict import ConfigError
from softvq_lab.workbench.execute import Job, _outcome, stop
from softvq_lab.workbench.executors import Local, drive
from softvq_lab.workbench.slurm import Slurm
from softvq_lab.workbench.sweep import open_sweep, override, plan, read_report, read_sweep

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
                    set=dict(tokens=8, steps=40, warmup_steps=5, eval_every=40, checkpoint_every=20)
                ),
            )
        ),
        tmp_path,
    )
    assert t.found and t.run == str(tmp_path / "mine")


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
    with pytest.raises(ConfigError, match="tau varies in the sweep a"):
        override(spec, {"tau": 1.0})


def test_the_sweeps_of_the_project_are_all_valid(root, tmp_path):
    files = sorted((root / "sweeps").glob("*.yaml"))
    kinds = {f.stem.partition("-")[0]: set() for f in files}
    for f in files:
        kinds[f.stem.partition("-")[0]].add(f.stem.partition("-")[2])
    assert (
        kinds["digits"]
        == kinds["paper"]
        == {"quantizer", "codebook", "latent", "tau", "tokens", "alignment"}
    )
    sweeps = {f.stem: open_sweep(f, tmp_path) for f in files}
    assert all(f.stem == s.spec.name for f, s in zip(files, sweeps.values()))
    table5 = [sweeps[f"digits-{n}"] for n in ("quantizer", "codebook", "latent", "tau")]
    assert len({t.id for s in table5 for t in s.tasks}) <= 60 < sum(
        len(s.tasks) for s in table5
    ) and all(s.spec.seeds == [0, 1, 2] for s in table5)


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


# what a killed driver leaves behind
DRIVER = "import sys; from softvq_lab.workbench.cli import app; app()"


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
    from softvq_lab.workbench.sweep import join_reports

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
