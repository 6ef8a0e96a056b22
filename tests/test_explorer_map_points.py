"""The tab Latent map at the page: marks, regions, neighbours, and an image of one's own."""

import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from softvq_lab.core import write_json
from softvq_lab.data.images import to_pil
from softvq_lab.explore.map_points import keep_latents
from softvq_lab.explore.session import load_run

POINTS = 60


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    """A tokenizer with a map that kept its latents, `flat` with one that did not, `many` with
    10,000 points, and `bare` without a map."""
    root = tmp_path_factory.mktemp("map")
    for name in ("tokenizer", "flat", "many", "bare"):
        shutil.copytree(trained / "tokenizer", root / name)
    shutil.copytree(trained / "generator", root / "generator")
    loaded = load_run(root / "tokenizer")
    x, labels = zip(*(loaded.images.heldout[i] for i in range(POINTS)))
    with torch.no_grad():
        z = loaded.tokenizer.encode(torch.stack(x)).z.flatten(1)
    generator = np.random.default_rng(0)
    for name, count in {"tokenizer": POINTS, "flat": POINTS, "many": 10_000}.items():
        at = np.arange(count) % POINTS
        xy = generator.normal(size=(count, 2)).round(3).tolist()
        points = [{"index": int(i), "class": str(int(labels[i])), "z": p} for i, p in zip(at, xy)]
        about = {"tokenizer": loaded.tokenizer.fingerprint, "neighbors": 15, "points": points}
        write_json(root / name / "evaluation" / "latent_map.json", about)
    keep_latents(root / "tokenizer" / "evaluation", {"z": z})
    return root


@pytest.fixture
def open_map(open_page, app):
    "open_map(run, query) -> a page on the map of a run when it is drawn."

    def new(run: str = "tokenizer", query: str = ""):
        page = open_page(f"{app.url}?run={run}&tab=latent-map{query}")
        page.wait_for_function(
            "!!document.querySelector('#map-plot .js-plotly-plot')?._ev?._events?.plotly_selected",
            timeout=60_000,
        )
        return page

    return new


def ringed(page, expected: list[list[float]]):
    "Wait until the rings are there: x and y."
    page.wait_for_function(
        """expected => {
            const plot = document.querySelector('#map-plot .js-plotly-plot');
            const rings = plot?._fullData?.find(t => t.meta === 'chosen');
            const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);
            return rings && same([[...rings.x], [...rings.y]], expected);
        }""",
        arg=expected,
        timeout=60_000,
    )


def places(runs, run: str, *numbers: int) -> list[list[float]]:
    from softvq_lab.explore.latent_map import read_map
    from softvq_lab.runs import Run

    return read_map(Run(runs / run)).maps["z"][list(numbers)].T.tolist()


def test_chosen_points_stay_ringed_and_have_neighbours(open_map, runs):
    page = open_map(query="&points=3-17")
    page.locator("#map-near img").nth(7).wait_for(timeout=60_000)
    ringed(page, places(runs, "tokenizer", 3, 17))
    assert re.match(r"8 images: \d of class \d", page.locator("#map-near-message").inner_text())
    assert "flat map" not in page.locator("#map-near-message").inner_text()
    box = page.get_by_label("Points")
    box.fill("17-5")
    box.press("Enter")
    page.wait_for_function("location.search.includes('points=17-5')", timeout=60_000)
    ringed(page, places(runs, "tokenizer", 17, 5))
    page.get_by_role("tab", name="Runs").click()
    page.wait_for_function("location.search.includes('tab=runs')", timeout=60_000)
    page.get_by_role("tab", name="Latent map").click()
    page.wait_for_function("location.search.includes('points=17-5')", timeout=60_000)
    ringed(page, places(runs, "tokenizer", 17, 5))


def test_a_box_on_the_map_shows_its_images_and_is_in_the_link(open_map, runs):
    page = open_map()
    page.evaluate(
        "Plotly.relayout(document.querySelector('#map-plot .js-plotly-plot'), {dragmode: 'select'})"
    )
    area = page.locator("#map-plot .nsewdrag").first
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    page.mouse.move(box["x"] + box["width"] * 0.3, box["y"] + box["height"] * 0.3)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.7, box["y"] + box["height"] * 0.7, steps=4)
    page.mouse.up()
    says = page.locator("#map-inside-message", has_text=re.compile(r"\d+ images: "))
    says.wait_for(timeout=60_000)
    count = int(re.match(r"(\d+)", says.inner_text())[1])
    assert 0 < count < POINTS
    page.locator("#map-inside img").nth(min(count, 48) - 1).wait_for(timeout=60_000)
    page.wait_for_function("location.search.includes('region=')", timeout=60_000)
    again = open_map(query="&region=" + page.url.partition("region=")[2].partition("&")[0])
    again.get_by_text(says.inner_text()).wait_for(timeout=60_000)


