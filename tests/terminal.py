"A terminal of its own for a command: what it shows, and what the keyboard says to it."

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import psutil
from outside import BIN

ENV = {"TERM": "xterm", "PYTHONUNBUFFERED": "1", "PLOTLY_RENDERER": "plotly_mimetype"}
ENV |= {"PYTHONFAULTHANDLER": "1"}  # what does not end says where it is
PATIENCE = 400  # seconds for a command, and again after a key was pressed


class Shown(str):
    "What a terminal showed, without what moves its cursor."

    status: int


def _leads():
    "In the child: its terminal interrupts it, also where the tests run in the background."
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)


def _abort(pid: int):
    "End a process and its descendants; each writes where its threads are."
    family = psutil.Process(pid).children(recursive=True)
    for member in [*family, psutil.Process(pid)]:
        with contextlib.suppress(psutil.Error):
            member.send_signal(signal.SIGABRT)
        time.sleep(0.5)


def at_a_terminal(words, cwd, press: str = "", times: int = 1, columns: int = 120) -> Shown:
    """Run `words` in a terminal `columns` wide. When it shows the pattern `press`, Ctrl-C is
    pressed, `times` times with a second between.
    """
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    env = {**os.environ, **ENV, "PATH": f"{BIN}:{os.environ['PATH']}"}
    for name in ("SOFTVQ_LAB_COMMAND", "COLUMNS", "LINES"):  # pytest's workers set the latter two
        env.pop(name, None)
    words = list(map(str, words))
    p = subprocess.Popen(
        words, cwd=cwd, env=env, stdin=its, stdout=its, stderr=its, preexec_fn=_leads
    )
    os.close(its)
    said, pressed, last = b"", 0, 0.0
    until = time.monotonic() + PATIENCE
    while True:
        if time.monotonic() > until:
            said += f"\n--- not ended; Ctrl-C was pressed {pressed} times ---\n".encode()
            _abort(p.pid)
            until = float("inf")
        due = press and pressed < times and time.monotonic() - last > 1.2
        if due and (pressed or re.search(press.encode(), said)):
            os.write(ours, b"\x03")
            pressed, last = pressed + 1, time.monotonic()
            until = last + PATIENCE
        if not select.select([ours], [], [], 0.1)[0]:
            continue
        try:
            part = os.read(ours, 65536)
        except OSError:  # the terminal is closed when the command has ended
            break
        if not part:
            break
        said += part
    shown = Shown(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said.decode(errors="replace")))
    shown.status = p.wait()  # while its terminal is there: what lacks one gets SIGHUP
    os.close(ours)
    return shown


def ends_of(shown: str) -> str:
    "The beginning and the end of what a terminal showed, for the message of a failed test."
    return shown if len(shown) < 9000 else f"{shown[:4000]}\n[...]\n{shown[-5000:]}"


def lines_of(shown: str) -> list[str]:
    "The lines that a terminal showed, also those that were written over."
    return [x.strip() for x in re.split(r"[\r\n]+|\^C", shown) if x.strip()]


def left_in(folder: Path, wait: float = 20) -> list[str]:
    "Processes at work in `folder`, after a while in which they may end."
    deadline = time.monotonic() + wait
    while True:
        found = []
        for p in psutil.process_iter(["cwd", "cmdline"]):
            if (
                p.pid != os.getpid()
                and p.info["cwd"]
                and Path(p.info["cwd"]).is_relative_to(folder)
            ):
                found.append(" ".join(p.info["cmdline"] or []))
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)
