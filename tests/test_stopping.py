"""Ctrl-C at a terminal: one sentence that says what is saved and how to go on, exit status 130,
nothing half written, nobody left at work."""

import json
import re
import shlex
import shutil
import sys

import nbformat
import pytest
from outside import BIN
from terminal import at_a_terminal, ends_of, left_in, lines_of

from softvq_lab.checkpoints import damage, newest_checkpoint
from softvq_lab.runs import Run

LAB = BIN / "softvq-lab"
PAPERMILL = [sys.executable, "-m", "softvq_lab.experiments.papermill_command"]
LONG = {"steps": 100_000, "warmup_steps": 2, "batch_size": 8, "tokens": 4, "log_every": 2}
LONG |= {"eval_every": 50_000, "checkpoint_every": 50_000, "tracker": "none", "codebook_size": 32}
SETTINGS = [f"{k}={v}" for k, v in LONG.items()]
PARAMETERS = [w for k, v in LONG.items() for w in ("-p", k, str(v))]
NOISE = ("Traceback", "ZMQ", "Error", "Aborted", "caught in kernel", "cell/s", "Exception")
pytestmark = pytest.mark.slow


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def stopped(words, here, press: str, times: int = 1) -> str:
    "The last line of a command that is stopped by Ctrl-C; it ended as it should."
    shown = at_a_terminal(words, here, press, times)
    lines = lines_of(shown)
    assert shown.status == 130, ends_of(shown)
    assert not [x for x in NOISE if x in shown], ends_of(shown)
    assert left_in(here) == []
    return lines[-1]


def step_saved(sentence: str) -> int:
    return int(re.search(r"saved at step (\d+) of 100000; go on with: ", sentence)[1])


def whole(run: Run, step: int):
    "The newest checkpoint of a run is of `step` and undamaged, and its files can be read."
    newest = newest_checkpoint(run.checkpoints)
    assert newest.name == f"step-{step:06d}" and not damage(newest)
    assert run.status["state"] == "stopped" and run.status["step"] == step


def test_papermill_saves_and_its_sentence_is_a_command_that_goes_on(here, root):
    words = [*PAPERMILL, root / "nbs" / "train.ipynb", *PARAMETERS]
    says = stopped(words, here, "loss")
    (folder,) = (here / "runs").iterdir()
    first = step_saved(says)
    whole(Run(folder), first)
    assert nbformat.read(folder / "notebook.ipynb", 4).cells, "the notebook is whole"
    command = shlex.split(says.split("go on with: ")[1])
    assert command == ["softvq-lab", "resume", f"runs/{folder.name}"]
    says = stopped([LAB, *command[1:]], here, "loss")
    assert step_saved(says) > first
    whole(Run(folder), step_saved(says))


def test_run_saves_and_its_job_is_not_started_again_by_itself(here):
    says = stopped([LAB, "run", "train", *SETTINGS, "--output", "a b/notebook.ipynb"], here, "loss")
    assert says.endswith("go on with: softvq-lab resume 'a b'")
    whole(Run("a b"), step_saved(says))
    job = json.loads((here / "a b" / "notebook.job.json").read_text())
    assert job["state"] == "interrupted" and (here / "a b" / "notebook.job.stopped").exists()


@pytest.mark.parametrize(
    "words",
    [[*PAPERMILL, "TRAIN", "-p", "tokens", "4"], [LAB, "run", "train", "tokens=4"]],
    ids=["papermill", "run"],
)
@pytest.mark.parametrize("moment", ["notebook.ipynb", r"\(cell [4-7] of"])
def test_before_the_training_begins_nothing_is_left_and_the_same_command_begins_again(
    here, root, words, moment
):
    words = [root / "nbs" / "train.ipynb" if w == "TRAIN" else w for w in words]
    says = stopped(words, here, moment)
    assert says.startswith("stopped before the training began; begin again with: ")
    assert "tokens" in says and says.split("with: ")[1].startswith(("python", "softvq-lab run"))
    assert not list((here / "runs").glob("*"))


def test_a_second_ctrl_c_stops_without_waiting(here):
    words = [LAB, "run", "train", *SETTINGS, "--output", "a/notebook.ipynb"]
    says = stopped(words, here, "loss", times=2)
    assert "go on with: softvq-lab resume a" in says


def test_train_saves(here, trained):
    from softvq_lab.data.datasets import digits
    from softvq_lab.experiments.parameters import check_parameters
    from softvq_lab.train import prepare

    run = prepare(check_parameters("train", LONG), here / "p", digits(32))
    says = stopped([LAB, "train", "p"], here, "loss")
    assert says.endswith("go on with: softvq-lab train p")
    whole(run, step_saved(says))


def test_evaluate_says_the_same_command(here, trained):
    run = shutil.copytree(trained / "generator", here / "generator")
    says = stopped([LAB, "evaluate", run, "--samples", "20000"], here, "Settings")
    assert says == f"stopped; begin again with: softvq-lab evaluate {run} --samples 20000"


@pytest.mark.parametrize("processes", [1, 2])
def test_sample_keeps_what_was_drawn(here, trained, processes):
    words = [trained / "generator", "--samples", "5000", "--batch", "8", "--out", "drawn"]
    words += ["--processes", processes]
    says = stopped([LAB, "sample", *words], here, r"drawn: \d+/")
    drawn = len(list((here / "drawn").glob("*.png")))
    number, command = re.match(r"saved (\d+) of 5000 .*; go on with: (.*)", says).groups()
    assert 0 <= int(number) <= drawn < 5000
    assert command == shlex.join(["softvq-lab", "sample", *map(str, words)])
    assert not list((here / "drawn").glob(".*.tmp"))


def test_a_sweep_lets_its_jobs_save(here):
    sweep = {"name": "s", "tokenizer": {"set": LONG, "grid": {"lr": [1e-3, 1e-4, 1e-5]}}}
    (here / "s.yaml").write_text(json.dumps(sweep))
    says = stopped([LAB, "sweep", "s.yaml", "-j", "2"], here, "loss")
    assert says.startswith("0 of 3 jobs are done, saved: ")
    assert says.endswith("go on with: softvq-lab sweep s.yaml -j 2")
    report = json.loads((here / "runs" / "sweeps" / "s" / "sweep.json").read_text())
    assert "running" not in [t["state"] for t in report["tasks"]]
