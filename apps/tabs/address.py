"""The page's address: the run, the tab, the pictures and the controls in `Part.linked`.

A tab names its controls (`Part.linked`) and how a run limits them (`Part.fit`); everything else is
done here. The address is read when the page is opened and when somebody goes back or forward, and
written by the page itself as controls change. What a person or a link has set stays as long as the
chosen run allows it.
"""

import json
import math
from urllib.parse import parse_qs

import gradio as gr
from tabs.chooser import Chooser
from tabs.made import file_name, image_names
from tabs.newest import QUIET, SLOW
from tabs.picker import SEVERAL, failed, plain, preferred, resolve, stamp

from softvq_lab.core import printable
from softvq_lab.explore.png_texts import LONGEST, link_in

NEVER = -1  # older than any step back: the page adds no history entry
BAD = "**This link asks for what is not possible here; the usual settings stand instead.** "
NO_UPLOAD = "your own pictures are not in a link: upload them again"
# The address of what the page shows. `place`: run, tab and image as the server knows them.
LINK = """(place, ...values) => {
    const url = new URL(window.location), at = JSON.parse(place || '{}');
    const query = url.searchParams, controls = CONTROLS;
    const add = (name, given) => [given].flat().forEach(v => {
        if (v === null || v === undefined || v === '') return;
        if (typeof v === 'number' && !Number.isInteger(v)) v = Number(v.toPrecision(9));
        query.append(name, typeof v === 'boolean' ? Number(v) : v);
    });
    ['run', 'tab', 'image', ...controls.map(([, name]) => name)].forEach(n => query.delete(n));
    ['run', 'tab', 'image'].forEach(name => add(name, at[name]));
    controls.forEach(([tab, name], i) => tab === at.tab && add(name, values[i]));
    return url;
}"""
# Another run, tab or image is a new entry of the history; a control changes the one that is there.
# What was asked for before somebody went back comes too late for one.
WRITE = """(...given) => {
    const url = (LINK)(...given), now = new URL(window.location);
    if (!given[0] || url.href === now.href) return;
    const at = u => JSON.stringify(['run', 'tab', 'image'].map(n => u.searchParams.getAll(n)));
    const same = at(url) === at(now), late = JSON.parse(given[0]).back < (window.timesBack || 0);
    if (same || !window.history.state) window.history.replaceState({explorer: 1}, '', url);
    else if (MOVED && !late) window.history.pushState({explorer: 1}, '', url);
}"""
COPY = """async (...given) => {
    const link = (LINK)(...given).href;
    try {
        await navigator.clipboard.writeText(link);
        return 'Copied';
    } catch {  // not on a page without https
        window.prompt('The link of what you see', link);
    }
}"""
AGAIN = "() => new Promise(done => setTimeout(() => done('Copy link'), 2000))"
BACK = """window.addEventListener('popstate', () => {
    window.timesBack = (window.timesBack || 0) + 1;
    trigger('select');
});"""
# Read when it is asked: of quick steps back and forward only the last one is answered.
HERE = "(query, session, back) => [window.location.search, session, window.timesBack || 0]"


