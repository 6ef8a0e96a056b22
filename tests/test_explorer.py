"""The tabs Reconstruct, Codewords, Token counts and Sample: uploads, broken runs, what a person and
what a program can do.
"""

import io
import re
import shutil
import socket
import struct
import threading
import time
import zlib

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from served import Explorer
from tabs.newest import Last, Newest

RNG = np.random.default_rng(0)


def _picture(mode="RGB", size=(40, 30)) -> Image.Image:
    return Image.fromarray(RNG.integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)).convert(
        mode
    )


def _encoded(fmt, image=None, **how) -> bytes:
    (image or _picture()).save(out := io.BytesIO(), fmt, **how)
    return out.getvalue()


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width, height, data=b"", extra=b"", depth=8, colour=2) -> bytes:
    "A PNG with this header, whatever its data."
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
        + extra
        + _chunk(b"IDAT", data)
        + _chunk(b"IEND", b"")
    )


def _frames() -> bytes:
    return _encoded(
        "GIF",
        Image.new("P", (30, 30)),
        save_all=True,
        append_images=[Image.new("P", (30, 30), i) for i in range(3)],
    )


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _encoded("JPEG", _picture(size=(50, 20)), exif=exif.tobytes())


png, jpg = _encoded("PNG"), _encoded("JPEG")
UPLOADS = {  # name: (bytes, whether it is a picture that can be shown)
    "plain.jpg": (jpg, True),
    "progressive.jpg": (_encoded("JPEG", progressive=True), True),
    "grey.jpg": (_encoded("JPEG", _picture("L")), True),
    "cmyk.jpg": (_encoded("JPEG", _picture("CMYK")), True),
    "rotated.jpg": (_turned(), True),
    "alpha.png": (_encoded("PNG", _picture("RGBA")), True),
    "grey-alpha.png": (_encoded("PNG", _picture("LA")), True),
    "palette.png": (_encoded("PNG", _picture("P")), True),
    "transparent-palette.png": (_encoded("PNG", _picture("P"), transparency=3), True),
    "one-bit.png": (_encoded("PNG", _picture("1")), True),
    "sixteen-bit.png": (
        _encoded("PNG", Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30) * 70)),
        True,
    ),
    "one-pixel.png": (_encoded("PNG", Image.new("RGB", (1, 1))), True),
    "ribbon.png": (_encoded("PNG", Image.new("RGB", (6000, 1))), True),
    "tower.png": (_encoded("PNG", Image.new("L", (1, 6000))), True),
    "animated.gif": (_frames(), True),
    "still.gif": (_encoded("GIF", _picture("P")), True),
    "lossless.webp": (_encoded("WEBP", lossless=True), True),
    "lossy.webp": (_encoded("WEBP"), True),
    "bitmap.bmp": (_encoded("BMP"), True),
    "tiff.tif": (_encoded("TIFF"), True),
    "float.tif": (_encoded("TIFF", Image.fromarray(RNG.random((20, 20), dtype=np.float32))), True),
    "pages.tif": (_encoded("TIFF", save_all=True, append_images=[_picture(), _picture()]), True),
    "lab.tif": (_encoded("TIFF", _picture("RGB").convert("RGB")), True),
    "wrong-suffix.png": (jpg, True),
    "no suffix": (png, True),
    "UPPER.JPEG": (jpg, True),
    "a & <b>name [x](y).png": (png, True),
    "bild-ü-図.png": (png, True),
    "trailing.jpg": (jpg + b"\0" * 1000, True),
    "truncated.jpg": (jpg[: len(jpg) // 2], False),
    "truncated.png": (png[: len(png) // 2], False),
    "header-only.png": (png[:33], False),
    "three-bytes.jpg": (jpg[:3], False),
    "empty.png": (b"", False),
    "text.png": (b"I am no image", False),
    "svg.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', False),
    "page.html": (b"<html><img src=x onerror=alert(1)></html>", False),
    "svg.png": (b'<?xml version="1.0"?><svg/>', False),
    "archive.zip": (b"PK\x05\x06" + b"\0" * 18, False),
    "document.pdf": (b"%PDF-1.4\n%%EOF", False),
    "postscript.eps": (
        (
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(/etc/passwd) (r) "
            b"file\n%%EOF\n"
        ),
        False,
    ),
    "pickle.pt": (b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00cos\nsystem\n.", False),
    "noise.png": (RNG.bytes(5000), False),
    "zeros.png": (bytes(5000), False),
    "huge-header.png": (_png(20_000, 20_000, zlib.compress(b"x")), False),
    "bomb.png": (_png(60_000, 60_000, zlib.compress(bytes(60_000 * 900))), False),
    "largest-header.png": (_png(2**31 - 1, 2**31 - 1), False),
    "zero-width.png": (_png(0, 10), False),
    "no-data.png": (_png(10, 10), False),
    "bad-data.png": (_png(10, 10, b"not zlib"), False),
    "text-bomb.png": (
        _png(
            10,
            10,
            zlib.compress(b"\0" * 310),
            _chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80 * 2**20))),
        ),
        True,  # its pixels are whole
    ),
    "phone.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200), False),
    "phone.jpg": (b"\0\0\0\x18ftypmif1\0\0\0\0heix" + bytes(200), False),
    "pointer.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:a\n", False),
    "twelve-bit.tif": (
        _encoded("TIFF", Image.fromarray(np.arange(900, dtype=np.uint16).reshape(30, 30) * 4)),
        False,
    ),
    "bad-depth.png": (_png(10, 10, depth=77), False),
    "gif-header.gif": (b"GIF89a" + b"\xff" * 20, False),
    "huge-gif.gif": (
        b"GIF89a\xff\xff\xff\xff\x00\x00\x00,\0\0\0\0\xff\xff\xff\xff\0\x02\x02L\x01\0;",
        False,
    ),
    "bad-tiff.tif": (b"II*\0\xff\xff\xff\xff", False),
    "bmp-header.bmp": (b"BM" + b"\xff" * 60, False),
    "broken.webp": (_encoded("WEBP")[:40], False),
}


