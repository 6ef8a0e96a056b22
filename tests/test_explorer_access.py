"""The explorer for everybody: axe, keyboard, narrow pages, figures that can be read, numbers that
are not possible, progress and Stop.
"""

import re
import shutil

import numpy as np
import pytest
from accessibility import findings, views
from PIL import Image

from softvq_lab.core import read_json, write_json
from softvq_lab.explore.session import load_run

READY = {  # what each tab shows when it has been built
    "reconstruct": "#rec-reconstruction img",
    "codewords": "#cw-alone img",
    "token-counts": "#tc-curve .js-plotly-plot",
    "sample": "#go:not([disabled])",
    "latent-map": "#map-plot .scatterlayer .point",
    "runs": "#runs-table button",
}


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    "The trained pair with a map of made-up coordinates, and a run that decodes any first k tokens."
    from dataclasses import asdict

    from softvq_lab.data.datasets import digits
    from softvq_lab.runs import open_run
    from softvq_lab.settings.parse import parse
    from softvq_lab.settings.workflows import TrainConfig
    from softvq_lab.training.loop import fit
    from softvq_lab.training.tokenizer_task import TokenizerTask

    root = tmp_path_factory.mktemp("access")
    c = parse(
        TrainConfig,
        dict(steps=2, warmup_steps=1, eval_every=2, batch_size=8, tokens=8, keep="uniform"),
    )
    r = open_run(root / "eight", "tokenizer", asdict(c))
    fit(TokenizerTask(c.tokenizer, digits(32), r), r, c.optim)
    for name in ("generator", "tokenizer"):
        shutil.copytree(trained / name, root / name)
    g = read_json(root / "generator" / "config.json")
    g["config"]["tokenizer_run"] = str(root / "tokenizer")
    write_json(root / "generator" / "config.json", g)
    xy = np.random.default_rng(0).normal(size=(20, 2)).round(3).tolist()
    loaded = load_run(root / "tokenizer")
    names = [str(int(loaded.images.heldout[i][1])) for i in range(20)]
    points = [{"index": i, "class": names[i], "z": xy[i], "z_hat": xy[-i]} for i in range(20)]
    stored = {
        "tokenizer": loaded.tokenizer.fingerprint,
        "neighbors": 15,
        "min_dist": 0.1,
        "seed": 0,
    }
    write_json(root / "tokenizer" / "evaluation" / "latent_map.json", stored | {"points": points})
    return root


@pytest.fixture
def open_tab(open_page, app):
    "open_tab(tab, run) -> a page on that tab when it is built."

    def new(tab: str, run: str = "tokenizer", query: str = ""):
        page = open_page(f"{app.url}?run={run}&tab={tab}{query}")
        page.locator(READY[tab]).first.wait_for(timeout=60_000)
        return page

    return new


def number(page, elem_id: str):
    return page.locator(f"#{elem_id} input[type=number], input[type=number]#{elem_id}").first


# axe


@pytest.mark.parametrize("tab", READY)
def test_axe_finds_nothing_grave_at_any_width_in_light_and_dark(tab, open_tab):
    page = open_tab(tab, {"sample": "generator", "token-counts": "eight"}.get(tab, "tokenizer"))
    if tab == "sample":
        number(page, "steps").fill("2")
        page.locator("#go").click()
        page.get_by_text("Nearest of").wait_for(timeout=60_000)
    found = {}
    for view in views(page):
        for finding in findings(page):
            found.setdefault(finding, []).append(view)
        width, _ = view
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
    assert not found


@pytest.mark.slow
def test_axe_finds_nothing_grave_in_the_parts_of_runs(open_tab):
    page = open_tab("runs")
    bar = page.locator("#runs-tabs").get_by_role("tab")
    found, parts = {}, dict.fromkeys(name.strip() for name in bar.all_inner_texts())
    assert len(parts) >= 5
    for part in parts:
        page.set_viewport_size({"width": 1440, "height": 900})
        page.wait_for_timeout(500)  # the bar measures itself
        bar.filter(has_text=re.compile(f"^\\s*{part}\\s*$")).first.click()
        page.wait_for_timeout(2000)
        for view in views(page):
            for finding in findings(page):
                found.setdefault((part, finding), []).append(view)
    assert not found