class Address:
    "It is built after the tabs are filled."

    def __init__(self, ctx):
        self.ctx = ctx
        self.linked = {
            (place, name): control
            for place, parts in ctx.parts.items()
            for part in parts
            for name, control in part.linked.items()
        }
        self.layout()
        self.wire()

    def layout(self):
        self.place = gr.Textbox(visible="hidden", elem_id="address")
        self.link = gr.State({})  # what an address asks for
        self.back = gr.HTML(js_on_load=BACK, elem_id="back")

    def read(self, query, session, back=0):
        "What the address asks for; `follow` gives the controls their values."
        fields = parse_qs((query or "")[:LONGEST].lstrip("?"), max_num_fields=500)
        known = list(self.ctx.parts)
        asked = {n: fields.get(n, [""])[0] for n in ("run", "tab")}
        offered, run = self.ctx.offered(asked["run"])
        tab = preferred(known, asked["tab"])
        wrong = []
        if asked["run"] and asked["run"] != run:
            wrong.append(is_not("run", asked["run"], "the runs above"))
        if asked["tab"] and asked["tab"] != tab:
            wrong.append(is_not("tab", asked["tab"], ", ".join(known)))
        images, problems = pictures(fields.get("image", []), session.files)
        link = {"fields": fields, "run": run, "tab": tab, "wrong": wrong + problems}
        link |= {"number": session.count(), "back": back}
        session.passed.add((run, tab))
        return *self.ctx.offer(offered, run), gr.Tabs(selected=tab), tab, images, link

    def on_drop(self, path, link, session):
        "A picture that was downloaded here: the page shows what it was made from."
        drop = {self.ctx.drop: None}  # another one may come
        if not path:
            return gr.skip()
        try:
            query = link_in(path)
        except ValueError as e:
            return drop | {self.ctx.notice: failed(e)}
        found = self.read(query, session, link.get("back", 0))
        return drop | dict(zip(self.opened, found, strict=True))

    def follow(self, run, images, tab, link, looked, session, *values):
        """What a change of run, picture or tab, or another address, changes in the open tab.

        Other tabs do not hear of it: they follow when they are opened.
        """
        if tab not in self.ctx.parts:
            return gr.skip()
        now = dict(zip(self.linked, values, strict=True))
        with session.lock:
            return Following(self, session, run, images, tab, link).answer(now)

    def wire(self):
        ctx, link = self.ctx, self.link
        opened = self.opened = [ctx.run, ctx.empty, ctx.tabs, ctx.tab, ctx.images, link]
        query, back = gr.Textbox(visible=False), gr.Number(visible=False, precision=0)
        gr.on(
            [ctx.app.load, self.back.select],
            self.read,
            [query, ctx.session, back],
            opened,
            js=HERE,
            trigger_mode="always_last",
            **QUIET,
        )
        dropped = [ctx.drop, link, ctx.session]
        ctx.drop.upload(self.on_drop, dropped, [ctx.drop, ctx.notice, *opened], **SLOW)
        asked = [ctx.run, ctx.images, ctx.tab, link, ctx.refreshes]
        controls = list(self.linked.values())
        states = [s for pair in ctx.asked.values() for s in pair]
        parts = [p for parts in ctx.parts.values() for p in parts]
        others = [c for p in parts for c in (*p.timers, *p.follows) if c not in controls]
        gr.on(
            [a.change for a in asked],
            self.follow,
            [*asked, ctx.session, *controls],
            [self.place, ctx.notice, ctx.images, ctx.waiting, *states, *controls, *others],
            trigger_mode="always_last",
            **QUIET,
        )
        self.wire_link([self.place, *controls])

    def wire_link(self, shown):
        "The page writes its address itself."
        names = json.dumps([[place, name] for place, name in self.linked])
        write, copy = (js.replace("LINK", LINK.replace("CONTROLS", names)) for js in (WRITE, COPY))
        there = dict(fn=None, inputs=shown, api_name=False)
        self.place.change(**there, js=write.replace("MOVED", "true"))
        changes = [c.change for c in self.linked.values()]
        gr.on(changes, **there, js=write.replace("MOVED", "false"))
        button = self.ctx.copy
        copied = button.click(**there, outputs=button, js=copy)
        copied.then(None, None, button, js=AGAIN, api_name=False)


