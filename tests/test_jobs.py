"""Jobs: real papermill processes on tiny runs, and the command line that serves them."""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from softvq_lab.checkpoints import steps_of
from softvq_lab.core import ConfigError, read_json, write_json
from softvq_lab.experiments.execute import Job
from softvq_lab.experiments.job import (
    cancel,
    family,
    is_alive,
    jobs,
    process_of,
    progress,
    resume,
    run_of,
    start,
)
from softvq_lab.runs import figures

LONG = dict(
    tokens=4,
    steps=100_000,
    warmup_steps=2,
    batch_size=8,
    log_every=2,
    eval_every=100_000,
    checkpoint_every=100_000,
)


@pytest.fixture
def trained(trained, tmp_path):
    return shutil.copytree(
        trained, tmp_path / "trained"
    )  # jobs write into runs, and the pair belongs to all tests


def wait_for(true, seconds: float, what: str):
    until = time.time() + seconds
    while not (found := true()):
        assert time.time() < until, what() if callable(what) else what
        time.sleep(0.3)
    return found


def gone(p: psutil.Process) -> bool:
    try:
        return p.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    "workflow,params,says",
    [
        ("train", {"tokns": 8}, "Did you mean 'tokens'"),
        ("train", {"tokens": "many", "steps": 0}, "steps"),
        ("train", {"tau; import os": 1}, "tau; import os"),
        ("train", {"run": "/tmp/x"}, "chosen already"),
        ("trian", {}, "train_generator"),
        ("evaluate", {}, "holds no run"),
        (
            "train",
            {"percep": "timm:not-a-network"},
            "pretrained weights are missing",
        ),
        ("train", {"weights": "nowhere"}, "weights='nowhere' is not there"),
        ("evaluate", {"weights": __file__}, "is a file: name the folder"),
        ("train", {"percep_file": "vgg.pth"}, "unknown. 'weights' took its place"),
        ("train", {"codebooks": 5, "tokens": 48}, "codebooks=5"),
    ],
)
def test_nothing_starts_with_wrong_parameters(tmp_path, workflow, params, says):
    with pytest.raises(ConfigError, match=says):
        start(workflow, tmp_path / "a", params)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_not_trained_over(trained):
    before = (trained / "tokenizer" / "config.json").read_text()
    with pytest.raises(ConfigError, match="already holds a run"):
        start("train", trained / "tokenizer", {})
    assert (trained / "tokenizer" / "config.json").read_text() == before and jobs(trained) == []


def test_a_run_that_cannot_go_on_with_such_settings_says_so_before_anything_is_started(trained):
    run = trained / "tokenizer"
    generator = read_json(trained / "generator" / "config.json")
    generator["config"]["tokenizer_run"] = str(run)
    write_json(trained / "generator" / "config.json", generator)
    with pytest.raises(ConfigError, match="tokens: 8 there, 9 asked for"):
        start("train", run, {"resume": True, "tokens": 9})
    with pytest.raises(ConfigError, match="the run is at step 40 already"):
        resume(run, 10)
    with pytest.raises(ConfigError, match="the run is at step 40 already"):
        resume(trained / "generator", 10)  # its tokenizer is found: runs/tokenizer is not asked for
    with pytest.raises(ConfigError, match="has done all its 40 steps"):
        resume(run)
    with pytest.raises(ConfigError, match="no run folder"):
        resume(trained / "tokeniser")
    shutil.rmtree(run)
    with pytest.raises(ConfigError, match="is not there"):  # the generator's tokenizer
        resume(trained / "generator", 50)
    assert jobs(trained) == [] and not list(trained.glob("*/*.log"))


@pytest.mark.slow
def test_a_measurement_is_done_and_found_by_whoever_looks(trained):
    job = start("evaluate", trained / "tokenizer", {"seed": 3})
    assert (
        is_alive(job)
        and process_of(job)
        and [j.info["workflow"] for j in jobs(trained)] == ["evaluate"]
    )
    with pytest.raises(ConfigError, match="at work already"):
        start("latent_map", trained / "tokenizer", {})
    wait_for(lambda: not is_alive(job), 200, job.last_lines)
    assert job.info["state"] == "done", job.last_lines(40)
    again = Job(trained / "tokenizer" / "evaluate.ipynb")
    done, of, unit = progress(again)
    assert (
        done == of > 0
        and unit == "cells"
        and again.info["parameters"] == {"seed": 3, "run": str(trained / "tokenizer")}
    )
    assert "reconstruction" in figures(run_of(again)) and not cancel(again)


@pytest.mark.slow
def test_stopping_a_training_saves_it_and_leaves_no_process(tmp_path):
    job = start("train", tmp_path / "a", LONG)
    wait_for(lambda: progress(job)[2] == "steps" and progress(job)[0] > 3, 200, job.last_lines)
    ours = family(process_of(job))
    assert len(ours) >= 2 and os.getpgid(ours[-1].pid) != os.getpgid(0)
    (told,) = [
        Path(c[c.index("-f") + 1]) for p in ours if "ipykernel_launcher" in (c := p.cmdline())
    ]
    assert read_json(told)["transport"] == "ipc", (
        "two kernels that begin at once can be given the same TCP port"
    )
    assert cancel(job) and all(gone(p) for p in ours)
    assert job.info["state"] == "preempted" and steps_of(run_of(job).checkpoints)
    assert run_of(job).status["state"] == "stopped"
    with pytest.raises(ConfigError, match="resume"):
        start("train", tmp_path / "a", LONG)


