"""Every command of the README and of the pages that it leads to: run in a few steps where it can
be, checked by the strict parser where it cannot; an unknown one fails and says what to add.
"""

import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from outside import run_outside
from PIL import Image
from typer.main import get_command

from softvq_lab.cli import app
from softvq_lab.commands import read_settings
from softvq_lab.core import ConfigError
from softvq_lab.experiments.slurm import SlurmConfig
from softvq_lab.experiments.sweep import open_sweep, override
from softvq_lab.hub import models
from softvq_lab.runs import Run
from softvq_lab.settings.parse import parameters, parse
from softvq_lab.settings.workflows import WORKFLOWS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    name: (ROOT / name).read_text(encoding="utf-8")
    for name in (
        "README.md",
        "docs/commands.md",
        "docs/sweeps.md",
        "docs/terminal.md",
        "docs/catalogue.md",
        "docs/settings.md",
        "docs/outputs.md",
    )
}  # what a new user reads, by path

# The tables of this test. A new command of these pages that is a papermill or make line, or a `-p`
# continuation, needs no row here.
STEPS = dict(steps=6, warmup_steps=2, batch_size=8, eval_every=6, checkpoint_every=6, log_every=2)
SMALL = {
    "train": STEPS,
    "train_generator": STEPS,
    "evaluate": dict(samples=20, sample_steps=2),
    "latent_map": dict(images=60),
    "sampler_quality": dict(samples=10),
    "guidance": dict(samples=10, sample_steps=2, scales="1,2"),
}  # workflow -> what makes it short
RUN = [  # commands that are run to their end, in this order: each needs what those before it made
    "papermill nbs/train.ipynb runs/a/notebook.ipynb -p tokens 32",
    (
        "papermill nbs/train.ipynb runs/b/notebook.ipynb -p dataset folder -p data_path my_photos "
        "-p "
        "image_size 64"
    ),
    "softvq-lab train runs/a",
    "papermill nbs/evaluate.ipynb runs/a/evaluate.ipynb -p run runs/a",
    "papermill nbs/train_generator.ipynb runs/g/notebook.ipynb -p tokenizer_run runs/a",
    "papermill nbs/evaluate.ipynb runs/g/evaluate.ipynb -p run runs/g",
    "papermill nbs/latent_map.ipynb runs/a/latent_map.ipynb -p run runs/a",
    "softvq-lab sample runs/g --samples 50000 --npz",
    "softvq-lab runs",
    "softvq-lab show runs/a",
    "softvq-lab compare runs/a runs/b",
    "softvq-lab sweep sweeps/digits-table5.yaml --dry",
]
INSTEAD = {
    "--samples 50000": "--samples 6",
    " sweeps/": f" {ROOT}/sweeps/",
    " nbs/": f" {ROOT}/nbs/",
}  # of a command's text, when it is run
NOT_RUN = {  # other commands -> why they are not run here
    "make demo": "seven minutes; its lines are the papermill commands above",
    "make demo-pictures": "a quarter of an hour; tests/test_emoji.py runs it with few steps",
    "make test": "this is a part of it",
    "make test-slow": "this is a part of it",
    "make explorer": "a server; tests/test_explorer.py starts it",
    "make lab": "a server",
    "make docs": "tests/test_docs.py",
    "make bench": "10 minutes; tests/test_benchmarks.py",
    "make gpu": "eight minutes on a GPU; tests/test_benchmarks.py has its dry run",
    "make": "shows the targets",
    "export SOFTVQ_LAB_PLUGINS=my.py": "tests/test_plugins.py",
    "source .venv/bin/activate": "a shell of one's own",
    "nbdev_export": ".ci/in-step runs it in a copy",
    "nbdev_clean": ".ci/in-step runs it in a copy",
}
TOGETHER = {
    "train_only": {"start_from": "runs/a"},
    "encoder_init": {"preset": "B", "patch_size": 16, "image_size": 256},
}  # settings that only make sense beside others, where a page shows them alone
PLACEHOLDERS = {
    "NAME_OR_FOLDER": "user/name",
    "FOLDER_OR_REPO": "user/name",
    "FOLDER": "runs/a",
    "FILE.py": "",
    "FILE.npz": "x.npz",
    "timm:NAME": "timm:vit",
    "NAME": "x",
}


