"""What the explorer remembers: controls, links, the browser's history, and quick clicks."""

import json
import re
import shutil
import time
from collections import Counter
from urllib.parse import parse_qs, urlsplit

import gradio as gr
import pytest
from tabs.address import checked, from_text, pictures


@pytest.fixture(scope="module")
def runs(trained, tmp_path_factory):
    "The trained pair, and siblings of 4 and 8 tokens that decode any first k."
    from dataclasses import asdict

    from softvq_lab.data.datasets import digits
    from softvq_lab.runs import open_run
    from softvq_lab.settings.parse import parse
    from softvq_lab.settings.workflows import TrainConfig
    from softvq_lab.training.loop import fit
    from softvq_lab.training.tokenizer_task import TokenizerTask

    root = tmp_path_factory.mktemp("state")
    for name, settings in {
        "eight": dict(tokens=8, keep="uniform"),
        "four": dict(tokens=4, keep="uniform"),
        "vq": dict(tokens=4, quantizer="vq"),
    }.items():
        c = parse(TrainConfig, dict(steps=2, warmup_steps=1, eval_every=2, **settings))
        r = open_run(root / name, "tokenizer", asdict(c))
        fit(TokenizerTask(c.tokenizer, digits(32), r), r, c.optim)
    for name in ("generator", "tokenizer"):
        shutil.copytree(trained / name, root / name)
    g = json.loads((root / "generator" / "config.json").read_text())
    g["config"]["tokenizer_run"] = str(root / "tokenizer")
    (root / "generator" / "config.json").write_text(json.dumps(g))
    (root / "newest").mkdir()  # it has begun: there is no checkpoint yet
    config = json.loads((root / "tokenizer" / "config.json").read_text())
    (root / "newest" / "config.json").write_text(json.dumps(config | {"created": "2999-01-01"}))
    return root


READY = {  # what each tab shows when it has been built
    "reconstruct": "#rec-reconstruction img",
    "codewords": "#cw-alone img",
    "token-counts": "#tc-rows img",
    "sample": "#go:not([disabled])",
    "latent-map": "#map-message strong",
    "runs": "#runs-table button",
}


def ready(page, tab: str):
    page.locator(READY[tab]).first.wait_for(timeout=60_000)
    page.wait_for_function(f"location.search.includes('tab={tab}')", timeout=30_000)


def go(page, tab: str):
    page.locator("#tabs").get_by_role("tab", name=tab.replace("-", " "), exact=False).first.click()
    ready(page, tab)


def type_in(page, elem_id: str, text: str):
    box = page.locator(f"#{elem_id} input[type=number], input[type=number]#{elem_id}").first
    box.fill(text)
    box.blur()


def shown(page, elem_id: str) -> str:
    "What stands in a control."
    box = page.locator(f"#{elem_id} input").first
    if box.get_attribute("type") == "checkbox":
        return str(int(box.is_checked()))
    tokens = page.locator(f"#{elem_id} .token span")
    return ",".join(tokens.all_inner_texts()) if tokens.count() else box.input_value()


def told(page) -> dict[str, list[str]]:
    "What the page's address says."
    return parse_qs(urlsplit(page.url).query)


def says(page, name: str, value: str):
    "Wait until the address says so."
    page.wait_for_function(
        "([name, value]) => new URLSearchParams(location.search).getAll(name).join() === value",
        arg=[name, value],
        timeout=60_000,
    )


# Gradio's page may leave a stream of answers open that nothing will come on (an answer was there
# before its number): what is awaited is counted by the numbers themselves.
ANSWERS = """
const numbered = new Set(), answered = new Set(), known = window.fetch;
let unnumbered = 0;
window.awaits = () => unnumbered + [...numbered].filter(n => !answered.has(n)).length;
async function listen(stream) {
    let text = '';
    for await (const part of stream.pipeThrough(new TextDecoderStream())) {
        const lines = (text + part).split('\\n');
        text = lines.pop();
        for (const line of lines.filter(l => l.startsWith('data: '))) {
            const told = JSON.parse(line.slice(6));
            if (told.msg === 'process_completed') answered.add(told.event_id);
        }
    }
}
window.fetch = async (...wish) => {
    const at = String(wish[0].url || wish[0]);
    if (at.includes('queue/join')) {
        unnumbered += 1;
        try {
            const reply = await known(...wish);
            if (reply.ok) numbered.add((await reply.clone().json()).event_id);
            const late = window.uneven && numbered.size % 2;
            if (late) await new Promise(done => setTimeout(done, 700));
            return reply;
        } finally {
            unnumbered -= 1;
        }
    }
    const reply = await known(...wish);
    if (!at.includes('queue/data')) return reply;
    const [heard, given] = reply.body.tee();
    listen(heard).catch(() => {});  // the page closes it
    return new Response(given, reply);
};
"""
IDLE = "() => new Promise(done => requestIdleCallback(done))"  # what is being drawn may ask again


