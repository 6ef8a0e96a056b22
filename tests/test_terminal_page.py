"The recordings of a terminal, and the page that shows them."

import re
import sys
from pathlib import Path

import pytest
from test_docs import script

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def terminal():
    return script("terminal")


def test_the_page_shows_the_recordings_and_every_command(terminal):
    page = (ROOT / "docs" / "terminal.md").read_text()
    assert page == terminal.page(), "python docs/terminal.py --page writes it anew"
    for commands in terminal.RECORDINGS.values():
        assert all(f"$ {c}\n" in page for c in commands)


def test_the_recordings_say_what_a_stranger_needs(terminal):
    shown = {p.stem: p.read_text() for p in terminal.PLACE.glob("*.txt")}
    assert shown.keys() == terminal.RECORDINGS.keys() == terminal.ABOUT.keys()
    assert re.search(
        r"saved at step \d+ of 240; go on with: softvq-lab resume runs/a", shown["stopped"]
    )
    assert "step 240/240" in shown["stopped"] and "over " in shown["stopped"]
    assert re.search(r"^evening: 4 jobs .*, 2 at a time$", shown["sweep"], re.M)
    assert re.search(r"^ tau +.*psnr.* seeds", shown["sweep"], re.M) and "±" in shown["sweep"]
    for text in shown.values():
        assert "Traceback" not in text and "nan" not in text and "…" not in text
        assert str(ROOT) not in text and max(map(len, text.splitlines())) <= 200


def test_a_rewritten_line_keeps_its_ends_and_a_little_between(terminal):
    rows = [f"a: step {n}/400, {n}.5 images/s" for n in range(1, 400)]
    kept = terminal.thinned(["runs/a", *rows, "done in 3 min"])
    assert kept[0] == "runs/a" and kept[-1] == "done in 3 min"
    assert kept[1:-1] == [rows[0], *kept[2:-2], rows[-1]] and len(kept) == 2 + terminal.KEPT
    two = terminal.thinned([f"  tau={t}: step {n}/9" for n in range(9) for t in (0.5, 0.7)])
    assert len(two) == 2 * terminal.KEPT, "two jobs are two lines"


def test_what_is_not_a_recording_is_refused(terminal, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["terminal.py", "swep"])
    assert terminal.main() == 2 and "stopped, evaluate, sweep" in capsys.readouterr().out