def test_there_are_at_least_forty_kinds():
    assert len(UPLOADS) >= 40 and sum(not good for _, good in UPLOADS.values()) >= 20


@pytest.mark.parametrize("name", UPLOADS)
def test_an_upload_is_an_image_or_a_sentence(name, tmp_path):
    from softvq_lab.explore.session import read_upload

    data, good = UPLOADS[name]
    (tmp_path / name).write_bytes(data)
    if good:
        x = read_upload(tmp_path / name, (24, 16))
        assert x.shape == (3, 24, 16) and -1 <= x.min() and x.max() <= 1
    else:
        with pytest.raises(ValueError, match="could not be read as an image|at most"):
            read_upload(tmp_path / name, 16)


@pytest.mark.parametrize(
    "name,says",
    [
        ("phone.heic", "it is a HEIC picture .*heif-convert"),
        ("phone.jpg", "it is a HEIC picture"),
        ("pointer.png", "a pointer of Git LFS.*git lfs pull"),
        ("twelve-bit.tif", "go from 0 to 3596.*would be black.*save_8bit"),
        ("page.html", "it is a web page"),
        ("pickle.pt", "it is a pickle"),
        ("document.pdf", "it is a PDF"),
        ("truncated.jpg", "PNG, JPEG, WebP.* are known; it may be damaged"),
        ("huge-header.png", "far too many pixels; at most 80 million"),
    ],
)
def test_what_is_not_read_is_named_with_what_helps(name, says, tmp_path):
    from softvq_lab.explore.session import read_upload

    (tmp_path / name).write_bytes(UPLOADS[name][0])
    with pytest.raises(ValueError, match=f"could not be read as an image: .*{says}"):
        read_upload(tmp_path / name, 16)


def test_a_photo_is_upright_by_its_exif_tag(tmp_path):
    from softvq_lab.explore.session import read_upload

    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned right by a quarter
    image = Image.new("RGB", (64, 32), "black")
    image.paste("white", (0, 0, 32, 32))
    image.save(tmp_path / "a.jpg", exif=exif.tobytes())
    x = read_upload(tmp_path / "a.jpg", (64, 32))
    assert x[:, :28].min() > 0.9 and x[:, 36:].max() < -0.9  # the left half is the upper one