def commands(text: str) -> list[str]:
    """Every command in code blocks, in cells of tables and inline: papermill, make, python, nbdev
    and continuations '... -p x y' or '-p x y'. A line that ends in a backslash goes on in the next.
    """
    blocks = [
        line
        for block in re.findall(r"^```(?:bash|sh)?\n(.*?)^```", text, re.S | re.M)
        for line in re.sub(r"\s*\\\n\s*", " ", block).splitlines()
    ]
    inline = re.findall(
        r"(?<!`)`([^`\n]+)`(?!`)", re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)
    )
    found = [re.sub(r"\s+(#|\().*$", "", c).strip() for c in blocks + inline]
    starts = (
        "papermill ",
        "make ",
        "python ",
        "nbdev_",
        "source ",
        "pip ",
        "torchrun ",
        "softvq",
        "... ",
        "-p ",
        "./",
        "bash ",
        "cp ",
        "git ",
        "export ",
    )
    return list(
        dict.fromkeys(
            c
            for c in found
            if c.startswith(starts)
            and not c.startswith("softvq_lab/")
            and c not in ("softvq-lab", "softvq")  # the program, and a quantizer
            and not re.fullmatch(r"softvq_lab(\.[a-z_.]+)?", c)
        )
    )


def settings(command: str) -> dict[str, str]:
    "Names and values of `-p NAME VALUE` (`-p a x|y`: x)."
    words, found = shlex.split(command), {}
    for i, w in enumerate(words):
        if w == "-p" and i + 2 < len(words):
            found[words[i + 1]] = words[i + 2].split("|")[0]
    return {k: PLACEHOLDERS.get(v, v) for k, v in found.items()}


def _typed(value: str):
    if value in ("True", "False", "None"):
        return {"True": True, "False": False, "None": None}[value]
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            pass
    return value


def workflow_of(command: str) -> str | None:
    m = re.match(r"papermill nbs/(\w+)\.ipynb", command)
    return m and m.group(1)


def classify(command: str) -> str:
    "'papermill', 'settings', 'script', 'cli', 'listed', or '' for what this test does not know."
    if (
        command in NOT_RUN
        or command.split()[0] == "make"
        and re.search(rf"^{re.escape(command.split()[-1])}:", (ROOT / "Makefile").read_text(), re.M)
    ):
        return "listed"
    if workflow_of(command) in WORKFLOWS:
        return "papermill"
    if command.startswith(("... ", "-p ")):
        return "settings"
    if command.startswith("softvq-lab "):
        return "cli"
    if m := re.match(r"python ((?:-m )?)([\w./]+)", command):
        return "script" if m.group(1) or (ROOT / m.group(2)).is_file() else ""
    return ""


COMMANDS = list(dict.fromkeys(c for text in PAGES.values() for c in commands(text)))


def test_the_pages_have_commands_and_those_run_here_are_in_them():
    assert len(COMMANDS) > 100 and len(commands(README)) > 15
    assert not [c for c in RUN if c not in COMMANDS], (
        "RUN in tests/test_readme.py holds commands that no page does: take them out, or mend them"
    )


def test_the_readme_is_read_in_three_minutes():
    assert len(README.splitlines()) <= 90 and len(README.encode()) <= 7000, (
        "long tables belong to the pages under docs/"
    )


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_known(command):
    assert classify(command), (
        f"a page holds a command that nothing tests: {command!r}. If it can be run in a few "
        "steps, add it to RUN in tests/test_readme.py (and what makes it short to SMALL); if it "
        "cannot, add it to NOT_RUN with the reason"
    )