def rests(page):
    """Wait until all is answered, all is drawn, and nothing is asked any more: twice, for an answer
    that is being drawn may ask again.
    """
    quiet, before, end = 0, -1, time.monotonic() + 120
    while quiet < 2:
        before = len(page.asked)
        page.wait_for_timeout(750)
        page.evaluate(IDLE)
        awaits = page.evaluate("window.awaits()")
        quiet = 0 if awaits or before != len(page.asked) else quiet + 1
        assert time.monotonic() < end, (awaits, [r.post_data for r in page.asked[-5:]])


@pytest.fixture
def watched_page(open_page):
    "A page that notes what it asks the server: `asked`, and `window.awaits()` in its scripts."

    def new(url):
        page = open_page("about:blank")
        page.asked = []
        page.on("request", lambda r: page.asked.append(r) if "queue/join" in r.url else None)
        page.add_init_script(ANSWERS)
        page.goto(url)
        return page

    return new


# state


def test_controls_stay_whatever_else_is_looked_at(open_page, app):
    page = open_page(f"{app.url}?run=generator&tab=sample")
    ready(page, "sample")
    for name, value in {"steps": "7", "count": "4", "guidance": "3.5", "seed": "11"}.items():
        type_in(page, name, value)
    page.locator("#class input").click()
    page.get_by_role("option", name="3", exact=True).click()
    page.keyboard.press("Escape")
    says(page, "classes", "3")
    go(page, "codewords")
    type_in(page, "cw-token", "5")
    type_in(page, "cw-temperature", "2.5")
    page.locator("#cw-ablate input").click()
    page.get_by_role("option", name="2", exact=True).click()
    page.keyboard.press("Escape")
    says(page, "ablate", "2")
    go(page, "reconstruct")
    page.locator("#rec-heldout button img").nth(3).click()
    page.wait_for_function("location.search.includes('image=')")
    go(page, "codewords")
    assert (shown(page, "cw-token"), shown(page, "cw-temperature")) == ("5", "2.5")
    assert shown(page, "cw-ablate") == "2"
    go(page, "sample")
    page.wait_for_timeout(1500)  # whatever comes late has come
    assert [shown(page, n) for n in ("steps", "count", "guidance", "seed")] == [
        "7",
        "4",
        "3.5",
        "11",
    ]
    assert shown(page, "class") == "3"


def test_another_run_keeps_what_was_set_where_it_is_possible(open_page, app):
    page = open_page(f"{app.url}?run=tokenizer&tab=codewords&token=6&temperature=3&weights=6:5:0.5")
    ready(page, "codewords")
    page.get_by_text("Edited weights in token 6").wait_for(timeout=60_000)
    page.locator("#run input").click()
    page.get_by_role("option", name=re.compile("^four")).click()  # its tokens are 0 to 3
    says(page, "run", "four")
    says(page, "token", "0")
    assert told(page)["temperature"] == ["3"]
    assert "weights" not in told(page)  # of other codewords


def test_the_page_opens_on_the_newest_run_that_has_weights(open_page, app):
    page = open_page(app.url)
    ready(page, "reconstruct")
    assert told(page)["run"] != ["newest"]
    assert not page.locator("#link-message p").count()


# only the open tab computes


def test_only_the_open_tab_asks(watched_page, app):
    page = watched_page(f"{app.url}?run=tokenizer&tab=reconstruct")
    ready(page, "reconstruct")
    rests(page)
    assert _tabs_of(page, page.asked) <= {"reconstruct"}
    for tab in ("codewords", "token-counts", "sample", "latent-map", "runs", "reconstruct"):
        go(page, tab)
    rests(page)
    for change in ("run", "image", "tab"):
        page.asked.clear()
        if change == "run":
            page.locator("#run input").click()
            page.get_by_role("option", name=re.compile("^four")).click()
            says(page, "run", "four")
        elif change == "image":
            page.locator("#rec-heldout button img").nth(5).click()
        else:
            go(page, "codewords")
        rests(page)
        assert _tabs_of(page, page.asked) == {"codewords" if change == "tab" else "reconstruct"}
        assert len(page.asked) <= 6, change
    page.asked.clear()
    go(page, "token-counts")
    go(page, "codewords")  # nothing has changed there
    rests(page)
    assert "codewords" not in _tabs_of(page, page.asked)


