"""What all tabs share: run, pictures, links, what is said when there is no run yet, and a captioned picture."""

import hashlib
import io
import json
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder
from PIL import Image

from softvq_lab.explore.run_forms import run_name
from softvq_lab.explore.session import heldout_gallery, open_lens, read_upload
from softvq_lab.runs import Run, describe, list_runs

EMPTY = (
    "**No run yet.** Make one with `make demo` (tokenizer and generator on digits, some minutes on two cores), or with\n\n"
    "`papermill nbs/train.ipynb runs/a/notebook.ipynb -p tokens 32`\n\nthen press *Look again*."
)
ANY, SEVERAL = "all classes", 8
LATEST = dict(
    show_progress="minimal", trigger_mode="always_last", api_name=False
)  # of handlers that follow a slider: what was asked for meanwhile is dropped, the newest counts


class View:
    """What one tab shows in one session.

    Opening a page raises several events that ask for the same view, and answers may come late.
    A handler asks `begin` before it builds and `left` before it answers.
    """

    def __init__(self):
        self.key = self.used = None
        self.stands = False

    def begin(self, key) -> bool:
        "Whether `key` has to be built: it is not what is shown, or on its way, already."
        new, self.key, self.stands = key != self.key or not self.stands, key, True
        return new

    def left(self, key) -> bool:
        "Whether something else was asked for since."
        return self.key not in (None, key)

    def use(self, key):
        "A person has started something in the view of `key`, whose result a late answer must keep."
        self.used = key

    def in_use(self, key) -> bool:
        return key == self.used

    def forget(self):
        "Build it again the next time it is asked for."
        self.stands, self.used = False, None


class Newest:
    """A handler that several events call: of its calls in one session, only the newest answers.

    Calls run beside each other, so that an earlier one may end later; what it would have shown is not
    what is asked for any more. `after`: handlers that write the same places from a wider change, whose
    newer calls count too. Use: `gr.on(events, **handler.event)`.
    """

    def __init__(self, handler, inputs, outputs, after: tuple["Newest", ...] = (), **options):
        self.last = gr.State(Last())
        listed = lambda part: (
            part if isinstance(part, (list, tuple)) else [] if part is None else [part]
        )
        outputs, watched = listed(outputs), [self.last, *(a.last for a in after)]

        def answer(*given):
            mine, others, given = given[0], given[1 : len(watched)], given[len(watched) :]
            call = mine.call = object()
            before = [o.call for o in others]
            found = handler(*given)
            if mine.call is call and all(o.call is b for o, b in zip(others, before)):
                return found
            return [gr.skip()] * len(outputs) if len(outputs) > 1 else gr.skip()

        answer.__name__, answer.__doc__ = handler.__name__, handler.__doc__
        self.event = dict(
            fn=answer, inputs=[*watched, *listed(inputs)], outputs=outputs, **(LATEST | options)
        )


class Last:
    "The newest call of a handler in one session."

    call = None


@dataclass
class Context:
    "What a tab is built with. `tabs` is there when the tabs are filled."

    runs: str  # folder of run folders
    app: gr.Blocks
    run: gr.Dropdown  # name of the chosen run, see `resolve`
    images: gr.State  # keys of the chosen pictures ('heldout:17', 'file:PATH'), the last one in focus; none: the first held-out one
    tab: gr.State  # id of the open tab
    seed: gr.State  # of the samples
    tabs: gr.Tabs | None = None
    data: tuple[str, ...] = ()  # folders that a training started here may read


def choices(runs: str) -> list[tuple[str, str]]:
    "(label, name) of the runs under `runs`, newest first; a name is the path below `runs`."
    found = []
    for run in list_runs(runs):
        d, name = describe(run), run_name(run.path, runs)
        step = f" at step {d['step'].split()[0]}" if d["step"] else ""
        found.append((f"{name}  -  {d['kind']}, {d['state']}{step}", name))
    return found