class Following:
    "One answer of `Address.follow`."

    def __init__(self, address, session, run, images, tab, link):
        self.address, self.ctx, self.session = address, address.ctx, session
        self.run, self.images, self.tab = run, images or [], tab
        self.parts = self.ctx.parts[tab]
        self.chooses = any(isinstance(p, Chooser) for p in self.parts)
        number, self.back = link.get("number"), link.get("back", 0)
        shown = {session.place[:2]} if session.place else set()
        new = (link.get("run"), link.get("tab")) == (run, tab) and session.linked != number
        self.fields = link["fields"] if new else None  # by the address; None: it says nothing new
        self.wrong = list(link["wrong"]) if new else []
        if new:
            session.linked = session.links[tab] = number
            session.passed.clear()
        # This request still shows the state before the link, or a link passed on the way. The user
        # did not choose it, so it gets no history entry.
        elif session.linked != number and (run, tab) in session.passed | shown:
            self.back = NEVER

    def answer(self, now: dict) -> dict:
        "Updates of components; `now`: the values of all controls by (tab, name)."
        session, tab, made = self.session, self.tab, self.timers()
        mark = self.mark()
        turned = session.marks.get(tab) != mark
        if turned or self.fields is not None:
            made |= self.fitted(now)
        if turned:
            for part in self.parts:
                made |= part.fresh(self.run)
        if self.fields is not None:
            for part in self.parts:
                made |= part.on_link(session.linked, self.fields)
        made |= self.pictures()
        session.marks[tab], session.runs[tab] = mark, self.run
        of_run, asked = self.ctx.asked[tab]
        stands = repr((mark, session.links.get(tab)))
        looks = [self.images] * self.chooses, self.from_parts("awaits")
        made |= {of_run: stands, asked: repr((stands, *looks))}
        made |= self.ctx.wait(session, self.run)
        return made | self.place() | self.notice()

    def timers(self) -> dict:
        "Only those of the open tab tick."
        everywhere = [(tab, p) for tab, parts in self.ctx.parts.items() for p in parts]
        return {t: gr.Timer(active=tab == self.tab) for tab, p in everywhere for t in p.timers}

    def mark(self) -> str:
        "What the open tab shows beside its controls and the chosen pictures."
        try:
            run = stamp(resolve(self.ctx.runs, self.run))
        except ValueError as e:
            run = str(e)
        return repr((self.run, run, self.from_parts("depends")))

    def from_parts(self, method: str) -> list:
        "What the open tab's parts tell of the run; the message of a `ValueError` as well."
        messages = []
        for part in self.parts:
            try:
                messages.append(getattr(part, method)(self.run))
            except ValueError as e:
                messages.append(str(e))
        return messages

    def fitted(self, now: dict) -> dict:
        "The controls of the open tab, as the run limits them."
        made = {}
        for part in self.parts:
            kept = self.kept(part, now)
            limits = part.fit(self.run, kept)
            for name, control in part.linked.items():
                how = limits.pop(control, {})
                value = self.value(name, control, how, kept)
                how = {k: v for k, v in how.items() if k not in ("own", "check", "value")}
                if value != now[self.tab, name]:  # what is set meanwhile stays
                    how["value"] = value
                if how:
                    made[control] = gr.update(**how)
            made |= {other: gr.update(**how) for other, how in limits.items()}
        return made

    def kept(self, part, now: dict) -> dict:
        "Values by name that the address, if there is a new one, or a person has set."
        if self.fields is None:
            known, at = self.session.defaults, now
            default = {n: known.get((self.tab, n), c.value) for n, c in part.linked.items()}
            return {n: at[self.tab, n] for n, d in default.items() if at[self.tab, n] != d}
        found = {}
        for name, control in part.linked.items():
            if name in self.fields:
                try:
                    found[name] = from_text(control, self.fields[name])
                except ValueError as e:
                    self.wrong.append(is_not(name, self.fields[name][0], e))
        return found

    def value(self, name, control, how, kept):
        "What a control is to show; `how`: its limits."
        default = how.get("value", control.value)
        self.session.defaults[self.tab, name] = default
        linked = self.fields is not None
        turned = not linked and self.session.runs.get(self.tab) not in (None, self.run)
        if name not in kept or (turned and how.get("own")):
            return default
        try:
            return checked(control, how, kept[name])
        except ValueError as e:
            if linked:
                self.wrong.append(is_not(name, self.fields[name][0], e))
            return default

    def pictures(self) -> dict:
        "Pictures of a link that the run does not have are left out."
        if self.fields is None or not self.images or not self.chooses:
            return {}
        try:
            loaded = self.ctx.open(self.run)
        except ValueError:
            return {}  # the tab says why
        n = loaded.heldout_count
        gone = [k for k in self.images if k.startswith("heldout:") and int(k[8:]) >= n]
        if not gone or loaded.missing:
            return {}
        self.wrong += [is_not("image", k[8:], f"0 to {n - 1}") for k in gone]
        self.images = [k for k in self.images if k not in gone]
        return {self.ctx.images: self.images}

    def place(self) -> dict:
        "Run, tab and pictures for the page."
        names = {k: file_name(k) for k in self.images if k.startswith("file:")}
        self.session.files |= {n: k for k, n in names.items()}
        shown = {"run": self.run or "", "tab": self.tab, "back": self.back}
        return {self.address.place: json.dumps(shown | {"image": image_names(self.images)})}

    def notice(self) -> dict:
        "What was wrong with an address, until something else is chosen."
        where, before = (self.run, self.tab, self.images), self.session.place
        self.session.place = where
        if self.fields is not None:
            message = BAD + plain("; ".join(self.wrong) + ".") if self.wrong else ""
            return {self.ctx.notice: message}
        return {} if before == where else {self.ctx.notice: ""}


