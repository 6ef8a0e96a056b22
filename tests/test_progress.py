"The line of progress: the same at a terminal, in a file and in a notebook."

import functools
import re
import subprocess

import nbformat
import pytest
from outside import BIN
from terminal import at_a_terminal, lines_of

from softvq_lab.data.datasets import shapes
from softvq_lab.experiments.execute import ProgressRelay
from softvq_lab.pretrained import reference
from softvq_lab.pretrained.reference import reference_network
from softvq_lab.progress import RECORD, Bar

FEW = {"steps": 40, "warmup_steps": 2, "batch_size": 8, "tokens": 4, "log_every": 2}
FEW |= {"eval_every": 20, "tracker": "none", "codebook_size": 32}
SETTINGS = [f"{k}={v}" for k, v in FEW.items()]
TIME = r"((over )?\d+ s left|in \d+ s)"
LINE = rf"step \d+/40, [\d.,]+ images/s, {TIME}, loss \S+, heldout_psnr \S+, \S+ GB"


@pytest.mark.slow
def test_at_a_terminal_the_line_says_how_far_how_fast_and_how_well(tmp_path):
    command = [BIN / "softvq-lab", "run", "train", *SETTINGS, "--output", "a/notebook.ipynb"]
    shown = at_a_terminal(command, tmp_path)
    assert shown.status == 0, shown[-2000:]
    lines = lines_of(shown)
    assert any(re.fullmatch(f"a: {LINE}", x) for x in lines), lines
    cell = r"a: Settings, loading libraries \(cell \d+ of \d+\)"
    assert any(re.match(cell, x) for x in lines), "between bars it says what happens"
    assert "cell/s" not in shown
    end = next(i for i, x in enumerate(lines) if x.startswith("done in "))
    assert "psnr " in lines[end + 1] and lines[end + 2].startswith("The averaged weights")
    assert lines[-1] == "softvq-lab show a", "what to do next"

    (bar,) = [
        o
        for c in nbformat.read(tmp_path / "a" / "notebook.ipynb", 4).cells
        for o in c.get("outputs", [])
        if RECORD in o.get("data", {})
    ]
    assert re.fullmatch(f"a: {LINE}", bar.data["text/plain"]), "one output, which was replaced"


@pytest.mark.slow
def test_a_sweep_in_a_file_begins_with_its_plan_and_takes_few_lines(tmp_path):
    rows = "{" + ", ".join(f"{k}: {v}" for k, v in FEW.items() if k != "tokens") + "}"
    text = f"name: s\ntokenizer:\n  set: {rows}\n  grid: {{tokens: [4, 8]}}\n"
    (tmp_path / "s.yaml").write_text(text)
    words = [BIN / "softvq-lab", "sweep", "s.yaml", "-j", "2"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr[-2000:]
    assert lines[0] == "s: 2 jobs (2 tokenizer), 2 at a time"
    assert [x.strip() for x in lines[1:3]] == [f"tokenizer: tokens={n}, seed=0" for n in (4, 8)]
    assert sum("done  " in x for x in lines) == 2 and len(lines) < 20


@pytest.fixture
def short_reference(tmp_path, monkeypatch):
    "A reference network of six steps, in a cache of its own."
    monkeypatch.setenv("SOFTVQ_LAB_CACHE", str(tmp_path))
    monkeypatch.setattr(reference, "_train", functools.partial(reference._train, steps=6, batch=16))


def test_the_reference_network_says_what_is_done_and_only_once(
    short_reference, monkeypatch, capsys
):
    first = reference_network(shapes(32, 48))
    said = capsys.readouterr().out
    line = r"the reference network of .*, trained once and kept: step 6/6, [\d.,]+ images/s"
    assert re.search(line, said) and "reading images" not in said, "what takes no time is not said"
    assert reference_network(shapes(32, 48)).name == first.name
    assert capsys.readouterr().out == ""

    monkeypatch.setattr("sys.stdout", None)  # a server without one: it is trained all the same
    assert reference_network(shapes(32, 48), seed=7).name != first.name


def test_images_that_are_read_slowly_are_counted(short_reference, monkeypatch, capsys):
    monkeypatch.setattr(reference, "SLOW", 0)
    reference_network(shapes(32, 48))
    assert re.search(
        r"reading images for the reference network .*: image 48/48", capsys.readouterr().out
    )


def test_after_the_bar_of_a_part_the_line_says_the_cell_again():
    shown = []
    relay = ProgressRelay("a", "train")
    relay.takers.append(shown.append)
    relay.begins("Settings", 7, 25)
    relay.progress({"what": "the reference network", "ended": False})
    relay.progress({"what": "the reference network", "ended": True})
    assert [r["what"] for r in shown] == ["a", *["the reference network"] * 2, "a"]
    assert shown[-1]["heading"] == "Settings"


def test_a_bar_that_follows_another_process_has_its_time_left():
    bar = Bar(total=10, initial=2, sink=lambda record: None, mininterval=0)
    bar.update(4)
    own = bar.record["left"]
    bar.left = own + 500.0
    assert bar.record["left"] == own + 500.0 and "8 min left" in str(bar)
    bar.left = None
    assert bar.record["left"] < 500.0
    bar.close()
