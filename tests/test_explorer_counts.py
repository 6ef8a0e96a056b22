"""The explorer's tab Token counts: one slider for a picture and its dot on the curve."""

import re
from dataclasses import asdict

import pytest
from tabs.token_counts import alone_notes

from softvq_lab.data.datasets import digits
from softvq_lab.runs import Run, open_run
from softvq_lab.settings.parse import parse
from softvq_lab.settings.workflows import TrainConfig
from softvq_lab.training.loop import fit
from softvq_lab.training.tokenizer_task import TokenizerTask


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    "A nested run, and one that decodes all of its tokens only."
    root = tmp_path_factory.mktemp("counts")
    for name, settings in {"nested": dict(keep="uniform"), "alone": {}}.items():
        c = parse(TrainConfig, dict(tokens=6, steps=2, warmup_steps=1, eval_every=2, **settings))
        r = open_run(root / name, "tokenizer", asdict(c))
        fit(TokenizerTask(c.tokenizer, digits(32), r), r, c.optim)
    return root


@pytest.fixture
def page(open_page, app):
    page = open_page(f"{app.url}?run=nested&tab=token-counts&image=3&tokens=2&wanted=5")
    page.get_by_text(re.compile("The mean of 360 held-out images")).wait_for(timeout=90_000)
    page.get_by_text(re.compile("This picture needs")).wait_for(timeout=60_000)
    return page


def dot(page) -> tuple[float, float]:
    "Where the dot of the picture stands on the curve."
    return tuple(
        page.evaluate(
            """() => {
            const traces = document.querySelector('#tc-curve .js-plotly-plot').data;
            const dot = traces.find(trace => trace.name.startsWith('this picture from'));
            return [dot.x[0], dot.y[0]];
        }"""
        )
    )


def psnr(page) -> float:
    return float(re.search(r"PSNR ([\d.]+) dB", page.locator("#tc-shown").inner_text())[1])


def test_one_slider_moves_the_picture_and_its_dot(page):
    assert dot(page)[0] == 2 and dot(page)[1] == pytest.approx(psnr(page), rel=1e-3)
    before = page.locator("#tc-reconstruction img").get_attribute("src")
    page.locator("#tc-tokens input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("The first 3 of 6 tokens").wait_for(timeout=60_000)
    page.wait_for_function("location.search.includes('tokens=3')", timeout=60_000)
    page.get_by_text("this picture from 3 tokens").wait_for(timeout=60_000)
    assert dot(page)[0] == 3 and dot(page)[1] == pytest.approx(psnr(page), rel=1e-3)
    assert page.locator("#tc-reconstruction img").get_attribute("src") != before
    page.get_by_label("bits an image").check()
    page.wait_for_function("location.search.includes('rate=bits')", timeout=60_000)
    page.get_by_text("this picture from 3 tokens").wait_for(timeout=60_000)
    page.wait_for_function(
        "document.querySelector('#tc-curve .js-plotly-plot').data.at(-1).x[0] === 3 * 8 * 16",
        timeout=60_000,
    )


def test_a_click_in_the_strip_shows_that_number_of_tokens(page):
    page.locator("#tc-rows button img").nth(3).click()  # the original, 1, 2, 4
    page.get_by_text("The first 4 of 6 tokens").wait_for(timeout=60_000)
    page.wait_for_function("location.search.includes('tokens=4')", timeout=60_000)


def test_how_many_tokens_a_picture_needs_is_a_sentence(page):
    answer = page.locator("#tc-answer")
    assert "This picture needs 1 token, the fewest that there are (128 bits)" in (
        answer.inner_text()
    )
    wanted = page.locator("#tc-wanted input")
    wanted.fill("60")
    wanted.blur()
    answer.get_by_text("This picture does not reach PSNR 60 dB").wait_for(timeout=60_000)
    assert "0% of them reach that value" in answer.inner_text()
    page.get_by_label("SSIM").check()  # another metric, another value that one may want
    answer.get_by_text(re.compile("SSIM 0.9")).first.wait_for(timeout=60_000)
    assert wanted.input_value() == "0.9"


def test_the_legend_lies_below_the_curves_at_every_width(page):
    for width in (390, 768, 1024, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(700)
        legend = page.locator("#tc-curve .legend .bg").bounding_box()
        axis = page.locator("#tc-curve .xtitle").bounding_box()
        assert legend["y"] >= axis["y"] + axis["height"], width


def test_a_run_of_one_number_of_tokens_says_which_other_to_choose(open_page, app, runs, tmp_path):
    says = alone_notes(Run(runs / "alone"), tmp_path)
    assert "papermill nbs/train.ipynb -p keep uniform" in says[0]
    page = open_page(f"{app.url}?run=alone&tab=token-counts")
    page.get_by_text("Choose one above, at Run").wait_for(timeout=60_000)
    assert not page.locator("#tc-tokens").is_visible()
    page.locator("#tc-reconstruction img").wait_for(timeout=60_000)