@pytest.mark.parametrize(
    "command", [c for c in COMMANDS if classify(c) in ("papermill", "settings")]
)
def test_settings_pass_the_strict_parser(command):
    given = settings(command)
    if classify(command) == "papermill":
        assert (ROOT / "nbs" / f"{workflow_of(command)}.ipynb").is_file()
        fitting = [WORKFLOWS[workflow_of(command)]]
    else:
        fitting = [w for w in WORKFLOWS.values() if not given.keys() - parameters(w).keys()]
    assert fitting, f"no workflow takes all of {sorted(given)}"
    says = []
    for w in fitting:
        needed = next((v for k, v in TOGETHER.items() if k in given), {})
        try:
            parse(w, {k: _typed(v) for k, v in {**needed, **given}.items() if k != "plugins"})
        except ConfigError as e:
            says.append(str(e).split("\nPossible")[0])
    assert len(says) < len(fitting) or "plugins" in given, "\n".join(
        says
    )  # a name that a plug-in brings is known only with it


@pytest.mark.parametrize("command", [c for c in COMMANDS if classify(c) == "script"])
def test_scripts_take_the_arguments_shown(command, tmp_path, monkeypatch):
    "By their own parser."
    words = shlex.split(command)
    target, arguments = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
    if target in ("softvq_lab.sample", "softvq_lab.train"):
        program = get_command(app).commands[target.rpartition(".")[2]]
        parsed = program.make_context(target, [*arguments]).params
        assert parsed["run"] == Path(arguments[0])
    elif target == "apps/explorer.py":
        monkeypatch.syspath_prepend(str(ROOT / "apps"))
        (tmp_path / "FILE").write_text("me:a secret")
        monkeypatch.chdir(tmp_path)
        runpy.run_path(str(ROOT / target))["options"](arguments)
    elif target in ("docs/settings.py", "docs/terminal.py"):
        runpy.run_path(str(ROOT / target))["parser"]().parse_args(arguments)
    else:
        pytest.fail(f"say here how the arguments of {target} are checked")


@pytest.mark.parametrize("command", [c for c in COMMANDS if classify(c) == "cli"])
def test_the_command_line_takes_the_arguments_shown(command, tmp_path):
    name, *arguments = shlex.split(command)[1:]
    if "--help" in arguments:
        assert name in get_command(app).commands
        return
    if name.startswith("--"):
        assert name in {option for p in get_command(app).params for option in p.opts}
        return
    parsed = (
        get_command(app)
        .commands[name]
        .make_context(name, [str(tmp_path) if a.startswith("runs/") else a for a in arguments])
        .params
    )
    if name == "execute":
        parse(WORKFLOWS[parsed["workflow"]], read_settings(parsed["settings"]))
    if name != "sweep":
        return
    given = read_settings([w for w in parsed["files"] if "=" in w])
    for f in parsed["files"]:
        if "=" not in f:
            assert open_sweep(override(str(ROOT / f), given), tmp_path).tasks
    if parsed["executor"] == "slurm":
        assert SlurmConfig(**yaml.safe_load(parsed["slurm"]))


SCRIPTS = [
    "apps/explorer.py",
    *sorted(
        str(p.relative_to(ROOT))
        for p in (ROOT / "benchmarks").glob("*.py")
        if "__name__ == '__main__'" in p.read_text()
    ),
    "docs/site.py",
    "docs/rooms.py",
    "docs/settings.py",
    "docs/map.py",
    "-m softvq_lab.train",
    "-m softvq_lab.sample",
    "-m softvq_lab.cli",
]


@pytest.mark.parametrize(
    "script",
    [*SCRIPTS, *(f"-m softvq_lab.cli {name}" for name in get_command(app).commands)],
)
@pytest.mark.slow
def test_help(script, tmp_path):
    "Usage, and nothing done."
    words = [str(ROOT / w) if w.endswith(".py") else w for w in script.split()]
    done = subprocess.run(
        [sys.executable, *words, "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0 and "usage" in done.stdout.lower() and not done.stderr, (
        done.stdout + done.stderr
    )
    assert not any(tmp_path.iterdir())


def test_python_of_the_pages_names_what_exists():
    named = {n for text in PAGES.values() for n in re.findall(r"`(load_\w+)\(", text)}
    assert named == {"load_tokenizer", "load_pair"}
    for name in named:
        assert callable(getattr(models, name))


@pytest.mark.parametrize("page", PAGES)
def test_files_and_anchors_of_the_pages_are_there(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (ROOT / page).parent / path if path else ROOT / page
        assert there.exists(), f"{page} links to {path}, which is not there"
        if anchor:
            assert anchor in {
                re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-")
                for h in re.findall(r"^#+ (.+)$", there.read_text(), re.M)
            }, target


@pytest.mark.parametrize("page", PAGES)
def test_paths_in_code_on_the_pages_are_there(page):
    folders = "nbs|docs|apps|sweeps|tests|benchmarks|softvq_lab"
    named = re.findall(rf"`((?:{folders})/[\w./-]*)`", PAGES[page])
    assert [n for n in named if "..." not in n and not (ROOT / n).exists()] == []


def test_every_reader_finds_the_pages():
    "The README leads to each of them."
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", README)
    assert {*PAGES, *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))} - {
        "README.md"
    } <= set(links)