def test_a_region_can_be_typed_and_a_wrong_one_is_refused(open_map):
    page = open_map()
    box = page.get_by_label("Region")
    box.fill("-9,-9 9,-9 9,9 -9,9")
    box.blur()
    page.get_by_text("60 images: ").wait_for(timeout=60_000)
    box.fill("1,2 3")
    page.get_by_text("A region has at least three corners").wait_for(timeout=60_000)


@pytest.mark.parametrize("run", ["tokenizer", "flat"])
def test_an_image_of_ones_own_has_a_place_where_the_latents_were_kept(
    run, open_map, runs, tmp_path
):
    loaded = load_run(runs / "tokenizer")
    to_pil(loaded.images.heldout[11][0]).save(tmp_path / "eleven.png")  # it is point 11
    page = open_map(run, "&points=11")
    page.locator("#map-upload input[type=file]").set_input_files(tmp_path / "eleven.png")
    if run == "flat":
        page.get_by_text("without keeping its latents, so an image").wait_for(timeout=60_000)
        page.get_by_text("these are the nearest on the flat map").wait_for(timeout=60_000)
        return
    page.get_by_text("The star is your image").wait_for(timeout=60_000)
    first = page.locator("#map-own-near .caption-label").first
    first.wait_for(timeout=60_000)
    assert first.inner_text().strip().endswith("point 11")
    page.wait_for_function(
        "document.querySelector('#map-plot .js-plotly-plot')._fullData.some(t => t.meta === 'own')",
        timeout=60_000,
    )


def test_an_image_that_the_tokenizer_does_not_know_has_a_place_that_means_little(
    open_map, tmp_path
):
    Image.effect_noise((32, 32), 200).save(tmp_path / "noise.png")
    page = open_map("tokenizer")
    page.locator("#map-upload input[type=file]").set_input_files(tmp_path / "noise.png")
    says = page.locator(
        "#map-own-message", has_text="is unlike those that the tokenizer was trained"
    )
    says.wait_for(timeout=60_000)
    assert "its place means little" in says.inner_text()


def test_ten_thousand_points_are_drawn_by_webgl_and_ringed_without_drawing_anew(open_map, runs):
    page = open_map("many")
    kinds = page.evaluate(
        "document.querySelector('#map-plot .js-plotly-plot')._fullData.map(t => t.type)"
    )
    assert set(kinds) == {"scattergl"}
    page.evaluate("document.querySelector('#map-plot .js-plotly-plot').before = true")
    box = page.get_by_label("Points")
    box.fill("9999-17")
    box.press("Enter")
    page.wait_for_function("location.search.includes('points=9999-17')", timeout=60_000)
    ringed(page, places(runs, "many", 9999, 17))
    assert page.evaluate("document.querySelector('#map-plot .js-plotly-plot').before")


@pytest.mark.parametrize("width", [390, 1440])
def test_the_button_that_computes_a_map_stands_where_one_looks_first(width, open_page, app):
    page = open_page(f"{app.url}?run=bare&tab=latent-map")
    page.set_viewport_size({"width": width, "height": 844})
    page.locator("#map-message", has_text="No map of this run yet").wait_for(timeout=60_000)
    go, says = page.locator("#map-go"), page.locator("#map-message").bounding_box()
    assert go.inner_text() == "Compute the map"
    below = go.bounding_box()["y"] - says["y"] - says["height"]
    assert 0 <= below < 40
    page.locator("#map-compute > button").click()
    page.locator("#map-seed input").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.goto(f"{app.url}?run=flat&tab=latent-map")
    page.locator("#map-plot .scatterlayer .point").first.wait_for(timeout=60_000)
    assert go.inner_text() == "Compute it again"
    assert go.bounding_box()["y"] < page.locator("#map-plot").bounding_box()["y"]


def test_nothing_stands_empty_before_a_point_is_chosen(open_map):
    page = open_map()
    page.locator("#map-near-message", has_text="Click a point on the map").wait_for(timeout=60_000)
    for name in ("map-near", "map-inside", "map-own-near"):
        assert not page.locator(f"#{name}").is_visible()


def test_the_map_of_a_generator_names_the_run_that_has_it(open_page, app):
    page = open_page(f"{app.url}?run=generator&tab=latent-map")
    says = page.locator("#map-message", has_text="the map is its tokenizer's")
    says.wait_for(timeout=60_000)
    assert "Choose tokenizer above" in says.inner_text()
    assert not page.locator("#map-upload").is_visible()  # nothing of a map without one
