"""Sweeps on a real Slurm: submitted by submitit, requeued, preempted, and the same weights in the
end.
"""

import os
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest
import slurm_cluster
import torch
from test_training import ALIKE, alike

from softvq_lab.core import read_json, sha256, write_json
from softvq_lab.experiments.execute import Job
from softvq_lab.experiments.parameters import check_parameters
from softvq_lab.experiments.scheduler import drive
from softvq_lab.experiments.slurm import Slurm, SlurmJob, _state, free_after_a_crash
from softvq_lab.experiments.sweep import open_sweep, read_report
from softvq_lab.locks import owner
from softvq_lab.runs import Run
from softvq_lab.train import images_of, prepare, train_here

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    "A cluster; its lack is a skip here and a failure in CI (REQUIRE_SLURM=1)."
    if why := slurm_cluster.missing():
        if os.environ.get("REQUIRE_SLURM"):
            pytest.fail(f"no Slurm: {why}")
        pytest.skip(f"no Slurm: {why}")
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm"), nodes=2, cpus=1) as folder:
        yield folder


def command(*words) -> str:
    return subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout


def job_of(task) -> str:
    return read_json(task.job.output.with_suffix(".slurm.json"))["job_id"]


def wait_for(what, seconds=90):
    deadline = time.time() + seconds
    while not (found := what()):
        assert time.time() < deadline, f"waited {seconds} s in vain"
        time.sleep(0.05)
    return found


LONG, SHORT = dict(steps=160), dict(steps=8)
SPEC = dict(
    name="nights",
    seeds=[0],
    tokenizer=dict(
        set=dict(
            warmup_steps=2,
            batch_size=8,
            tokens=4,
            eval_every=1000,
            checkpoint_every=1000,
            log_every=1,
            tracker="none",
        ),
        list=[LONG, LONG | {"latent_dim": 4}, SHORT, SHORT | {"latent_dim": 4}],
    ),
)


def weights(run: Run) -> str:
    newest = sorted(run.checkpoints.glob("step-*"))[-1]
    return f"{newest.name} {sha256(newest / 'model.safetensors')}"


def disturb(task, how, seen):
    """Wait until a training is in its midst, disturb it, and let it go on at once instead of after
    Slurm's two minutes.
    """

    def step():
        return Run(task.run).status.get("step", 0)

    wait_for(lambda: 3 <= step())
    how(job_of(task))
    seen[task.label] = wait_for(
        lambda: (s := Run(task.run).status)["state"] == "preempted" and s["step"]
    )
    wait_for(lambda: "PENDING" in command("squeue", "-h", "-o", "%T", "-j", job_of(task)))
    command("scontrol", "update", f"jobid={job_of(task)}", "StartTime=now")


