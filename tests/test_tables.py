"Tables at terminals of several widths: names of runs are whole, and can be copied."

import io
import re
import shutil
from dataclasses import asdict

import pytest
from outside import BIN
from rich.console import Console
from terminal import at_a_terminal
from typer.testing import CliRunner

from softvq_lab import cli
from softvq_lab.runs import open_run
from softvq_lab.settings.parse import parse
from softvq_lab.settings.workflows import TrainConfig

LONG = "softvq-32x8_tau-0.5_kl_weight-0.001_similarity-l2_codebook_size-512-0123abcd"
NAMES = [f"pool/{LONG}", "b", f"pool/{LONG.replace('0.5', '0.07')}"]
SWEEP = """name: an-evening-of-temperatures
tokenizer:
  set: {kl_weight: 0.001, similarity: l2, codebook_size: 512}
  grid: {tau: [0.07, 0.5]}
"""


@pytest.fixture
def runs(tmp_path):
    for i, name in enumerate(NAMES):
        c = asdict(parse(TrainConfig, {"tau": 0.5 + i, "tokens": 8}))
        run = open_run(tmp_path / "runs" / name, "tokenizer", c)
        run.set_status("done", step=1200, steps=1200)
    return tmp_path / "runs"


def shown(monkeypatch, width: int | None, *words) -> str:
    "What a command prints at a terminal of this width; None: into a file."
    if width:
        console = Console(file=io.StringIO(), width=width, color_system=None, emoji=False)
        monkeypatch.setattr(cli, "table_console", lambda: console)
    done = CliRunner().invoke(cli.app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return (console.file.getvalue() if width else "") + done.output


@pytest.mark.parametrize("width", [80, 100, 160, None])
def test_names_of_runs_are_whole_at_every_width(runs, monkeypatch, width):
    listed = shown(monkeypatch, width, "runs", "--root", runs)
    compared = shown(monkeypatch, width, "compare", *(runs / n for n in NAMES))
    (runs.parent / "s.yaml").write_text(SWEEP)
    monkeypatch.chdir(runs.parent)
    planned = shown(monkeypatch, width, "sweep", "s.yaml", "--dry")
    for name in NAMES:
        assert name in listed and str(runs / name) in compared
    assert len(re.findall(r"runs/pool/\S+-[0-9a-f]{8}/notebook\.ipynb", planned)) == 2
    for text in (listed, compared, planned):
        assert "…" not in text
    assert "1200/1200" in listed and "took" in listed and "done" in listed
    assert "tau" in compared and "2.5" in compared and "tau=0.07" in planned


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 100])
def test_a_name_that_a_terminal_wraps_has_no_line_break_in_it(runs, columns):
    found = at_a_terminal([BIN / "softvq-lab", "runs"], runs.parent, columns=columns)
    assert found.status == 0 and all(name in found for name in NAMES)
    words = [BIN / "softvq-lab", "compare", *(f"runs/{n}" for n in NAMES[::2])]
    found = at_a_terminal(words, runs.parent, columns=columns)
    assert found.status == 0 and all(f"runs/{name}" in found for name in NAMES[::2])
    assert max(map(len, found.splitlines())) <= max(columns, len(NAMES[0]) + 12)


def test_short_names_are_a_table_as_before(runs, monkeypatch):
    for name in (NAMES[0], NAMES[2]):
        shutil.rmtree(runs / name)
    text = shown(monkeypatch, 80, "runs", "--root", runs)
    assert text.split()[:3] == ["run", "kind", "images"] and len(text.splitlines()) == 2
