"""softvq-lab: what it says, what it starts, and that a mistake is a message."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

import softvq_lab
from softvq_lab import cli
from softvq_lab.core import ConfigError
from softvq_lab.experiments.execute import Job
from softvq_lab.runs import Run, open_run
from softvq_lab.settings.parse import parse
from softvq_lab.settings.workflows import TrainConfig

COMMANDS = ("train", "sample", "execute", "run", "evaluate", "runs", "show", "compare", "resume")
COMMANDS += ("stop", "sweep")


TAU = Path(__file__).parents[1] / "sweeps" / "digits-tau.yaml"


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
    assert "The same as execute" in call("run", "--help")


@pytest.mark.parametrize("command", ["sample", "evaluate"])
def test_whatever_draws_uses_the_same_words(command):
    said = call(command, "--help")
    for word in ("samples", "steps", "guidance", "sampler", "temperature", "seed"):
        assert f"--{word}" in said


def test_who_only_looks_does_not_wait_for_heavy_imports(trained):
    code = """import sys
from softvq_lab.cli import main
for words in (['--help'], ['runs', '--root', sys.argv[1]], ['stop', 'nowhere'], ['--version'],
              ['runs', '--json', '--root', sys.argv[1]], ['train', '--help'], ['sample', '--help'],
              ['evaluate', 'nowhere'], ['execute', '--help'], ['sample', 'a', '--classes', 'x']):
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
    assert (
        done.returncode == 0
        and "tokenizer" in done.stdout
        and "no run folder nowhere" in done.stderr
    ), done.stderr


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


def measured(run: Run, **figures):
    (run.path / "evaluation").mkdir(exist_ok=True)
    passport = {"evaluator": "PSNR", "reference": "some images", "count": 10}
    found = {"figures": figures, "passport": passport, "subject": {}, "measured": "now"}
    (run.path / "evaluation" / "reconstruction.json").write_text(json.dumps(found))


def test_programs_read_one_json_document(tmp_path):
    config = asdict(parse(TrainConfig, {"tokens": 8}))
    for i, name in enumerate(("first", "sec\x1bond")):
        config["tokenizer"]["tau"] = 0.25 + i / 2
        run = open_run(tmp_path / name, "tokenizer", config)
        run.set_status("done", step=40 + i, steps=60)
        measured(run, psnr=20.5 + i, odd=float("nan"))
    (tmp_path / "third").mkdir()
    (tmp_path / "third" / "config.json").write_text("{")
    folders = [tmp_path / "first", tmp_path / "sec\x1bond"]

    found = json.loads(call("runs", "--json", "--root", tmp_path))
    by = {Path(r["run"]).name: r for r in found}
    assert list(by) == ["sec\\x1bond", "first", "third"] and by["third"]["state"] == "unreadable"
    assert "Expecting" in by["third"]["error"] and by["first"]["error"] is None
    first = by["first"]
    assert (first["kind"], first["state"], first["step"], first["steps"]) == (
        "tokenizer",
        "done",
        40,
        60,
    )
    assert first["evaluations"]["reconstruction"]["figures"] == {"psnr": 20.5, "odd": None}
    assert first["seconds"] >= 0 and datetime.fromisoformat(first["created"]).tzinfo

    shown = json.loads(call("show", "--json", folders[1]))
    assert shown["settings"] == {"tokens": 8, "tau": 0.75} and shown["failed"] is None
    assert shown["step"] == 41 and first.keys() < shown.keys()

    both = json.loads(call("compare", *folders, "--json"))
    assert [d for d in both["differences"] if d["setting"].endswith("tau")][0]["values"] == [
        0.25,
        0.75,
    ]
    (table,) = both["evaluations"]
    assert [r["figures"]["psnr"] for r in table["runs"]] == [21.5, 20.5], "the better one first"
    assert table["ranked_by"] == "psnr" and table["passport"]["count"] == 10
    assert json.loads(call("runs", "--json", "--root", tmp_path / "nothing")) == []


def test_a_failed_run_says_why_to_programs_too(tmp_path):
    run = open_run(tmp_path / "a", "tokenizer", asdict(TrainConfig()))
    run.set_status("failed", step=3, error="out of\nmemory")
    said = json.loads(call("show", run.path, "--json"))
    assert said["state"] == "failed" and said["failed"]["reason"] == "out of\\nmemory"
    assert "failed: out of" in call("show", run.path)


def test_a_list_says_when_a_run_was_made_and_how_long_it_took(tmp_path):
    run = open_run(tmp_path / "a", "tokenizer", {})
    run.set_status("done", step=4, steps=4)
    for file, key, text in (
        ("config.json", "created", datetime(2026, 11, 25, 10, 40, 59).isoformat()),
        ("status.json", "updated", datetime(2026, 11, 25, 12, 45, 58).isoformat()),
    ):
        values = json.loads((run.path / file).read_text()) | {key: text}
        (run.path / file).write_text(json.dumps(values))
    assert "2026-11-25 10:40  2 h 05 min" in call("runs", "--root", tmp_path)
    Job(run.path / "notebook.ipynb").say("done", seconds=200.0)
    assert "3 min" in call("runs", "--root", tmp_path)
    values = json.loads((run.path / "config.json").read_text()) | {"created": "once upon a time"}
    (run.path / "config.json").write_text(json.dumps(values))
    assert "once upon a time" in call("runs", "--root", tmp_path)


def test_the_version_is_that_of_the_library():
    assert call("--version") == f"softvq-lab {softvq_lab.__version__}\n"


