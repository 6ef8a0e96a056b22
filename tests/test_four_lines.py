"""The four lines that a user of this project types, as typed, at a terminal.

`papermill nbs/train.ipynb -p tokens 32` has a file of its own: tests/test_papermill.py.
"""

import json
import shutil
import socket
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
import terminal
from PIL import Image
from terminal import at_a_terminal, left_in

pytestmark = pytest.mark.slow


def test_an_edited_notebook_then_nbdev_export(root, tmp_path):
    for name in ("nbs", "softvq_lab", "settings.ini", "pyproject.toml"):
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy2
        copy(root / name, tmp_path / name)
    path = tmp_path / "nbs" / "04_metrics.ipynb"
    notebook = nbformat.read(path, 4)
    cell = nbformat.v4.new_code_cell("#| export\ndef halved(x: float) -> float:\n    return x / 2")
    notebook.cells.append(cell)
    nbformat.write(notebook, path)
    shown = at_a_terminal(["nbdev_export"], tmp_path)
    assert shown.status == 0 and "Traceback" not in shown, shown
    look = "from softvq_lab.metrics import halved; print(halved(3))"
    assert "1.5" in at_a_terminal([sys.executable, "-c", look], tmp_path)
    changed = [
        p.name
        for p in (tmp_path / "softvq_lab").rglob("*.py")
        if p.read_bytes() != (root / p.relative_to(tmp_path)).read_bytes()
    ]
    assert sorted(changed) == ["_modidx.py", "metrics.py"]


def test_the_explorer_says_where_it_is_and_ends_by_one_key(root, tmp_path):
    (tmp_path / "apps").symlink_to(root / "apps")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])
    line = ["python", "apps/explorer.py", "--port", port]
    shown = at_a_terminal(line, tmp_path, press="jobs go on")
    assert shown.status == 0
    assert f"explorer: http://127.0.0.1:{port}" in shown
    assert "Traceback" not in shown and "Warning" not in shown
    assert not left_in(tmp_path)


def test_the_umap_plots(root, trained, tmp_path, monkeypatch):
    monkeypatch.delenv("PLOTLY_RENDERER", raising=False)  # figures as PNG, too
    monkeypatch.delitem(terminal.ENV, "PLOTLY_RENDERER")
    (tmp_path / "nbs").symlink_to(root / "nbs")
    run = tmp_path / "runs" / "a"
    shutil.copytree(trained / "tokenizer", run)
    line = ["papermill", "nbs/latent_map.ipynb", "-p", "run", "runs/a"]
    shown = at_a_terminal(line, tmp_path)
    assert shown.status == 0, shown[-2000:]
    where = next(word for word in shown.split() if word.endswith(".ipynb"))
    picture = np.asarray(Image.open(run / "evaluation" / "latent_map.png").convert("RGB"))
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    assert "plotly" in (run / "evaluation" / "latent_map.html").read_text()
    outputs = [
        output["data"]
        for cell in json.loads(Path(tmp_path, where).read_text())["cells"]
        for output in cell.get("outputs", [])
        if "application/vnd.plotly.v1+json" in output.get("data", {})
    ]
    assert len(outputs) >= 2 and all("image/png" in o for o in outputs)