def resolve(runs: str, name: str | None) -> Run:
    "The run of that name; only what `choices` offers is ever opened."
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


def served(image: Image.Image | bytes, suffix: str = "png") -> str:
    "A picture (or a file's bytes) as a file that the server may send. Gradio itself names files by their content and writes them in place: two people with the same picture, and one gets half of it."
    data = image
    if isinstance(image, Image.Image):
        memory = io.BytesIO()
        image.save(memory, "png")
        data = memory.getvalue()
    path = Path(get_upload_folder()) / f"{hashlib.sha256(data).hexdigest()}.{suffix}"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(
            f".{uuid.uuid4().hex}.tmp"
        )  # of this call alone: two threads may write the same picture
        aside.write_bytes(data)
        aside.replace(path)
    return str(path)


def picture(elem_id: str, caption: str, **kwargs) -> gr.Image:
    "A picture to look at, its caption above it: Gradio's own label would lie on the image."
    with gr.Column(min_width=180):
        gr.Markdown(caption)
        return gr.Image(
            show_label=False,
            format="png",
            interactive=False,
            buttons=["download"],
            elem_id=elem_id,
            elem_classes="pixel",
            **kwargs,
        )


def focus(images: list[str] | None) -> str:
    "The key of the picture in focus."
    return images[-1] if images else "heldout:0"


def build(app: gr.Blocks, runs: str) -> Context:
    "Dropdown of runs, refreshed on load and on demand; what is chosen is kept in the address of the page, and read from it."
    with gr.Row():
        run = gr.Dropdown(
            [],
            value=None,
            label="Run",
            elem_id="run",
            scale=5,
            min_width=280,
            allow_custom_value=True,
        )  # resolve checks it. Names come when the page is opened: what stands here at the start is in the page that asks for a password
        again = gr.Button("Look again", scale=0, min_width=110, size="sm")
    empty = gr.Markdown(EMPTY, visible=not choices(runs), elem_id="empty")
    ctx = Context(runs, app, run, gr.State([]), gr.State("reconstruct"), gr.State(0))

    def refresh(now: str | None):
        offered = choices(runs)
        names = [n for _, n in offered]
        return gr.Dropdown(
            choices=offered, value=now if now in names else next(iter(names), None)
        ), gr.Markdown(visible=not offered)

    again.click(refresh, run, [run, empty], show_progress="hidden", api_name=False)
    return ctx


def link(ctx: Context):
    "Read run, tab, image and seed from the page's address when it is opened, and write them there as they change. After the tabs are filled."
    address = gr.Textbox(visible="hidden", elem_id="address")
    ids = [t.id for t in ctx.tabs.children]

    def read(request: gr.Request):
        asked, offered = request.query_params, choices(ctx.runs)
        names = [n for _, n in offered]
        tab = asked.get("tab") if asked.get("tab") in ids else ids[0]
        image = asked.get("image", "")
        run = asked.get("run") if asked.get("run") in names else next(iter(names), None)
        return (
            gr.Dropdown(choices=offered, value=run),
            gr.Markdown(visible=not offered),
            gr.Tabs(selected=tab),
            tab,
            [f"heldout:{image}"] if image.isdecimal() and len(image) < 10 else [],
            int(s) if (s := asked.get("seed", "")).isdecimal() and len(s) < 10 else 0,
        )

    def write(run, tab, images, seed):
        key = images[-1] if images else ""
        return json.dumps(
            {
                "run": run or "",
                "tab": tab,
                "image": key.removeprefix("heldout:") if key.startswith("heldout:") else "",
                "seed": str(seed) if seed and tab == "sample" else "",
            }
        )

    empty = next(b for b in ctx.app.blocks.values() if b.elem_id == "empty")
    ctx.app.load(
        read,
        None,
        [ctx.run, empty, ctx.tabs, ctx.tab, ctx.images, ctx.seed],
        show_progress="hidden",
        api_name=False,
    )
    gr.on(
        [ctx.run.change, ctx.tab.change, ctx.images.change, ctx.seed.change],
        write,
        [ctx.run, ctx.tab, ctx.images, ctx.seed],
        address,
        show_progress="hidden",
        api_name=False,
    )
    address.change(
        None,
        address,
        None,
        js="""(told) => { if (!told) return; const url = new URL(window.location);
        for (const [k, v] of Object.entries(JSON.parse(told))) v ? url.searchParams.set(k, v) : url.searchParams.delete(k);
        window.history.replaceState(null, '', url); }""",
        api_name=False,
    )