def test_what_is_too_large_is_not_read(tmp_path):
    from softvq_lab.explore.session import MAX_BYTES, read_upload

    with open(tmp_path / "a.png", "wb") as f:
        f.truncate(MAX_BYTES + 1)
    with pytest.raises(ValueError, match="at most 40 MiB"):
        read_upload(tmp_path / "a.png", 32)
    with pytest.raises(ValueError, match="not there any more"):
        read_upload(tmp_path / "b.png", 32)


# a run folder in which something is missing, cut or foreign

WHAT = {
    "config.json missing": ("config.json", None),
    "config.json empty": ("config.json", b""),
    "config.json cut": ("config.json", 0.5),
    "config.json a list": ("config.json", b"[1, 2]"),
    "config.json of another program": ("config.json", b'{"model_type": "bert", "created": "2026"}'),
    "config.json with a foreign section": (
        "config.json",
        b'{"kind": "tokenizer", "created": "2026", "config": {"data": 5, "tokenizer": []}}',
    ),
    "config.json binary": ("config.json", bytes(range(256))),
    "status.json missing": ("status.json", None),
    "status.json cut": ("status.json", 0.5),
    "status.json a list": ("status.json", b"[]"),
    "metrics.jsonl binary": ("metrics.jsonl", bytes(range(256))),
    "metrics.jsonl missing": ("metrics.jsonl", None),
    "weights missing": ("checkpoints/*/model.safetensors", None),
    "weights empty": ("checkpoints/*/model.safetensors", b""),
    "weights cut": ("checkpoints/*/model.safetensors", 0.5),
    "weights a pickle": ("checkpoints/*/model.safetensors", UPLOADS["pickle.pt"][0]),
    "model config missing": ("checkpoints/*/config.json", None),
    "model config cut": ("checkpoints/*/config.json", 0.5),
    "manifest missing": ("checkpoints/*/manifest.json", None),
    "manifest foreign": ("checkpoints/*/manifest.json", b'{"sha256": 7}'),
    "evaluation foreign": ("evaluation/reconstruction.json", b'[{"figures": 3}]'),
    "evaluation without numbers": (
        "evaluation/reconstruction.json",
        b'{"figures": {}, "passport": 1, "subject": []}',
    ),
    "checkpoints a file": ("checkpoints", b"no folder"),
}
HARMLESS = (
    "status.json",
    "metrics.jsonl",
    "evaluation/",
)  # without these a run can still be looked at


def _spoil(run, pattern, what):
    for p in list(run.glob(pattern)) or [run / pattern]:
        if p.is_dir():
            shutil.rmtree(p)
        data = p.read_bytes() if p.exists() else b""
        p.unlink(missing_ok=True)
        p.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(what, float):
            p.write_bytes(data[: int(len(data) * what)])
        elif what is not None:
            p.write_bytes(what)


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    """The trained pair, each broken copy of the tokenizer, and three small tokenizers: siblings of
    4 and 8 tokens that decode any first k, and a VQ.
    """
    from dataclasses import asdict

    from softvq_lab.data.datasets import digits
    from softvq_lab.runs import open_run
    from softvq_lab.settings.parse import parse
    from softvq_lab.settings.workflows import TrainConfig
    from softvq_lab.training.loop import fit
    from softvq_lab.training.tokenizer_task import TokenizerTask

    root = tmp_path_factory.mktemp("tabs")
    for name in ("generator", "tokenizer"):
        shutil.copytree(trained / name, root / name)
    for i, (pattern, what) in enumerate(WHAT.values()):
        shutil.copytree(trained / "tokenizer", root / f"broken-{i}")
        _spoil(root / f"broken-{i}", pattern, what)
    for name, settings in {
        "eight": dict(tokens=8, keep="uniform"),
        "four": dict(tokens=4, keep="uniform"),
        "vq": dict(tokens=4, quantizer="vq"),
        "a <b>_bold_</b> ![x](http://example.com/x.png)": dict(tokens=4, quantizer="gmmvq"),
    }.items():
        c = parse(TrainConfig, dict(steps=3, warmup_steps=1, eval_every=3, **settings))
        r = open_run(root / name, "tokenizer", asdict(c))
        fit(TokenizerTask(c.tokenizer, digits(32), r), r, c.optim)
    return root


def _ask(client, run, path):
    from gradio_client import handle_file

    return client.predict(run, handle_file(path), api_name="/reconstruct")


