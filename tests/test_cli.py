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
from outside import BIN
from typer.testing import CliRunner

import softvq_lab
from softvq_lab import cli
from softvq_lab.core import ConfigError
from softvq_lab.experiments.execute import Job
from softvq_lab.runs import Run, open_run
from softvq_lab.settings.parse import parse
from softvq_lab.settings.workflows import TrainConfig

COMMANDS = ("train", "sample", "execute", "run", "evaluate", "runs", "show", "compare", "resume")
COMMANDS += ("stop", "sweep", "settings", "completion", "advise")


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
    config["data_source"] = "digits (scikit-learn) at 16px"
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
    assert "digits at 16px  done" in rows["other"] and "digits" not in rows["generator"]
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


def test_the_time_of_a_run_that_went_on_is_that_of_its_pieces(tmp_path):
    from softvq_lab.explore.run_forms import overview

    run = open_run(tmp_path / "a", "tokenizer", {})
    Job(run.path / "notebook.ipynb").say("done", seconds=7200.0)  # with its evaluation
    info = json.loads((run.path / "config.json").read_text())
    (run.path / "config.json").write_text(json.dumps(info | {"created": "2020-01-01T00:00:00"}))
    lines = [("running", "10:00"), ("preempted", "10:05"), ("running", "20:00"), ("done", "20:20")]
    told = [{"at": f"2026-11-25T{at}:00", "state": state, "step": 1} for state, at in lines]
    (run.path / "history.jsonl").write_text("".join(json.dumps(x) + "\n" for x in told))
    for text, seconds in (("25 min", 1500.0), ("3 min", 180.0)):
        assert text in call("runs", "--root", tmp_path)
        assert [r["seconds"] for r in overview(tmp_path)] == [seconds]
        assert json.loads(call("runs", "--root", tmp_path, "--json"))[0]["seconds"] == seconds
        run.set_status("done", seconds=180.0)  # the training's own clock knows better


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
    assert completed("run", "train", "tok") == ["tokens="]
    assert completed("run", "train", "recipe", "=", "pi") == ["pictures"]
    assert completed("run", "train", "flip", "=") == ["true", "false"]
    assert completed("settings", "lat") == ["latent_map"]


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_complete_names_and_values_of_settings_and_runs(shell, tmp_path):
    open_run(tmp_path / "runs" / "first", "tokenizer", {})

    def completed(line: str) -> str:
        env = {"_SOFTVQ_LAB_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_ARGS": line}
        env |= {"_TYPER_COMPLETE_FISH_ACTION": "get-args"}
        code = "import sys; sys.argv = ['softvq-lab']; from softvq_lab.cli import main\n"
        code += "try: main()\nfinally: assert not {'torch', 'pandas'} & sys.modules.keys()"
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | env,
            capture_output=True,
            text=True,
            cwd=tmp_path,
        )
        assert not done.stderr, done.stderr
        return done.stdout

    assert "tokens=" in completed("softvq-lab run train tok")
    said = completed("softvq-lab run train recipe=p")
    assert "recipe=pictures" in said and "recipe=paper" in said and "digits" not in said
    for line in ("show ru", "evaluate ru", "train ru", "sample ru", "compare ru", "stop ru"):
        assert "runs/first" in completed(f"softvq-lab {line}")
    assert "run=runs/first" in completed("softvq-lab run evaluate run=")


@pytest.mark.skipif(not shutil.which("bash"), reason="no bash here")
def test_bash_adds_no_space_after_the_name_of_a_setting(tmp_path):
    script = tmp_path / "completion"
    script.write_text(call("completion", "bash"))
    asks = f"""source {script}
    COMP_WORDS=(softvq-lab run train tok) COMP_CWORD=3
    compopt() {{ echo "compopt $*"; }}
    _softvq_lab_completion softvq-lab; echo "${{COMPREPLY[@]}}" """
    env = os.environ | {"PATH": f"{BIN}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", asks], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["compopt", "-o", "nospace", "tokens="], done.stderr
    assert "#compdef softvq-lab" in call("completion", "zsh")
    assert "complete --command softvq-lab" in call("completion", "fish")


