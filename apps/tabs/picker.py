"""What all tabs share: the chosen run and pictures, and the base of a tab.

A tab is made of `Part`s: `layout` makes the components of one, its other methods are handlers, and
`wire` connects the two.
"""

import itertools
import re
import threading
from dataclasses import dataclass, field

import gradio as gr
from tabs.newest import QUIET

from softvq_lab.checkpoints import steps_of
from softvq_lab.experiments.job import is_alive, jobs
from softvq_lab.explore.reproduce import Ways
from softvq_lab.explore.run_forms import overview, run_name
from softvq_lab.explore.session import LoadedRun, load_run
from softvq_lab.runs import Run, describe, list_runs

EMPTY = (
    "**No run yet.** Make one with `make demo` (tokenizer and generator on digits, "
    "some minutes on two cores), or with\n\n"
    "`papermill nbs/train.ipynb runs/a/notebook.ipynb -p tokens 32`\n\nthen press *Look again*."
)
DROP = "Open a picture from here"
AT_STEP = " at step "  # ends the state of a run in the box of runs
SEVERAL = 8  # pictures that are chosen at once
LEFT, RIGHT = dict(scale=2, min_width=280), dict(scale=5, min_width=300)  # columns of a tab
# Clicks that tell what was clicked: every one is answered, in order. `always_last` would call the
# handler again with the data of an older click.
CLICKS = dict(trigger_mode="multiple", concurrency_limit=1, **QUIET)


class Session:
    """What the server knows of one open page.

    `marks`: what each tab was last fitted to; `runs`: the run that it showed then; `defaults`: what
    its controls would be by that; `files`: uploaded pictures by their names in the address.
    """

    def __init__(self):
        self.marks, self.runs, self.defaults, self.files = {}, {}, {}, {}
        self.linked, self.links = None, {}  # the newest address that was followed, and for each tab
        self.passed = set()  # (run, tab) of the addresses that were read since the page showed one
        self.place = None  # (run, tab, pictures) of the last answer
        self.sampling, self.stopped = None, False  # of Sample, see `Drawing`
        self.drawn_from = None  # likewise
        self.waiting = False  # does `Context.waiting` tick?
        self.count, self.lock = itertools.count(1).__next__, threading.Lock()

    def __deepcopy__(self, memo):
        return Session()  # gradio gives each page a copy


@dataclass
class Context:
    "What a tab is built with. `tabs` is there when the tabs are filled."

    runs: str  # folder of run folders
    app: gr.Blocks
    run: gr.Dropdown  # name of the chosen run, see `resolve`
    empty: gr.Markdown  # shown while there is no run
    # Keys of the chosen pictures ('heldout:17', 'file:PATH'), the last one in focus;
    # none: the first held-out one. The server's alone: a page must not name files.
    images: gr.State
    tab: gr.Textbox  # id of the open tab
    refreshes: gr.State  # changes when somebody has asked to look at the folder again
    session: gr.State
    notice: gr.Markdown  # what was wrong with the page's address
    copy: gr.Button  # copies it
    drop: gr.File  # takes a picture from here, whose settings are opened
    waiting: gr.Timer  # ticks while something is awaited, see `awaited`
    last_listing: gr.State  # what was there at its last look
    tabs: gr.Tabs | None = None
    data: tuple[str, ...] = ()  # folders that a training started here may read, the first: runs
    refresh: dict = field(default_factory=dict)  # event: reads the folder again
    tab_id: str = ""  # id of the tab that is being filled
    parts: dict[str, list["Part"]] = field(default_factory=dict)  # of each tab
    unwired: list["Part"] = field(default_factory=list)
    # Of each tab: changes with the chosen run, and with the run or the chosen pictures
    asked: dict[str, tuple[gr.State, gr.State]] = field(default_factory=dict)

    def expect(self, places: list[str]):
        """Make the two states of each tab. They stand outside the tabs, because Gradio takes any
        answer for a change of a `gr.State` in a tab that was never opened.
        """
        self.asked = {p: (gr.State(""), gr.State("")) for p in places}

    def enter(self, tab_id: str):
        "What is built from here on belongs to the tab `tab_id`."
        self.tab_id, self.parts[tab_id] = tab_id, []

    def wire(self):
        "Connect the parts of the tab that was filled, now that all of its controls are known."
        for part in self.unwired:
            part.wire()
        self.unwired.clear()

    def open(self, name: str | None) -> LoadedRun:
        "The models and data of the run of that name."
        return load_run(resolve(self.runs, name).path)

    def offered(self, wanted: str | None) -> tuple[list, str | None]:
        "The runs as they are now, and the chosen one: `wanted`, or the first of `worth_opening`."
        offered = choices(self.runs)
        names = [n for _, n in offered]
        return offered, wanted if wanted in names else preferred(names, *worth_opening(self.runs))

    def offer(self, offered: list, run: str | None) -> tuple[gr.Dropdown, gr.Markdown]:
        "The dropdown of the runs, and what is said without any."
        return gr.Dropdown(choices=offered, value=run), gr.Markdown(visible=not offered)

    def on_again(self, run, refreshes):
        return *self.offer(*self.offered(run)), refreshes + 1

    def awaited(self, run: str | None) -> bool:
        "May new runs come, or the first weights of the chosen one?"
        return run not in usable(self.runs) or any(map(is_alive, jobs(self.runs)))

    def wait(self, session: Session, run: str | None, looks: bool = False) -> dict:
        """Start or stop looking, if that is to change. Only a look (`looks`) stops it, because that
        shows what has ended.
        """
        now = self.awaited(run)
        if now == session.waiting or not now and not looks:
            return {}
        session.waiting = now
        return {self.waiting: gr.Timer(active=now)}

    def on_wait(self, run, refreshes, listing, session):
        """A look at the folder while something is awaited.

        `listing`: names and states of the runs, and whether the chosen one had weights, at the last
        look.
        """
        made = self.wait(
            session, run, looks=True
        )  # first: what ends after it is seen at the next look
        offered, chosen = self.offered(run)
        states = [label.partition(AT_STEP)[0] for label, _ in offered]  # names stand there, too
        now = states, chosen in usable(self.runs)
        if now == listing:
            return made or gr.skip()  # gradio takes {} for a value
        same = {} if chosen == run else {"value": chosen}  # what is chosen meanwhile stays
        made |= {self.run: gr.Dropdown(choices=offered, **same), self.last_listing: now}
        made[self.empty] = gr.Markdown(visible=not offered)
        return made | ({self.refreshes: refreshes + 1} if now[1] else {})