@pytest.mark.parametrize("name", WHAT)
def test_a_spoiled_run_says_so(name, runs, tmp_path, client):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    i = list(WHAT).index(name)
    *pictures, message = _ask(client, f"broken-{i}", tmp_path / "a.png")
    if WHAT[name][0].startswith(HARMLESS):
        assert all(pictures) and "PSNR" in message
    else:
        assert pictures == [None] * 3 and re.search("run|not|damaged|incomplete", message), message


DOZEN = (
    "plain.jpg",
    "cmyk.jpg",
    "sixteen-bit.png",
    "one-pixel.png",
    "animated.gif",
    "a & <b>name [x](y).png",
    "truncated.png",
    "empty.png",
    "text.png",
    "svg.svg",
    "huge-header.png",
    "bomb.png",
)


def test_the_app_lives_through_what_people_upload(client, tmp_path):
    for name in DOZEN:
        data, good = UPLOADS[name]
        (tmp_path / name).write_bytes(data)
        *pictures, message = _ask(client, "tokenizer", tmp_path / name)
        assert all(p is not None for p in pictures) == good and ("PSNR" in message) == good, (
            name,
            message,
        )
        assert good or re.search("could not be read as an image|at most", message), (name, message)


@pytest.mark.parametrize("name", ["../tokenizer", "/etc", "nowhere", ""])
def test_only_offered_runs_are_opened(client, tmp_path, name):
    Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
    *pictures, message = _ask(client, name, tmp_path / "a.png")
    assert pictures == [None] * 3 and "run" in message


def test_listens_on_loopback_only(app):
    port = int(app.url.rstrip("/").rsplit(":", 1)[1])
    other = [
        a[4][0]
        for a in socket.getaddrinfo(socket.gethostname(), port, socket.AF_INET)
        if not a[4][0].startswith("127.")
    ]
    for address in other:
        with pytest.raises(OSError):
            socket.create_connection((address, port), 1).close()
    with open("/proc/net/tcp") as f:
        listening = [
            l.split()[1]
            for l in f
            if l.split()[3] == "0A" and l.split()[1].endswith(f":{port:04X}")
        ]
    assert listening == [f"0100007F:{port:04X}"]


def test_samples_over_the_api(client):
    def ask(seed, *interval):
        sheet, says, strip, *_ = client.predict(
            "generator", ["3", "5"], 4, 1.5, "euler", 3, seed, 1, *interval, api_name="/sample"
        )
        return np.array(Image.open(sheet)), says, strip

    (a, says, strip), (b, *_), (c, *_), (d, *_) = (
        ask(1, 0.2, 0.8),
        ask(1, 0.2, 0.8),
        ask(2, 0.2, 0.8),
        ask(1, 0, 1),
    )
    assert "Done: 3, 5, 3, 5" in says and Image.open(strip).width > 3 * 32
    assert (
        (a == b).all() and (a != c).any() and (a != d).any()
    )  # the seed counts, and so does the interval of guidance
    half = client.predict(
        "generator", ["3", "5"], 4, 1.5, "euler", 3, 1, 1, 0.2, 0.8, "bf16", api_name="/sample"
    )
    off = np.array(Image.open(half[0])).astype(float) - a
    assert 0 < np.abs(off).mean() < 10  # precision counts as well, and little
    sheet, says = client.predict("generator", ["3"], 2, "euler", 2, 1, 1, 0, 1, api_name="/sweep")
    assert "guidance 1, 1.5, 2" in says
    assert (
        "There is no class"
        in client.predict("generator", ["cat"], 2, 1.5, "euler", 3, 0, api_name="/sample")[1]
    )
    assert (
        "interval"
        in client.predict(
            "generator", ["3"], 2, 1.5, "euler", 3, 0, 1, 0.9, 0.1, api_name="/sample"
        )[1]
    )


# a person at the page


def _wait_change(page, selector, before):
    page.wait_for_function(
        (
            '([s, b]) => (i => i && i.getAttribute("src") && i.getAttribute("src") != '
            "b)(document.querySelector(s))"
        ),
        arg=[selector, before],
        timeout=40_000,
    )