def test_a_shell_completes_commands_options_and_workflows():
    def completed(*words: str) -> list[str]:
        env = {"_SOFTVQ_LAB_COMPLETE": "complete_bash", "COMP_CWORD": str(len(words))}
        env |= {"COMP_WORDS": " ".join(("softvq-lab", *words))}
        code = "import sys; sys.argv = ['softvq-lab']; from softvq_lab.cli import main; main()"
        done = subprocess.run(
            [sys.executable, "-c", code], env=os.environ | env, capture_output=True, text=True
        )
        assert done.returncode == 0 and not done.stderr, done.stderr
        return done.stdout.split()

    assert completed("ex") == ["execute"]
    assert completed("sample", "--sam") == ["--samples", "--sampler"]
    assert completed("execute", "train") == ["train", "train_generator"]


@pytest.mark.parametrize(
    "words,says",
    [
        (["--samples", "1"], "samples=1"),
        (["--steps", "0"], "sample_steps=0"),
        (["--guidance", "-1"], "sample_guidance=-1"),
        (["--sampler", "hoin"], "sampler='hoin'"),
        (["--temperature", "11"], "temperature=11"),
        (["--seed", "-1"], "seed=-1"),
        (["prob=ridge"], "Did you mean 'probe'"),
        (["--steps", "3", "sample_steps=4"], "sample_steps is given twice"),
        (["run=another"], "run is given twice"),
    ],
)
def test_evaluate_hands_its_words_to_the_settings_of_the_notebook(tmp_path, words, says):
    run = open_run(tmp_path / "g", "generator", {})
    there = sorted(run.path.iterdir())
    with pytest.raises(ConfigError) as e:
        call("evaluate", run.path, *words)
    assert says in str(e.value) and sorted(run.path.iterdir()) == there


@pytest.mark.parametrize(
    "words",
    [
        ["runs", "--jsn"],
        ["shw"],
        ["show"],
        ["sample", "a", "--samples", "many"],
        ["sample", "a", "--interval", "0.1"],
        ["sample", "a", "--interpolant", "cubic"],
        ["train", "a", "b"],
        ["execute"],
        ["evaluate", "a", "--steps", "0.5"],
    ],
)
def test_words_that_no_command_has_are_one_line(monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["softvq-lab", *words])
    with pytest.raises(SystemExit) as e:
        cli.main()
    said = capsys.readouterr()
    assert e.value.code == 2 and said.err.count("\n") == 1 and not said.out
    assert "--help)" in said.err


@pytest.mark.parametrize(
    "words,says",
    [
        (("execute", "train", "tokns=3"), "Did you mean 'tokens'?"),
        (("train", "nowhere"), "no run folder nowhere"),
        (("sample", "nowhere"), "nowhere is not a folder"),
        (("sample", "nowhere", "--option", "rtol"), "'rtol' is not NAME=VALUE"),
        (("evaluate", "nowhere"), "no run folder nowhere"),
        (("run", "train", "tokns=3"), "Did you mean 'tokens'?"),
        (("run", "trian"), "Did you mean 'train'?"),
        (("run", "train", "tokens"), "NAME=VALUE"),
        (("show", "nowhere"), "no run folder nowhere"),
        (("sweep", "nowhere.yaml"), "no sweep file nowhere.yaml"),
        (("resume", "nowhere"), "no run folder nowhere"),
        (("stop", "nowhere"), "no run folder nowhere"),
        (("run", "train", "lr=1e-3", "lr=1e-4"), "lr is given twice"),
        (("compare", "nowhere", "neither"), "nowhere, neither"),
        (("runs", "--root", __file__), "is a file"),
        (("show", __file__), "is a file"),
        (("compare", __file__, "."), "is a file"),
        (("show", "."), "holds no config.json"),
        (("sweep", __file__), "line 1"),
        (("sweep", TAU, "--dry", "--executor", "slurmm"), "possible are local and slurm"),
        (("sweep", TAU, "--dry", "--slurm", "[gpu]"), "options are written"),
        (
            ("sweep", TAU, "--dry", "--executor", "slurm", "--slurm", "{partishun: x}"),
            "Did you mean 'partition'?",
        ),
        (("execute", "train_generator"), "Give tokenizer_run=FOLDER"),
        (("execute", "evaluate"), "Give run=FOLDER"),
        (("sample", ".", "--samples", "-3"), "--samples -3 must be at least 1"),
        (("sample", ".", "--batch", "0"), "--batch 0 must be at least 1"),
    ],
)
def test_a_mistake_is_a_message(words, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as e:
        call(*words)
    assert says in str(e.value)
    assert not any(tmp_path.iterdir())


def test_what_is_done_is_not_done_again(trained):
    before = {p: p.stat().st_mtime_ns for p in (trained / "tokenizer").rglob("*") if p.is_file()}
    assert "is done: step 40 of 40" in call("resume", trained / "tokenizer")
    assert before == {p: p.stat().st_mtime_ns for p in before}


def test_words_for_samples_are_refused_where_none_are_drawn(trained):
    tokenizer = trained / "tokenizer"
    with pytest.raises(ConfigError, match="draws no samples: leave out sampler, sample_steps"):
        call("evaluate", tokenizer, "--sampler", "heun", "--steps", 3)
    with pytest.raises(ConfigError, match="holds a run or a model"):
        call("sample", trained / "generator", "--samples", 2, "--out", tokenizer)
    assert not list(tokenizer.glob("*.png"))


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
