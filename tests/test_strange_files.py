"""One strange file among many: a row that says so in every list, and never the end of the list."""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from test_cli import call

from softvq_lab.core import (
    DEEPEST,
    MOST_BYTES,
    ConfigError,
    Unreadable,
    printable,
    read_json,
    write_json,
)
from softvq_lab.experiments.execute import Job
from softvq_lab.experiments.job import jobs
from softvq_lab.experiments.leaderboard import boards
from softvq_lab.experiments.sweep import read_report
from softvq_lab.explore.run_forms import notebook_html, notebooks, overview
from softvq_lab.runs import (
    Run,
    comparable,
    describe,
    differences,
    figures,
    list_runs,
    open_run,
    read_metrics,
    summary,
    trim_metrics,
    unusable_metrics,
)
from softvq_lab.settings.parse import flatten, parse
from softvq_lab.settings.workflows import TrainConfig
from softvq_lab.training.health import alarms, hints

DEEP = {"a list": "[" * 70_000 + "]" * 70_000, "objects": '{"a":' * 150 + "1" + "}" * 150}
UNREADABLE = {
    "nothing": "",
    "half": '{"created": "2026", "kind": "tok',
    "a list": "[1, 2]",
    "a text": '"tokenizer"',
    "not UTF-8": b'{"created": "\xe9"}',
    "zeros": b"\0" * 300,
    "deep lists": DEEP["a list"],
    "deep objects": DEEP["objects"],
    "5,000 digits": '{"created": ' + "7" * 5000 + "}",
}
HOSTILE = "[/b]\x1b[2J\x07\ud83d :boom: \u202e<img src=x>"


@pytest.fixture
def runs(tmp_path) -> Path:
    "Three runs with figures; the tests spoil the second."
    config = asdict(parse(TrainConfig, {"tokens": 8}))
    for i, name in enumerate(("first", "second", "third")):
        run = open_run(tmp_path / name, "tokenizer", config)
        run.set_status("done", step=40 + i, steps=60)
        about = {"figures": {"psnr": 20.0 + i}, "passport": {"count": 12}, "measured": "now"}
        write_json(run.path / "evaluation" / "reconstruction.json", about)
    return tmp_path


def lists(root: Path) -> dict[str, str]:
    "Everything that shows many runs, as the text that it shows."
    readable = list_runs(root)
    return {
        "softvq-lab runs": call("runs", "--root", root),
        "explorer": "\n".join("  ".join(map(str, row.values())) for row in overview(root)),
        "summary": summary(root),
        "figures": str([rows for *_, rows in comparable(readable)]),
        "boards": "\n".join(b.to_string() for b in boards(readable)),
        "differences": str(differences(list_runs(root, unreadable=True))),
    }


LISTS = ("softvq-lab runs", "explorer", "summary")
MEASURED = ("softvq-lab runs", "summary")  # the explorer has a page of its own for figures


def rows_say(root: Path, name: str, says: str, where=LISTS):
    "The neighbours are in all lists, and those of `where` have a row for `name` that says `says`."
    shown = lists(root)
    for what in ("softvq-lab runs", "explorer", "summary", "figures"):
        assert "first" in shown[what] and "third" in shown[what], (what, shown[what])
    for what in where:
        assert name in shown[what] and says in " ".join(shown[what].split()), (what, shown[what])
        shown[what].encode()  # no half characters
        assert "\x1b[2J" not in shown[what] and "\x07" not in shown[what]


def put(path: Path, content: bytes | str):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("file", ["config.json", "status.json"])
def test_a_run_with_an_unreadable_file_is_listed_with_the_reason(runs, file, content):
    put(runs / "second" / file, content)
    rows_say(runs, "second", "unreadable: ")
    assert file in describe(Run(runs / "second"))["state"]
    with pytest.raises(ConfigError) if file == "config.json" else _nothing():
        assert "unreadable" in call("show", runs / "second")