def test_a_tab_that_was_left_at_once_does_not_go_on_asking(watched_page, app):
    page = watched_page(f"{app.url}?run=tokenizer&tab=reconstruct")
    ready(page, "reconstruct")
    rests(page)
    held = []

    def hold(route):
        "What Runs asks when it is opened is answered when another tab is open."
        here = _tabs_of(page, [route.request]) == {"runs"}
        held.append(route) if here else route.continue_()

    page.route("**/queue/join*", hold)
    page.locator("#tabs").get_by_role("tab", name="Runs").first.click()
    page.wait_for_function("location.search.includes('tab=runs')", timeout=30_000)
    page.wait_for_timeout(2000)
    go(page, "reconstruct")
    assert held
    for route in held:
        route.continue_()
    page.unroute("**/queue/join*")
    rests(page)
    page.asked.clear()
    page.wait_for_timeout(5000)
    assert not page.asked


def _tabs_of(page, requests) -> set[str]:
    "The tabs in which what was asked for stands; what follows all of them, and buttons above, not."
    config = page.evaluate("window.gradio_config")
    home, kinds = {}, {c["id"]: c for c in config["components"]}

    def walk(node, tab):
        props = kinds.get(node["id"], {}).get("props", {})
        if kinds.get(node["id"], {}).get("type") == "tabitem" and tab is None:
            tab = props["id"]
        home[node["id"]] = tab
        for child in node.get("children") or []:
            walk(child, tab)

    walk(config["layout"], None)
    outputs = {d["id"]: {home.get(o) for o in d["outputs"]} for d in config["dependencies"]}
    found = [outputs[json.loads(r.post_data)["fn_index"]] - {None} for r in requests]
    return set().union(*(tabs for tabs in found if len(tabs) == 1))


# a link is the whole state

SET = {  # of each tab: query, and the controls that it sets with what then stands in them
    "reconstruct": ("kept=2&beside=four&several=1&class=3", {"rec-several": "1", "rec-class": "3"}),
    "codewords": (
        "token=5&temperature=2.5&sharp=1&ablate=1&ablate=4&swap=0&donor=17&click=looks",
        {
            "cw-token": "5",
            "cw-temperature": "2.5",
            "cw-sharp": "1",
            "cw-ablate": "1,4",
            "cw-swap": "0",
            "cw-donor": "17",
        },
    ),
    "token-counts": (
        "tokens=3&metric=ssim&rate=bits&wanted=0.75&class=7",
        {"tc-class": "7", "tc-tokens": "3", "tc-wanted": "0.75"},
    ),
    "sample": (
        "classes=3&classes=8&count=6&guidance=3&low=0.1&high=0.8&sampler=euler&steps=9&seed=21",
        {
            "class": "3,8",
            "count": "6",
            "guidance": "3",
            "sampler": "euler",
            "steps": "9",
            "seed": "21",
        },
    ),
    "latent-map": ("pictures=11&neighbours=7", {"map-pictures": "11"}),
}


@pytest.mark.parametrize("tab", SET)
def test_a_link_sets_every_control_and_is_written_again(tab, open_page, app):
    query, controls = SET[tab]
    run = {"sample": "generator", "latent-map": "tokenizer"}.get(tab, "eight")
    page = open_page(f"{app.url}?run={run}&tab={tab}&image=9&{query}")
    ready(page, tab)
    for name, values in parse_qs(query).items():
        says(page, name, ",".join(values))
    assert {n: shown(page, n) for n in controls} == controls
    assert not page.locator("#link-message p").count()
    assert told(page)["image"] == ["9"] and told(page)["run"] == [run]