def test_reconstruct(open_page, app, looks, tmp_path):
    page = open_page(f"{app.url}?run=eight&tab=reconstruct&image=5")
    image = page.locator("#rec-reconstruction img")
    image.wait_for(timeout=60_000)
    page.get_by_text("8 tokens of width 8").wait_for()
    first = image.get_attribute("src")
    page.locator("#rec-kept input[type=number]").fill("2")
    page.locator("#rec-kept input[type=number]").blur()
    page.get_by_text("first 2 of 8 tokens").wait_for(timeout=40_000)
    _wait_change(page, "#rec-reconstruction img", first)

    page.locator("#rec-other input").click()
    page.get_by_role("option", name=re.compile("^four")).click()
    page.locator("#rec-swipe img").first.wait_for(timeout=40_000)
    page.get_by_text("Right: four").wait_for()

    page.locator("#rec-several input").check()
    page.locator("#rec-heldout button img").nth(2).click()
    page.locator("#rec-sheet img").wait_for(timeout=40_000)
    with page.expect_download() as got:
        page.locator("#rec-download").click()
    assert got.value.path().stat().st_size > 1000

    (tmp_path / "x [a](b) <i>.png").write_bytes(b"no image")
    page.locator("#rec-upload input[type=file]").set_input_files(tmp_path / "x [a](b) <i>.png")
    page.get_by_text("could not be read as an image").wait_for(timeout=40_000)
    looks(page, "reconstruct")


def test_codewords(open_page, app, looks):
    page = open_page(f"{app.url}?run=tokenizer&tab=codewords&image=4")
    page.locator("#cw-attention img").first.wait_for(timeout=60_000)
    page.locator("#cw-alone img").first.wait_for(timeout=60_000)
    page.get_by_text("nothing is changed").wait_for()
    page.wait_for_timeout(2500)  # plotly has drawn
    page.locator("#cw-heatmap").scroll_into_view_if_needed()
    box = page.locator("#cw-heatmap .nsewdrag").bounding_box()
    page.mouse.click(
        box["x"] + box["width"] / 2, box["y"] + box["height"] * 5.5 / 8
    )  # the sixth of eight tokens
    page.get_by_text("Token 5").wait_for(timeout=40_000)
    after = page.locator("#cw-after img").get_attribute("src")
    page.locator("#cw-sharp input").check()
    page.get_by_text("with the changes").first.wait_for(timeout=40_000)
    _wait_change(page, "#cw-after img", after)
    after = page.locator("#cw-after img").get_attribute("src")
    page.locator("#cw-ablate input").click()
    page.get_by_role("option", name="2", exact=True).click()
    _wait_change(page, "#cw-after img", after)
    page.keyboard.press("Escape")
    looks(page, "codewords")
    page.locator("#cw-reset").click()
    page.get_by_text("nothing is changed").wait_for(timeout=40_000)
    page.goto(f"{app.url}?run=vq&tab=codewords")
    page.get_by_text("each of its tokens is one codeword").wait_for(timeout=60_000)


@pytest.mark.slow
def test_token_counts(open_page, app, looks):
    page = open_page(f"{app.url}?run=eight&tab=token-counts&image=3")
    page.locator("#tc-curve .js-plotly-plot").wait_for(timeout=60_000)
    page.get_by_text("All numbers as a table").click()
    page.get_by_text("four, first 2").first.wait_for(timeout=40_000)
    assert (
        page.locator("#tc-rows img").count() == 1 + 4 + 3
    )  # the original; 1, 2, 4, 8 of eight and 1, 2, 4 of four
    looks(page, "token-counts")
    page.goto(f"{app.url}?run=tokenizer&tab=token-counts")
    message = page.locator("#tc-message", has_text="This run has one number of tokens only")
    message.wait_for(timeout=60_000)
    assert {"eight", "four"} <= set(
        message.inner_text().split("tokens: ")[1].strip(".").split(", ")
    )