class Part:
    """A part of the page: `layout` makes its components, `wire` connects them with the handlers.

    Handlers follow `of_run.change` (another run) or `asked.change` (another run or picture), which
    come to the open tab only and once for each change, and the `input` of controls.

    `linked`: what stands in the page's address, by its name there; `follows`: what else `fit` and
    `fresh` change; `timers` tick while the tab is open. `tab`: what the part stands in, where it
    has to know when that is opened. It must be made inside of a `gr.Tab`: the states of `Newest`
    directly under `gr.Tabs` would count as tabs of the bar.
    """

    def __init__(self, ctx: Context, tab: gr.Tab | None = None):
        self.ctx, self.tab, self.tab_id = ctx, tab, ctx.tab_id
        self.linked: dict[str, gr.components.Component] = {}
        self.follows: list[gr.components.Component] = []
        self.timers: list[gr.Timer] = []
        self.of_run, self.asked = ctx.asked[ctx.tab_id]
        ctx.parts[ctx.tab_id].append(self)
        self.layout()
        ctx.unwired.append(self)

    def layout(self):
        "Make the components and keep those that handlers need."

    def wire(self):
        "Connect events with handlers, when the whole tab is filled."

    def depends(self, name: str):
        "What its pictures depend on beside the run of that name and its newest checkpoint."

    def awaits(self, name: str):
        "Like `depends`, but a change only draws the pictures anew: controls are not fitted again."

    def fit(self, name: str, kept: dict) -> dict:
        """How a run limits the controls: keyword arguments of each (`choices`, `maximum`, ...), of
        which `value` is the default.

        `own=True`: another run starts with the default. `check(value)` raises a `ValueError` that
        says what is possible. `kept`: values by name that a person or a link has set.
        """
        return {}

    def fresh(self, name: str) -> dict:
        "What else changes with another run, or with what the tab depends on."
        return {}

    def on_link(self, number: int, values: dict[str, list[str]]) -> dict:
        "What else changes when a link is opened: the `number`th of the page, which says `values`."
        return {}

    def reproduce(self, name: str, image: str, values: dict) -> Ways | None:
        """How what the tab shows is made without the app. `image`: the key of the picture in focus;
        `values`: those of `linked`, by name."""
        return None


def choices(runs: str) -> list[tuple[str, str]]:
    "(label, name) of the runs under `runs`, newest first; a name is the path below `runs`."
    found = []
    for run in list_runs(runs):
        d, name = describe(run), run_name(run.path, runs)
        step = f"{AT_STEP}{d['step'].split()[0]}" if d["step"] else ""
        found.append((f"{name}  -  {d['kind']}, {d['state']}{step}", name))
    return found


def stamp(run: Run) -> tuple:
    "Changes when the run has other weights."
    return run.path.name, *(p.name for p in steps_of(run.checkpoints)[-1:])


def all_runs(runs: str) -> list[str]:
    "Names of all runs, newest first, also of those that have only begun or cannot be read."
    return [r["name"] for r in overview(runs)]