def test_axe_finds_nothing_grave_where_pictures_are_dropped_and_at_own_data(
    open_page, app, tmp_path
):
    Image.new("RGB", (8, 8)).save(tmp_path / "of-elsewhere.png")
    page = open_page(f"{app.url}?run=tokenizer&tab=runs&view=start")
    page.locator("#train-data_path input").wait_for(timeout=60_000)
    page.locator("#open-picture input[type=file]").set_input_files(tmp_path / "of-elsewhere.png")
    page.locator("#link-message p").wait_for(timeout=60_000)  # what is wrong with it
    drop = page.locator("#open-picture")
    found = {}
    for width, theme in views(page):
        if width not in (390, 1440):
            continue
        drop.scroll_into_view_if_needed()
        texts = drop.locator("label, button").evaluate_all(
            "all => all.every(e => e.scrollWidth <= e.clientWidth + 1)"
        )
        assert texts, (width, "the words are cut")
        page.locator("#train-data_path input").click()
        page.wait_for_timeout(300)
        for finding in findings(page):
            found.setdefault(finding, []).append((width, theme))
        page.keyboard.press("Escape")
    assert not found


# without a mouse


def test_a_gallery_is_one_stop_of_tab_and_its_tiles_have_names(open_tab):
    page = open_tab("reconstruct")
    tiles = page.locator("#rec-heldout button.thumbnail-lg")
    page.get_by_role("button", name="0, 1 of 24", exact=True).wait_for()
    assert not page.get_by_role("button", name=re.compile("Thumbnail")).count()
    stops = tiles.evaluate_all("tiles => tiles.filter(tile => tile.tabIndex === 0).length")
    assert stops == 1
    tiles.first.focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "3, 4 of 24"
    page.keyboard.press("Enter")
    page.wait_for_function("location.search.includes('image=')", timeout=60_000)


def test_points_of_the_map_are_chosen_by_number(open_tab):
    page = open_tab("latent-map")
    box = page.get_by_label("Points")
    box.fill("3 - 17")
    box.press("Enter")
    page.get_by_text(re.compile(r"From class \d")).wait_for(timeout=60_000)
    page.locator("#map-way img").wait_for(timeout=60_000)
    page.wait_for_function("location.search.includes('points=3-17')", timeout=60_000)
    assert box.input_value() == "3-17"
    box.fill("99")
    box.press("Enter")
    page.get_by_text("99 cannot be used: write one or two numbers from 0 to 19").wait_for(
        timeout=60_000
    )


# type and layout


def test_headings_are_set_in_the_font_of_the_text(open_tab):
    page = open_tab("reconstruct")
    session = page.context.new_cdp_session(page)
    session.send("DOM.enable")
    session.send("CSS.enable")
    root = session.send("DOM.getDocument")["root"]["nodeId"]

    def families(selector):
        asked = {"nodeId": root, "selector": selector}
        node = session.send("DOM.querySelector", asked)["nodeId"]
        fonts = session.send("CSS.getPlatformFontsForNode", {"nodeId": node})["fonts"]
        return {font["familyName"] for font in fonts}

    (family,) = families(".prose p")
    assert family.startswith("Source Sans")
    assert families("h1") == families("h3") == {family}


def test_tiles_are_neither_cut_nor_do_they_overlap(open_tab):
    page = open_tab("codewords")
    page.locator("#cw-used img").first.wait_for(timeout=60_000)
    for width in (390, 768, 1024, 1440):
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(300)
        cut = page.evaluate(
            """() => [...document.querySelectorAll('.grid-wrap')].flatMap(wrap => {
                const box = wrap.getBoundingClientRect();
                const tiles = [...wrap.querySelectorAll('button.thumbnail-lg')];
                const edges = tiles.map(tile => tile.getBoundingClientRect());
                if (!box.width || !tiles.length) return [];
                const over = edges.filter((e, i) => edges.some((o, j) => j > i
                    && o.left < e.right - 1 && o.right > e.left + 1 && o.top < e.bottom - 1));
                return edges.filter(e => e.right > box.right + 1).concat(over)
                    .map(e => [wrap.closest('.block').id, e.left, e.right, e.top]);
            })"""
        )
        assert not cut, (width, cut)


@pytest.mark.parametrize(
    "tab,run,slider,picture",
    [
        ("codewords", "tokenizer", "cw-temperature", "cw-after"),
        ("codewords", "tokenizer", "cw-donor", "cw-after"),
        ("reconstruct", "eight", "rec-kept", "rec-reconstruction"),
        ("latent-map", "tokenizer", "map-pictures", "map-way"),
    ],
)
def test_on_a_phone_a_slider_and_its_picture_are_on_one_screen(tab, run, slider, picture, open_tab):
    page = open_tab(tab, run, "&points=3-17" if tab == "latent-map" else "")
    page.locator(f"#{picture} img").wait_for(timeout=60_000)
    page.set_viewport_size({"width": 390, "height": 844})
    page.locator(f"#{slider}").evaluate("e => e.scrollIntoView({block: 'center'})")
    page.wait_for_timeout(300)
    for elem_id in (slider, picture):
        box = page.locator(f"#{elem_id}").bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= 844, (elem_id, box)