def test_a_wrong_name_is_answered_by_the_nearest_and_by_where_all_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for workflow, wrong, right in (("train", "tokns", "tokens"), ("evaluate", "prob", "probe")):
        with pytest.raises(ConfigError) as e:
            call("run", workflow, f"{wrong}=3")
        assert f"Did you mean {right!r}" in str(e.value) and len(str(e.value)) < 200
        assert f"softvq-lab settings {workflow}" in str(e.value)
        found = json.loads(call("settings", workflow, "--json"))
        assert right in [s["name"] for s in found] and all(s["description"] for s in found)
    with pytest.raises(ConfigError, match="Did you mean 'train'"):
        call("settings", "trian")


def test_settings_can_be_looked_up_by_a_part_of_their_names():
    def named(*words):
        return [s["name"] for s in json.loads(call("settings", "train", *words, "--json"))]

    assert named("tokens") == ["tokens"] and "tau" in call("settings", "train", "tau")
    assert {"lr", "adv_lr"} <= set(named("lr")) and set(named("tokens", "adv_lr")) > {"tokens"}
    with pytest.raises(ConfigError, match="train has no setting 'tokns'. Did you mean 'tokens'"):
        call("settings", "train", "tokns")


def test_compare_shows_what_both_have_and_says_what_it_left_out(trained, tmp_path):
    folders = [tmp_path / n for n in ("tokenizer", "generator")]
    for f in folders:
        shutil.copytree(trained / f.name, f)
    measured(Run(folders[0]), psnr=20.5)
    said = call("compare", *folders)
    assert len(said.splitlines()) < 25 and "psnr" not in said
    assert "left out: " in said and "1 metric " in said and "--all" in said
    assert "40 of 40" in said and "images a second" in said
    both = json.loads(call("compare", *folders, "--json"))
    assert [a["step"] for a in both["about"]] == ["40 of 40"] * 2
    assert "tau" in both["left_out"]["settings"] and not both["evaluations"]
    everything = call("compare", *folders, "--all")
    assert "tau" in everything and "20.5" in everything and "left out" not in everything
    rows = json.loads(call("compare", *folders, "--all", "--json"))["differences"]
    assert len(rows) == len(both["differences"]) + len(both["left_out"]["settings"])


def test_an_estimate_below_zero_is_shown_with_a_word_and_stored_as_it_is(tmp_path):
    runs = [open_run(tmp_path / n, "tokenizer", asdict(TrainConfig())) for n in "ab"]
    for i, run in enumerate(runs):
        measured(run, fid_infinity=i - 0.75, kid=0.5, class_accuracy=0.25)
    said = call("show", runs[0].path)
    assert "-0.7500  (below zero: too few samples to tell it from 0)" in said
    assert "0.2500  (the judge on real held-out images: not measured)" in said
    assert "0.2500\n" in call("show", runs[1].path).replace(" " * 2, "")
    assert "below zero" in call("compare", *(r.path for r in runs))
    found = json.loads(call("show", runs[0].path, "--json"))
    assert found["evaluations"]["reconstruction"]["figures"]["fid_infinity"] == -0.75
    measured(runs[0], class_accuracy=0.25, heldout_class_accuracy=0.875)
    assert "class_accuracy 0.25 (the judge on real held-out images: 0.875)" in call(
        "runs", "--root", tmp_path
    )


def test_the_plan_of_a_sweep_is_one_json_document(tmp_path):
    plan = json.loads(call("sweep", TAU, "--dry", "--json", "--root", tmp_path))
    assert len(plan["tasks"]) > 3 and {t["sweep"] for t in plan["tasks"]} == {"digits-tau"}
    assert plan["reports"] and all(Path(t["notebook"]).suffix == ".ipynb" for t in plan["tasks"])


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
        (("compare", "nowhere", "neither"), "there is no run folder neither"),
        (("runs", "--root", __file__), "is a file"),
        (("show", __file__), "is a file"),
        (("compare", __file__, "."), "is a file"),
        (("show", "."), "holds no config.json"),
        (("sweep", __file__), "line 1"),
        (("sweep", TAU, "--dry", "--executor", "slurmm"), "possible are local and slurm"),
        (("sweep", TAU, "--dry", "--slurm", "[gpu]"), "options are written"),
        (
            ("run", "train", "recipe=[paper,released]"),
            "recipe=['paper', 'released']",
        ),
        (("execute", "guidance", "scales=[1,2]"), "scales=[1, 2]: should be a valid string"),
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
    said = CliRunner().invoke(cli.app, ["resume", str(trained / "tokenizer"), "--json"])
    assert json.loads(said.stdout)["state"] == "done" and "is done: step 40" in said.stderr
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


