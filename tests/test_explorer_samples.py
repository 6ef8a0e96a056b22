"""The tab Sample at the page: one sample large, its film, variations, and grids of samples."""

import io
import re

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def runs(trained):
    return trained


def test_before_anything_is_drawn_no_box_is_empty_without_a_word(open_page, app):
    page = open_page(f"{app.url}?run=generator&tab=sample")
    page.locator("#go:not([disabled])").wait_for(timeout=60_000)
    page.locator("#vary-message", has_text="None yet").wait_for()
    page.locator("#nearest-message", has_text="Nothing is drawn yet").wait_for()
    assert not page.locator("#variations").is_visible()
    assert not page.locator("#nearest").is_visible()


@pytest.fixture
def drawn_page(open_page, app):
    "A page whose ten samples of five steps were just drawn."
    page = open_page(f"{app.url}?run=generator&tab=sample&steps=5&seed=7")
    page.locator("#go:not([disabled])").click(timeout=60_000)
    page.get_by_text("Sample 1 (class 0) after step 5 of 5").wait_for(timeout=60_000)
    page.get_by_text("Nearest of").wait_for(timeout=60_000)
    return page


def number(page, elem_id: str):
    return page.locator(f"#{elem_id} input[type=number], input[type=number]#{elem_id}").first


def set_to(page, elem_id: str, value):
    number(page, elem_id).fill(str(value))
    number(page, elem_id).blur()


def pixels(page, elem_id: str) -> np.ndarray:
    "What stands in a picture of the page."
    source = page.locator(f"#{elem_id} img").first.get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB"))


# one sample


def test_a_clicked_sample_opens_large_with_the_images_nearest_to_it(drawn_page):
    page = drawn_page
    sheet = page.locator("#samples img")
    box = sheet.bounding_box()  # five columns, two rows
    sheet.click(position={"x": box["width"] * 0.5, "y": box["height"] * 0.75})
    page.get_by_text("Sample 8 (class 7) after step 5 of 5").wait_for(timeout=60_000)
    page.wait_for_function("location.search.includes('sample=8')", timeout=60_000)
    large, small = pixels(page, "sample-large"), pixels(page, "samples")
    side = (small.shape[1] + 2) // 5
    tile = small[side:, 2 * side : 3 * side - 2][::3, ::3]
    assert (large[::10, ::10] == tile).all()
    first = page.locator("#nearest .caption-label").first
    assert first.inner_text().strip() == "sample"
    says = page.locator("#nearest-message").inner_text()
    assert re.match(r"Is it a copy\? (There is no sign of it|Yes, it may be)", says)


def test_the_film_of_a_sample_is_a_slider_from_noise_to_the_finished_one(drawn_page):
    page = drawn_page
    finished = pixels(page, "sample-large")
    set_to(page, "film", 0)
    page.get_by_text("Sample 1 (class 0) after step 1 of 5").wait_for(timeout=60_000)
    assert (pixels(page, "sample-large") != finished).any()
    set_to(page, "film", 50)
    page.get_by_text("Sample 1 (class 0) after step 3 of 5").wait_for(timeout=60_000)
    set_to(page, "which", 4)  # another sample at the same place of its film
    page.get_by_text("Sample 4 (class 3) after step 3 of 5").wait_for(timeout=60_000)


def test_variations_are_the_sample_itself_at_strength_0_and_others_beyond(drawn_page):
    page = drawn_page
    set_to(page, "strength", 0)
    page.locator("#vary").click()
    page.get_by_text("Variations of sample 1.").wait_for(timeout=60_000)
    page.locator("#variations img").nth(7).wait_for(timeout=60_000)
    same = pixels(page, "variations")
    large = pixels(page, "sample-large")[::10, ::10]
    assert np.abs(same.astype(int) - large).max() <= 1  # beyond rounding in another batch
    set_to(page, "strength", 0.8)
    page.locator("#vary").click()
    page.wait_for_function(
        "before => document.querySelector('#variations img').src !== before",
        arg=page.locator("#variations img").first.get_attribute("src"),
        timeout=60_000,
    )
    assert np.abs(pixels(page, "variations").astype(int) - large).max() > 1
    page.locator("#variations button").nth(2).click()
    page.locator("#film-step", has_text="Variation 3").wait_for(timeout=60_000)


def test_dice_draw_others_and_their_seed_is_in_the_link_whole(open_page, app):
    page = open_page(f"{app.url}?run=generator&tab=sample&steps=2&count=2&seed=2147483647")
    page.wait_for_function("location.search.includes('seed=2147483647')", timeout=60_000)
    page.locator("#dice:not([disabled])").click(timeout=60_000)
    says = page.get_by_text(re.compile(r"Seed (\d+) draws the same again"))
    says.wait_for(timeout=60_000)
    seed = re.search(r"Seed (\d+)", says.inner_text())[1]
    assert seed != "2147483647" and number(page, "seed").input_value() == seed
    page.wait_for_function(f"location.search.includes('seed={seed}&')", timeout=60_000)


def test_nothing_can_be_varied_before_it_is_drawn_and_a_sweep_is_no_sample(drawn_page):
    page = drawn_page
    page.locator("#sweep").click()
    page.get_by_text("The noise of a column is the same").wait_for(timeout=60_000)
    page.locator("#vary").click()
    page.locator("#vary-message", has_text="Nothing is drawn yet").wait_for(timeout=60_000)


# grids of samples


