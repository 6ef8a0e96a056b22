"""Recordings of what a terminal shows, docs/terminal/*.txt, and the page that shows them.

    python docs/terminal.py [NAME ...]    # stopped, evaluate, sweep; all of them take some minutes
    python docs/terminal.py --page        # the page only, from the recordings that are there

Each command runs in a pseudo-terminal of 100 columns. Of a line that was rewritten the recording
keeps what it said first, now and then, and last: a file cannot move.
"""

import argparse
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
    "stopped": [
        f"softvq-lab run train {SHORT} --output runs/a/notebook.ipynb",  # and Ctrl-C, see PRESS
        "softvq-lab resume runs/a",
    ],
    "evaluate": ["softvq-lab evaluate runs/a", "softvq-lab show runs/a", "softvq-lab runs"],
    "sweep": ["softvq-lab sweep evening.yaml -j 2"],
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
    seen, kept = set(), []
    for line in filter(str.strip, lines):
        if rewritten(line) and line in seen:
            continue  # drawn anew, but not another
        seen.add(line)
        kept.append(line)
    return kept


def rewritten(line: str) -> str:
    "What lines have in common that are one line, rewritten: how they begin; empty for others."
    begins = re.match(r"(.*: )\w+ \d+/\d|(.*)\(cell \d|(\d+) of \d+ jobs done", line)
    return next(filter(None, begins.groups())) if begins else ""


def thinned(lines: list[str]) -> list[str]:
    "The first and the last lines of each that was rewritten, some between, and all others."
    places, kept = {}, set()
    for i, line in enumerate(lines):
        if begins := rewritten(line):
            places.setdefault(begins, []).append(i)
        else:
            kept.add(i)
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


HEAD = """# What a terminal shows

*Written by `python docs/terminal.py`, which also makes the recordings. Do not edit it.*

Recordings of a terminal of 100 columns on two busy CPU cores. A line of progress is rewritten all
the time: a recording keeps its beginning, its end and a little between. Times say *over* as long as
something that still comes was not measured: the first evaluation, the first checkpoint.
"""
ABOUT = {
    "stopped": (
        "A training that is stopped and goes on",
        "Ctrl-C is pressed in the middle. The training saves, and says how to go on.",
    ),
    "evaluate": (
        "An evaluation, and a look at the run",
        "The metrics of that run, measured and shown; `softvq-lab runs` lists all runs.",
    ),
    "sweep": (
        "A sweep of four, two at a time",
        "Two temperatures with two seeds each ([how such a file is written](sweeps.md)):",
    ),
}


def page() -> str:
    "docs/terminal.md."
    parts = [HEAD]
    for name, (title, about) in ABOUT.items():
        text = (PLACE / f"{name}.txt").read_text().rstrip()
        example = ["```yaml", SWEEP.rstrip(), "```", ""] if name == "sweep" else []
        parts += [f"## {title}", "", about, "", *example, "```text", text, "```", ""]
    return "\n".join(parts).rstrip() + "\n"


def make(names: list[str]):
    "Record, in a folder of its own."
    PLACE.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="terminal-") as folder:
        cwd = Path(folder)
        (cwd / "evening.yaml").write_text(SWEEP)
        for name in names:
            began = time.monotonic()
            (PLACE / f"{name}.txt").write_text(recording(name, cwd))
            print(f"docs/terminal/{name}.txt: {time.monotonic() - began:.0f} s")


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("names", nargs="*", metavar="NAME", help=", ".join(RECORDINGS))
    made.add_argument("--page", action="store_true", help="record nothing, write the page only")
    return made


def main() -> int:
    given = parser().parse_args()
    if unknown := [n for n in given.names if n not in RECORDINGS]:
        print(f"no recording is called {unknown[0]}; there are {', '.join(RECORDINGS)}")
        return 2
    if not given.page:
        make(given.names or list(RECORDINGS))
    (ROOT / "docs" / "terminal.md").write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