def test_sample(open_page, app, looks):
    page = open_page(f"{app.url}?run=generator&tab=sample&seed=7")
    page.wait_for_function('document.querySelector("#seed input")?.value == "7"', timeout=60_000)
    page.wait_for_function('document.querySelector("#sampler input")?.value', timeout=60_000)
    page.locator("#steps input[type=number]").fill("5")
    page.locator("#steps input[type=number]").blur()
    page.locator("#go").click()
    page.get_by_text("Seed 7 draws the same again").wait_for(timeout=60_000)
    page.get_by_text("Nearest of 1,437 training images").wait_for(timeout=60_000)
    page.locator("#trajectory img").wait_for()
    looks(page, "sample")
    page.locator("#steps input[type=number]").fill("250")
    page.locator("#steps input[type=number]").blur()
    page.locator("#sweep").click()
    page.get_by_text("guidance 1 ...").wait_for(timeout=60_000)
    page.locator("#stop").click()
    page.get_by_text("Stopped at row").wait_for(timeout=40_000)
    page.goto(f"{app.url}?run=vq&tab=sample")
    page.get_by_text("No generator for this tokenizer yet").wait_for(timeout=60_000)
    page.get_by_text(
        "choose a generator that is there above, at Run: generator (on tokenizer)"
    ).wait_for()
    assert (
        "-p tokenizer_run"
        in page.locator("#go-message code, code", has_text="papermill nbs").first.inner_text()
    )


@pytest.mark.slow
def test_who_clicks_at_once_keeps_what_was_drawn_and_set(open_page, app):
    page = open_page(f"{app.url}?run=generator&tab=sample&seed=7")
    page.locator("#go").click(timeout=60_000)  # as soon as it can be pressed
    page.get_by_text("Seed 7 draws the same again").wait_for(timeout=60_000)
    page.locator("#samples img").wait_for()
    page.locator("#steps input[type=number]").fill("6")
    page.locator("#steps input[type=number]").blur()
    page.get_by_role("tab", name="Runs").click()
    page.wait_for_function('window.location.search.includes("tab=runs")')
    page.get_by_role("tab", name="Sample").click()
    page.wait_for_function('window.location.search.includes("tab=sample")')
    page.wait_for_timeout(1500)  # whatever comes late has come
    assert page.get_by_text("Seed 7 draws the same again").is_visible()
    assert page.locator("#samples img").is_visible()
    assert page.locator("#steps input[type=number]").input_value() == "6"


@pytest.mark.slow
def test_samples_of_one_run_do_not_stand_under_another(open_page, app):
    page = open_page(f"{app.url}?run=generator&tab=sample")
    page.locator("#go").click(timeout=60_000)
    page.get_by_text("draws the same again").wait_for(timeout=60_000)
    page.locator("#run input").click()
    page.get_by_role("option", name=re.compile("^vq")).click()
    page.get_by_text("No generator for this tokenizer yet").wait_for(timeout=60_000)
    assert page.locator("#samples img").count() == 0
    assert page.locator("#go").is_disabled()


class Slowly:
    "A handler that answers a question when it is told to."

    def __init__(self):
        self.asked, self.answers, self.may = {}, {}, {}

    def reply(self, question):
        self.asked[question].set()
        assert self.may[question].wait(20)
        return question

    def ask(self, handler, question, *lasts):
        def call():
            self.answers[question] = handler.event["fn"](*lasts, question)

        self.asked[question], self.may[question] = threading.Event(), threading.Event()
        thread = threading.Thread(target=call)
        thread.start()
        assert self.asked[question].wait(20)
        return lambda: (self.may[question].set(), thread.join(20))


def _dropped(answer):
    return isinstance(answer, dict) and answer.get("__type__") == "update"


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0), (2, 0, 1)])
def test_of_late_answers_only_that_to_the_newest_question_is_shown(order):
    with gr.Blocks():
        slowly, box = Slowly(), gr.Textbox()
        handler, mine, another = Newest(slowly.reply, box, box), Last(), Last()
        end = [slowly.ask(handler, f"question {i}", mine) for i in range(3)]
        elsewhere = slowly.ask(handler, "of another session", another)
        for i in order:
            end[i]()
        elsewhere()
    assert slowly.answers.pop("of another session") == "of another session"
    assert slowly.answers.pop("question 2") == "question 2"
    assert len(slowly.answers) == 2 and all(map(_dropped, slowly.answers.values()))