def test_a_sweep_of_four_of_which_one_is_requeued_and_one_preempted(slurm, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
    sweep, seen, problems = open_sweep(SPEC, tmp_path / "slurm"), {}, []
    requeued, preempted = sweep.tasks[:2]

    def run(task, how):
        try:
            disturb(task, how, seen)
        except BaseException as e:
            problems.append(e)

    hands = [
        threading.Thread(
            target=run, args=(requeued, lambda job: command("scontrol", "requeue", job))
        ),
        threading.Thread(
            target=run, args=(preempted, lambda job: command("scancel", "--signal=USR2", job))
        ),
    ]
    for h in hands:
        h.start()
    assert drive([sweep], Slurm(partition="debug", cpus=1, hours=1, signal_s=30), poll=0.5)
    for h in hands:
        h.join()
    if problems:
        raise problems[0]
    assert all(0 < step < 160 for step in seen.values()) and len(seen) == 2, seen
    assert [t.job.info["attempts"] for t in sweep.tasks] == [2, 2, 1, 1] and [
        t.job.info["tries"] for t in sweep.tasks
    ] == [1] * 4
    report = read_report(sweep.folder)
    assert (
        report["executor"] == "slurm"
        and report["counts"]["done"] == 4
        and report["driver"]["state"] == "ended"
    )

    for task in (requeued, preempted):
        assert weights(Run(task.run)) == undisturbed(task, tmp_path / "undisturbed" / task.id), (
            task.label
        )


def undisturbed(task, folder) -> str:
    "The weights that the same training has when nothing happens to it."
    config = check_parameters("train", task.parameters | {"run": str(folder)})
    torch.set_num_threads(1)  # as the jobs have it
    train_here(run := prepare(config, folder, images := images_of(config)), images)
    return weights(run)


def test_two_ranks_on_two_nodes_train_as_one_process(slurm, tmp_path, monkeypatch):
    """A run of two nodes in an allocation of two: the notebook on the first, a launcher on each.

    As near to one process as two ranks of one node are (tests/test_training.py).
    """
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
    sweep = open_sweep(
        dict(name="nodes", tokenizer=dict(set=ALIKE | dict(processes=2, nodes=2))),
        tmp_path / "slurm",
    )
    (task,) = sweep.tasks
    assert drive([sweep], Slurm(partition="debug", nodes=2, cpus=1, hours=1)), (
        task.job.info["reason"] + task.job.last_lines()
    )
    two = Run(task.run)
    assert two.status["state"] == "done" and two.info["config"]["engine"]["nodes"] == 2

    config = check_parameters("train", ALIKE | {"run": str(tmp_path / "one")})
    train_here(one := prepare(config, tmp_path / "one", images := images_of(config)), images)
    alike(one, two)


def test_a_run_that_died_with_its_node_may_go_on_elsewhere(tmp_path):
    for whose, after in (("gone", "interrupted"), ("another", "running")):
        job, run = Job(tmp_path / whose / "notebook.ipynb"), Run(tmp_path / whose)
        write_json(
            run.path / "status.json", {"state": "running", "host": "gone", "pid": 1, "step": 7}
        )
        write_json(job.file, {"state": "running", "host": whose})
        free_after_a_crash(job)
        assert run.status["state"] == after and run.status["step"] == 7


def test_what_a_person_cancelled_is_not_begun_again(tmp_path):
    job = Job(tmp_path / "a" / "notebook.ipynb")
    for state, stopped in (("PREEMPTED", False), ("NODE_FAIL", False), ("CANCELLED", True)):
        with job.planning():
            job.plan("train", {"run": str(tmp_path / "a")})
        write_json(job.output.with_suffix(".slurm.json"), {"job_id": "17"})
        assert _state(job, {"17": state})["state"] == "interrupted"
        assert bool(job.info.get("stopped")) == stopped
    assert SlurmJob(job.output)() == 0 and SlurmJob(job.output).checkpoint() is None
    assert job.info.get("attempts") is None, "a requeue began what a person had cancelled"


def test_a_queue_that_does_not_answer_makes_no_job_be_submitted_again(tmp_path, monkeypatch):
    job = Job(tmp_path / "a" / "notebook.ipynb")
    with job.planning():
        job.plan("train", {"run": str(tmp_path / "a")})
    job.say("queued")
    write_json(job.output.with_suffix(".slurm.json"), {"job_id": "17"})
    (tmp_path / "squeue").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    executor, task = Slurm(), SimpleNamespace(id="a", job=job)
    assert executor.states([task])["a"]["state"] == "queued"
    executor.last = {"17": "PENDING"}  # it was seen, and then nothing more
    assert executor.states([task])["a"]["state"] == "queued"


def test_only_the_locks_of_this_very_slurm_job_are_taken_from_a_dead_node(tmp_path):
    run, job = Run(tmp_path), Job(tmp_path / "notebook.ipynb")
    write_json(job.file, {"state": "running", "host": "n1", "pid": 4})
    write_json(job.output.with_suffix(".slurm.json"), {"job_id": "18", "before": ["17"]})
    write_json(run.path / "status.json", {"state": "running", "host": "n1", "step": 7})
    left = {"host": "n1", "pid": 4, "machine": "another", "how": "flock"}
    for slurm, after in (("99", "running"), (None, "running"), ("17", "interrupted")):
        write_json(run.lock, left | {"slurm": slurm})
        write_json(job.lock, left | {"slurm": slurm})
        free_after_a_crash(job)
        assert run.status["state"] == after
        assert (owner(job.lock) is None) == (after == "interrupted")