class _nothing:
    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return False


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_an_evaluation_that_cannot_be_read_is_named_and_the_run_stays(runs, content):
    put(runs / "second" / "evaluation" / "samples.json", content)
    rows_say(runs, "second", "samples", MEASURED)
    assert set(figures(Run(runs / "second"))) == {"reconstruction"}
    assert "samples cannot be read" in call("show", runs / "second")


@pytest.mark.parametrize(
    "entries",
    [
        {"kind": 7},
        {"kind": None},
        {"config": [1]},
        {"config": None},
        {"created": 2026},
        {"created": {"at": 1}},
        {"versions": ["torch"]},
    ],
    ids=str,
)
def test_entries_of_another_type_are_named(runs, entries):
    path = runs / "second" / "config.json"
    write_json(path, read_json(path) | entries)
    rows_say(runs, "second", f"{next(iter(entries))} should be")


@pytest.mark.parametrize(
    "entries",
    [
        {"state": ["running"]},
        {"state": None},
        {"step": "7"},
        {"step": -1},
        {"step": 10**30},
        {"step": 1.5},
        {"steps": True},
        {"pid": 10**30},
        {"pid": -1},
        {"pid": [1]},
        {"host": 5},
        {"started": "today"},
        {"error": {"a": 1}},
    ],
    ids=str,
)
def test_a_state_of_another_type_is_named(runs, entries):
    path = runs / "second" / "status.json"
    write_json(path, read_json(path) | {"state": "running"} | entries)
    rows_say(runs, "second", f"{next(iter(entries))} should be")


@pytest.mark.parametrize(
    "value", ["n/a", None, [1], {"a": 1}, True, 10**400], ids=lambda v: str(v)[:9]
)
def test_a_figure_that_is_no_number_is_named(runs, value):
    path = runs / "second" / "evaluation" / "probe.json"
    write_json(path, {"figures": {"accuracy": value}, "passport": {"count": 3}})
    rows_say(runs, "second", "probe", MEASURED)
    assert "accuracy should be" in unusable_metrics(Run(runs / "second"))["probe"]


def test_a_number_that_is_none_or_large_is_shown(runs):
    put(runs / "second" / "evaluation" / "y.json", '{"figures": {"psnr": NaN, "fid": 1e300}}')
    rows_say(runs, "second", "psnr nan", MEASURED)
    assert "1e+300" in call("show", runs / "second")


def test_what_looks_like_markup_or_orders_is_text(runs):
    second = runs / "second"
    write_json(second / "config.json", read_json(second / "config.json") | {"kind": HOSTILE})
    write_json(second / "status.json", {"state": HOSTILE, "error": HOSTILE})
    about = {"figures": {HOSTILE: 1.0}, "passport": {HOSTILE: HOSTILE, "count": HOSTILE}}
    write_json(second / "evaluation" / "x.json", about)
    os.rename(second, runs / "[bold]:smile:")
    rows_say(runs, "[bold]:smile:", "[/b]\\x1b[2J")
    said = call("compare", runs / "first", runs / "[bold]:smile:")
    assert "[/b]\\x1b[2J" in said and "\x1b[2J" not in said


def test_a_name_in_another_encoding_is_listed(runs):
    os.rename(os.fsencode(runs / "second"), os.fsencode(runs) + b"/caf\xe9")
    rows_say(runs, r"caf\xe9", "41")


@pytest.mark.parametrize("file", ["config.json", "status.json"])
def test_a_folder_or_a_pipe_is_no_file(runs, file):
    for make in (os.mkdir, os.mkfifo):  # a pipe would wait for ever
        path = runs / "second" / file
        os.rename(path, path.with_suffix(f".{make.__name__}"))
        make(path)
        rows_say(runs, "second", "is not a file")


def test_a_file_of_any_size_is_not_read_into_memory(runs):
    with open(runs / "second" / "config.json", "wb") as f:
        f.truncate(10 * MOST_BYTES)  # a hole, which takes no room
    rows_say(runs, "second", f"larger than {MOST_BYTES >> 20} MB")