def usable(runs: str) -> list[str]:
    "Names of the runs that have a checkpoint, newest first."
    return [run_name(r.path, runs) for r in list_runs(runs) if steps_of(r.checkpoints)]


def by_worth(state: str, name: str) -> tuple:
    """What runs are sorted by: finished ones before others, failed ones last; what was trained by
    itself before the many runs of sweeps.
    """
    return {"done": 0, "failed": 2}.get(state, 1), name.startswith("pool/")


def worth_opening(runs: str) -> list[str]:
    "Names of the runs that have a checkpoint, sorted `by_worth`."
    found = {run_name(r.path, runs): r for r in list_runs(runs) if steps_of(r.checkpoints)}
    return sorted(found, key=lambda name: by_worth(found[name].status["state"], name))


def preferred(offered, *wanted):
    "The first of `wanted` that is offered, else the first that is; None where nothing is."
    return next((w for w in (*wanted, *offered) if w in offered), None)


def resolve(runs: str, name: str | None) -> Run:
    """The run of that name, even one whose config is unreadable; a `ValueError` if there is none. A
    name is never used as a path.
    """
    if not name:
        raise ValueError("Choose a run first.")
    for run in list_runs(runs, unreadable=True):
        if run_name(run.path, runs) == name:
            return run
    raise ValueError("This run is not there any more. Press Look again.")


def plain(text) -> str:
    "Text as Markdown that shows it letter by letter: no HTML, no links, no pictures."
    text = str(text).encode(errors="backslashreplace").decode()  # a page has no half characters
    return re.sub(r"([\\`*_{}\[\]()#+\-.!|<>~$&:@])", r"\\\1", text).replace("\n", "  \n")


def failed(e: Exception) -> str:
    "What is said in the place of a result."
    return f"**{plain(e)}**"


def still(elem_id: str, **options) -> gr.Image:
    "A picture to look at, each pixel as it is."
    return gr.Image(
        show_label=False,
        format="png",
        interactive=False,
        buttons=["download"],
        elem_id=elem_id,
        elem_classes="pixel",
        **options,
    )


def picture(elem_id: str, caption: str, **options) -> gr.Image:
    "A picture with its caption above it: Gradio's own label would lie on the image."
    with gr.Column(min_width=180, elem_classes="captioned"):
        gr.Markdown(caption)
        return still(elem_id, **options)


def tiles(elem_id: str, columns: int, height, **options) -> gr.Gallery:
    "Small pictures side by side, with captions; a click selects one and does not enlarge it."
    return gr.Gallery(
        show_label=False,
        columns=columns,
        height=height,
        allow_preview=False,
        object_fit="contain",
        elem_id=elem_id,
        elem_classes="pixel",
        buttons=[],
        **options,
    )


def tiled(pictures) -> gr.Gallery:
    "Pictures for `tiles`, which are not there while there are none."
    return gr.Gallery(value=pictures or None, visible=bool(pictures))


def focus(images: list[str] | None) -> str:
    "The key of the picture in focus."
    return images[-1] if images else "heldout:0"


def build(app: gr.Blocks, runs: str, data: tuple[str, ...] = ()) -> Context:
    """The header of the page (runs, links, dropped pictures) and the `Context` of all tabs;
    `address` fills the runs when a page is opened.
    """
    with gr.Row():
        # `resolve` checks what is typed. Names come when the page is opened: what stands here at
        # the start is in the page that asks for a password.
        run = gr.Dropdown(
            [],
            value=None,
            label="Run",
            elem_id="run",
            scale=5,
            min_width=280,
            allow_custom_value=True,
        )
        with gr.Column(scale=0, min_width=110):
            again = gr.Button("Look again", size="sm")
            copy = gr.Button("Copy link", size="sm", elem_id="copy-link")
        with gr.Column(scale=0, min_width=200):
            drop = gr.File(label=DROP, file_types=[".png"], height=84, elem_id="open-picture")
    empty = gr.Markdown(EMPTY, visible=not choices(runs), elem_id="empty")
    tab = gr.Textbox("reconstruct", visible="hidden")
    states = gr.State([]), tab, gr.State(0), gr.State(Session())
    notice = gr.Markdown(elem_id="link-message")
    waiting, listing = gr.Timer(3, active=False), gr.State(None)
    wait = waiting, listing
    ctx = Context(runs, app, run, empty, *states, notice, copy, drop, *wait, data=(runs, *data))
    shown = [run, empty, ctx.refreshes]
    again.click(ctx.on_again, [run, ctx.refreshes], shown, **QUIET)
    asked = [run, ctx.refreshes, listing, ctx.session]
    ctx.refresh = dict(fn=ctx.on_wait, inputs=asked, outputs=[*shown, listing, waiting], **QUIET)
    waiting.tick(**ctx.refresh)
    return ctx
