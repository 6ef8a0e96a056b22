"""The documentation: rooms as they are, links that lead somewhere, a site that asks nobody."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parent.parent


def script(name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", ROOT / "docs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_imports_go_one_way_and_the_picture_shows_them():
    rooms = script("rooms")
    edges = rooms.imports()
    assert rooms.against(edges) == []
    assert (ROOT / "docs" / "architecture.svg").read_text() == rooms.svg(edges), (
        "python docs/rooms.py draws it anew"
    )
    assert rooms.against({("quantizers", "training"): 1, ("training", "quantizers"): 1}) == [
        "quantizers uses training"
    ]


@pytest.mark.parametrize("name", ["settings", "map"])
def test_a_page_that_is_written_by_a_script_is_up_to_date(name):
    "In a process of its own: tests beside this one may have registered parts."
    plain = {k: v for k, v in os.environ.items() if k != "SOFTVQ_LAB_PLUGINS"}
    done = subprocess.run(
        [sys.executable, ROOT / "docs" / f"{name}.py", "--check"],
        env={**plain, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_page_has_its_place_in_the_site():
    placed = str(script("site").nav({}))
    pages = [p.relative_to(ROOT) for p in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]]
    assert [str(p) for p in pages if f"'{p}'" not in placed] == []


def test_the_page_from_the_paper_names_what_there_is():
    from importlib import import_module

    from softvq_lab.settings.parse import parameters
    from softvq_lab.settings.workflows import EvaluateConfig, TrainConfig, TrainGeneratorConfig

    known = {}
    for config in (TrainConfig, TrainGeneratorConfig, EvaluateConfig):
        known |= parameters(config)
    page = (ROOT / "docs" / "from_the_paper.md").read_text()
    names = re.findall(r"`(softvq_lab\.[\w.]+)`", page)
    assert len(names) > 20
    for name in names:
        module, _, thing = name.rpartition(".")
        assert hasattr(import_module(module), thing), name
    rows = [line.split("|") for line in page.splitlines() if line.count("|") == 6]
    settings = re.findall(r"`([^`]+)`", " ".join(row[5] for row in rows))
    assert len(settings) > 25 and {s.partition("=")[0] for s in settings} <= known.keys()


def texts():
    for p in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "benchmarks").glob("*.md"),
    ]:
        yield p, p.read_text(encoding="utf-8")
    for p in sorted((ROOT / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" not in p.parts:
            yield (
                p,
                "\n".join(c.source for c in nbformat.read(p, 4).cells if c.cell_type == "markdown"),
            )


def test_every_test_that_a_page_names_is_there():
    tests = "\n".join(p.read_text() for p in (ROOT / "tests").glob("test_*.py"))
    named = {
        name
        for p in (ROOT / "docs").glob("*.md")
        for name in re.findall(r"`(test_\w+)`", p.read_text())
    }
    assert len(named) > 20
    assert sorted(n for n in named if f"def {n}(" not in tests) == []


def test_links_between_pages_lead_to_files():
    wrong = [
        f"{p.relative_to(ROOT)}: {t}"
        for p, text in texts()
        for t in re.findall(
            r"\]\(([^)\s#]+)(?:#[^)\s]*)?\)", re.sub(r"```.*?```", "", text, flags=re.S)
        )
        if re.match(r"[\w./-]+$", t) and "://" not in t and not (p.parent / t).exists()
    ]
    assert wrong == []


TUTORIALS = sorted((ROOT / "nbs" / "tutorials").glob("*.ipynb"))
# those that export nothing: train, evaluate, sweep, ...
WORKFLOW_NOTEBOOKS = sorted((ROOT / "nbs").glob("[a-z]*.ipynb"))


def test_a_directive_stands_once_in_a_cell():
    "nbdev_update adds those that are exported with their cell (`eval: false`) once more."
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        for cell in nbformat.read(path, 4).cells:
            told = [x.strip() for x in cell.source.splitlines() if x.startswith("#|")]
            assert len(told) == len(set(told)), f"{path}: {told}"


@pytest.mark.parametrize("path", TUTORIALS + WORKFLOW_NOTEBOOKS, ids=lambda p: p.stem)
def test_a_notebook_that_is_read_has_real_outputs_and_is_small(path):
    assert path.stat().st_size < 500_000
    cells = [c for c in nbformat.read(path, 4).cells if c.cell_type == "code"]
    outputs = [o for c in cells for o in c.outputs]
    assert any("image/png" in o.get("data", {}) for o in outputs) and len(outputs) >= 4
    assert not [o for o in outputs if o.output_type == "error" or o.get("name") == "stderr"], (
        "an error or a warning in a stored output"
    )
    assert not [o for o in outputs if "image/jpeg" in o.get("data", {})], "a picture twice"


@pytest.mark.parametrize("path", WORKFLOW_NOTEBOOKS, ids=lambda p: p.stem)
def test_the_outputs_of_a_workflow_show_no_place_of_a_machine_and_no_progress_bar(path):
    shown = [
        o.get("text", "") + "".join(v for k, v in o.get("data", {}).items() if k[:5] == "text/")
        for c in nbformat.read(path, 4).cells
        if c.cell_type == "code"
        for o in c.outputs
    ]
    assert not [t for t in shown if re.search(r"/(root|home|tmp|work|Users)/|\r|it/s", t)]


def test_the_check_of_the_site_finds_what_is_wrong(tmp_path):
    check = script("site").check
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="b.html#there">b</a><a href="https://example.org">out</a>'
        '<img src="data:image/png;base64,">'
    )
    (tmp_path / "b.html").write_text('<p id="there"></p><a href="a.html#top">a</a>')
    assert check(tmp_path) == []
    (tmp_path / "b.html").write_text(
        '<a href="c.html"></a><script src="https://cdn.example.org/x.js"></script>'
    )
    assert check(tmp_path) == [
        "a.html: no there in b.html",
        "b.html loads https://cdn.example.org/x.js",
        "b.html: c.html is not there",
    ]


@pytest.mark.slow
def test_the_site_is_built_strictly(monkeypatch):
    pytest.importorskip("mkdocs", reason="make docs installs it")
    monkeypatch.setattr(sys, "argv", ["site.py"])
    site = script("site")
    assert site.main() == 0
    assert (
        "<math" in (site.SITE / "nbs" / "quantizers" / "01_softvq.html").read_text()
        and "class SoftVQ" not in (site.SITE / "index.html").read_text()
    )