def test_a_link_holds_the_view_of_runs_and_the_watched_run(open_page, app):
    page = open_page(f"{app.url}?run=eight&tab=runs&view=watch&watch=vq")
    page.locator("#watch-status", has_text="vq: done").wait_for(timeout=60_000)
    assert told(page)["run"] == ["eight"] and told(page)["watch"] == ["vq"]
    bar = page.locator("#runs-tabs").get_by_role("tab")
    bar.get_by_text("Notebook", exact=True).click()
    says(page, "view", "notebook")
    bar.get_by_text("All", exact=True).click()
    page.locator("#runs-table").get_by_role("button", name="four", exact=True).click()
    page.locator("#watch-status", has_text="four: done").wait_for(timeout=60_000)
    for name, value in {"view": "watch", "watch": "four", "run": "four"}.items():
        says(page, name, value)
    link = page.url
    go(page, "reconstruct")
    page.go_back()
    says(page, "view", "watch")
    other = open_page(link)
    other.locator("#watch-status", has_text="four: done").wait_for(timeout=60_000)
    wrong = open_page(f"{app.url}?run=eight&tab=runs&view=nothing&watch=gone")
    wrong.locator("#link-message", has_text="view=nothing").wait_for(timeout=60_000)
    assert "watch=gone" in wrong.locator("#link-message").inner_text()
    says(wrong, "watch", "eight")


def test_every_control_of_a_tab_is_in_the_link_or_left_out_on_purpose():
    import explorer
    from gradio.components import Checkbox, Dropdown, Number, Radio, Slider
    from tabs.picker import Part

    seen = []
    init = Part.__init__

    def note(self, *given):
        init(self, *given)
        seen.append(self)

    Part.__init__ = note
    try:
        explorer.build("nowhere")
    finally:
        Part.__init__ = init
    for part in seen:
        if part.ctx.parts.get("runs") and part in part.ctx.parts["runs"]:
            continue
        kinds = (Checkbox, Dropdown, Number, Radio, Slider)
        own = {n: c for n, c in vars(part).items() if isinstance(c, kinds)}
        left = [n for n, c in own.items() if c not in part.linked.values()]
        assert left in ([], ["many"]), (type(part).__name__, left)  # one picture: no `several`


def test_back_and_forward_walk_through_what_was_looked_at(open_page, app):
    page = open_page(f"{app.url}?run=tokenizer&tab=reconstruct")
    ready(page, "reconstruct")
    page.locator("#rec-heldout button img").nth(4).click()
    page.wait_for_function("location.search.includes('image=')")
    image = told(page)["image"]
    go(page, "sample")
    type_in(page, "steps", "6")
    says(page, "steps", "6")
    go(page, "token-counts")
    page.locator("#run input").click()
    page.get_by_role("option", name=re.compile("^four")).click()
    says(page, "run", "four")
    rest = [("tokenizer", "Token counts"), ("tokenizer", "Sample"), ("tokenizer", "Reconstruct")]
    for run, tab in rest:
        page.go_back()
        _stands(page, run, tab)
    assert told(page)["image"] == image
    page.go_forward()
    _stands(page, "tokenizer", "Sample")
    assert shown(page, "steps") == "6" and told(page)["steps"] == ["6"]
    page.go_forward()
    page.go_forward()
    _stands(page, "four", "Token counts")


def test_quick_steps_back_and_forward_lose_nothing(open_page, app):
    page = open_page(f"{app.url}?run=tokenizer&tab=reconstruct")
    ready(page, "reconstruct")
    go(page, "sample")
    go(page, "token-counts")
    go(page, "codewords")
    step = """way => new Promise((done, fail) => {  // the next step is taken when this one is done
        window.addEventListener('popstate', () => done(), {once: true});
        setTimeout(() => fail(new Error(`no step ${way} from ${location}`)), 30_000);
        window.history[way]();
    })"""
    for _ in range(3):
        page.evaluate(step, "back")
        page.evaluate(step, "back")
        _stands(page, "tokenizer", "Sample")
        page.evaluate(step, "forward")
        page.evaluate(step, "forward")
        _stands(page, "tokenizer", "Codewords")


def test_of_quick_steps_one_is_asked_for_at_a_time_and_the_last_one_counts(watched_page, app):
    page = watched_page(f"{app.url}?run=tokenizer&tab=reconstruct")
    ready(page, "reconstruct")
    for tab in ("sample", "token-counts", "codewords"):
        go(page, tab)
    rests(page)
    held = []

    def hold(route):
        reads_address = (route.request.post_data_json["data"] or [""])[0]
        here = str(reads_address).startswith("?")
        held.append(route) if here else route.continue_()

    page.route("**/queue/join*", hold)
    for _ in range(3):
        page.go_back()
        page.wait_for_timeout(300)
    assert len(held) == 1
    held[0].continue_()
    page.unroute("**/queue/join*")
    _stands(page, "tokenizer", "Reconstruct")
    page.go_forward()
    _stands(page, "tokenizer", "Sample")


