"""The explorer's tabs Latent map and Runs in a real browser; trainings that outlive the app; what
the server does not give away.
"""

import http.client
import json
import os
import re
import shutil
import signal
import time
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image
from served import Explorer
from test_jobs import LONG, gone, wait_for

from softvq_lab.core import read_json, write_json
from softvq_lab.experiments.job import family, is_alive, jobs, process_of, progress
from softvq_lab.explore.session import load_run
from softvq_lab.hub.models import load_tokenizer
from softvq_lab.runs import Run


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    """Two runs, a map of one of them (of made-up coordinates), an executed notebook, and a run of
    somebody who means ill.
    """
    runs = tmp_path_factory.mktemp("shown") / "runs"
    shutil.copytree(trained, runs)
    g = read_json(runs / "generator" / "config.json")
    g["config"]["tokenizer_run"] = str(runs / "tokenizer")
    write_json(runs / "generator" / "config.json", g)
    xy = np.random.default_rng(0).normal(size=(60, 2)).round(3).tolist()
    loaded = load_run(runs / "tokenizer")
    points = [
        {
            "index": i,
            "class": str(int(loaded.images.heldout[i][1])),
            "z": xy[i],
            "z_hat": xy[-i],
            "psnr": 20 + i / 10,
        }
        for i in range(60)
    ]
    write_json(
        runs / "tokenizer" / "evaluation" / "latent_map.json",
        {
            "tokenizer": load_tokenizer(runs / "tokenizer").fingerprint,
            "neighbors": 15,
            "min_dist": 0.1,
            "seed": 0,
            "points": points,
        },
    )
    evil = "<img src=x onerror=document.title=1>"
    shutil.copytree(runs / "tokenizer", runs / evil, ignore=shutil.ignore_patterns("checkpoints"))
    config = read_json(runs / evil / "config.json")
    write_json(runs / evil / "config.json", {**config, "kind": evil, "data_source": evil})
    write_json(runs / evil / "status.json", {"state": "failed", "step": evil, "error": evil})
    write_json(
        runs / evil / "evaluation" / "x.json", {"figures": {evil: 1.0}, "passport": {evil: evil}}
    )
    html = (
        "<script>parent.document.title = 1</script><img "
        'src="https://example.com/x.png"><h1>Shown</h1>'
    )
    cell = {
        "cell_type": "code",
        "id": "a",
        "execution_count": 1,
        "metadata": {},
        "source": "1",
        "outputs": [{"output_type": "display_data", "metadata": {}, "data": {"text/html": html}}],
    }
    for name in ("tokenizer", evil):
        (runs / name / "notebook.ipynb").write_text(
            json.dumps({"cells": [cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5})
        )
    for name, content in [
        ("broken", "{"),
        ("foreign", "[]"),
        ("other", '{"_class_name": "AutoencoderKL"}'),
        ("bare", '{"created": "x", "kind": "tokenizer"}'),
    ]:
        (runs / name).mkdir()
        (runs / name / "config.json").write_text(content)
    (runs.parent / "secret.txt").write_text("not-for-you")
    tasks = []
    for i, (tau, seed) in enumerate(
        [("0.1", 0), ("0.1", 1), (evil, 0), (evil, 1)]
    ):  # a sweep as its driver leaves it, of runs that were made elsewhere
        made = shutil.copytree(
            runs / "tokenizer",
            runs / "pool" / f"made-{i}",
            ignore=shutil.ignore_patterns("checkpoints", "notebook.ipynb"),
        )
        write_json(
            made / "evaluation" / "reconstruction.json",
            {"figures": {"psnr": 20.0 + i * i}, "passport": {"count": 10}},
        )
        tasks.append(
            {
                "stage": "tokenizer",
                "state": "done",
                "run": f"runs/pool/made-{i}",
                "output": f"runs/pool/made-{i}/notebook.ipynb",
                "vary": {"tau": tau, "seed": seed},
                "label": f"tau={tau}",
                "reason": None,
                "seconds": 9.0,
            }
        )
    tasks += [
        {
            **tasks[0],
            "state": "failed",
            "reason": evil,
            "run": "runs/pool/none",
            "output": "runs/pool/none/notebook.ipynb",
        },
        {
            **tasks[0],
            "state": "failed",
            "reason": "not-for-you",
            "run": str(runs.parent),
            "output": str(runs.parent / "secret.ipynb"),
        },
    ]
    write_json(
        runs / "sweeps" / "night" / "sweep.json",
        {
            "name": evil,
            "about": evil,
            "driver": {"state": "ended"},
            "counts": {"done": 4, "failed": 2},
            "tasks": tasks,
        },
    )
    return runs


def open_tab(page, bar: str, name: str):
    "Click a tab, also where a narrow page hides it behind the three dots."
    page.locator(f"{bar} button[role=tab]").first.wait_for(timeout=60_000)
    page.wait_for_timeout(500)  # the bar measures itself
    tab = page.locator(bar).get_by_role("tab", name=name, exact=True).first
    if tab.count() and tab.is_visible():
        return tab.click()
    page.locator(f"{bar} .overflow-menu button").first.click()
    page.locator(f"{bar} .overflow-dropdown button", has_text=name).first.click()


def click_point(page, n: int):
    point = page.locator("#map-plot .scatterlayer .point").nth(n)
    point.scroll_into_view_if_needed()
    box = point.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.locator(".map-tip").wait_for(timeout=10_000)  # the thumbnail
    page.mouse.click(x, y)


def test_a_person_walks_the_map_and_the_runs(open_page, app, looks):
    page = open_page(f"{app.url}?run=tokenizer&tab=latent-map")
    page.locator("#map-plot .scatterlayer .point").first.wait_for(timeout=60_000)
    page.locator("#map-hook .map-tip").wait_for(state="attached")
    page.wait_for_function(
        "!!document.querySelector('#map-plot .js-plotly-plot')?._ev?._events?.plotly_click"
    )
    click_point(page, 3)
    page.get_by_text("Now click a second point").wait_for(timeout=60_000)
    click_point(page, 40)
    page.get_by_text(re.compile(r"From class \d")).wait_for(timeout=60_000)
    page.locator("#map-way img").wait_for(timeout=60_000)
    looks(page, "latent-map")
    page.locator("#map-show").click()
    page.locator("#tabs button[role=tab][aria-selected=true]", has_text="Reconstruct").wait_for(
        timeout=60_000
    )
    assert "image=" in page.url

    open_tab(page, "#tabs", "Runs")
    page.locator("#runs-table button[data-run=tokenizer]").wait_for(timeout=60_000)
    looks(page, "runs")
    page.locator("#runs-table button[data-run=tokenizer]").click()  # leads to Watch
    page.locator("#watch-curves .js-plotly-plot").wait_for(timeout=60_000)
    page.locator("#watch-status", has_text="tokenizer: done, step 40 of 40").wait_for(
        timeout=60_000
    )
    looks(page, "runs-watch")
    open_tab(page, "#runs-tabs", "Start")
    page.locator("#start-name input, #start-name textarea").fill("../x")
    page.locator("#start-go").click()
    page.wait_for_function(
        "[...document.querySelectorAll('#start-answer textarea')].some(t => "
        "t.value.includes('Give the run a name'))"
    )
    page.locator("#start-name input, #start-name textarea").fill("x")
    page.locator("#start-rest textarea").fill("tokns=3\nlr=fast")
    page.locator("#start-go").click()
    page.wait_for_function(
        "[...document.querySelectorAll('#start-answer textarea')].some(t => "
        "t.value.includes(\"Did you mean 'tokens'\") && t.value.includes('lr='))"
    )
    looks(page, "runs-start")
    open_tab(page, "#runs-tabs", "Compare")
    page.locator("#compare-table", has_text="No difference").wait_for(
        timeout=60_000
    )  # the newest other run of its kind is a copy
    page.locator("#compare-pictures img").wait_for(timeout=60_000)
    page.locator("#compare-runs input").click()
    page.get_by_role("option", name="bare", exact=True).click()
    page.locator("#compare-table", has_text="nothing to compare").wait_for(timeout=60_000)
    page.get_by_role("option", name="bare", exact=True).click()
    page.get_by_role("option", name="generator", exact=True).click()
    page.keyboard.press("Escape")
    page.locator("#compare-table table").first.wait_for(timeout=60_000)
    page.locator("#compare-caption", has_text="generator is a generator").wait_for(timeout=60_000)
    looks(page, "runs-compare")
    open_tab(page, "#runs-tabs", "Sweeps")
    page.locator("#sweep-report", has_text="tau=<img").wait_for(timeout=60_000)
    page.locator("#sweep-plot-1 .js-plotly-plot").wait_for(timeout=60_000)
    assert (
        "not-for-you" not in page.locator("#sweep-report").inner_text()
        and page.locator('img[src="x"]').count() == 0
    )
    looks(page, "runs-sweeps")
    open_tab(page, "#runs-tabs", "Notebook")
    page.frame_locator("#notebook iframe").get_by_text("Shown").wait_for(timeout=30_000)
    looks(page, "runs-notebook")
    assert page.title() == "softvq_lab explorer"


def test_every_workflow_is_in_the_form_or_left_out_on_purpose():
    from tabs.start import NOT_SHOWN, SHOWN

    from softvq_lab.settings.workflows import WORKFLOWS

    assert (
        set(WORKFLOWS) == {*SHOWN, *NOT_SHOWN}
        and not SHOWN.keys() & NOT_SHOWN.keys()
        and all(NOT_SHOWN.values())
    )


def test_names_in_run_folders_are_text(open_page, app):
    page = open_page(f"{app.url}?tab=runs")
    page.locator('#runs-table button[data-run^="<img"]').click(timeout=60_000)
    page.locator("#watch-status", has_text="<img src=x").wait_for(timeout=60_000)
    page.locator("#runs-metrics summary").first.wait_for(state="attached")
    open_tab(page, "#runs-tabs", "Notebook")
    page.locator("#notebook iframe").wait_for(timeout=60_000)
    assert page.locator('img[src="x"]').count() == 0 and page.title() == "softvq_lab explorer"
    assert page.locator("#notebook iframe").get_attribute("sandbox") == ""


def test_a_training_outlives_the_app(open_page, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    first = Explorer(runs, tmp_path / "first")
    page = open_page(f"{first.url}?tab=runs")
    open_tab(page, "#runs-tabs", "Start")
    page.locator("#start-name input, #start-name textarea").fill("night")
    page.locator("#start-rest textarea").fill(
        "\n".join(f"{k}={v}" for k, v in LONG.items() if k not in ("tokens", "steps", "batch_size"))
    )
    for name in ("tokens", "steps", "batch_size"):
        page.locator(f"#train-{name} input").fill(str(LONG[name]))
    page.locator("#start-go").click()
    page.locator("#watch-status", has_text="job train: running").wait_for(timeout=60_000)
    page.locator("#watch-status", has_text="steps").wait_for(timeout=200_000)
    page.locator("#watch-curves .js-plotly-plot").wait_for(timeout=60_000)
    (job,) = jobs(runs)
    ours = family(process_of(job))
    os.kill(first.process.pid, signal.SIGKILL)
    first.process.wait(10)
    then = progress(job)[0]
    wait_for(lambda: progress(job)[0] > then + 5, 60, job.last_lines)
    assert is_alive(job) and not any(gone(p) for p in ours)

    second = Explorer(runs, tmp_path / "second")
    page.goto(f"{second.url}?tab=runs&run=night")
    page.problems.clear()  # the connection that was lost
    open_tab(page, "#runs-tabs", "Watch")
    page.locator("#watch-status", has_text="job train: running").wait_for(timeout=60_000)
    shown = int(re.search(r"steps (\d+)", page.locator("#watch-status").inner_text())[1])
    page.wait_for_function(
        (
            "+(document.querySelector('#watch-status').innerText.match(/steps (\\d+)/) || [0, "
            "0])[1] "
            f"> {shown}"
        ),
        timeout=30_000,
    )
    page.locator("#watch-stop").click()
    page.locator("#watch-status", has_text="job train: stopped").wait_for(timeout=60_000)
    wait_for(
        lambda: all(gone(p) for p in ours), 30, "they live"
    )  # the state is written just before the last of them ends
    assert Run(runs / "night").status["state"] == "stopped"
    second.close()


def get(url) -> tuple[int, bytes]:
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            url, timeout=20
        ) as r:
            return r.status, r.read()
    except urllib.error.HTTPError as e:
        return e.code, e.read()


def test_no_file_is_given_away(app, runs, root, tmp_path):
    there = [
        "/etc/passwd",
        str(runs.parent / "secret.txt"),
        str(runs / "tokenizer" / "config.json"),
        str(root / "README.md"),
        "README.md",
        str(root / "apps" / "explorer.py"),
        f"{runs}/../secret.txt",
        str(app.log),
        "/proc/self/environ",
        str(runs),
    ]
    server = http.client.HTTPConnection(app.url.split("/")[2], timeout=20)
    for path in there:
        for form in (
            path,
            path.replace("/", "%2f"),
            path.replace("..", "%2e%2e"),
            f"/{path}",
            f"../../../../../..{path}",
            f"file://{path}",
        ):
            for route in (
                "gradio_api/file=",
                "file=",
                "gradio_api/file/",
                "static/",
                "assets/",
                "gradio_api/proxy=",
                "theme/",
                "custom_component/",
                "",
            ):
                server.request("GET", f"/{route}{form}")  # as it stands: urllib would tidy it
                answer = server.getresponse()
                body = answer.read()
                assert not re.search(
                    b'not-for-you|root:|"config"|GRADIO_TEMP_DIR|import gradio', body
                ), (route, form, answer.status)
                if route == "gradio_api/file=":
                    assert answer.status in (403, 404), (form, answer.status)


def test_no_file_comes_in_by_a_forged_upload(app, runs):
    import httpx

    secret = runs.parent / "secret.png"
    Image.new("RGB", (32, 32), "red").save(secret)
    for path in (
        str(secret),
        f"{app.url}gradio_api/file={secret}",
        f"file://{secret}",
        "/etc/passwd",
    ):
        told = httpx.post(
            f"{app.url}gradio_api/call/reconstruct",
            json={"data": ["tokenizer", {"path": path, "meta": {"_type": "gradio.FileData"}}]},
            trust_env=False,
        )
        if told.status_code != 200:
            continue
        answer = httpx.get(
            f"{app.url}gradio_api/call/reconstruct/{told.json()['event_id']}",
            timeout=60,
            trust_env=False,
        ).text
        assert "PSNR" not in answer, answer[:500]


@pytest.mark.parametrize(
    "name", ["broken", "foreign", "other", "bare", "../tokenizer", "/etc", "<b>", ""]
)
def test_a_damaged_or_foreign_run_is_a_message(client, name):
    told, *_ = client.predict([name, "tokenizer"], None, api_name="/compare")
    assert "nothing to compare" in told
    assert isinstance(client.predict(name, api_name="/stop"), str)
    said, *_ = client.predict(name, 15, 50, 0, api_name="/latent_map")
    assert "run" in said.lower()


@pytest.mark.slow
def test_with_a_password_nobody_else_comes_in(runs, tmp_path):
    (tmp_path / "users").write_text("ann:correct horse\n")
    app = Explorer(runs, tmp_path / "app", "--auth", str(tmp_path / "users"))
    from gradio_client import Client

    for route in (
        "config",
        "gradio_api/info",
        "gradio_api/file=/etc/passwd",
        "gradio_api/queue/data?session_hash=x",
    ):
        assert get(f"{app.url}{route}")[0] in (401, 403, 404), route
    page = get(app.url)[
        1
    ].decode()  # asks for the password, and holds gradio's description of the API
    assert '"dependencies":[]' in page and not any(
        '"tokenizer"' in names for names in re.findall(r'"enum":\[(.*?)\]', page)
    )
    with pytest.raises(ValueError, match="Could not login"):
        Client(app.url, auth=("ann", "wrong"), verbose=False)
    ann = Client(app.url, auth=("ann", "correct horse"), verbose=False)
    told, *_ = ann.predict(["tokenizer", "generator"], None, api_name="/compare")
    assert "Settings that differ" in told
    assert "correct horse" not in app.log.read_text()
    app.close()


def test_it_answers_a_first_visitor(app, open_page):
    page = open_page(app.url)  # chromium and the connection are there: what is told is the app's
    began = time.time()
    page.reload(wait_until="commit")
    page.get_by_text("softvq_lab explorer").first.wait_for(timeout=60_000)
    print(
        f"{app.cpu:.1f} s of computing ({app.ready:.1f} s) until it answered, "
        f"{time.time() - began:.1f} s to the first paint"
    )