def test_config_files_of_other_programs_are_no_runs(runs):
    (runs / "model").mkdir()
    (runs / "model" / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    assert "model" not in "".join(lists(runs).values())


def test_compare_and_differences_say_which_run_cannot_be_read(runs):
    put(runs / "second" / "config.json", '{"created": ')
    said = call("compare", runs / "first", runs / "second", runs / "third")
    assert "unreadable" in said and "20" in said and "22" in said


def test_depth_is_counted_and_brackets_in_texts_are_not(tmp_path):
    def nested(n):
        return json.loads("[" * n + "]" * n)

    for value in ({"a": nested(DEEPEST - 1)}, {"a": "[" * 1000}, {"[" * 300: 1}):
        write_json(tmp_path / "a.json", value)
        assert read_json(tmp_path / "a.json") == value
    write_json(tmp_path / "a.json", {"a": nested(DEEPEST + 1), "b": "]" * 1000})
    with pytest.raises(Unreadable, match="nested too deeply"):
        read_json(tmp_path / "a.json")


def test_printable_keeps_letters_and_words_of_all_languages():
    for text in ("été", "数字", "नमस्ते", "👩\u200d🔬", "می\u200cخواهم"):
        assert printable(text) == text
    assert (
        printable("a\tb\u202ec\x9b") == "a\\tb\\u202ec\\x9b" and len(printable("x" * 9999)) < 2010
    )


STRANGE_LINES = [
    '{"step": "7", "loss": 1}',
    '{"step": null}',
    '{"step": true, "loss": 2}',
    '{"step": -3, "loss": 2}',
    '{"step": 1' + "0" * 30 + "}",
    "[" * 50_000,
    "[1]",
    "3",
    "null",
    '{"step": 3, "lo',
    "\x00\x00",
    "9" * 5000,
]


def test_strange_lines_of_metrics_are_left_out(runs):
    path = runs / "first" / "metrics.jsonl"
    good = [f'{{"step": {i}, "grad_norm": {1 + i % 3}, "loss": {3 - 0.1 * i}}}' for i in range(30)]
    mixed = [line for pair in zip(good, STRANGE_LINES) for line in pair] + good[
        len(STRANGE_LINES) :
    ]
    put(path, "\n".join(mixed) + '\n{"step": 30, "loss": "a", "grad_norm": [1], "lr": 0.5}\n{"st')
    rows = read_metrics(Run(path.parent))
    assert [r["step"] for r in rows] == list(range(31))
    assert rows[-1] == {"step": 30, "lr": 0.5} and alarms(rows) == []
    trim_metrics(Run(path.parent), 11)
    assert path.read_text().splitlines() == good[:12]


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "0", "1e308"])
def test_alarms_stand_any_number(runs, value):
    names = ("grad_norm", "window_usage", "perplexity", "heldout_psnr", "heldout_mean_image")
    row = ", ".join(f'"{n}": {value}' for n in (*names, "d_real_right", "d_fake_right"))
    put(runs / "first" / "metrics.jsonl", "".join(f'{{"step": {i}, {row}}}\n' for i in range(9)))
    rows = read_metrics(Run(runs / "first"))
    assert all(isinstance(a, str) for a in alarms(rows) + hints(rows, flatten(TrainConfig())))


def test_of_endless_metrics_the_end_is_read(runs, monkeypatch):
    monkeypatch.setattr("softvq_lab.runs.MOST_LOGGED", 1000)
    lines = [f'{{"step": {i}, "loss": 1.5}}\n' for i in range(500)]
    put(runs / "first" / "metrics.jsonl", "".join(lines))
    rows = read_metrics(Run(runs / "first"))
    assert 30 < len(rows) < 50 and rows[-1]["step"] == 499
    trim_metrics(Run(runs / "first"), 249)
    assert (runs / "first" / "metrics.jsonl").read_text() == "".join(lines[:250]), "of all lines"


