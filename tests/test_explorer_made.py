"""Pictures that were downloaded say how they were made, and open the page as it was."""

import io
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import gradio as gr
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from softvq_lab.explore.png_texts import LINK, PYTHON, TERMINAL, png_bytes

READY = {"reconstruct": "#rec-reconstruction img", "sample": "#go:not([disabled])"}


@pytest.fixture(scope="module")
def runs(trained):
    return trained


def downloaded(page, elem_id: str) -> bytes:
    "The file that the button of a picture downloads."
    picture = page.locator(f"#{elem_id}")
    picture.locator("img").first.wait_for(timeout=60_000)
    picture.hover()
    with page.expect_download() as download:
        picture.get_by_role("link").or_(picture.get_by_label("Download")).first.click()
    return download.value.path().read_bytes()


def texts(data: bytes) -> dict[str, str]:
    return Image.open(io.BytesIO(data)).info


def query(text: str) -> dict[str, list[str]]:
    return parse_qs(text.removeprefix("?"))


def address(page) -> dict[str, list[str]]:
    found = parse_qs(urlsplit(page.url).query)
    found.pop("__theme", None)
    return found


def says(page, name: str, value: str):
    page.wait_for_function(
        "([name, value]) => new URLSearchParams(location.search).getAll(name).join() === value",
        arg=[name, value],
        timeout=60_000,
    )


def drop(page, file):
    page.locator("#open-picture input[type=file]").set_input_files(file)


def test_a_downloaded_reconstruction_opens_the_page_as_it_was(open_page, app, tmp_path):
    page = open_page(f"{app.url}?run=tokenizer&tab=reconstruct&image=9&class=9")
    page.locator(READY["reconstruct"]).wait_for(timeout=60_000)
    says(page, "image", "9")
    data = downloaded(page, "rec-reconstruction")
    told = texts(data)
    assert query(told[LINK]) == address(page)
    assert "softvq-lab evaluate" in told[TERMINAL] and "'heldout:9'" in told[PYTHON]
    (tmp_path / "mine.png").write_bytes(data)

    other = open_page(f"{app.url}?run=generator&tab=sample")
    other.locator(READY["sample"]).wait_for(timeout=60_000)
    drop(other, tmp_path / "mine.png")
    says(other, "tab", "reconstruct")
    says(other, "image", "9")
    says(other, "run", "tokenizer")
    other.locator(READY["reconstruct"]).wait_for(timeout=60_000)
    assert address(other) == query(told[LINK])
    assert not other.locator("#link-message p").count()
    other.go_back()
    says(other, "tab", "sample")


def test_samples_say_what_they_were_drawn_with_and_not_what_stands_there_now(open_page, app):
    page = open_page(f"{app.url}?run=generator&tab=sample&steps=3&count=4&seed=5&classes=3")
    page.locator(READY["sample"]).click(timeout=60_000)
    page.get_by_text("Seed 5 draws the same again").wait_for(timeout=60_000)
    seed = page.locator("#seed input")
    seed.fill("6")
    seed.blur()
    says(page, "seed", "6")
    told = texts(downloaded(page, "samples"))
    assert query(told[LINK])["seed"] == ["5"] and query(told[LINK])["classes"] == ["3"]
    assert "--seed 5" in told[TERMINAL] and "seed=5" in told[PYTHON]


def test_a_grid_opens_as_a_grid(open_page, app, tmp_path):
    page = open_page(f"{app.url}?run=generator&tab=sample&steps=2&rows=guidance&row_values=1, 2")
    page.locator(READY["sample"]).wait_for(timeout=60_000)
    page.locator("#grid").get_by_text("Grid: two settings").click()
    page.locator("#grid-go").click()
    page.get_by_text("Done: 8 pictures").wait_for(timeout=60_000)
    data = downloaded(page, "grid-picture")
    told = query(texts(data)[LINK])
    assert told["shows"] == ["grid"] and told["row_values"] == ["1, 2"]
    assert "sample_grid(" in texts(data)[PYTHON]


def test_a_frame_of_the_film_and_a_variation_say_how_they_are_made(open_page, app):
    page = open_page(f"{app.url}?run=generator&tab=sample&steps=3&count=2&seed=5&strength=0.4")
    page.locator(READY["sample"]).click(timeout=60_000)
    page.get_by_text("Sample 1 (class 0) after step 3 of 3").wait_for(timeout=60_000)
    film = page.locator("#film input[type=number]")
    film.fill("0")
    film.blur()
    page.get_by_text("Sample 1 (class 0) after step 1 of 3").wait_for(timeout=60_000)
    told = texts(downloaded(page, "sample-large"))
    assert "frame(loaded, drawn, sample, 0.0)" in told[PYTHON]
    assert query(told[LINK])["film"] == ["0"]
    page.locator("#vary").click()
    page.get_by_text("Variations of sample 1.").wait_for(timeout=60_000)
    page.locator("#variations img").nth(2).click()
    page.get_by_text("Variation 3", exact=True).wait_for(timeout=60_000)
    told = texts(downloaded(page, "sample-large"))
    assert "variation_steps(loaded, drawn, sample, 0.4, 8)" in told[PYTHON]
    assert query(told[LINK])["variation"] == ["3"]