def test_a_wider_change_makes_a_narrower_answer_old_and_not_the_other_way_round():
    with gr.Blocks():
        slowly, box = Slowly(), gr.Textbox()
        run = Newest(slowly.reply, box, box)
        colour = Newest(slowly.reply, box, box, after=(run,))
        of_run, of_colour = Last(), Last()
        ends = [
            slowly.ask(colour, "colour of the old run", of_colour, of_run),
            slowly.ask(run, "the new run", of_run),
        ]
        for end in ends:
            end()
        ends = [
            slowly.ask(run, "a third run", of_run),
            slowly.ask(colour, "its colour", of_colour, of_run),
        ]
        for end in reversed(ends):
            end()
    assert _dropped(slowly.answers.pop("colour of the old run"))
    assert not any(map(_dropped, slowly.answers.values()))


@pytest.mark.slow
def test_a_page_shows_the_newest_answer_when_the_older_one_comes_late(open_page):
    def say(value):
        time.sleep(3 if value == "slow" else 0)
        return f"answer: {value}"

    with gr.Blocks() as blocks:
        asked, shown = gr.Textbox(elem_id="asked"), gr.Markdown()
        once, again = gr.Button("Ask"), gr.Button("Ask again")
        handler = Newest(say, asked, shown)
        once.click(**handler.event)
        again.click(**handler.event)
    _, url, _ = blocks.queue(default_concurrency_limit=4).launch(
        server_name="127.0.0.1", prevent_thread_lock=True, quiet=True, ssr_mode=False
    )
    try:
        page = open_page(url)
        page.locator("#asked textarea").fill("slow")
        page.get_by_role("button", name="Ask", exact=True).click()
        page.wait_for_timeout(500)
        page.locator("#asked textarea").fill("quick")
        page.get_by_role("button", name="Ask again").click()
        page.get_by_text("answer: quick").wait_for(timeout=20_000)
        page.wait_for_timeout(4000)
        assert page.get_by_text("answer: quick").is_visible()
        assert not page.get_by_text("answer: slow").count()
    finally:
        blocks.close()


@pytest.mark.slow
def test_a_link_is_what_one_sees_and_names_are_text(open_page, app):
    page = open_page(f"{app.url}?run=four&tab=codewords&image=2")
    page.locator("#cw-attention img").first.wait_for(timeout=60_000)
    page.get_by_role("tab", name="Token counts").click()
    page.wait_for_function('window.location.search.includes("tab=token-counts")')
    assert "run=four" in page.url and "image=2" in page.url
    page.goto(f"{app.url}?run=../../etc&tab=<script>&image=%00&seed=x")
    page.locator("#rec-message").wait_for(timeout=60_000)
    page.goto(
        app.url + "?run=a+%3Cb%3E_bold_%3C%2Fb%3E+!%5Bx%5D(http%3A%2F%2Fexample.com%2Fx.png)"
        "&tab=codewords&image=99999999"
    )
    page.locator("#link-message", has_text="99999999").wait_for(timeout=60_000)


@pytest.mark.slow
def test_without_runs_it_says_how_to_make_one(open_page, tmp_path, looks):
    app = Explorer(tmp_path / "none", tmp_path / "app")
    page = open_page(app.url)
    page.get_by_text("No run yet").first.wait_for(timeout=60_000)
    assert "make demo" in page.locator("#empty").inner_text()
    looks(page, "empty")
    app.close()


BUSY = """import itertools, pathlib, tempfile, threading

def write(folder):
    for n in itertools.count():
        made = folder / str(n % 50)
        made.mkdir(parents=True, exist_ok=True)
        try:
            (made / "picture.png").write_bytes(bytes(10_000))
        except OSError:
            pass  # the folder is being removed

for k in range(4):
    folder = pathlib.Path(tempfile.gettempdir(), f"handler{k}")
    threading.Thread(target=write, args=(folder,), daemon=True).start()
"""


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["SIGTERM", "SIGINT"])
def test_its_folder_goes_also_while_handlers_write_into_it(signal, tmp_path, monkeypatch):
    plugin = tmp_path / "busy.py"
    plugin.write_text(BUSY)
    monkeypatch.setenv("SOFTVQ_LAB_PLUGINS", str(plugin))
    app = Explorer(tmp_path / "none", tmp_path / "app")
    folder = next(app.temporary.glob("explorer-*"))
    assert any(folder.glob("handler*/*/picture.png")), "nothing was written"
    app.close(signal)
    assert app.process.returncode == 0