def has_kernel(job) -> bool:
    p = process_of(job)
    return bool(p) and any("ipykernel_launcher" in q.cmdline() for q in family(p) if not gone(q))


@pytest.mark.slow
@pytest.mark.parametrize("when", ["at once", "while its kernel starts"])
def test_a_job_that_is_stopped_while_it_starts_was_stopped_and_not_killed(tmp_path, when):
    job = start("train", tmp_path / "a", LONG)
    if when != "at once":
        wait_for(lambda: has_kernel(job), 100, job.last_lines)
    ours = family(process_of(job))
    assert cancel(job) and all(gone(p) for p in ours)
    info = job.info
    assert info["state"] == "preempted" and info["stopped"], info
    assert "asked to stop" in info["reason"] and not is_alive(job)


@pytest.mark.slow
def test_stopping_two_ranks_leaves_no_process(tmp_path):
    job = start("train", tmp_path / "a", {**LONG, "processes": 2})
    wait_for(lambda: progress(job)[2] == "steps" and progress(job)[0] > 3, 200, job.last_lines)
    ours = family(process_of(job))
    assert len(ours) >= 5  # the executing process, kernel, launcher, two ranks
    assert cancel(job) and all(gone(p) for p in ours) and steps_of(run_of(job).checkpoints)


def test_a_training_that_was_killed_is_told_as_interrupted(tmp_path):
    job = start("train", tmp_path / "a", LONG)
    ours = wait_for(
        lambda: (p := process_of(job)) and len(f := family(p)) >= 2 and f, 100, job.last_lines
    )
    for p in ours:
        p.kill()
    wait_for(lambda: all(gone(p) for p in ours), 10, "they live")
    # a zombie's other threads may hold its lock a moment longer
    wait_for(lambda: job.info["state"] == "interrupted", 10, lambda: str(job.info))
    assert process_of(job) is None
    assert [j.info["state"] for j in jobs(tmp_path)] == ["interrupted"]


def test_a_foreign_job_file_makes_nobody_kill_a_stranger(tmp_path):
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        job = Job(tmp_path / "a" / "notebook.ipynb")
        job.file.parent.mkdir()
        job.say(
            "running",
            workflow="train",
            parameters={},
            begun="2026-01-01T00:00:00+00:00",
            pid=stranger.pid,
            created=psutil.Process(stranger.pid).create_time(),
            host=platform.node(),
        )
        assert process_of(job) is None and not cancel(job) and stranger.poll() is None
        for content in (
            "",
            "[]",
            '{"pid": "x"}',
            json.dumps(
                {"state": "running", "workflow": "train", "pid": "x", "host": platform.node()}
            ),
            "\0",
        ):
            job.file.write_text(content)
            assert (
                job.info["state"] in ("planned", "interrupted")
                and progress(job) == (0, 0, "cells")
                and not cancel(job)
                and len(jobs(tmp_path)) <= 1
            )
    finally:
        stranger.kill(), stranger.wait()


def test_the_command_line(root, tmp_path, capsys, monkeypatch):
    import explorer

    (tmp_path / "users").write_text("ann:secret-1\nbob:secret-2:x\n")
    options = explorer.options
    monkeypatch.delenv("EXPLORER_AUTH", raising=False)
    assert (options([]).host, options([]).port, options([]).auth, options([]).share) == (
        "127.0.0.1",
        7860,
        None,
        False,
    )
    for host in ("localhost", "127.0.0.5", "::1", "[::1]"):
        assert options(["--host", host]).auth is None
    assert options(["--host", "0.0.0.0", "--auth", "ann:secret"]).auth == [("ann", "secret")]
    assert options(["--share", "--auth", str(tmp_path / "users")]).auth == [
        ("ann", "secret-1"),
        ("bob", "secret-2:x"),
    ]
    monkeypatch.setenv("EXPLORER_AUTH", "eve:from-the-environment")
    assert (
        options(["--host", "0.0.0.0"]).auth == [("eve", "from-the-environment")]
        and "EXPLORER_AUTH" not in os.environ
    )  # no job inherits it
    for wrong, says in [
        (["--host", "0.0.0.0"], "lets other machines in"),
        (["--host", "example.org"], "needs --auth"),
        (["--host", ""], "needs --auth"),
        (["--share"], "public"),
        (["--auth", "secret"], "neither"),
        (["--auth", "ann:"], "a user and a password"),
        (["--port", "70000"], "ports"),
        (["--port", "x"], "invalid int"),
        (["--runs", __file__], "is a file"),
    ]:
        with pytest.raises(SystemExit) as e:
            options(wrong)
        told = capsys.readouterr().err
        assert (
            e.value.code == 2 and says in told and "secret" not in told.replace("secret-file", "")
        ), told
