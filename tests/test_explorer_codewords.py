"""The explorer's tab Codewords as an explanation: clicks in pictures, formula, bars, sliders."""

import shutil
from urllib.parse import parse_qs, urlsplit

import pytest

from softvq_lab.explore.session import load_run
from softvq_lab.explore.token_views import (
    codewords_at,
    held_by_tokens,
    looks_of_tokens,
    tokens_at,
)

RESTS = 90_000  # ms at most


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    root = tmp_path_factory.mktemp("codewords")
    shutil.copytree(trained / "tokenizer", root / "tokenizer")
    return root


@pytest.fixture
def page(open_page, app):
    page = open_page(f"{app.url}?run=tokenizer&tab=codewords&image=4&token=7")
    for part in ("alone", "held", "strip"):
        page.locator(f"#cw-{part} img").first.wait_for(timeout=RESTS)
    return page


def says(page, name: str, value: str):
    page.wait_for_function(
        "([name, value]) => new URLSearchParams(location.search).get(name) === value",
        arg=[name, value],
        timeout=RESTS,
    )


def weights_of_bars(page) -> list[float]:
    drawn = "[...document.querySelector('#cw-bars .js-plotly-plot').data[0].y]"
    return page.evaluate(f"() => {drawn}")


@pytest.mark.parametrize("chooses", ["draws", "looks"])
def test_a_click_in_a_picture_chooses_the_token_of_that_place(chooses, page, runs):
    loaded = load_run(runs / "tokenizer")
    maps = (looks_of_tokens if chooses == "looks" else held_by_tokens)(loaded, "heldout:4")
    if chooses == "looks":
        page.get_by_label("looks there").check()
        says(page, "click", "looks")
    image = page.locator("#cw-original img")
    box = image.bounding_box()
    image.click(position={"x": box["width"] * 0.45, "y": box["height"] * 0.45})
    expected = tokens_at(maps, 0.45, 0.45, 0 if chooses == "looks" else 1)
    token, part = expected[0]
    place = page.locator("#cw-place", has_text=f"Token {token} is selected")
    place.wait_for(timeout=RESTS)
    assert f"token {token} ({part:.0%})" in place.inner_text()
    first, weight, change = codewords_at(loaded, "heldout:4", token, 0.45, 0.45)[0]
    told = f"largest effect here: {first} (weight {weight:.0%}, {change:.1%}), "
    assert told in place.inner_text()
    says(page, "token", str(token))
    page.locator("#cw-message", has_text=f"Token {token}:").wait_for(timeout=RESTS)


def test_a_click_on_what_a_token_holds_chooses_it(page):
    assert page.locator("#cw-held button").count() == 8
    before = page.locator("#cw-holds img").get_attribute("src")
    page.locator("#cw-held button img").nth(2).click()
    page.locator("#cw-message", has_text="Token 2:").wait_for(timeout=RESTS)
    says(page, "token", "2")
    page.wait_for_function(
        "src => document.querySelector('#cw-holds img').src !== src", arg=before, timeout=RESTS
    )


def test_bars_and_formula_follow_the_temperature_from_one_codeword_to_the_mean(page):
    trained = weights_of_bars(page)
    page.locator("#cw-strip button img").nth(6).click()  # five times the trained temperature
    says(page, "temperature", "5")
    page.locator("#cw-formula", has_text="/ 0.35)").wait_for(timeout=RESTS)
    page.wait_for_function(
        "most => document.querySelector('#cw-bars .js-plotly-plot').data[0].y[0] < most",
        arg=trained[0],
        timeout=RESTS,
    )
    page.locator("#cw-strip button img").first.click()  # one-hot
    says(page, "sharp", "1")
    page.locator("#cw-formula", has_text="all weight on the strongest").wait_for(timeout=RESTS)
    page.wait_for_function(
        "document.querySelector('#cw-bars .js-plotly-plot').data[0].y[0] === 1", timeout=RESTS
    )


def test_the_weight_of_a_slider_is_kept_to_the_digit(page):
    def labels():
        return [page.locator(f"#cw-weight-{i}").inner_text().split("\n")[0] for i in range(5)]

    page.locator("#cw-weight-4").wait_for(timeout=RESTS)
    before = labels()
    codeword = before[2].split()[-1]
    box = page.locator("#cw-weight-2 input[type=number]")
    box.fill("0.623")
    box.blur()
    says(page, "weights", f"7:{codeword}:0.623")
    page.locator("#cw-formula", has_text=f"0.623 · c{codeword}").wait_for(timeout=RESTS)
    page.locator("#cw-alone", has_text=f"{codeword}: 62%").wait_for(timeout=RESTS)
    assert box.input_value() == "0.623" and labels() == before  # none moves under the hand
    others = [
        float(page.locator(f"#cw-weight-{i} input[type=number]").input_value())
        for i in (0, 1, 3, 4)
    ]
    assert sum(others) <= 1 - 0.623 + 1e-3
    page.locator("#cw-reset").click()
    page.get_by_text("nothing is changed").wait_for(timeout=RESTS)
    assert "weights" not in parse_qs(urlsplit(page.url).query)


def test_the_other_image_is_seen(page):
    before = page.locator("#cw-donor-picture img").get_attribute("src")
    page.locator("#cw-donor input[type=number]").fill("17")
    page.locator("#cw-donor input[type=number]").blur()
    says(page, "donor", "17")
    page.wait_for_function(
        "src => document.querySelector('#cw-donor-picture img').src !== src",
        arg=before,
        timeout=RESTS,
    )