def _stands(page, run, tab):
    page.locator("#tabs button[role=tab][aria-selected=true]", has_text=tab).first.wait_for(
        timeout=60_000
    )
    page.wait_for_function(
        "run => document.querySelector('#run input').value.startsWith(run + ' ')",
        arg=run,
        timeout=60_000,
    )
    says(page, "run", run)
    says(page, "tab", tab.lower().replace(" ", "-"))
    page.wait_for_timeout(1000)  # nothing comes after it
    assert told(page)["tab"] == [tab.lower().replace(" ", "-")] and told(page)["run"] == [run]


def test_an_own_picture_is_there_again_when_one_goes_back(open_page, app, tmp_path):
    from PIL import Image

    Image.new("RGB", (40, 40), "red").save(tmp_path / "mine.png")
    page = open_page(f"{app.url}?run=tokenizer&tab=reconstruct")
    ready(page, "reconstruct")
    page.locator("#rec-upload input[type=file]").set_input_files(tmp_path / "mine.png")
    page.wait_for_function("location.search.includes('image=upload-')", timeout=60_000)
    name = told(page)["image"][0]
    page.locator("#rec-heldout button img").nth(4).click()
    page.wait_for_function("!location.search.includes('upload')", timeout=60_000)
    page.go_back()
    says(page, "image", name)
    page.wait_for_timeout(1500)
    assert not page.locator("#link-message p").count()
    page.goto(f"{app.url}?run=tokenizer&tab=reconstruct&image={name}")  # elsewhere it is not there
    page.locator("#link-message", has_text="upload them again").wait_for(timeout=60_000)
    ready(page, "reconstruct")


@pytest.mark.parametrize(
    "query,parts",
    [
        ("tab=sample&run=generator&steps=abc&guidance=99", ["steps=abc", "1 to 250", "1 to 8"]),
        ("tab=sample&run=generator&steps=0&seed=1.5", ["steps=0", "seed=1.5", "whole numbers"]),
        ("tab=codewords&run=tokenizer&token=8&sharp=perhaps", ["token=8", "0 to 7", "0 or 1"]),
        ("tab=codewords&run=tokenizer&weights=0:0:7", ["weights=0:0:7", "from 0 to 1"]),
        ("tab=reconstruct&run=tokenizer&image=99999", ["image=99999", "0 to 359"]),
        ("tab=<b>x</b>&run=../../etc&image=-1", ["tab=<b>x</b>", "run=../../etc", "image=-1"]),
        ("tab=sample&run=generator&sampler=none&classes=eleven", ["sampler=none", "eleven"]),
    ],
)
def test_what_a_link_cannot_ask_for_is_one_message_and_the_rest_stands(
    query, parts, open_page, app
):
    page = open_page(f"{app.url}?{query}")
    message = page.locator("#link-message")
    message.get_by_text("This link asks for what is not possible").wait_for(timeout=60_000)
    for part in parts:
        assert part in message.inner_text()
    tab = parse_qs(query)["tab"][0]
    ready(page, tab if tab in READY else "reconstruct")
    assert page.locator("text=This link asks").count() == 1
    if tab == "sample":
        assert int(shown(page, "steps")) > 1
    go(page, "token-counts")
    page.wait_for_timeout(500)
    assert not message.get_by_text("This link").count()  # it is about what one has left


def test_a_copied_link_opens_the_same_page(open_page, app):
    page = open_page(f"{app.url}?run=generator&tab=sample")
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    ready(page, "sample")
    type_in(page, "steps", "13")
    page.locator("#copy-link").click()
    page.get_by_text("Copied").wait_for(timeout=20_000)
    link = page.evaluate("navigator.clipboard.readText()")
    page.get_by_role("button", name="Copy link").wait_for(timeout=20_000)
    other = open_page(link)
    ready(other, "sample")
    says(other, "steps", "13")
    assert shown(other, "steps") == "13"


