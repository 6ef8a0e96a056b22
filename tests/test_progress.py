"The line of progress: the same at a terminal, in a file and in a notebook."

import re
import subprocess

import nbformat
from outside import BIN
from terminal import at_a_terminal, lines_of

from softvq_lab.progress import RECORD

FEW = {"steps": 40, "warmup_steps": 2, "batch_size": 8, "tokens": 4, "log_every": 2}
FEW |= {"eval_every": 20, "tracker": "none", "codebook_size": 32}
SETTINGS = [f"{k}={v}" for k, v in FEW.items()]
LINE = r"step \d+/40, [\d.,]+ images/s, (\d+ s left|in \d+ s), loss \S+, heldout_psnr \S+, \S+ GB"


def test_at_a_terminal_the_line_says_how_far_how_fast_and_how_well(tmp_path):
    command = [BIN / "softvq-lab", "run", "train", *SETTINGS, "--output", "a/notebook.ipynb"]
    shown = at_a_terminal(command, tmp_path)
    assert shown.status == 0, shown[-2000:]
    lines = lines_of(shown)
    assert any(re.fullmatch(f"a: {LINE}", x) for x in lines), lines
    assert any("a: Settings (cell " in x for x in lines), "between bars it says which cell"
    assert "cell/s" not in shown and lines[-1].startswith("done in ")

    (bar,) = [
        o
        for c in nbformat.read(tmp_path / "a" / "notebook.ipynb", 4).cells
        for o in c.get("outputs", [])
        if RECORD in o.get("data", {})
    ]
    assert re.fullmatch(f"a: {LINE}", bar.data["text/plain"]), "one output, which was replaced"


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
