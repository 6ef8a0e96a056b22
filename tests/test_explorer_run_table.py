"""The tab Runs: one table of all runs, by columns, order and filter."""

import io
import shutil
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from PIL import Image

from softvq_lab.core import write_json
from softvq_lab.runs import Run, passport_id

COMMON = {"count": 360, "reference": "held-out"}
LARGER = {"count": 1000, "reference": "held-out"}
MEASURED = {  # run: passport, PSNR, LPIPS
    "low": (COMMON, 9.5, 0.31),
    "high": (COMMON, 10.25, 0.3),
    "middle": (COMMON, 9.75, 0.32),
    "other": (LARGER, 30.0, 0.1),
}
PSNR, ELSEWHERE = (f"reconstruction/{passport_id(p)}/psnr" for p in (COMMON, LARGER))
LPIPS = f"reconstruction/{passport_id(COMMON)}/lpips"


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    "Five runs, of which four were measured: three in one way, one in another."
    runs = tmp_path_factory.mktemp("table") / "runs"
    for i, (name, (passport, psnr, lpips)) in enumerate(MEASURED.items()):
        shutil.copytree(trained / "tokenizer", runs / name)
        Run(runs / name).set_status("done", step=40 - 4 * i, steps=40, seconds=60.0 * 10**i)
        metrics = {"figures": {"psnr": psnr, "lpips": lpips}, "passport": passport}
        write_json(runs / name / "evaluation" / "reconstruction.json", metrics)
    shutil.copytree(trained / "generator", runs / "unmeasured")
    return runs


@pytest.fixture
def page(open_page, app):
    page = open_page(f"{app.url}?tab=runs&run=low")
    page.locator("#runs-table button[data-run=low]").wait_for(timeout=60_000)
    return page


def heads(page) -> list[str]:
    return page.locator("#runs-table th button").all_inner_texts()


def column(page, key: str) -> list[str]:
    "What stands below a head."
    keys = page.locator("#runs-table th button").evaluate_all("b => b.map(x => x.dataset.order)")
    return page.locator(f"#runs-table tr td:nth-child({keys.index(key) + 1})").all_inner_texts()


def sort_by(page, key: str, way: str):
    page.locator(f"#runs-table th button[data-order='{key}']").click()
    page.locator(f"#runs-table th[aria-sort={way}] button[data-order='{key}']").wait_for()


def test_a_table_that_goes_on_beyond_the_page_fades_there(page):
    page.set_viewport_size({"width": 390, "height": 900})
    table = page.locator("#runs-table .sheet")
    wider = table.evaluate("e => e.scrollWidth - e.clientWidth")
    assert wider > 40

    def edge():
        "How much darker the right edge is than what lies 40 pixels before it."
        pixels = np.asarray(Image.open(io.BytesIO(table.screenshot())).convert("L"), dtype=float)
        return np.median(pixels[:, -40]) - np.median(pixels[:, -2])

    assert edge() > 20
    table.evaluate("e => e.scrollTo(e.scrollWidth, 0)")
    page.wait_for_timeout(300)
    assert abs(edge()) < 5  # it ends here


def test_a_column_holds_metrics_of_one_passport(page, looks):
    psnr = page.locator(f"#runs-table th:has(button[data-order='{PSNR}'])")
    assert "reconstruction, 360 images" in psnr.inner_text()
    assert "higher is better" in psnr.inner_text()
    by_run = dict(zip(column(page, "run"), column(page, PSNR), strict=True))
    assert by_run == {
        "low": "9.5",
        "high": "10.25",
        "middle": "9.75",
        "other": "",
        "unmeasured": "",
    }
    assert page.locator(f"#runs-table button[data-order='{ELSEWHERE}']").count() == 0
    page.locator("#runs-columns-part > button").click()
    page.locator("#runs-columns input").click()
    page.get_by_role("option", name="PSNR (dB) - reconstruction, 1000 images").click()
    page.locator(f"#runs-table button[data-order='{ELSEWHERE}']").wait_for()
    page.keyboard.press("Escape")
    by_run = dict(zip(column(page, "run"), column(page, ELSEWHERE), strict=True))
    assert {n for n, shown in by_run.items() if shown} == {"other"}
    assert dict(zip(column(page, "run"), column(page, "trained"), strict=True))["high"] == "10 min"
    looks(page, "runs-table")


def test_numbers_sort_as_numbers_and_what_is_missing_comes_last(page):
    sort_by(page, PSNR, "descending")  # higher is better: the best first
    assert column(page, PSNR) == ["10.25", "9.75", "9.5", "", ""]
    sort_by(page, PSNR, "ascending")
    assert column(page, PSNR) == ["9.5", "9.75", "10.25", "", ""]
    sort_by(page, "trained", "descending")
    assert column(page, "trained")[:2] == ["16 h 40 min", "1 h 40 min"]
    page.wait_for_timeout(2500)  # a tick of the page keeps the order
    assert column(page, "trained")[:2] == ["16 h 40 min", "1 h 40 min"]


def test_words_choose_the_runs_that_are_shown(page):
    page.locator("#runs-filter input, #runs-filter textarea").first.fill("GENER done")
    page.locator("#runs-table button[data-run=low]").wait_for(state="detached")
    assert column(page, "run") == ["unmeasured"]
    page.locator("#runs-filter input, #runs-filter textarea").first.fill("<b>none</b>")
    page.locator(
        "#runs-table", has_text="None of the 5 runs has all these words: <b>none</b>"
    ).wait_for()
    page.locator("#runs-filter input, #runs-filter textarea").first.fill("")
    page.locator("#runs-table button[data-run=low]").wait_for()


def test_columns_order_and_filter_stand_in_the_link(open_page, app, page):
    sort_by(page, PSNR, "descending")
    page.locator("#runs-filter input, #runs-filter textarea").first.fill("tokenizer")
    page.wait_for_function("location.search.includes('filter=tokenizer')")
    assert parse_qs(urlsplit(page.url).query)["sort"] == ["-" + PSNR]
    other = open_page(page.url + f"&columns={LPIPS}")
    other.locator("#runs-table th[aria-sort=descending]").wait_for(timeout=60_000)
    other.locator(f"#runs-table button[data-order='{LPIPS}']").wait_for()
    assert column(other, PSNR) == ["10.25", "9.75", "9.5", ""]
    assert not other.locator("#link-message p").count()


def test_the_table_is_left_alone_while_nothing_changes(page):
    page.locator("#runs-table button[data-run=high]").focus()
    page.evaluate("document.querySelector('#runs-table table').mine = true")
    page.wait_for_timeout(5000)
    assert page.evaluate("document.activeElement.dataset.run") == "high"
    assert page.evaluate("document.querySelector('#runs-table table').mine")


def test_a_run_that_begins_while_the_page_is_open_appears(page, runs):
    shutil.copytree(runs / "low", runs / "new")
    try:
        page.locator("#runs-table button[data-run=new]").wait_for(timeout=10_000)
        page.locator("#run input").click()
        page.get_by_role("option", name="new  -  tokenizer").wait_for()
        page.keyboard.press("Escape")
    finally:
        shutil.rmtree(runs / "new")
    page.locator("#runs-table button[data-run=new]").wait_for(state="detached", timeout=10_000)