def test_values_of_an_address_are_read_by_the_kind_of_control():
    steps, number = gr.Slider(1, 250, 25, step=1), gr.Number(0, precision=0, minimum=0)
    assert checked(steps, {}, from_text(steps, ["9"])) == 9
    assert checked(steps, {"maximum": 300}, from_text(steps, ["300"])) == 300
    for wrong in ("0", "251", "2.5", "nan", "inf", "1e999", "", "x", "9" * 400):
        with pytest.raises(ValueError, match="whole numbers from 1 to 250"):
            checked(steps, {}, from_text(steps, [wrong]))
    with pytest.raises(ValueError):
        checked(number, {}, from_text(number, ["-1"]))
    many = gr.Dropdown(["a, b", "c"], multiselect=True)
    assert checked(many, {}, from_text(many, ["a, b", "c"])) == ["a, b", "c"]
    with pytest.raises(ValueError, match="a, b"):
        checked(many, {}, ["a"])
    with pytest.raises(ValueError, match="nothing"):
        checked(many, {"choices": []}, ["c"])
    assert pictures(["3,17", "3"], {}) == (["heldout:3", "heldout:17"], [])
    assert pictures(["upload-a"], {"upload-a": "file:/x"})[0] == ["file:/x"]
    assert pictures(["file:/etc/passwd"], {})[0] == [] and pictures(["/etc/passwd"], {})[1]


# weights


def _type_weight(page, row: int, text: str):
    page.locator(f"#cw-weights [data-row='{row}'][data-col='1']").first.dblclick()
    editor = "document.activeElement.matches('#cw-weights input, #cw-weights textarea')"
    page.wait_for_function(editor, timeout=30_000)  # a busy page is late with it
    page.keyboard.press("Control+A")
    page.keyboard.type(text)
    page.keyboard.press("Enter")


def _weights(page) -> dict[tuple[str, str], float]:
    parts = [p.split(":") for p in told(page).get("weights", [""])[0].split(",") if p]
    return {(i, k): float(w) for i, k, w in parts}


def test_the_weight_that_was_typed_is_the_one_that_is_used(watched_page, app):
    page = watched_page(f"{app.url}?run=tokenizer&tab=codewords&image=4&token=2")
    ready(page, "codewords")
    page.get_by_text("Weights as a table").click()
    for row, weight in ((2, "1.0"), (1, "0.4"), (3, "0.123")):
        rests(page)  # the table is that of the last edit
        codeword = page.locator(f"#cw-weights [data-row='{row}'][data-col='0']").first.inner_text()
        key = ("2", codeword.strip())
        _type_weight(page, row, weight)
        page.wait_for_function(
            "told => (new URLSearchParams(location.search).get('weights') || '').includes(told)",
            arg=f":{key[1]}:{float(weight):g}",
            timeout=60_000,
        )
        assert sum(_weights(page).values()) <= 1 + 1e-6
        caption = f"{key[1]}: {float(weight):.0%}"
        page.locator("#cw-alone", has_text=caption).wait_for(timeout=60_000)
    page.get_by_text("Edited weights in token 2").wait_for(timeout=60_000)


@pytest.mark.parametrize("wrong", ["7", "abc", "-0.5"])
def test_what_is_no_weight_is_said_and_changes_nothing(wrong, watched_page, app):
    page = watched_page(f"{app.url}?run=tokenizer&tab=codewords&image=4&token=1")
    ready(page, "codewords")
    page.get_by_text("Weights as a table").click()
    rests(page)
    cell = page.locator("#cw-weights [data-row='0'][data-col='1']").first
    before = cell.inner_text().split()[0]
    _type_weight(page, 0, wrong)
    page.locator("#cw-weights-message", has_text="from 0 to 1").wait_for(timeout=60_000)
    page.wait_for_timeout(2500)  # nothing wipes it away
    assert wrong in page.locator("#cw-weights-message").inner_text()
    assert cell.inner_text().split()[0] == before and "weights" not in told(page)


# quick clicks


def test_no_two_handlers_of_the_newest_question_follow_one_event():
    "Gradio's page raises the event again for both when one has ended: they never come to rest."
    import explorer

    app, seen = explorer.build("nowhere"), {}
    for fn in app.fns.values():
        if fn.trigger_mode != "always_last" or fn.fn is None:
            continue
        for target in fn.targets:
            if target[0] is None or isinstance(app.blocks.get(target[0]), gr.State):
                continue  # raised for each handler alone
            assert seen.setdefault(target, fn.name) == fn.name, (target, seen[target], fn.name)