FOREIGN = {
    "no-picture.png": (b"not a picture", "is no PNG"),
    "other.png": (png_bytes(Image.new("RGB", (8, 8)), {}), "does not say how it was made"),
    "long.png": (
        png_bytes(Image.new("RGB", (8, 8)), {LINK: "?" + "x" * 50_000}),
        "50,001 characters",
    ),
    "gone.png": (
        png_bytes(Image.new("RGB", (8, 8)), {LINK: "?run=gone&tab=reconstruct"}),
        "run=gone",
    ),
}


def test_foreign_pictures_and_runs_that_are_gone_are_one_message(open_page, app, tmp_path):
    page = open_page(f"{app.url}?run=tokenizer&tab=reconstruct&image=9")
    page.locator(READY["reconstruct"]).wait_for(timeout=60_000)
    for name, (data, message) in FOREIGN.items():
        (tmp_path / name).write_bytes(data)
        drop(page, tmp_path / name)
        page.locator("#link-message", has_text=message).wait_for(timeout=60_000)
        assert page.locator("#link-message p").count() == 1
        if name != "gone.png":
            assert address(page)["image"] == ["9"]  # nothing was lost


def test_texts_that_unpack_to_more_than_a_megabyte_are_refused(tmp_path):
    from softvq_lab.explore.png_texts import link_in

    bomb = PngInfo()
    bomb.add_text(LINK, "?" + "x" * (1 << 24), zip=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "bomb.png", pnginfo=bomb)
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    with pytest.raises(ValueError, match="too large"):
        link_in(tmp_path / "bomb.png")


def test_two_people_with_other_settings_get_files_of_their_own(tmp_path, monkeypatch):
    from tabs import made, picture_files

    monkeypatch.setattr(picture_files, "get_upload_folder", lambda: str(tmp_path))

    class How:
        def __init__(self, seed):
            self.texts, self.file_name = {LINK: f"?seed={seed}"}, "a-sample.png"

    image = Image.new("RGB", (8, 8))
    one, two = (picture_files.downloadable(image, How(seed)) for seed in (1, 2))
    assert (
        one != two
        and one.endswith("/a-sample.png")
        and texts(open(one, "rb").read())[LINK] == "?seed=1"
    )
    with made.recording(How(2)):
        assert picture_files.downloadable(image) == two
    assert made.NOW.get() is None


def test_every_handler_that_writes_a_picture_knows_what_stands_on_the_page():
    "A picture with a download button is written by `Newest`, or after a `Start`."
    import explorer
    from tabs import made

    app = explorer.build("nowhere")
    after_start = {"on_go", "on_sweep", "on_vary"}
    for fn in app.fns.values():
        shown = [o for o in fn.outputs if isinstance(o, gr.Image)]
        if not shown or fn.fn is None or fn.name in (*after_start, "follow"):
            continue  # `follow` only takes pictures away
        if fn.api_name == "reconstruct":
            continue  # for programs: there is no page
        knows = any(isinstance(i, gr.Dropdown) and i.elem_id == "run" for i in fn.inputs)
        assert knows and fn.fn.__qualname__.startswith("Newest"), (fn.name, shown[0].elem_id)
    assert made.NOW.get() is None


@pytest.fixture
def cache(tmp_path, monkeypatch):
    "A cache of 10,000 bytes in a folder of its own, and its clock, which a test may set."
    from tabs import picture_files

    monkeypatch.setattr(picture_files, "get_upload_folder", lambda: str(tmp_path))
    cache = picture_files.FileCache(most=10_000, young=120, clock=lambda: cache.now)
    cache.now = 0.0
    return cache


def test_five_hundred_moves_of_a_slider_leave_no_more_files_than_are_allowed(cache, tmp_path):
    first = cache.put(b"start" * 20)
    for move in range(500):
        cache.now += 10
        last = cache.put(f"{move:0100d}".encode())
        assert cache.put(b"start" * 20) == first  # is wanted again and again
    sizes = [p.stat().st_size for p in tmp_path.iterdir()]
    assert sum(sizes) == cache.total == 10_000 and len(sizes) == 100
    assert Path(first).exists() and Path(last).read_bytes() == f"{499:0100d}".encode()


def test_a_file_that_a_page_may_still_load_stays(cache, tmp_path):
    made = [cache.put(bytes([i]) * 6000) for i in range(3)]
    assert all(Path(p).exists() for p in made)  # too many, but all of them new
    cache.now = 121
    copy = cache.put(b"{}", name="train.ipynb")
    assert [Path(p).exists() for p in made] == [False, False, True]
    assert Path(copy).name == "train.ipynb"
    cache.now = 300
    cache.put(b"x" * 9_999)
    assert not Path(copy).parent.exists() and len(list(tmp_path.iterdir())) == 1


def test_a_removed_picture_is_written_again_when_it_is_wanted(cache):
    path = cache.put(b"a" * 6000)
    cache.now = 200
    cache.put(b"b" * 6000)
    assert not Path(path).exists()
    assert cache.put(b"a" * 6000) == path and Path(path).read_bytes() == b"a" * 6000
    Path(path).unlink()  # by somebody who tidies the temporary folder
    assert Path(cache.put(b"a" * 6000)).exists() and cache.total == 12_000
