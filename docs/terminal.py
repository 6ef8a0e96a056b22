"""Recordings of what a terminal shows, docs/terminal/*.txt, and the page that shows them.

    python docs/terminal.py [NAME ...]    # sweep, stopped, evaluate; all of them take some minutes

Each command runs in a pseudo-terminal of 100 columns. Of a line that was rewritten the recording
keeps what it said first, now and then, and last: a file cannot move.
"""

import fcntl
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "docs" / "terminal"
COLUMNS, LINES = 100, 40
KEPT = 4  # lines of a rewritten line, at most

SHORT = "steps=240 eval_every=60 checkpoint_every=120"
SWEEP = """name: evening
tokenizer:
  set: {steps: 120, eval_every: 60}
  grid: {tau: [0.07, 0.5]}
seeds: [0, 1]
"""
RECORDINGS = {
    "sweep": ["softvq-lab sweep evening.yaml -j 2"],
    "stopped": [
        f"softvq-lab run train {SHORT} --output runs/a/notebook.ipynb",  # and Ctrl-C, see PRESS
        "softvq-lab resume runs/a",
    ],
    "evaluate": ["softvq-lab evaluate runs/a", "softvq-lab show runs/a", "softvq-lab runs"],
}
PRESS = {0: r"step 1[3-9]\d/240"}  # of `stopped`: when its first command is interrupted


def _leads():
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def record(command: str, cwd: Path, press: str = "") -> str:
    "All that a terminal got from a command; Ctrl-C is pressed when it shows the pattern `press`."
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = os.environ | {"TERM": "xterm", "PATH": path}
    how = {"cwd": cwd, "env": env, "stdin": its, "stdout": its, "stderr": its}
    process = subprocess.Popen(shlex.split(command), preexec_fn=_leads, **how)
    os.close(its)
    said = b""
    while True:
        if press and re.search(press.encode(), said):
            os.write(ours, b"\x03")
            press = ""
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            part = os.read(ours, 65536)
        except OSError:  # the command has ended
            break
        if not part:
            break
        said += part
    process.wait()
    os.close(ours)
    return said.decode(errors="replace")


def lines_of(shown: str) -> list[str]:
    "The lines that a terminal showed, also those that were written over."
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    lines = [x.rstrip() for x in re.split(r"[\r\n]+", plain)]
    return [x for i, x in enumerate(lines) if x.strip() and x not in lines[max(0, i - 6) : i]]


def rewritten(line: str) -> str:
    "Lines that begin alike, up to their first count, are one line that was rewritten."
    begins = re.split(r": \w+ (?=\d+/\d)|\(cell (?=\d)", line)[0]
    return re.sub(r"\d[\d.,]*", "#", line) if begins == line else begins


def thinned(lines: list[str]) -> list[str]:
    "The first and the last lines of each that was rewritten, and some between."
    places = {}
    for i, line in enumerate(lines):
        places.setdefault(rewritten(line), []).append(i)
    kept = set()
    for where in places.values():
        steps = [round(k * (len(where) - 1) / (KEPT - 1)) for k in range(KEPT)]
        kept.update(where[k] for k in steps)
    return [line for i, line in enumerate(lines) if i in kept]


def recording(name: str, cwd: Path) -> str:
    "One recording: each command after a `$`, and what it showed."
    text = []
    for i, command in enumerate(RECORDINGS[name]):
        shown = record(command, cwd, PRESS.get(i, "") if name == "stopped" else "")
        text += [f"$ {command}", *thinned(lines_of(shown)), ""]
    return "\n".join(text)


def main() -> int:
    names = sys.argv[1:] or list(RECORDINGS)
    if unknown := [n for n in names if n not in RECORDINGS]:
        print(f"no recording is called {unknown[0]}; there are {', '.join(RECORDINGS)}")
        return 2
    PLACE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="terminal-") as folder:
        cwd = Path(os.environ.get("TERMINAL_FOLDER", folder))
        (cwd / "evening.yaml").write_text(SWEEP)
        for name in names:
            began = time.monotonic()
            (PLACE / f"{name}.txt").write_text(recording(name, cwd))
            print(f"docs/terminal/{name}.txt: {time.monotonic() - began:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
