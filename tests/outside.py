"Commands as a person runs them: in a folder of their own, with the tools of this environment."

import os
import subprocess
import sys
from pathlib import Path

BIN = Path(sys.executable).parent


def run_outside(command, cwd, **env) -> subprocess.CompletedProcess:
    "Run `command` (a line for the shell, or words) to its end; `env` is added to the environment."
    return subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=cwd,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **env},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
    )


def papermill(root, cwd, workflow, output, **params) -> subprocess.CompletedProcess:
    "Execute a workflow notebook of the project in `cwd`, as a person does."
    words = [a for k, v in params.items() for a in ("-p", k, str(v))]
    notebook = root / "nbs" / f"{workflow}.ipynb"
    return run_outside([BIN / "papermill", notebook, output, *words], cwd)
