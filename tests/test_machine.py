"""The machine around: no standard output, no home, paths written in any way, an installed package,
one module alone.
"""

import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from softvq_lab import cli, core
from softvq_lab.core import (
    ConfigError,
    cache_dir,
    cached,
    read_json,
    tell,
    write_cache,
)
from softvq_lab.data.archives import webdataset
from softvq_lab.data.datasets import digits
from softvq_lab.experiments.execute import workflow_notebook
from softvq_lab.pretrained import reference
from softvq_lab.progress import progress_bar
from softvq_lab.runs import open_run, read_metrics


def python(*words, **more) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, *map(str, words)], capture_output=True, text=True, timeout=120, **more
    )


class Gone(io.StringIO):
    "A stream whose reader has ended."

    def write(self, *text):
        raise BrokenPipeError(32, "Broken pipe")

    flush = fileno = write


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS = {"none": lambda: None, "closed": closed, "without a reader": Gone}


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_work_goes_on_without_a_standard_output(monkeypatch, stream):
    monkeypatch.setattr(sys, "stdout", stream())
    assert list(progress_bar(range(5), "counting", mininterval=0)) == [0, 1, 2, 3, 4]
    with progress_bar(total=3) as bar:
        bar.update(3)
        bar.set_postfix_str("loss 1")
    tell("to nobody")


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
def test_a_training_goes_on_without_a_standard_output(monkeypatch, tmp_path, stream):
    from dataclasses import asdict

    from softvq_lab import train
    from softvq_lab.experiments.parameters import check_parameters

    few = {"steps": 3, "batch_size": 5, "warmup_steps": 1, "eval_every": 3, "checkpoint_every": 3}
    few |= {"tokens": 4, "codebook_size": 16, "latent_dim": 6, "tracker": "none", "log_every": 1}
    config = check_parameters("train", few)
    run = train.prepare(config, tmp_path / "a", digits(32))
    monkeypatch.setattr(sys, "stdout", stream())
    assert train.main([str(run.path)]) == 0
    assert run.status["state"] == "done" and len(read_metrics(run)) >= 3
    assert asdict(config)["optim"]["steps"] == 3


@pytest.mark.parametrize("stream", STREAMS.values(), ids=STREAMS)
@pytest.mark.parametrize(
    "words",
    [["runs"], ["runs", "--root", "nowhere"], ["show", "a"], ["--help"], ["runs", "--json"]]
    + [["--version"], ["sample", "--help"], ["train", "nowhere"]],
)
def test_the_command_line_needs_no_standard_output(monkeypatch, tmp_path, stream, words):
    monkeypatch.chdir(tmp_path)
    open_run("runs/a", "tokenizer", {})
    monkeypatch.setattr(sys, "argv", ["softvq-lab", *words])
    monkeypatch.setattr(sys, "stdout", stream())

    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code in (0, 1, 2) and not isinstance(e.value.__context__, AttributeError)


@pytest.mark.slow
@pytest.mark.parametrize("redirect", [">&-", ">&- 2>&-", "| true", "| head -1", "> /dev/full"])
def test_a_shell_may_close_the_output(root, tmp_path, redirect):
    for i in range(40):
        open_run(tmp_path / f"run-{i}", "tokenizer", {})
    command = f"{sys.executable} -m softvq_lab.cli runs --root {tmp_path}"
    env = os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(
        ["bash", "-c", f"{command} {redirect}"], env=env, capture_output=True, text=True
    )
    assert "Traceback" not in done.stderr and "Exception ignored" not in done.stderr, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "words,own",
    [("runs", 0), ("--help", 0), ("run --help", 0), ("show r", 0), ("compare r s", 0)]
    + [("show nowhere", 2), ("", 2), ("--version", 0), ("runs --json", 0), ("sample --help", 0)],
)
def test_an_output_that_cannot_be_written_is_an_error_and_a_closed_pipe_is_none(
    root, tmp_path, words, own
):
    from dataclasses import asdict

    from softvq_lab.settings.workflows import TrainConfig

    for name, kind in (("r", "tokenizer"), ("s", "generator")):  # compare prints what differs
        open_run(tmp_path / name, kind, asdict(TrainConfig()))
    words = words + " --root ." * (words == "runs")
    command = f"{sys.executable} -m softvq_lab.cli {words}"
    env = os.environ | {"PYTHONPATH": str(root)}

    def ends(how: str) -> tuple[int, list[str]]:
        done = subprocess.run(
            ["bash", "-c", f"{command} {how}"],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )
        return done.returncode, done.stderr.splitlines()

    status, said = ends("> /dev/full")
    assert status == (own or 1)
    if words != "show nowhere":  # which writes nothing there
        assert said[-1] == "standard output cannot be written: No space left on device"
        assert len(said) == 1
    status, said = ends("| true; exit ${PIPESTATUS[0]}")
    assert status == own and len(said) == (words == "show nowhere")


