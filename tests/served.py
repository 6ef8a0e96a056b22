"""An explorer in a process of its own, which notes every address that it or its jobs speak to."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import psutil

ROOT = Path(__file__).parent.parent
WATCH = """import os, sys
def watch(event, args):
    if event == 'socket.connect' and isinstance(args[1], tuple): told = args[1][0]
    elif event == 'socket.getaddrinfo': told = args[0]
    else: return
    with open(os.environ['WATCH_LOG'], 'a') as f: f.write(str(told) + chr(10))
sys.addaudithook(watch)
"""
INSIDE = re.compile(r"127\.\d+\.\d+\.\d+|localhost|::1|0\.0\.0\.0|None")


class Explorer:
    """Start it; `url`, `log`, `process`, `ready` (seconds until it answered, of which `cpu`
    computing), `outside()`.
    """

    def __init__(self, runs, folder: Path, *arguments):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "sitecustomize.py").write_text(WATCH)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        self.url, self.log, self.addresses = (
            f"http://127.0.0.1:{port}/",
            folder / "explorer.log",
            folder / "addresses",
        )
        path = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
        self.temporary = folder / "tmp"
        self.temporary.mkdir()
        began = time.time()
        with open(self.log, "w") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    ROOT / "apps" / "explorer.py",
                    "--runs",
                    runs,
                    "--port",
                    str(port),
                    *arguments,
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "no_proxy": "*",
                    "PYTHONPATH": path,
                    "TMPDIR": str(self.temporary),
                    "WATCH_LOG": str(self.addresses),
                },
            )
        while not self.answers():
            assert self.process.poll() is None, self.log.read_text()
            assert time.time() - began < 300, "the explorer does not answer"
            time.sleep(0.1)
        self.ready, used = time.time() - began, psutil.Process(self.process.pid).cpu_times()
        self.cpu = used.user + used.system

    def answers(self) -> bool:
        try:
            return bool(
                urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                    self.url, timeout=5
                )
            )
        except OSError:
            return False

    def outside(self) -> set[str]:
        "Addresses beyond this machine that anything spoke to, or tried to."
        return (
            {a for a in self.addresses.read_text().split() if not INSIDE.fullmatch(a)}
            if self.addresses.exists()
            else set()
        )

    def close(self, by="SIGTERM"):
        assert self.process.poll() is None, f"the explorer died: {self.log.read_text()}"
        assert [p.name.partition("-")[0] for p in self.temporary.iterdir()] == ["explorer"], (
            "something lies outside the folder of its own"
        )
        self.process.send_signal(signal.Signals[by])
        self.process.wait(20)
        left = [str(p) for p in self.temporary.rglob("*")]
        assert not left, f"the closed explorer has left {left[:9]}"
        refused = re.compile(
            r"gradio\.exceptions\.InvalidPathError|no address is opened for a visitor"
        )  # forged uploads: gradio logs what it refuses, as two tracebacks
        left = re.compile(
            r"in sse_stream|response already started|CancelledError: Cancelled via cancel scope"
        )  # the stream of a page that somebody left, sometimes as a chain of two
        told = self.log.read_text().split("Traceback (most recent call last)")[1:]
        rest = [t for t in told if not left.search(t) and not refused.search(t)]
        assert len(rest) <= sum(bool(refused.search(t)) for t in told), "\n".join(rest)
        assert not (found := self.outside()), f"spoke to {found}"