# numbers


@pytest.mark.parametrize(
    "elem_id,typed,possible,stays",
    [
        ("steps", "0", "whole numbers from 1 to 250", "25"),
        ("steps", "2.5", "whole numbers from 1 to 250", "25"),
        ("count", "33", "whole numbers from 1 to 32", "10"),
        ("seed", "-1", "numbers from 0 to 2147483647", "0"),
    ],
)
def test_a_number_that_is_not_possible_is_refused_with_the_range(
    elem_id, typed, possible, stays, open_tab
):
    page = open_tab("sample", "generator")
    box = number(page, elem_id)
    box.fill(typed)
    box.blur()
    says = page.get_by_role("alert")
    assert (
        says.inner_text()
        == f"{typed} cannot be used. Possible: {possible}. The value stays {stays}."
    )
    assert box.input_value() == stays
    page.wait_for_timeout(500)
    assert box.input_value() == stays and f"{elem_id}={typed}" not in page.url
    box.fill("7")
    box.blur()
    page.wait_for_function(f"location.search.includes('{elem_id}=7')", timeout=60_000)
    assert not says.count()


# progress and Stop


def test_sampling_says_how_far_it_is_and_stop_leaves_what_was_drawn(open_tab):
    page = open_tab("sample", "generator")
    number(page, "steps").fill("250")
    number(page, "steps").blur()
    page.locator("#go").click()
    page.get_by_text(re.compile(r"^step \d+ of 250, \S+ \S+ left$")).wait_for(timeout=60_000)
    assert not _over_pictures(page)
    page.locator("#stop").click()
    page.get_by_text(re.compile(r"^Stopped at step \d+ of 250\.$")).wait_for(timeout=60_000)
    page.locator("#trajectory img").wait_for(timeout=60_000)
    page.wait_for_timeout(1500)  # nothing comes after it
    assert page.get_by_text(re.compile(r"^Stopped at step \d+ of 250\.$")).is_visible()
    assert page.locator("#samples img").is_visible()
    assert not _over_pictures(page) and not page.get_by_text("Error", exact=True).count()


def test_a_sweep_says_how_far_it_is_and_stops_within_a_row(open_tab):
    page = open_tab("sample", "generator", "&count=1&steps=250")
    page.locator("#sweep").click()
    page.get_by_text("guidance 1 ... row 1 of 6").wait_for(timeout=60_000)
    page.locator("#stop").click()
    page.get_by_text(re.compile(r"Stopped at row \d of 6\.")).wait_for(timeout=60_000)
    assert page.locator("#samples img").is_visible()


def _over_pictures(page) -> list[str]:
    "What Gradio writes over components and can be seen: queue, seconds, errors."
    return page.evaluate(
        """places => [...document.querySelectorAll(places)]
            .filter(e => e.checkVisibility({opacityProperty: true}) && e.innerText.trim())
            .map(e => e.innerText)""",
        ".progress-text, .meta-text, .meta-text-center, .error",
    )


# pictures


def test_a_picture_unlike_all_that_was_seen_gets_a_sentence(open_tab, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 2, (32, 32, 3), dtype=np.uint8) * 255
    Image.fromarray(pixels).save(tmp_path / "noise.png")
    page = open_tab("reconstruct")
    upload = page.locator("#rec-upload input[type=file]")
    upload.set_input_files(tmp_path / "noise.png")
    says = page.locator("#rec-unlike", has_text="is unlike those that the tokenizer was trained on")
    says.wait_for(timeout=60_000)
    assert re.search(
        r"worse than each of 96 held-out images \([\d.]+ to [\d.]+ dB\)", says.inner_text()
    )
    page.locator("#rec-heldout button img").nth(4).click()
    page.wait_for_function("!document.querySelector('#rec-unlike').innerText.trim()")


def test_a_heic_photo_is_named_and_an_avif_one_is_read(open_tab, tmp_path):
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200))
    Image.new("RGB", (40, 40), "red").save(tmp_path / "a.avif")
    page = open_tab("reconstruct")
    upload = page.locator("#rec-upload input[type=file]")
    upload.set_input_files(tmp_path / "phone.heic")
    message = page.locator("#rec-upload-message", has_text="HEIC picture")
    message.wait_for(timeout=60_000)
    assert "Save it as JPEG or PNG first" in message.inner_text()
    page.locator("#rec-upload").get_by_label("Remove this file").or_(
        page.locator("#rec-upload button[aria-label='Clear']")
    ).first.click()
    upload.set_input_files(tmp_path / "a.avif")
    page.wait_for_function("location.search.includes('image=upload-')", timeout=60_000)
    page.wait_for_timeout(2000)  # the last answer has come before the app is closed