def chooser(ctx: Context, prefix: str, columns: int = 3, height: int = 330, several: bool = False):
    "Held-out pictures by class and uploads, which write `ctx.images`; what cannot be read says so below."
    classes = gr.Dropdown([ANY], value=ANY, label="Class", elem_id=f"{prefix}-class")
    gr.Markdown("Held-out images")
    gallery = gr.Gallery(
        show_label=False,
        columns=columns,
        height=height,
        allow_preview=False,
        object_fit="contain",
        elem_id=f"{prefix}-heldout",
        elem_classes="pixel",
        buttons=[],
    )
    many = gr.Checkbox(
        False,
        label=f"Several: a click adds a picture or takes it away (up to {SEVERAL})",
        elem_id=f"{prefix}-several",
        visible=several,
    )
    upload = gr.File(
        label="Your own image" + "s" * several,
        type="filepath",
        file_count="multiple" if several else "single",
        elem_id=f"{prefix}-upload",
        height=120,
    )
    message = gr.Markdown(elem_id=f"{prefix}-upload-message")
    shown = gr.State([])  # indices of the gallery's images

    def tiles(name, label):
        lens = open_lens(resolve(ctx.runs, name).path)
        names = lens.images.class_names
        found = heldout_gallery(lens, names.index(label) if label in names else None)
        return lens, [(served(p), c) for _, p, c in found], [i for i, _, _ in found]

    def on_run(name):
        try:
            lens, pictures, indices = tiles(name, ANY)
            return (
                gr.Dropdown(choices=[ANY, *lens.images.class_names], value=ANY),
                pictures,
                indices,
            )
        except ValueError:
            return gr.Dropdown(choices=[ANY], value=ANY), [], []

    def on_class(name, label):
        try:
            return tiles(name, label)[1:]
        except ValueError:
            return [], []

    def on_pick(indices, images, many, event: gr.SelectData):
        if not (isinstance(event.index, int) and 0 <= event.index < len(indices)):
            return gr.skip()
        key = f"heldout:{indices[event.index]}"
        if not many:
            return [key]
        return (
            [k for k in images if k != key]
            if key in images and len(images) > 1
            else [*(k for k in images if k != key), key][-SEVERAL:]
        )

    def on_upload(name, paths, images, many):
        if not paths:
            return gr.skip(), ""
        good, says = [], []
        for path in [paths] if isinstance(paths, str) else paths[:SEVERAL]:
            try:
                read_upload(path, open_lens(resolve(ctx.runs, name).path).tokenizer.image_size)
                good.append(f"file:{path}")
            except ValueError as e:
                says.append(f"{plain(Path(path).name)}: {failed(e)}")
        return ([*images, *good][-SEVERAL:] if many else good) if good else gr.skip(), "  \n".join(
            says
        )

    tiled = Newest(on_run, ctx.run, [classes, gallery, shown], show_progress="hidden")
    ctx.run.change(**tiled.event)
    classes.input(**Newest(on_class, [ctx.run, classes], [gallery, shown], (tiled,)).event)
    gallery.select(
        on_pick, [shown, ctx.images, many], ctx.images, show_progress="hidden", api_name=False
    )
    upload.upload(
        on_upload,
        [ctx.run, upload, ctx.images, many],
        [ctx.images, message],
        show_progress="minimal",
        api_name=False,
    )
