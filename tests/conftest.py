"""What all tests share: the apps on the path, a cache of their own, a tiny trained pair of runs."""

import os
import re
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


def pytest_configure(config):
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:  # nohup, which children would inherit:
        signal.signal(signal.SIGHUP, lambda *_: None)  # a handler ends with exec
    config.addinivalue_line("markers", "slow: takes minutes; run by pytest -m slow")


# Few tests, but of a minute and more: begun last, they would keep one worker while the others wait.
# xdist leaves this order alone by --no-loadscope-reorder (Makefile).
LONG = ("test_benchmarks", "test_workflows", "test_emoji", "test_adding", "test_load")


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items):
    """What starts the app is slow, but for one walk through its pages. Files with long tests come
    first, then those with the most tests.
    """
    for item in items:
        if {"app", "browser"} & set(item.fixturenames) and item.path.stem != "test_explorer":
            item.add_marker(pytest.mark.slow)
    yield  # pytest takes out what -m leaves out
    tests = Counter(item.path.stem for item in items)
    items.sort(key=lambda i: (i.path.stem not in LONG, -tests[i.path.stem], i.path.stem))


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session", autouse=True)
def temporary(tmp_path_factory):
    """What libraries leave in the temporary folder (gradio_client: an empty folder for each file)
    goes with the tests' own.
    """
    tempfile.tempdir = os.environ["TMPDIR"] = str(tmp_path_factory.mktemp("tmp"))


@pytest.fixture(autouse=True)
def process_as_before():
    """A training in this process may let GPUs compute in TF32, and names its plug-ins to the
    processes that it starts: neither is for the next test.
    """
    torch, plugins = sys.modules.get("torch"), os.environ.get("SOFTVQ_LAB_PLUGINS")
    was = torch and torch.get_float32_matmul_precision()
    yield
    os.environ.pop("SOFTVQ_LAB_PLUGINS", None)
    if plugins is not None:
        os.environ["SOFTVQ_LAB_PLUGINS"] = plugins
    if was:
        torch.set_float32_matmul_precision(was)


@pytest.fixture(scope="module")
def app(runs, tmp_path_factory):
    "An explorer on the module's own `runs`."
    from served import Explorer

    app = Explorer(runs, tmp_path_factory.mktemp("app"))
    yield app
    app.close()


@pytest.fixture(scope="module")
def pair(trained):
    "(generator, tokenizer) of the tiny runs."
    from softvq_lab.hub.models import load_pair

    return load_pair(trained / "generator")


@pytest.fixture(scope="module")
def client(app):
    "Asks the explorer as a program does."
    from gradio_client import Client

    return Client(app.url, verbose=False)


@pytest.fixture(scope="session")
def chromium() -> str:
    "Path of the browser; its lack is a skip here and a failure in CI (REQUIRE_BROWSER=1)."
    path = shutil.which("chromium") or shutil.which("chromium-browser")
    if not path and os.environ.get("REQUIRE_BROWSER"):
        pytest.fail("no chromium: make system-deps")
    if not path:
        pytest.skip("no chromium: make system-deps")
    return path


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        browser = p.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-background-networking"]
        )
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """open_page(url) -> a page of 1280 pixels in light colours; at the end: no request left the
    machine, no script failed.
    """
    pages = []

    def new(url: str):
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.outside, page.problems = [], []
        page.on(
            "request",
            lambda r: (
                page.outside.append(r.url)
                if not re.match(r"(https?|wss?)://127\.0\.0\.1[:/]|data:|blob:|about:", r.url)
                else None
            ),
        )
        page.on(
            "requestfailed",
            lambda r: (
                page.outside.remove(r.url)
                if "csp" in str(r.failure).lower() and r.url in page.outside
                else None
            ),
        )  # the page's own policy stopped it: nothing left the machine
        page.on("pageerror", lambda e: page.problems.append(str(e)))
        page.goto(url + ("&" if "?" in url else "?") + "__theme=light")
        pages.append(page)
        return page

    yield new
    for page in pages:
        page.close()
        assert page.outside == [] and page.problems == []


@pytest.fixture
def looks(root):
    """looks(page, name): pictures of the page at 1280 and 390 pixels, light and dark, in
    build/screenshots; nothing is wider than the page.
    """
    folder = root / "build" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)

    def take(page, name: str):
        for width in (1280, 390):
            page.set_viewport_size({"width": width, "height": 900})
            for theme in ("light", "dark"):
                page.evaluate(
                    "dark => document.body.classList.toggle('dark', dark)", theme == "dark"
                )
                page.wait_for_timeout(500)  # figures are drawn anew
                page.screenshot(path=folder / f"{name}-{width}-{theme}.png", full_page=True)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (
                f"{name} is wider than {width} pixels"
            )
        page.evaluate("document.body.classList.remove('dark')")
        page.set_viewport_size({"width": 1280, "height": 900})

    return take


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A folder of two runs, `tokenizer` and `generator`, trained for a few steps on digits by the
    notebooks' own path.
    """
    from dataclasses import asdict

    from softvq_lab.data.datasets import digits
    from softvq_lab.hub.models import load_tokenizer
    from softvq_lab.runs import open_run
    from softvq_lab.settings.parse import parse
    from softvq_lab.settings.workflows import TrainConfig, TrainGeneratorConfig
    from softvq_lab.training.generator_task import GeneratorTask
    from softvq_lab.training.loop import fit
    from softvq_lab.training.tokenizer_task import TokenizerTask

    runs = tmp_path_factory.mktemp("runs")
    few = dict(warmup_steps=5, eval_every=40, checkpoint_every=20, ema_warmup=True)
    c = parse(TrainConfig, dict(tokens=8, steps=40, **few))
    t = open_run(runs / "tokenizer", "tokenizer", asdict(c), class_names=digits(32).class_names)
    fit(TokenizerTask(c.tokenizer, digits(32), t), t, c.optim)
    g = parse(TrainGeneratorConfig, dict(tokenizer_run=str(t.path), steps=40, batch_size=32, **few))
    r = open_run(runs / "generator", "generator", asdict(g), class_names=digits(32).class_names)
    fit(GeneratorTask(g.generator, load_tokenizer(t.path), digits(32), r), r, g.optim)
    MADE[runs] = contents(runs)
    return runs


MADE = {}  # by `trained`: its folder, and what was in there


@pytest.fixture(scope="module", autouse=True)
def shared_runs_stay():
    "A module that trains on, renames or measures does so in a copy: others find `trained` as made."
    yield
    for runs, before in list(MADE.items()):
        MADE[runs] = contents(runs)
        changed = sorted({name for name, _ in before ^ MADE[runs]})
        assert not changed, f"this module has changed the shared runs: {changed}"


def contents(folder: Path) -> set[tuple[str, int]]:
    "The files below `folder`, and when they were written."
    files = (p for p in folder.rglob("*") if p.is_file())
    return {(str(p.relative_to(folder)), p.stat().st_mtime_ns) for p in files}