CHOICES = ["quantizer", "preset", "generator", "sampler", "dataset", "percep", "adv", "align"]


@pytest.mark.parametrize("setting", CHOICES)
def test_the_catalogue_names_every_choice(setting):
    "By the page of settings, which is made from the code."
    rows = re.findall(rf"^\| `{setting}` \| [^|]* \| ([^|]*) \|", PAGES["docs/settings.md"], re.M)
    options = {name for cell in rows for name in re.findall(r"`([^`]+)`", cell)} - {"None"}
    page = PAGES["docs/catalogue.md"]
    named = {*re.findall(r"`([^` ]+)`", page), *re.findall(rf"-p {setting} ([^\s`]+)", page)}
    assert len(options) > 1 and options - named == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "command", ["papermill nbs/train.ipynb -p tokens 32", "softvq-lab execute train tokens=32"]
)
def test_a_run_without_an_output_gets_the_folder_that_the_page_says(command, tmp_path):
    page, folder = PAGES["docs/commands.md"], "runs/softvq-32x8"
    assert command in commands(page) and f"`{folder}`" in page
    short = (" {}={}" if command.startswith("softvq-lab") else " -p {} {}").format
    line = command.replace(" nbs/", f" {ROOT}/nbs/")
    line += "".join(short(k, v) for k, v in STEPS.items())
    done = run_outside(line, tmp_path, PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-3000:]
    assert [p.relative_to(tmp_path) for p in (tmp_path / "runs").iterdir()] == [Path(folder)]
    assert Run(tmp_path / folder).status["state"] == "done"


@pytest.mark.slow
def test_the_path_of_a_newcomer(tmp_path):
    "RUN from beginning to end, in an empty folder, with a folder of photographs of odd sizes."
    r = np.random.default_rng(0)
    for kind in ("dark", "light", "red"):
        (tmp_path / "my_photos" / kind).mkdir(parents=True)
        for i in range(12):
            Image.fromarray(r.integers(0, 255, (70 + 3 * i, 90 + i, 3), dtype=np.uint8)).save(
                tmp_path / "my_photos" / kind / f"{i}.jpg"
            )
    (tmp_path / "my_photos" / "red" / "broken.jpg").write_text("no picture")
    for command in RUN:
        line = command + "".join(
            f" -p {k} {v}" for k, v in SMALL.get(workflow_of(command), {}).items()
        )
        for old, new in INSTEAD.items():
            line = line.replace(old, new)
        done = run_outside(line, tmp_path, PYTHONPATH=str(ROOT))
        assert done.returncode == 0, f"{line}\n{done.stderr[-3000:]}"
    runs = tmp_path / "runs"
    assert {Run(runs / n).status["state"] for n in "abg"} == {"done"}
    assert (
        Run(runs / "a").info["config"]["tokenizer"]["tokens"] == 32
        and Run(runs / "b").info["config"]["data"]["data_path"] == "my_photos"
    )
    assert "broken.jpg" in (runs / "b" / "broken.jsonl").read_text()
    page = PAGES["docs/outputs.md"]
    left = {p.name for n in "abg" for p in (runs / n).iterdir()}
    assert {n for n in left if n not in page} == set(), "docs/outputs.md says nothing of these"
    (packed,) = (runs / "g").rglob("*.npz")
    assert np.load(packed)["arr_0"].shape == (6, 32, 32, 3)