def is_not(name: str, value: str, possible) -> str:
    return f"{name}={printable(value, 60)} (possible: {possible})"


def pictures(values: list[str], files: dict[str, str]) -> tuple[list[str], list[str]]:
    "Keys of the pictures that an address names, and what is wrong with it."
    keys, wrong = [], []
    for name in ",".join(values).split(","):
        if name.isdecimal() and len(name) < 10:
            keys.append(f"heldout:{int(name)}")
        elif name in files:
            keys.append(files[name])
        elif name.startswith("upload-"):
            wrong.append(NO_UPLOAD)
        elif name:
            wrong.append(is_not("image", name, "the number of a held-out image"))
    return list(dict.fromkeys(keys))[-SEVERAL:], list(dict.fromkeys(wrong))


def from_text(control, values: list[str]):
    "The value of a control from an address; a `ValueError` says what is possible."
    if isinstance(control, gr.Dropdown) and control.multiselect:
        return [t for t in values if t]
    text = values[-1]
    if isinstance(control, gr.Checkbox):
        if text.lower() not in ("0", "1", "true", "false"):
            raise ValueError("0 or 1")
        return text.lower() in ("1", "true")
    if isinstance(control, (gr.Slider, gr.Number)):
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise ValueError(limits_of(control, {}))
        return int(value) if value.is_integer() else value
    return text


def checked(control, how: dict, value):
    """`value`, if the control may have it; a `ValueError` says what is possible.

    `how`: keyword arguments that go before the control's own.
    """
    if check := how.get("check"):
        check(value)
    elif isinstance(control, (gr.Dropdown, gr.Radio)):
        choices = how.get("choices", control.choices) or []
        known = [c[1] if isinstance(c, tuple) else c for c in choices]
        given = value if isinstance(value, list) else [value]
        if any(v not in known for v in given):
            raise ValueError(enumerated([k for k in known if k != ""]))
    elif isinstance(control, (gr.Slider, gr.Number)):
        low, high, whole = bounds(control, how)
        if value is None or not low <= value <= high or (whole and value != int(value)):
            raise ValueError(limits_of(control, how))
    return value


def enumerated(known: list) -> str:
    "The first 20 of the possible values."
    if not known:
        return "nothing for this run"
    shown = ", ".join(map(str, known[:20]))
    return f"{shown}, ..." if len(known) > 20 else shown


def bounds(control, how: dict) -> tuple[float, float, bool]:
    "Smallest and largest value of a number, and whether it is a whole one."
    low, high = (how.get(k, getattr(control, k)) for k in ("minimum", "maximum"))
    whole = control.precision == 0 or (isinstance(control, gr.Slider) and control.step == 1)
    return -math.inf if low is None else low, math.inf if high is None else high, whole


def limits_of(control, how: dict) -> str:
    low, high, whole = bounds(control, how)
    start = f" from {low:g}" if low > -math.inf else ""
    end = f" to {high:g}" if high < math.inf else ""
    return f"{'whole numbers' if whole else 'numbers'}{start}{end}"
