"""`papermill nbs/train.ipynb -p tokens 32`: what is papermill's, and what is a workflow's."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from outside import BIN

from softvq_lab.core import ConfigError, write_json
from softvq_lab.experiments.execute import refuse_what_is_not_there
from softvq_lab.experiments.papermill_command import main, with_output
from softvq_lab.runs import Run, headlines
from softvq_lab.signals import MISTAKE

STEPS = {"steps": 4, "warmup_steps": 2, "batch_size": 8, "eval_every": 4, "log_every": 2}
FEW = [w for k, v in STEPS.items() for w in ("-p", k, str(v))]
COMMAND = [sys.executable, "-m", "softvq_lab.experiments.papermill_command"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def train(root) -> str:
    return str(root / "nbs" / "train.ipynb")


def test_the_environments_papermill_is_ours():
    script = (BIN / "papermill").read_text()
    assert "softvq_lab.experiments.papermill_command" in script, "make setup puts it back"


@pytest.mark.parametrize(
    "words",
    [
        ["TRAIN", "out.ipynb", "-p", "tokens", "8"],
        ["-p", "tokens", "8", "TRAIN", "out.ipynb"],
        ["TRAIN", "-"],
        ["TRAIN", "--help-notebook"],
        ["TRAIN", "--no-such-option"],
        ["foreign.ipynb"],
        ["train.ipynb"],
        ["-"],
        ["--version"],
        ["--help"],
        [],
    ],
    ids=" ".join,
)
def test_what_is_papermills_passes_through(here, train, words):
    (here / "foreign.ipynb").write_text("{}")
    (here / "train.ipynb").write_text("{}")  # a name is not enough
    words = [train if w == "TRAIN" else w for w in words]
    assert with_output(words) == words
    assert not (here / "runs").exists()


@pytest.mark.parametrize(
    "options",
    [
        ["-p", "tokens", "8"],
        ["-r", "tokens", "8"],
        ["-y", "{tokens: 8}"],
        ["-b", "dG9rZW5zOiA4"],
        ["-f", "given.yaml"],
        ["--no-progress-bar", "-p", "tokens", "8"],
    ],
    ids=" ".join,
)
def test_a_training_goes_into_a_new_run_folder(here, train, options):
    (here / "given.yaml").write_text("tokens: 8\n")
    for words, suffix in (([train, *options], ""), ([*options, train], "-2")):
        *_, output = complete = with_output(words)
        assert output == f"runs/softvq-8x8{suffix}/notebook.ipynb"
        assert set(words) < set(complete) and complete[:3] == ["-p", "run", os.path.dirname(output)]


def test_a_run_that_is_named_is_where_the_notebook_goes(here, train, root):
    assert with_output([train, "-p", "run", "a"])[-1] == "a/notebook.ipynb"
    evaluate = str(root / "nbs" / "evaluate.ipynb")
    (here / "a").mkdir()
    assert with_output([evaluate, "-p", "run", "a"]) == [
        *(evaluate, "-p", "run", "a"),
        "a/evaluate.ipynb",
    ]


def test_within_the_folder_of_the_notebooks_runs_are_where_they_always_are(here, root, monkeypatch):
    for name in ("train", "latent_map"):
        (here / "nbs").mkdir(exist_ok=True)
        (here / "nbs" / f"{name}.ipynb").symlink_to(root / "nbs" / f"{name}.ipynb")
    (here / "settings.ini").touch()
    (here / "runs" / "a").mkdir(parents=True)
    monkeypatch.chdir(here / "nbs")
    output = with_output(["latent_map.ipynb", "-p", "run", "runs/a"])[-1]
    assert Path(output).resolve() == here / "runs" / "a" / "latent_map.ipynb"
    (here / "w").mkdir()
    with_output(["latent_map.ipynb", "-p", "run", "runs/a", "-p", "weights", "w"])
    with pytest.raises(ConfigError, match="weights='v' is not there"):
        with_output(["latent_map.ipynb", "-p", "run", "runs/a", "-p", "weights", "v"])


def test_a_mistake_costs_no_folder_and_starts_no_kernel(here, train):
    with pytest.raises(ConfigError, match="Did you mean 'tokens'"):
        with_output([train, "-p", "tokns", "8"])
    done = subprocess.run(
        [*COMMAND, train, "-p", "tokens", "0"], capture_output=True, text=True, cwd=here
    )
    assert done.returncode == MISTAKE and "tokens" in done.stderr and "Traceback" not in done.stderr
    assert not (here / "runs").exists()


def _at_a_terminal(command: list[str], cwd) -> tuple[int, str]:
    "Exit status of a command, and what it wrote, at a terminal of its own."
    ours, its = pty.openpty()
    p = subprocess.Popen(command, cwd=cwd, stdin=its, stdout=its, stderr=its)
    os.close(its)
    said = b""
    try:
        while part := os.read(ours, 4096):
            said += part
    except OSError:  # the terminal is closed when the command has ended
        pass
    os.close(ours)
    return p.wait(), said.decode(errors="replace")


def _executed(folder) -> Run:
    nb = nbformat.read(folder / "notebook.ipynb", 4)
    assert nb.metadata.papermill.exception is None
    return Run(folder)


def test_at_a_terminal_the_literal_command_works(here, train):
    status, said = _at_a_terminal([*COMMAND, train, "-p", "tokens", "8", *FEW], here)
    assert status == 0, said[-3000:]
    assert said.startswith("runs/softvq-8x8"), "the path comes first"
    (folder,) = (here / "runs").iterdir()
    run = _executed(folder)
    assert run.status["state"] == "done" and run.info["config"]["tokenizer"]["tokens"] == 8
    done, figures, advice, next_step = said.strip().splitlines()[-4:]
    assert "psnr " in figures
    assert "4 steps are too few for ema_decay=0.99" in advice
    assert "Passed unknown parameter" not in said
    assert "done in " in done and str(folder.relative_to(here)) in done
    assert next_step == f"softvq-lab show {folder.relative_to(here)}"


@pytest.mark.slow
def test_redirected_it_says_where_the_notebook_is_and_not_the_notebook(here, train):
    "Papermill would write the notebook to the pipe; and take a piped input for one."
    done = subprocess.run(
        [*COMMAND, train, "-p", "tokens", "4", "--no-progress-bar", *FEW],
        cwd=here,
        input="",
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert '"cells"' not in done.stdout
    assert _executed((here / done.stdout.split()[0]).parent).status["state"] == "done"


@pytest.mark.slow
def test_a_foreign_notebook_is_papermills_affair(here):
    cells = [nbformat.v4.new_code_cell("print(6 * 7)")]
    kernel = {"name": "python3", "display_name": "Python 3"}
    nb = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(nb, here / "foreign.ipynb")
    status, said = _at_a_terminal([*COMMAND, "foreign.ipynb"], here)
    assert status == 2 and "Missing argument 'OUTPUT_PATH'" in said
    done = subprocess.run(
        [*COMMAND, "foreign.ipynb"], cwd=here, stdin=subprocess.DEVNULL, capture_output=True
    )
    assert json.loads(done.stdout)["cells"][0]["outputs"][0]["text"] == ["42\n"]


@pytest.mark.parametrize(
    "workflow, parameters, says",
    [
        ("train", dict(dataset="folder", data_path="my_photo"), "data_path=my_photo"),
        ("train_generator", dict(tokenizer_run="runs/nothing"), "tokenizer_run=runs/nothing"),
        ("evaluate", dict(run="runs/nothing"), "run=runs/nothing"),
        ("latent_map", dict(run="./owner/name"), "run=./owner/name"),
        ("evaluate", dict(), "evaluate needs run: which run?"),
    ],
)
@pytest.mark.parametrize("output", [[], ["runs/x/notebook.ipynb"]], ids=["short", "with a path"])
def test_what_is_not_there_is_refused_at_once(
    here, root, workflow, parameters, says, output, capsys
):
    (here / "runs").mkdir()
    words = [w for k, v in parameters.items() for w in ("-p", k, v)]
    status = main([str(root / "nbs" / f"{workflow}.ipynb"), *output, *words])
    said = capsys.readouterr().err.strip()
    assert status == MISTAKE and said.startswith(says) and len(said.splitlines()) == 1
    assert "looked in" in said and str(here) in said
    assert not any((here / "runs").iterdir()), "a folder was made"


@pytest.mark.parametrize(
    "workflow, name", [("train_generator", "tokenizer_run"), ("evaluate", "run")]
)
def test_a_run_without_weights_is_refused_at_once(here, root, workflow, name, capsys):
    begun = {"kind": "tokenizer", "config": {}, "created": "2026-01-01T00:00:00+00:00"}
    write_json(here / "runs" / "a" / "config.json", begun)
    write_json(here / "runs" / "a" / "status.json", {"state": "running", "step": 7})
    (here / "runs" / "a" / "checkpoints").mkdir()
    status = main([str(root / "nbs" / f"{workflow}.ipynb"), "runs/g.ipynb", "-p", name, "runs/a"])
    said = capsys.readouterr().err.strip()
    assert status == MISTAKE and said.startswith(f"{name}=runs/a: this run has no checkpoint yet")
    assert "step 7" in said and "softvq-lab resume runs/a" in said and len(said.splitlines()) == 1
    assert [p.name for p in (here / "runs").iterdir()] == ["a"], "a folder was made"


@pytest.mark.parametrize(
    "words",
    [["runs/a/notebook.ipynb"], ["runs/a.ipynb"], ["x.ipynb", "-p", "run", "runs/a"]],
    ids=["its folder", "its name", "its setting"],
)
def test_a_folder_that_holds_a_run_is_refused_with_the_command_that_goes_on(
    here, train, words, capsys
):
    write_json(here / "runs" / "a" / "config.json", {"kind": "tokenizer", "config": {}})
    assert main([train, *words, "-p", "steps", "5"]) == MISTAKE
    said = capsys.readouterr().err.strip()
    assert said.startswith("runs/a already holds a run (") and "step 0)" in said
    assert "Go on with it: softvq-lab resume runs/a," in said
    assert len(said.splitlines()) == 1 and os.listdir(here / "runs") == ["a"]
    assert os.listdir(here / "runs" / "a") == ["config.json"]


def test_a_sweep_that_is_not_there_is_refused_at_once(here, capsys):
    write_json(here / "runs" / "sweeps" / "my-tokens" / "sweep.json", {})
    with pytest.raises(ConfigError, match="my-token: there is no sweep.json .*'my-tokens'"):
        refuse_what_is_not_there("sweep", {"sweep": "runs/sweeps/my-token"})
    both = "runs/sweeps/my-tokens, runs/sweeps/other"
    with pytest.raises(ConfigError, match="sweep=runs/sweeps/other: "):
        refuse_what_is_not_there("sweep", {"sweep": both})
    refuse_what_is_not_there("sweep", {"sweep": "runs/sweeps/my-tokens"})


def test_a_mistyped_workflow_is_told_by_its_name(here, capsys):
    assert main(["nbs/trian.ipynb", "-p", "tokens", "8"]) == MISTAKE
    assert (
        capsys.readouterr().err == "there is no notebook nbs/trian.ipynb. Did you mean 'train'?\n"
    )


def test_what_may_be_a_repository_of_the_hub_is_not_taken_for_a_folder(here):
    refuse_what_is_not_there("train_generator", {"tokenizer_run": "owner/name"})
    (here / "owner").mkdir()
    with pytest.raises(ConfigError, match="owner/name: there is no such folder"):
        refuse_what_is_not_there("train_generator", {"tokenizer_run": "owner/name"})


def test_a_generators_own_figures_come_before_its_tokenizers(tmp_path):
    run = Run(tmp_path)
    for name, value, subject in [
        ("reconstruction", {"psnr": 14.65}, {"tokenizer": "a"}),
        ("samples", {"reference_frechet": 28.6}, {"generator": "b", "tokenizer": "a"}),
    ]:
        record = {"figures": value, "subject": subject, "passport": {}}
        write_json(tmp_path / "evaluation" / f"{name}.json", record)
    told = headlines(run)
    assert told.index("28.6") < told.index("14.65")


@pytest.mark.slow
def test_a_refused_command_leaves_the_notebook_of_record(here, train):
    run = here / "runs" / "a"
    words = [*COMMAND, train, "runs/a/notebook.ipynb", "-p", "tokens", "8", *FEW]

    def call(*more):
        return subprocess.run([*words, *more], cwd=here, capture_output=True, text=True, input="")

    assert call().returncode == 0
    record = (run / "notebook.ipynb").read_bytes()
    other, again = call("-p", "resume", "True", "-p", "tau", "0.5"), call()
    assert (run / "notebook.ipynb").read_bytes() == record
    assert other.returncode != 0 and "tau" in other.stderr
    assert "runs/a/notebook.ipynb stays as it was" in other.stderr
    assert again.returncode != 0 and "runs/a already holds a run (done, step 4)" in again.stderr
    refused = (run / "notebook.refused.ipynb").read_text()
    assert "ConfigError" in refused and not (run / "notebook.1.ipynb").exists()
    assert Run(run).status["state"] == "done"


def test_an_interrupt_removes_only_the_folder_that_the_command_has_made(here, root, monkeypatch):
    "Whether options stand before the notebook or behind it."
    from softvq_lab.experiments import execute, papermill_command

    def interrupted(*_):
        raise KeyboardInterrupt

    removed = []
    monkeypatch.setattr(execute, "leave_nothing", removed.append)
    monkeypatch.setattr(papermill_command, "_execute", interrupted)
    cost, train = (str(root / "nbs" / f"{n}.ipynb") for n in ("efficiency", "train"))
    for words in (["-p", "rounds", "1", cost], [cost, "-p", "rounds", "1"]):
        with pytest.raises(KeyboardInterrupt):
            papermill_command._started(words)
    assert removed == []
    for words in (["-p", "tokens", "8", train], [train, "-p", "tokens", "8"]):
        with pytest.raises(KeyboardInterrupt):
            papermill_command._started(words)
    assert [p.name for p in removed] == ["notebook.ipynb"] * 2