def test_of_quick_clicks_the_last_one_counts(watched_page, app):
    page = watched_page(f"{app.url}?run=tokenizer&tab=reconstruct")
    ready(page, "reconstruct")
    tiles = page.locator("#rec-heldout button img")
    tiles.nth(9).wait_for()
    keys = {}
    for n in (8, 5):
        before = told(page).get("image", [""])
        tiles.nth(n).click()
        page.wait_for_function(
            "before => (new URL(location).searchParams.get('image') || '') !== before",
            arg=before[0],
            timeout=60_000,
        )
        rests(page)
        keys[n] = told(page)["image"][0]
    assert keys[8] != keys[5]
    for burst in ([1, 2, 3, 4, 8], [7, 8, 5], [2, 5, 8], [3, 3, 8, 5], [1, 8, 6, 8]):
        tiles.nth(burst[0]).evaluate(
            """async (_, burst) => {
                const tiles = document.querySelectorAll('#rec-heldout button img');
                for (const n of burst) {
                    tiles[n].click();
                    await new Promise(r => setTimeout(r, 15));
                }
            }""",
            burst,
        )
        says(page, "image", keys[burst[-1]])
        rests(page)
        assert told(page)["image"][0] == keys[burst[-1]]


def test_answers_that_come_before_their_numbers_are_shown(watched_page, app):
    page = watched_page(f"{app.url}?run=tokenizer&tab=reconstruct")
    ready(page, "reconstruct")
    rests(page)
    page.evaluate("window.uneven = true")  # a busy page reads an answer first, its number later
    tiles = page.locator("#rec-heldout button img")
    seen = set()
    for n in (8, 5, 3):
        tiles.nth(n).click()
        page.wait_for_timeout(200)
        tiles.nth(n + 1).click()
        rests(page)
        seen.add(told(page)["image"][0])
    assert len(seen) == 3


def test_quick_changes_of_tab_end_at_the_last_one(open_page, app):
    page = open_page(f"{app.url}?run=tokenizer&tab=reconstruct")
    ready(page, "reconstruct")
    for _ in range(3):
        for tab in ("Codewords", "Sample", "Token counts", "Reconstruct", "Sample"):
            page.locator("#tabs").get_by_role("tab", name=tab).first.click(no_wait_after=True)
        says(page, "tab", "sample")
        page.wait_for_timeout(1500)
        assert told(page)["tab"] == ["sample"]
    ready(page, "sample")


@pytest.mark.parametrize(
    "tab,slider,last",
    [
        ("codewords", "cw-temperature", "temperature"),
        ("reconstruct", "rec-kept", "kept"),
        ("token-counts", "tc-tokens", "tokens"),
    ],
)
def test_a_drag_asks_one_question_at_a_time_and_ends_with_the_hand(
    tab, slider, last, watched_page, app
):
    page = watched_page(f"{app.url}?run=eight&tab={tab}")
    ready(page, tab)
    rests(page)
    page.asked.clear()
    box = page.locator(f"#{slider} input[type=range]").bounding_box()
    y = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 10, y)
    page.mouse.down()
    for i in range(30):
        page.mouse.move(box["x"] + 10 + i * (box["width"] - 30) / 30, y)
    page.mouse.up()
    value = shown(page, slider)
    during = len(page.asked)
    rests(page)
    says(page, last, value)
    asked = [json.loads(r.post_data) for r in page.asked]
    calls, after = (Counter(a["fn_index"] for a in part) for part in (asked, asked[during:]))
    assert max(calls.values()) <= 31  # of each handler, one a move
    assert max(after.values(), default=0) <= 3  # what was under way may ask for what belongs to it
    newest = [a["data"] for a in asked]
    assert any(float(value) in [d for d in data if isinstance(d, (int, float))] for data in newest)


def test_who_asks_for_other_samples_meanwhile_gets_those(open_page, app):
    page = open_page(f"{app.url}?run=generator&tab=sample&steps=250&seed=1")
    ready(page, "sample")
    page.locator("#go").click()
    page.get_by_text(re.compile(r"^step \d+")).first.wait_for(timeout=60_000)
    type_in(page, "steps", "5")
    type_in(page, "seed", "42")
    page.locator("#go").click()
    page.get_by_text("Seed 42 draws the same again").wait_for(timeout=60_000)
    page.wait_for_timeout(2000)
    assert page.get_by_text("Seed 42 draws the same again").is_visible()