@pytest.mark.parametrize(
    "content",
    [
        *UNREADABLE.values(),
        '{"state": "running", "workflow": ["a"]}',
        '{"state": "done", "workflow": "train", "updated": {}}',
        '{"state": "running", "workflow": "train", "pid": 1' + "0" * 30 + "}",
        '{"state": "failed", "workflow": "train", "attempts": "many"}',
    ],
)
def test_a_strange_job_is_a_row_and_not_at_work(runs, content):
    put(runs / "second" / "notebook.job.json", content)
    (job,) = jobs(runs)
    assert job.info["state"] == "planned" and job.info["reason"].startswith("unreadable: ")
    rows_say(runs, "second", "done")
    Job(runs / "second" / "notebook.ipynb").plan("train", {})  # and may be planned again
    assert job.info["workflow"] == "train"


@pytest.mark.parametrize(
    "change",
    [
        {"tasks": {}},
        {"tasks": [[1]]},
        {"tasks": [{"stage": "tokenizer"}]},
        {"driver": "ended"},
        {"driver": {"state": "running", "pid": 10**30}},
        {"counts": {"done": -1}},
        {"counts": {"done": "1"}},
        {"name": None},
        None,
    ],
    ids=str,
)
def test_a_strange_sweep_report_says_what_is_wrong(tmp_path, change):
    task = {"stage": "tokenizer", "state": "done", "run": "r", "output": "o"}
    task |= {"label": "", "vary": {}}
    report = {"name": "a", "driver": {"state": "ended"}, "counts": {"done": 1}, "tasks": [task]}
    write_json(tmp_path / "sweep.json", report)
    assert read_report(tmp_path) == report
    if change is None:
        put(tmp_path / "sweep.json", DEEP["a list"])
    else:
        write_json(tmp_path / "sweep.json", report | change)
    with pytest.raises(ValueError, match="sweep.json"):
        read_report(tmp_path)


def test_a_linked_run_counts_once_and_a_loop_ends(runs, tmp_path_factory):
    scratch = tmp_path_factory.mktemp("scratch")
    open_run(scratch / "far", "tokenizer", {})
    open_run(scratch / "pool" / "one", "tokenizer", {})
    (runs / "far").symlink_to(scratch / "far")
    (runs / "pool").symlink_to(scratch / "pool")
    (runs / "again").symlink_to(runs / "first")
    (runs / "first" / "loop").symlink_to(runs)
    (runs / "disk").symlink_to("/")
    (runs / "gone").symlink_to("/nowhere")
    found = sorted(str(r.path.relative_to(runs)) for r in list_runs(runs))
    assert found == ["far", "first", "pool/one", "second", "third"]
    rows_say(runs, "far", "prepared")


def test_a_strange_notebook_is_no_end_of_the_page(runs):
    second = runs / "second"
    (second / "gone.ipynb").symlink_to("/nowhere")
    (second / "folder.ipynb").mkdir()
    os.mkfifo(second / "pipe.ipynb")
    text = {"cell_type": "markdown", "id": "a", "metadata": {}, "source": "half \ud800"}
    write_json(
        second / "a.ipynb", {"cells": [text], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    )
    put(second / "deep.ipynb", DEEP["a list"])
    assert set(notebooks(Run(second))) == {"a.ipynb", "deep.ipynb"}
    notebook_html(second / "a.ipynb").encode()
    for name in ("gone.ipynb", "folder.ipynb", "pipe.ipynb", "deep.ipynb"):
        with pytest.raises(ValueError, match=name):
            notebook_html(second / name)


def test_a_terminal_without_the_letters_shows_them_by_number(runs, root):
    import subprocess

    os.rename(runs / "second", runs / "été")
    env = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONPATH": str(root)}
    words = [sys.executable, "-m", "softvq_lab.cli", "runs", "--root", str(runs)]
    done = subprocess.run(words, env=env, capture_output=True)
    assert done.returncode == 0 and b"\\xe9t\\xe9" in done.stdout, done.stderr
