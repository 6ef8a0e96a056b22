"""docs/adding.md is true: what it shows can be added, as a plug-in and as notebooks of the library,
with nothing else edited, and serves papermill, the command line and the explorer.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from softvq_lab.registry import KINDS

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "adding.md").read_text()
BLOCK = re.compile(r"^## (.+?)\n(.*?)^```python\n(.*?)^```", re.S | re.M)
CODE = {title: code for title, _, code in BLOCK.findall(PAGE)}
ROW = re.compile(r"^\| \[(.+?)\].*?\| `(\w+)` \|.*\| `(.+?)` \|$", re.M)
ROOMS = {title.capitalize(): room for title, _, room in ROW.findall(PAGE)}


def test_the_table_and_the_code_are_of_the_same_kinds():
    assert list(ROOMS) == list(CODE)
    kinds = {kind for _, kind, _ in ROW.findall(PAGE)}
    assert kinds <= set(KINDS)
    assert all(f"`{kind}`" in PAGE for kind in KINDS)
    for title, code in CODE.items():
        (kind,) = [k for t, k, _ in ROW.findall(PAGE) if t.capitalize() == title]
        assert f'@register("{kind}", ' in code


def as_plugin(folder: Path) -> tuple[Path, dict]:
    "Everything in one file that is named by the environment; the repository as it is."
    file = folder / "mine.py"
    file.write_text("\n\n".join(CODE.values()))
    return ROOT, {"SOFTVQ_LAB_PLUGINS": str(file), "PYTHONPATH": str(ROOT)}


def as_library(folder: Path) -> tuple[Path, dict]:
    "A notebook in its room for each of them, in a copy of the repository, then `nbdev_export`."
    copy = folder / "copy"
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in files.stdout.splitlines():
        if os.path.lexists(ROOT / name):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, copy / name, follow_symlinks=False)
    before = {p: p.read_bytes() for p in copy.rglob("*") if p.is_file()}
    for title, code in CODE.items():
        name, room = f"mine_{title.split()[0].lower()}", copy / ROOMS[title]
        if room.name == "tabs":
            (room / f"{name}.py").write_text(code)
            continue
        imports, _, rest = code.partition("\n\n\n")
        cells = [
            nbformat.v4.new_markdown_cell(f"# {name}\n> {title}."),
            nbformat.v4.new_code_cell(f"#| default_exp {room.name}.{name}"),
            nbformat.v4.new_code_cell(f"#| export\n{imports}"),
            nbformat.v4.new_code_cell(f"#| export\n{rest}"),
        ]
        nbformat.write(nbformat.v4.new_notebook(cells=cells), room / f"99_{name}.ipynb")
    env = {"PYTHONPATH": str(copy), "SOFTVQ_LAB_PLUGINS": ""}
    script = Path(sys.executable).with_name("nbdev_export")
    subprocess.run([script], cwd=copy, env={**os.environ, **env}, check=True, timeout=300)
    edited = [p for p, was in before.items() if p.read_bytes() != was]
    assert [p.name for p in edited] == ["_modidx.py"]  # nbdev's own index
    rooms = subprocess.run([sys.executable, "docs/rooms.py"], cwd=copy, env={**os.environ, **env})
    assert rooms.returncode == 0
    return copy, env


@pytest.mark.slow
@pytest.mark.parametrize("add", [as_plugin, as_library])
def test_what_the_page_shows_serves_papermill_command_line_and_explorer(add, tmp_path):
    root, env = add(tmp_path)
    python = [sys.executable, "-m"]

    def run(*command, expect=0):
        told = subprocess.run(
            list(map(str, command)),
            cwd=root,
            env={**os.environ, **env, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert told.returncode == expect, told.stderr[-3000:]
        return told

    t, g = tmp_path / "t", tmp_path / "g"
    settings = "quantizer top kept 2 dataset stripes rec huber adv patches percep edges align edges"
    small = "tokens 4 image_size 16 patch_size 4 batch_size 8"
    short = "steps 6 warmup_steps 1 eval_every 3 checkpoint_every 3"
    words = f"{settings} {small} {short}".split()
    given = [a for k, v in zip(words[::2], words[1::2]) for a in ("-p", k, v)]
    papermill = [*python, "papermill", "--no-log-output", "--no-progress-bar"]
    run(*papermill, root / "nbs/train.ipynb", t / "notebook.ipynb", *given)
    config = json.loads((t / "config.json").read_text())["config"]
    assert (config["tokenizer"]["quantizer"], config["tokenizer"]["kept"]) == ("top", 2)
    metrics = [json.loads(line) for line in (t / "metrics.jsonl").read_text().splitlines()]
    assert {"rec", "percep", "align", "adv"} <= set().union(*metrics)

    lab = [*python, "softvq_lab.cli"]
    wrong = run(*lab, "execute", "train", "quantizer=top", "kept=65", expect=2)
    assert "kept=65" in wrong.stderr and "less than or equal to 64" in wrong.stderr
    wrong = run(*lab, "execute", "train", "kept=2", expect=2)  # of another quantizer
    assert "kept=2: unknown" in wrong.stderr
    run(*lab, "execute", "train", "--output", t / "notebook.ipynb", "--resume", "steps=8")
    assert json.loads((t / "status.json").read_text())["step"] == 8

    tiny = [
        "generator=late",
        "steps=6",
        "warmup_steps=1",
        "batch_size=8",
        "eval_every=3",
        "checkpoint_every=3",
    ]
    run(
        *lab,
        "execute",
        "train_generator",
        "--output",
        g / "notebook.ipynb",
        f"tokenizer_run={t}",
        *tiny,
    )
    few = ["--samples", 6, "--steps", 2, "--sampler", "rk2", "--option", "alpha=0.75"]
    run(*lab, "sample", g, *few)
    told = json.loads(next(g.glob("samples/*/samples.json")).read_text())
    assert (told["sampler"], told["options"]) == ("rk2", {"alpha": 0.75})
    run(
        *papermill,
        root / "nbs/evaluate.ipynb",
        t / "e.ipynb",
        "-p",
        "run",
        t,
        "-p",
        "extractor",
        "edges",
    )
    measured = [json.loads(p.read_text()) for p in (t / "evaluation").glob("*.json")]
    figures = set().union(*(m["figures"] for m in measured))
    assert {"plugin_worst_pixel", "r_edges_frechet"} <= figures

    code = (
        "import sys; sys.path.insert(0, 'apps')\n"
        "import explorer\n"
        "from softvq_lab.settings.parse import settings_of\n"
        "from softvq_lab.settings.workflows import TrainConfig\n"
        "app = explorer.build(sys.argv[1])\n"
        "tabs = [b.label for b in app.blocks.values() if type(b).__name__ == 'Tab']\n"
        "form = settings_of(TrainConfig)\n"
        "print(tabs[6:], 'top' in form['quantizer'].choices, 'edges' in form['align'].choices)"
    )
    seen = run(sys.executable, "-c", code, tmp_path)
    assert "'Notes'" in seen.stdout and seen.stdout.rstrip().endswith("True True")
