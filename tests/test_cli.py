"""softvq-lab: what it says, what it starts, and that a mistake is a message."""

import json
import shutil
import subprocess
import sys
import time

import pytest
from typer.testing import CliRunner

from softvq_lab import cli
from softvq_lab.core import ConfigError
from softvq_lab.experiments.execute import Job
from softvq_lab.runs import Run

COMMANDS = ("run", "runs", "show", "compare", "resume", "stop", "sweep")


def call(*words, status=0) -> str:
    done = CliRunner().invoke(cli.app, list(map(str, words)), env={"COLUMNS": "160"})
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == status, done.output
    return done.output


def test_help_names_every_command_and_each_explains_itself():
    said = call("--help")
    for c in COMMANDS:
        assert f" {c} " in said
        help = call(c, "--help")
        assert "Usage" in help and len(help) > 300
    assert "NAME=VALUE" in call("run", "--help") and "--executor" in call("sweep", "--help")


def test_who_only_looks_does_not_wait_for_heavy_imports(trained):
    code = """import sys
from softvq_lab.cli import main
for words in (['--help'], ['runs', '--root', sys.argv[1]], ['stop', 'nowhere']):
    sys.argv[1:] = words
    try: main()
    except SystemExit: pass
    heavy = {'torch', 'papermill', 'gradio', 'pandas'} & sys.modules.keys()
    assert not heavy, (words, heavy)"""
    done = subprocess.run(
        [sys.executable, "-c", code.replace("sys.argv[1]]", f"{str(trained)!r}]")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0 and "tokenizer" in done.stdout and "not running" in done.stderr, (
        done.stderr
    )


def test_runs_show_and_compare_read_the_folders(trained, tmp_path):
    shutil.copytree(trained, tmp_path / "runs")
    shutil.copytree(trained / "tokenizer", tmp_path / "runs" / "other")
    config = json.loads((tmp_path / "runs" / "other" / "config.json").read_text())
    config["config"]["tokenizer"]["tau"] = 0.5
    (tmp_path / "runs" / "other" / "config.json").write_text(json.dumps(config))
    for i, name in enumerate(("tokenizer", "other")):
        (tmp_path / "runs" / name / "evaluation").mkdir()
        (tmp_path / "runs" / name / "evaluation" / "reconstruction.json").write_text(
            json.dumps(
                {
                    "figures": {"psnr": 20.5 + i},
                    "passport": {"evaluator": "PSNR", "reference": "some images", "count": 10},
                    "subject": {},
                    "measured": "now",
                }
            )
        )
    said = call("runs", "--root", tmp_path / "runs")
    rows = {line.split()[0]: line for line in said.splitlines()[1:]}
    assert (
        set(rows) == {"tokenizer", "generator", "other"}
        and "psnr 20.5" in rows["tokenizer"]
        and "done" in rows["generator"]
        and "40/40" in rows["generator"]
    )
    said = call("show", tmp_path / "runs" / "tokenizer")
    assert "tokens=8" in said and "20.5000" in said and "some images" in said
    said = call("compare", tmp_path / "runs" / "tokenizer", tmp_path / "runs" / "other")
    assert "tau" in said and "0.5" in said and "latent_dim" not in said
    assert said.index("21.5") < said.index("20.5"), "the better one comes first"
    assert "no runs" in call("runs", "--root", tmp_path / "nothing")


@pytest.mark.parametrize(
    "words,says",
    [
        (("run", "train", "tokns=3"), "Did you mean 'tokens'?"),
        (("run", "trian"), "Did you mean 'train'?"),
        (("run", "train", "tokens"), "NAME=VALUE"),
        (("show", "nowhere"), "no run folder nowhere"),
        (("sweep", "nowhere.yaml"), "no sweep file nowhere.yaml"),
        (("resume", "nowhere"), "no run folder nowhere"),
        (("stop", "nowhere"), "is not running"),
        (("run", "train", "lr=1e-3", "lr=1e-4"), "lr is given twice"),
        (("compare", "nowhere", "neither"), "nowhere, neither"),
        (("runs", "--root", __file__), "is a file"),
        (("show", __file__), "is a file"),
        (("compare", __file__, "."), "is a file"),
        (("show", "."), "holds no config.json"),
        (("sweep", __file__), "line 1"),
    ],
)
def test_a_mistake_is_a_message(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as e:
        call(*words)
    assert says in str(e.value)
    assert not any(tmp_path.iterdir())


def test_main_prints_the_message_and_no_traceback(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["softvq-lab", "show", "nowhere"])
    with pytest.raises(SystemExit) as e:
        cli.main()
    said = capsys.readouterr().err
    assert e.value.code == 2 and "there is no run folder" in said and "Traceback" not in said


def test_a_training_is_started_stopped_and_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLOTLY_RENDERER", "plotly_mimetype")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    call(
        "run",
        "train",
        "run=runs/a",
        "tokens=4",
        "steps=60",
        "warmup_steps=2",
        "batch_size=8",
        "eval_every=1000",
        "checkpoint_every=1000",
        "log_every=1",
        "tracker=none",
        "--detach",
    )
    run, job, deadline = Run("runs/a"), Job("runs/a/notebook.ipynb"), time.time() + 120
    while run.status.get("step", 0) < 3:
        assert time.time() < deadline and job.info["state"] in ("queued", "running"), (
            job.last_lines()
        )
        time.sleep(0.05)
    with pytest.raises(ConfigError, match="is being executed"):
        call("run", "train", "run=runs/a", "tokens=4")
    assert "was asked to save" in call("stop", "runs/a")
    while job.info["state"] in ("queued", "running"):
        assert time.time() < deadline
        time.sleep(0.1)
    assert (
        job.info["state"] == "preempted"
        and run.status["state"] == "preempted"
        and 3 <= run.status["step"] < 60
    )
    with pytest.raises(ConfigError, match="already holds a run"):
        call("run", "train", "run=runs/a", "tokens=4")
    call("resume", "runs/a")
    assert (
        job.info["state"] == "done"
        and run.status == run.status | {"state": "done", "step": 60}
        and job.info["attempts"] == 2
    )


@pytest.mark.parametrize(
    "words,says",
    [
        (["sweep", "lr=3"], "names no sweep file"),
        (["run", "train", "--output", "."], "is no notebook"),
        (["run", "train", "--output", "setup.cfg"], "is no notebook"),
        (["resume", "."], "it holds no config.json"),
    ],
)
def test_a_command_that_names_the_wrong_thing_says_so_before_any_work(
    tmp_path, monkeypatch, words, says
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=says):
        call(*words)
    assert not any(tmp_path.iterdir())