@pytest.mark.slow
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
    stopped = CliRunner().invoke(cli.app, ["stop", "runs/a", "--json"])
    assert json.loads(stopped.stdout)["pid"] == job.info["pid"]
    assert "was asked to save" in stopped.stderr
    while job.info["state"] in ("queued", "running"):
        assert time.time() < deadline
        time.sleep(0.1)
    assert (
        job.info["state"] == "preempted"
        and run.status["state"] == "stopped"
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


@pytest.mark.slow
def test_an_evaluation_is_one_json_document_and_all_else_goes_to_standard_error(trained, tmp_path):
    run = shutil.copytree(trained / "tokenizer", tmp_path / "t")
    p = subprocess.run(
        [BIN / "softvq-lab", "evaluate", run, "probe=none", "confidence=0", "--json"],
        capture_output=True,
        text=True,
        check=True,
    )
    said = json.loads(p.stdout)
    assert said["job"]["state"] == "done" and Path(said["notebook"]).exists()
    assert "reconstruction" in json.dumps(said["evaluations"]) and "done in" in p.stderr


def test_show_says_what_evaluations_share_once(tmp_path):
    run = open_run(tmp_path / "a", "tokenizer", asdict(TrainConfig()))
    (run.path / "evaluation").mkdir()
    for i, name in enumerate(("probe-b", "probe-a", "z-reconstruction")):
        passport = {"evaluator": "a judge", "count": 10, "precision": "float32", "site": name}
        passport |= {"evaluator": "PSNR"} if i == 2 else {}
        figures = {"psnr": 20.5} if i == 2 else {"a_name_of_twenty_nine_letters": 0.5, "top5": 1.0}
        found = {"figures": figures, "passport": passport, "subject": {}, "measured": "now"}
        (run.path / "evaluation" / f"{name}.json").write_text(json.dumps(found))
    said = call("show", run.path)
    assert said.count("float32") == said.count("a judge") == said.count("PSNR") == 1
    assert "all of them: count: 10, precision: float32" in said
    lines = said.splitlines()
    assert lines.index("  as above, but site: probe-b") > lines.index("probe-b  now")
    assert said.index("20.5") < said.index("probe-a"), "what ranks runs comes first"
    numbers = [line for line in lines if line.startswith(("  a_name", "  top5"))]
    assert len({len(line) for line in numbers}) == 1, "numbers stand below each other"


@pytest.mark.parametrize("asked", ["g", "runs/G", "runs/pool/g", "pool/deep-1"])
@pytest.mark.parametrize("command", ["show", "resume", "compare"])
def test_a_name_as_runs_prints_it_is_told_with_its_folder(asked, command, tmp_path, monkeypatch):
    from softvq_lab.core import write_json
    from softvq_lab.runs import no_such_run

    monkeypatch.chdir(tmp_path)
    for name in ("g", "pool/deep-10"):
        told = {"kind": "tokenizer", "config": {}, "created": "2026-01-01T00:00:00+00:00"}
        write_json(Path("runs", name, "config.json"), told)
    meant = "runs/pool/deep-10" if "deep" in asked else "runs/g"
    assert f"Did you mean {meant}" in no_such_run(Path(asked))
    assert "Did you mean" not in no_such_run(Path("/something else"))
    with pytest.raises(ConfigError, match=f"there is no run folder {asked} .*{meant}"):
        getattr(cli, command)(*([[Path(asked)]] if command == "compare" else [Path(asked)]))
