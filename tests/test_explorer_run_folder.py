"""The tab Runs: notes, another name, the bin."""

import shutil

import pytest

from softvq_lab.core import read_json, write_json
from softvq_lab.hub.models import find_tokenizer
from softvq_lab.runs import Run, at_work


@pytest.fixture
def runs(trained, tmp_path):
    "The trained pair, and a run at work."
    runs = tmp_path / "runs"
    shutil.copytree(trained, runs)
    config = read_json(runs / "generator" / "config.json")
    config["config"]["tokenizer_run"] = str(runs / "tokenizer")
    write_json(runs / "generator" / "config.json", config)
    shutil.copytree(runs / "tokenizer", runs / "busy")
    with at_work(Run(runs / "busy")):
        yield runs


@pytest.fixture
def app(runs, tmp_path):
    from served import Explorer

    app = Explorer(runs, tmp_path / "app")
    yield app
    app.close()


def watch(page, name: str):
    page.locator("#runs-tabs").get_by_role("tab", name="All", exact=True).click()
    page.locator(f"#runs-table button[data-run={name}]").click(timeout=60_000)
    page.locator("#watch-status", has_text=f"{name}:").wait_for(timeout=60_000)
    page.wait_for_function(
        "name => document.querySelector('#folder-name textarea, #folder-name input')"
        "?.value === name || !document.querySelector('#folder-name')?.offsetParent",
        arg=name,
    )


def says(page, text: str):
    page.locator("#folder-message", has_text=text).wait_for(timeout=20_000)


def test_notes_names_and_the_bin(open_page, app, runs, looks):
    page = open_page(f"{app.url}?tab=runs&run=tokenizer")
    page.locator("#runs-table button").first.wait_for(timeout=60_000)
    watch(page, "tokenizer")
    notes = page.locator("#folder-notes textarea")
    notes.fill("the best so far\n<b>really</b>")
    watch(page, "generator")  # without a save: the notes are kept, and of the right run
    says(page, "Notes of tokenizer saved")
    page.wait_for_function("document.querySelector('#folder-notes textarea').value === ''")
    assert (runs / "tokenizer" / "notes.md").read_text() == "the best so far\n<b>really</b>"
    assert not (runs / "generator" / "notes.md").exists()
    page.locator("#runs-tabs").get_by_role("tab", name="All", exact=True).click()
    page.locator("#runs-table td", has_text="the best so far").wait_for(timeout=20_000)
    watch(page, "tokenizer")
    page.wait_for_function(
        "document.querySelector('#folder-notes textarea').value.includes('best')"
    )

    page.locator("#folder-part > button").click()
    name = page.locator("#folder-name input, #folder-name textarea").first
    for wrong, why in [("../x", "Give the run a name"), ("busy", "There is a run busy already")]:
        name.fill(wrong)
        page.locator("#folder-rename").click()
        says(page, why)
    name.fill("best/first")
    page.locator("#folder-rename").click()
    says(page, "tokenizer is called best/first now. The new name was written into generator, too.")
    assert find_tokenizer(runs / "generator") == runs / "best" / "first"
    page.locator("#watch-status", has_text="first: done").wait_for(timeout=20_000)
    page.wait_for_function("location.search.includes('run=best')")
    looks(page, "runs-folder")

    page.locator("#folder-delete").click()
    says(page, "best/first is in the bin. generator cannot be used without it.")
    assert not (runs / "best" / "first").exists()
    assert (runs / ".bin" / "best" / "first" / "config.json").exists()
    page.locator("#folder-undo").click()
    says(page, "best/first is out of the bin")
    assert find_tokenizer(runs / "generator") == runs / "best" / "first"
    assert not page.locator("#folder-undo").is_visible()


def test_a_run_at_work_is_neither_renamed_nor_deleted(open_page, app, runs):
    page = open_page(f"{app.url}?tab=runs&run=busy")
    page.locator("#runs-table button").first.wait_for(timeout=60_000)
    watch(page, "busy")
    page.locator("#folder-part > button").click()
    page.locator("#folder-delete").click()
    says(page, "is at work (a training): wait for it, or stop it")
    page.locator("#folder-name input, #folder-name textarea").first.fill("idle")
    page.locator("#folder-rename").click()
    says(page, "is at work (a training): wait for it, or stop it")
    assert (runs / "busy" / "config.json").exists()