def no_home(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))


def home_is_a_file(monkeypatch):  # nobody can write there, root neither
    monkeypatch.setenv("HOME", __file__)


def cache_is_a_file(monkeypatch):
    monkeypatch.setenv("SOFTVQ_LAB_CACHE", f"{__file__}/cache")


HOMES = [no_home, home_is_a_file, cache_is_a_file]


@pytest.mark.parametrize("home", HOMES)
def test_what_cannot_be_cached_at_home_goes_to_the_temporary_folder(monkeypatch, tmp_path, home):
    monkeypatch.delenv("SOFTVQ_LAB_CACHE", raising=False)
    monkeypatch.setattr(core.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(reference, "_train", lambda net, *a: net.eval())
    home(monkeypatch)
    pictures(tmp_path / "a.tar")
    with pytest.warns(UserWarning, match="SOFTVQ_LAB_CACHE"):
        assert cache_dir().is_relative_to(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = reference.reference_network(digits(32))
        assert len(webdataset(tmp_path / "a.tar", 16).train) > 2
        kept = {p.parent.name for p in cache_dir().rglob("*.*")}
        assert kept == {"reference", "tars"}
        assert reference.reference_network(digits(32)).name == first.name, "kept there, and read"


@pytest.mark.slow
def test_a_damaged_reference_network_is_made_again_and_another_seed_is_another_network(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("SOFTVQ_LAB_CACHE", str(tmp_path))
    data = digits(32)
    names = [reference.reference_network(data, seed).name for seed in (0, 1)]
    assert names[0] != names[1]
    next((cache_dir() / "reference").iterdir()).write_bytes(b"damaged")
    assert [reference.reference_network(data, seed).name for seed in (0, 1)] == names


def pictures(path: Path):
    with tarfile.open(path, "w") as tar:
        for i in range(30):
            Image.fromarray(np.full((9, 7, 3), 8 * i, np.uint8)).save(b := io.BytesIO(), "PNG")
            for name, data in ((f"{i:03}.png", b.getvalue()), (f"{i:03}.cls", b"%d" % (i % 3))):
                m = tarfile.TarInfo(name)
                m.size = len(data)
                tar.addfile(m, io.BytesIO(data))


def test_a_temporary_folder_of_somebody_else_is_not_used(monkeypatch, tmp_path):
    monkeypatch.setattr(core.tempfile, "tempdir", str(tmp_path))
    home_is_a_file(monkeypatch)
    monkeypatch.delenv("SOFTVQ_LAB_CACHE", raising=False)
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"softvq_lab-{os.getuid()}").symlink_to(tmp_path / "theirs")
    with pytest.warns(UserWarning):
        found = cache_dir()
    assert found.parent == tmp_path and not found.is_symlink() and found != tmp_path / "theirs"


def test_a_cache_that_can_only_be_read_is_read(monkeypatch, tmp_path):
    monkeypatch.setenv("SOFTVQ_LAB_CACHE", str(tmp_path / "shared"))
    (tmp_path / "shared" / "tars").mkdir(parents=True)
    (tmp_path / "shared" / "tars" / "x").write_text("1")
    monkeypatch.setattr(core, "_own_folder", lambda p: "shared" not in str(p) and not p.mkdir())
    monkeypatch.setattr(core.tempfile, "tempdir", str(tmp_path))
    assert cached("tars", "x") == tmp_path / "shared" / "tars" / "x"
    with pytest.warns(UserWarning, match="cannot be written"):
        assert not cached("tars", "y").is_relative_to(tmp_path / "shared")


def test_a_full_disk_is_a_warning(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="not kept in the cache"):
        write_cache(tmp_path / "file" / "x", b"1")


WAYS = [
    "runs/{}/n.ipynb",
    "./runs/{}/n.ipynb",
    "{cwd}/runs/{}/n.ipynb",
    "../{here}/runs/{}/n.ipynb",
]
WAYS += ["experiments/{}/n.ipynb", "../elsewhere/{}/n.ipynb", "{}.ipynb", "runs//{}/../{}/n.ipynb"]


@pytest.mark.parametrize("way", WAYS)
def test_an_output_is_the_same_however_its_path_is_written(monkeypatch, tmp_path, way):
    from papermill.iorw import local_file_io_cwd, papermill_io

    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    path = way.format("a", "a", cwd=tmp_path / "here", here="here")

    def written(day, text):
        return json.dumps(
            {
                "cells": [{"source": f"import softvq_lab  # {text}"}],
                "metadata": {"papermill": {"start_time": day}},
            }
        )

    with local_file_io_cwd():
        papermill_io.write(written("Monday", "begun"), path)
        papermill_io.write(written("Monday", "ended"), path)
        papermill_io.write(written("Tuesday", "begun"), path)
    kept = {p.name: p.read_text() for p in Path(path).parent.glob("*.ipynb")}
    name = Path(path).stem
    assert sorted(kept) == [f"{name}.1.ipynb", f"{name}.ipynb"]
    assert "ended" in kept[f"{name}.1.ipynb"] and "Tuesday" in kept[f"{name}.ipynb"]


def test_notebooks_of_others_are_written_as_papermill_does(monkeypatch, tmp_path):
    from papermill.iorw import papermill_io

    monkeypatch.chdir(tmp_path)
    for text in ('{"cells": [], "n": 1}', '{"cells": [], "n": 2}'):
        papermill_io.write(text, "report.ipynb")
    assert [p.name for p in tmp_path.iterdir()] == ["report.ipynb"]
    with pytest.raises(FileNotFoundError):
        papermill_io.write('{"cells": []}', "nowhere/report.ipynb")
    assert papermill_io.read("report.ipynb") == '{"cells": [], "n": 2}'
    assert type(papermill_io.get_handler("s3://bucket/a.ipynb")).__name__ != "RunsHandler"
    papermill_io.get_handler("local").write('{"softvq_lab": 1}', "/dev/null")


@pytest.mark.slow
def test_an_executed_workflow_is_kept_by_papermill_itself(root, tmp_path):
    """The command, from another folder, with an absolute path: the second one fails early and costs
    nothing.
    """
    output = tmp_path / "deep" / "er" / "notebook.ipynb"
    words = ["-m", "papermill", "--no-progress-bar", "--log-level", "ERROR"]
    words += [root / "nbs" / "train.ipynb", output]
    env = os.environ | {"PYTHONPATH": str(root), "IPYTHONDIR": str(tmp_path / "ipython")}
    for wrong in ("tokns", "tokns2"):
        done = python(*words, "-p", wrong, "3", cwd=tmp_path, env=env)
        assert done.returncode and "Did you mean 'tokens'" in done.stderr
    texts = {p.name: p.read_text() for p in output.parent.glob("*.ipynb")}
    assert sorted(texts) == ["notebook.ipynb", "notebook.refused.ipynb"]
    assert "tokns2" in texts["notebook.refused.ipynb"] and "tokns2" not in texts["notebook.ipynb"]


@pytest.mark.slow
def test_papermills_door_may_be_opened_from_either_side(root):
    for first in ("softvq_lab.experiments.papermill_io", "papermill.iorw"):
        code = (
            f"import {first}; from papermill.iorw import papermill_io as io; "
            "print(io.get_handler('./a.ipynb'))"
        )
        done = python("-c", code, env=os.environ | {"PYTHONPATH": str(root)})
        assert "RunsHandler" in done.stdout, done.stderr


@pytest.mark.slow
def test_any_module_may_be_imported_first(root):
    "In a fork of one process for each: what all need is imported once, and softvq_lab is not."
    code = """
import os, sys, pathlib, traceback
import torch, timm, accelerate, psutil, pydantic, typer  # papermill not
import plotly, pandas, scipy, torchmetrics, yaml
top = pathlib.Path(sys.argv[1])
found = (p.relative_to(top).with_suffix("") for p in (top / "softvq_lab").rglob("*.py"))
names = sorted(".".join(p.parts) for p in found)
assert not any(n.startswith("softvq_lab") or n.startswith("papermill") for n in sys.modules)
print(len(names))
for name in names:
    if not os.fork():
        try:
            __import__(name.removesuffix(".__init__"))
        except BaseException:
            print("WRONG", name, traceback.format_exc()[-600:], flush=True)
        os._exit(0)
    os.wait()
"""
    done = python("-c", code, root, env=os.environ | {"PYTHONPATH": str(root)})
    assert done.returncode == 0 and int(done.stdout.split()[0]) > 60, done.stderr
    assert "WRONG" not in done.stdout, done.stdout


def test_a_workflow_is_found_or_named(tmp_path):
    assert workflow_notebook("train").is_file() and workflow_notebook("sweep").parent.name == "nbs"
    with pytest.raises(ConfigError, match="train_generator"):
        workflow_notebook("trian")


@pytest.mark.slow
def test_the_wheel_works_without_the_checkout(root, tmp_path):
    files = subprocess.run(
        ["git", "ls-files", "-z", "softvq_lab", "nbs", "pyproject.toml", "README.md", "LICENSE"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\0")
    for name in filter(None, files):
        (tmp_path / "src" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(root / name, tmp_path / "src" / name, follow_symlinks=False)
    pip = ["-m", "pip", "--disable-pip-version-check"]
    wheel = ["wheel", "-q", "--no-deps", "--no-build-isolation", "-w", tmp_path / "out"]
    done = python(*pip, *wheel, tmp_path / "src")
    assert done.returncode == 0, done.stderr
    (built,) = (tmp_path / "out").iterdir()
    done = python(*pip, "install", "-q", "--no-deps", "--target", tmp_path / "site", built)
    assert done.returncode == 0, done.stderr
    shutil.rmtree(tmp_path / "src")
    env = os.environ | {"PYTHONPATH": str(tmp_path / "site"), "OMP_NUM_THREADS": "1"}
    (tmp_path / "desk").mkdir()
    few = "tokens=4 steps=4 batch_size=8 warmup_steps=1 eval_every=4 checkpoint_every=4 lr=1e-3"
    words = ["-m", "softvq_lab.cli", "run", "train", *few.split(), "tracker=none"]
    done = python(*words, cwd=tmp_path / "desk", env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    (status,) = (tmp_path / "desk").glob("runs/*/status.json")
    assert read_json(status)["state"] == "done"


BROKEN = {
    "a notebook that is no notebook": lambda copy: (copy / "nbs" / "08_runs.ipynb").write_text("{"),
    "a notebook that cannot be exported": lambda copy: (copy / "nbs" / "08_runs.ipynb").write_text(
        (copy / "nbs" / "08_runs.ipynb")
        .read_text()
        .replace("def log_metrics(", "def log_metrics((")
    ),
    "an edit of the library": lambda copy: (copy / "softvq_lab" / "runs.py").write_text("x = 1\n"),
    "no environment": lambda copy: (copy / ".venv").unlink(),
}


@pytest.mark.parametrize("spoil", [None, *BROKEN.values()], ids=["nothing", *BROKEN])
def test_in_step_says_so_only_when_it_is(root, tmp_path, spoil):
    "With three notebooks: the real tree takes minutes."
    for name in ("nbs/00_core.ipynb", "nbs/08_runs.ipynb", "settings.ini", ".ci/in-step"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy2(root / name, tmp_path / name)
    (tmp_path / "softvq_lab").mkdir()
    shutil.copy2(root / "softvq_lab" / "__init__.py", tmp_path / "softvq_lab")
    (tmp_path / ".gitignore").write_text(".venv\n")
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    export = Path(sys.executable).with_name("nbdev_export")

    def run(*words):
        return subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)

    assert run(export).returncode == 0 and run("git", "init", "-q", ".").returncode == 0
    if spoil:
        spoil(tmp_path)
    done = run(".ci/in-step")
    assert (done.returncode == 0) == (spoil is None), done.stdout + done.stderr
    assert ("are in step" in done.stdout) == (spoil is None)