@pytest.mark.parametrize("asks", ["sample", "sweep"])
def test_what_is_no_longer_wanted_ends_without_an_answer(runs, asks):
    "gradio sends the last answer of a handler again when it ends: it would lie over newer samples."
    import explorer
    from tabs.picker import Session

    app, session = explorer.build(str(runs)), Session()
    handlers = {fn.api_name: fn.fn for fn in app.fns.values()}

    def start(name, seed, steps):
        guidance = [] if name == "sweep" else [2]
        how = ["heun", steps, seed, 1, 0, 1, "fp32", session]
        return handlers[name]("generator", [], 2, *guidance, *how)

    earlier = start(asks, 1, 50)
    assert next(earlier)[1]
    *_, last = start("sample", 42, 2)
    assert "Seed 42 draws the same again" in last[1]
    (end,) = earlier
    assert all(answer == gr.skip() for answer in end)


# reproduce this


LINES = {
    "reconstruct": (
        "run=eight&image=9&kept=3",
        r"softvq-lab evaluate \S+/eight",
        ["'heldout:9'", "kept=3"],
    ),
    "codewords": (
        "run=tokenizer&token=3&temperature=2&ablate=1",
        "",
        ["Edit(tau_factor=2, ablate=(1,)", "edit_tokens(", "['weights'][3].topk(5)"],
    ),
    "token-counts": (
        "run=eight&image=9&tokens=3&metric=l1&rate=bits&wanted=0.2",
        "softvq-lab runs --root",
        ["'heldout:9'", "nearest_budget(budgets, 3)", "'l1', 'bits', own, shown['row'], 0.2"],
    ),
    "sample": (
        "run=generator&count=4&steps=6&seed=3&guidance=2.5",
        r"softvq-lab sample \S+/generator --samples 4 --classes 0,1,2,3 --sampler heun --steps 6 "
        r"--guidance 2.5 .*--seed 3 --sheet",
        ["torch.tensor([0, 1, 2, 3])", "seed=3"],
    ),
    "latent-map": (
        "run=tokenizer&neighbours=30",
        r"papermill nbs/latent_map.ipynb -p run \S+/tokenizer -p neighbors 30",
        ["read_map("],
    ),
    "runs": ("run=tokenizer", r"\S", None),  # what was typed to train it
}


def told_lines(page, name: str) -> str:
    "The text of a box of lines; the page draws those only that are in sight."
    box = page.locator(f"#reproduce-{name} .cm-content")
    return (
        box.evaluate("e => (e.cmView || e.cmTile).view.state.doc.toString()") if box.count() else ""
    )


@pytest.mark.parametrize("tab", LINES)
def test_each_tab_says_how_it_is_made_elsewhere(open_page, app, tab):
    query, terminal, python = LINES[tab]
    page = open_page(f"{app.url}?tab={tab}&{query}")
    ready(page, tab)
    for name, values in parse_qs(query).items():
        says(page, name, ",".join(values))
    page.locator("#reproduce").get_by_text("Reproduce this").click()
    page.locator("#reproduce-message p").first.wait_for(timeout=60_000)
    page.locator(f"#reproduce-{'python' if python else 'terminal'} .cm-line").first.wait_for(
        timeout=60_000
    )
    assert re.search(terminal, told_lines(page, "terminal").replace("\n", " "))
    if python is None:
        assert not page.locator("#reproduce-python").is_visible()
        return
    for _ in range(100):  # the box shows its lines one after the other
        written = told_lines(page, "python")
        if all(part in written for part in python):
            break
        page.wait_for_timeout(200)
    assert all(part in written for part in python), written
    compile(written, "lines", "exec")


def test_lines_of_what_was_shown_before_are_put_away(open_page, app):
    page = open_page(f"{app.url}?run=generator&tab=sample")
    ready(page, "sample")
    page.locator("#reproduce").get_by_text("Reproduce this").click()
    page.locator("#reproduce-python .cm-line").first.wait_for(timeout=60_000)
    type_in(page, "steps", "7")
    page.locator("#reproduce-python").wait_for(state="hidden", timeout=30_000)
    page.locator("#reproduce").get_by_text("Reproduce this").click()
    page.locator("#reproduce-python .cm-line").first.wait_for(timeout=60_000)
    page.wait_for_function(
        "document.querySelector('#reproduce-python').innerText.includes('steps=7')", timeout=30_000
    )
    go(page, "codewords")
    page.locator("#reproduce-python").wait_for(state="hidden", timeout=30_000)