def test_a_link_draws_the_samples_and_variations_that_it_shows(open_page, app):
    link = f"{app.url}?run=generator&tab=sample&steps=3&count=2&seed=5&strength=0.4"
    page = open_page(link)
    page.locator("#go:not([disabled])").click(timeout=60_000)
    page.get_by_text("Sample 1 (class 0) after step 3 of 3").wait_for(timeout=60_000)
    page.wait_for_function("location.search.includes('shows=samples')", timeout=60_000)
    samples = open_page(page.url)
    samples.get_by_text("Sample 1 (class 0) after step 3 of 3").wait_for(timeout=60_000)
    assert (pixels(samples, "samples") == pixels(page, "samples")).all()
    page.locator("#vary").click()
    page.get_by_text("Variations of sample 1.").wait_for(timeout=60_000)
    page.wait_for_function("location.search.includes('shows=variations')", timeout=60_000)
    varied = open_page(page.url)
    varied.get_by_text("Variations of sample 1.").wait_for(timeout=60_000)
    assert varied.locator("#variations img").count() == page.locator("#variations img").count()
    assert (pixels(varied, "samples") == pixels(page, "samples")).all()
    page.locator("#sweep").click()
    page.wait_for_function("location.search.includes('shows=sweep')", timeout=60_000)
    page.get_by_text("The noise of a column is the same").wait_for(timeout=60_000)
    page.locator("#reproduce button").first.click()
    page.get_by_text("guidance_sweep(").first.wait_for(timeout=60_000)
    swept = open_page(page.url)
    swept.get_by_text("The noise of a column is the same").wait_for(timeout=60_000)
    assert (pixels(swept, "samples") == pixels(page, "samples")).all()
    settings = open_page(link)  # of somebody who has drawn nothing yet
    settings.locator("#go:not([disabled])").wait_for(timeout=60_000)
    settings.wait_for_timeout(1500)
    assert not settings.locator("#samples img").count()


def axis(page, which: str, setting: str, values: str):
    page.locator(f"#grid-{which} input").click()
    page.get_by_role("option", name=setting, exact=True).click()
    box = page.locator(f"#grid-{which}-values").locator("input, textarea").first
    page.wait_for_timeout(700)  # the suggestion has come
    box.fill(values)
    box.blur()


def test_a_grid_of_two_settings_is_drawn_labelled_reproducible_and_in_the_link(open_page, app):
    page = open_page(f"{app.url}?run=generator&tab=sample&steps=3&seed=7&sampler=euler")
    page.locator("#go:not([disabled])").wait_for(timeout=60_000)
    page.locator("#grid button").first.click()
    axis(page, "rows", "steps", "1, 4")
    axis(page, "columns", "class", "3, 7, 8")
    page.locator("#grid-go").click()
    page.get_by_text("Done: 6 pictures.").wait_for(timeout=60_000)
    picture = pixels(page, "grid-picture")
    corner = picture[-108:-12, -108:-12]  # the last picture, three pixels for one
    assert corner.std() > 0 and (corner[::3, ::3].repeat(3, 0).repeat(3, 1) == corner).all()
    for told in ("rows=steps", "row_values=1%2C+4", "columns=class", "shows=grid"):
        page.wait_for_function(f"location.search.includes('{told}')", timeout=60_000)
    page.locator("#reproduce button").first.click()
    python = page.locator("#reproduce-python")
    page.get_by_text("sample_grid(").first.wait_for(timeout=60_000)
    assert "Axis('steps', (1, 4))" in python.inner_text()
    again = open_page(page.url)
    again.locator("#grid-go").wait_for(timeout=60_000)  # the link opens what it is about
    box = again.locator("#grid-columns-values").locator("input, textarea").first
    again.wait_for_function("location.search.includes('column_values=3%2C+7%2C+8')")
    assert box.input_value() == "3, 7, 8"
    again.get_by_text("Done: 6 pictures.").wait_for(timeout=60_000)  # by itself
    assert (pixels(again, "grid-picture") == picture).all()
    assert not again.locator("#link-message p").count()


@pytest.mark.parametrize(
    "setting,values,says",
    [
        ("temperature", "1", "No sampler of this generator has a temperature"),
        ("tokens kept", "1", "decodes all of its 8 tokens together"),
        ("guidance", "1, many", "guidance 'many': numbers from 0 to 20 are possible"),
        ("seed", "1", "Rows and columns are both seed"),
    ],
)
def test_what_a_grid_cannot_vary_is_said_in_words(setting, values, says, open_page, app):
    page = open_page(f"{app.url}?run=generator&tab=sample&steps=2")
    page.locator("#go:not([disabled])").wait_for(timeout=60_000)
    page.locator("#grid button").first.click()
    axis(page, "rows", setting, values)
    page.locator("#grid-go").click()
    page.locator("#grid-message", has_text=says).wait_for(timeout=60_000)


def test_a_grid_says_how_far_it_is_and_stops(open_page, app):
    page = open_page(f"{app.url}?run=generator&tab=sample&steps=120")
    page.locator("#go:not([disabled])").wait_for(timeout=60_000)
    page.locator("#grid button").first.click()
    page.locator("#grid-go").click()
    page.get_by_text(re.compile(r"^picture \d+ of 12, \S+ \S+ left$")).wait_for(timeout=60_000)
    page.locator("#grid-stop").click()
    page.get_by_text(re.compile(r"^Stopped at picture \d+ of 12\.$")).wait_for(timeout=60_000)
    assert page.locator("#grid-picture img").is_visible()
