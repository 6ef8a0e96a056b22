"""Tab Latent map: where images lie among each other, and what lies between two of them."""

from functools import lru_cache

import gradio as gr
from tabs.controls import Dropdown
from tabs.map_points import MapPoints, star
from tabs.map_script import HOOK, RING
from tabs.newest import QUIET, Newest
from tabs.picker import (
    CLICKS,
    Tab,
    downloadable,
    failed,
    picture,
    plain,
    preferred,
    resolve,
    served,
)

from softvq_lab.data.images import grid, to_pil
from softvq_lab.experiments.execute import AT_WORK, Job
from softvq_lab.experiments.job import output_of, progress, start
from softvq_lab.explore.latent_map import (
    draw,
    latent_path,
    picture_of,
    read_atlas,
    thumbnails,
)
from softvq_lab.explore.reproduce import map_ways
from softvq_lab.explore.session import enlarge, open_lens
from softvq_lab.hub.models import find_tokenizer
from softvq_lab.registry import register

ABOUT = (
    "Every dot is an image: UMAP lays images with similar latents side by side. "
    "Who neighbours whom means something; the distance between islands means little."
)
NONE = (
    "**No map of this run yet.** Compute one: a separate process that takes about a minute "
    "for a thousand small images. You may leave the page meanwhile."
)
GENERATOR = "This run is a generator: the map is its tokenizer's. Choose **{}** above."
HINT = (
    "Hover over a point to see its image; click one, and it is the image that *Reconstruct* "
    "shows. The last two clicked are ringed, and the way from one to the other is shown. Without "
    "a mouse, write their numbers into *Points*. Box and lasso, above the map, select images."
)
WAY = "From one to the other: the straight line between their latents, decoded"


@register("tab", "Latent map", place=5)
class LatentMap(Tab):
    def layout(self):
        gr.Markdown(ABOUT)
        self.ends = gr.Textbox("", visible="hidden")  # numbers of the last two points clicked
        self.layout_map()
        self.around = MapPoints(self)
        self.layout_form()
        self.seen = gr.State("")  # state of the job when the page last looked
        self.timer = gr.Timer(2, active=False)
        self.timers = [self.timer]
        self.linked = {
            "map": self.which,
            "colour": self.colour,
            "pictures": self.pictures,
            "points": self.ends,
            "neighbours": self.neighbours,
            "images": self.images,
            "map_seed": self.seed,
        }

    def layout_map(self):
        with gr.Row(visible="hidden") as self.looks:  # until there is a map
            self.which = Dropdown([], label="Map", elem_id="map-which", min_width=160)
            self.colour = Dropdown(
                ["class"], value="class", label="Colour", elem_id="map-colour", min_width=160
            )
        self.message = gr.Markdown(elem_id="map-message")
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                self.plot = gr.Plot(show_label=False, elem_id="map-plot", visible=False)
            with gr.Column(scale=2, min_width=320):
                self.layout_way()
        tip = '<div class="map-tip"></div>'
        self.hook = gr.HTML(value={}, html_template=tip, js_on_load=HOOK, elem_id="map-hook")

    def layout_way(self):
        with gr.Column(visible="hidden") as self.found:
            self.pictures = gr.Slider(
                3, 16, 8, step=1, label="Pictures on the way", elem_id="map-pictures"
            )
            self.way = picture("map-way", WAY)
            self.chosen = gr.Markdown(elem_id="map-chosen")
            self.points = gr.Textbox(
                label="Points",
                info="the numbers of one or two, as 3-17: the same as clicking them",
                elem_id="map-points",
                max_lines=1,
            )
            with gr.Row():
                self.swap = gr.Button("Turn round", size="sm", elem_id="map-swap")
                self.show = gr.Button(
                    "Show in Reconstruct", variant="primary", size="sm", elem_id="map-show"
                )

    def layout_form(self):
        with gr.Accordion("Compute the map", open=False, elem_id="map-compute") as self.compute:
            with gr.Row():
                self.neighbours = gr.Number(
                    15,
                    precision=0,
                    label="Neighbours",
                    info="few show local, many global structure",
                    elem_id="map-neighbors",
                    min_width=140,
                )
                self.images = gr.Number(
                    1000,
                    precision=0,
                    label="Images",
                    info="at most; held-out ones first",
                    elem_id="map-images",
                    min_width=140,
                )
                self.seed = gr.Number(
                    0, precision=0, label="Seed", elem_id="map-seed", min_width=100
                )
            self.go = gr.Button("Compute", elem_id="map-go")

    def depends(self, name):
        "The map that was computed last."
        atlas = self.atlas(name)
        return atlas and map_file(resolve(self.ctx.runs, name)).stat().st_mtime_ns

    def atlas(self, name):
        "The map of the run of that name, None where there is none."
        run = resolve(self.ctx.runs, name)
        return None if run.kind == "generator" else read_atlas(run)

    def fit(self, name, kept):
        try:
            atlas = self.atlas(name)
        except ValueError:
            atlas = None
        if atlas is None:
            maps, colours, points = [], ["class"], 0
        else:
            maps, colours, points = list(atlas.maps), list(atlas.figures), len(atlas.indices)
            colours = ["class", *colours]
        first = preferred(maps, "z")
        return {
            self.which: dict(choices=maps, value=first, own=True),
            self.colour: dict(choices=colours, value="class"),
            self.ends: dict(value="", own=True, check=lambda told: ends_of(told, points)),
        }

    def reproduce(self, name, image, values):
        how = (int(values[k] or 0) for k in ("neighbours", "images", "map_seed"))
        ends = tuple(int(n) for n in (values["points"] or "").split("-") if n.isdecimal())
        shown = values["map"] or "z", values["region"], ends, int(values["pictures"])
        return map_ways(str(resolve(self.ctx.runs, name).path), *how, *shown)

    def on_run(self, name, which, colour, ends, own):
        "Another run: its map, or how to get one."
        if not name:
            return self.without("", wanted=False)
        try:
            run = resolve(self.ctx.runs, name)
            if run.kind == "generator":
                of = plain(find_tokenizer(run.path).name)
                return self.without(GENERATOR.format(of), wanted=False, able=False)
            atlas = read_atlas(run)
            if atlas is None:
                return self.without(NONE)
            return self.map_of(self.ctx.open(name), atlas, which, colour, ends, own)
        except ValueError as e:
            return self.without(failed(e))

    def without(self, message, wanted=True, able=True):
        "No map; `able`: the form that computes one is there, `wanted`: it is open."
        return {
            self.message: message,
            self.plot: gr.Plot(value=None, visible=False),
            self.hook: {},
            self.looks: gr.Row(visible="hidden"),
            self.found: gr.Column(visible="hidden"),
            self.around.box: gr.Column(visible="hidden"),
            self.compute: gr.Accordion(open=wanted, visible=able),
            self.seen: "",
        }

    def map_of(self, lens, atlas, which, colour, ends, own):
        which = preferred(list(atlas.maps), which, "z")
        colour = preferred(["class", *atlas.figures], colour)
        return {
            **self.without(told(lens, atlas), wanted=False),
            self.plot: gr.Plot(value=drawn(lens, atlas, which, colour, ends, own), visible=True),
            self.hook: thumbnail_sheet(lens, atlas),
            self.looks: gr.Row(visible=True),
            self.found: gr.Column(visible=True),
            self.around.box: gr.Column(visible=True),
        }

    def on_look(self, name, which, colour, ends, own):
        try:
            lens = self.ctx.open(name)
            return drawn(lens, read_atlas(lens.run), which, colour, ends, own)
        except (ValueError, AttributeError):
            return gr.skip()

    def on_click(self, name, ends, event: gr.EventData):
        "Another point: the end of the way from the one that was clicked before it."
        try:
            lens = self.ctx.open(name)
            atlas, n = read_atlas(lens.run), int(event.index)
            points = len(atlas.indices)
            before = ends_of(ends, points) if event.before is None else [int(event.before)]
            ends = [*before, n][-2:]
            ends_of(written(ends), points)
            return written(ends), [key_of(lens, atlas.indices[n])]
        except (ValueError, TypeError, AttributeError):
            return gr.skip()

    def on_points(self, name, typed, ends):
        "Points by their numbers: what a click does, for those who have no mouse."
        try:
            lens = self.ctx.open(name)
            indices = read_atlas(lens.run).indices
            wanted = ends_of(typed.replace(" ", ""), len(indices))
        except (ValueError, AttributeError) as e:
            return gr.skip(), gr.skip(), f"**{plain(typed)}** is not possible; {plain(e)} is."
        if written(wanted) == ends:
            return gr.skip()
        images = [key_of(lens, indices[n]) for n in wanted[-1:]]
        return written(wanted), images or gr.skip(), gr.skip()

    def on_way(self, name, ends, pictures):
        try:
            if not ends:
                return None, "Click two points, or write their numbers."
            lens = self.ctx.open(name)
            return way_of(lens, ends_of(ends, len(read_atlas(lens.run).indices)), pictures)
        except (ValueError, IndexError, AttributeError) as e:
            return None, failed(e)

    def on_go(self, name, neighbours, images, seed):
        try:
            path = self.ctx.open(name).run.path
            start("latent_map", path, {"neighbors": neighbours, "images": images, "seed": seed})
        except ValueError as e:
            return failed(e).replace("\n", "  \n"), gr.skip(), gr.skip()
        return "The map is being computed ...", gr.Timer(active=True), "running"

    def on_tick(self, name, seen, looked):
        "Progress of the job, if there is one; when its map has come, the page looks again."
        stop = {self.timer: gr.Timer(active=False)}
        try:
            job = Job(output_of(resolve(self.ctx.runs, name), "latent_map"))
        except ValueError:
            return {**stop, self.seen: ""}
        state = job.info["state"]
        if state in AT_WORK:
            done, of, unit = progress(job)
            says = f"The map is being computed: {unit} {done} of {of or '?'}. "
            return {self.message: says + "You may leave the page.", self.seen: state}
        if seen not in AT_WORK:
            return {**stop, self.seen: state}
        if state == "done":
            return {**stop, self.seen: state, self.ctx.looked: looked + 1}
        says = f"**The map was not computed ({state}).** The tab *Runs* has the log."
        return {**stop, self.seen: state, self.message: says}

    def on_show(self):
        return gr.Tabs(selected="reconstruct"), "reconstruct"

    def wire(self):
        ctx, run, seen, timer, message = (
            self.ctx,
            self.ctx.run,
            self.seen,
            self.timer,
            self.message,
        )
        there = [self.looks, self.found, self.around.box, self.compute]
        shown = [message, self.plot, self.hook, *there, seen]
        asked = [run, self.which, self.colour, self.ends, self.around.own]
        mapped = Newest(self.on_run, asked, shown, show_progress="hidden")
        self.of_run.change(**mapped.event)
        colours = Newest(self.on_look, asked, self.plot, (mapped,), show_progress="hidden")
        looks = [self.which.input, self.colour.input, self.around.own.change]
        # not by the same event as the map: see `Newest`
        gr.on(looks, **colours.event).then(**self.around.compared.event)
        self.wire_way()
        self.go.click(
            self.on_go,
            [run, self.neighbours, self.images, self.seed],
            [message, timer, seen],
            show_progress="minimal",
            api_name="latent_map",
        )
        told = [message, timer, seen, ctx.looked]
        timer.tick(self.on_tick, [run, seen, ctx.looked], told, **QUIET)

    def wire_way(self):
        "The two ends and what lies between them."
        ctx, ends = self.ctx, self.ends
        self.hook.select(self.on_click, [ctx.run, ends], [ends, ctx.images], **CLICKS)
        asked, way = [ctx.run, ends, self.pictures], [self.way, self.chosen]
        walk = Newest(self.on_way, asked, way, show_progress="hidden").event
        self.pictures.input(**walk)
        gr.on([self.of_run.change, ends.change], **walk).then(**self.around.compared.event)
        typed = [self.points.submit, self.points.blur]
        gr.on(
            typed,
            self.on_points,
            [ctx.run, self.points, ends],
            [ends, ctx.images, self.chosen],
            **QUIET,
        )
        ends.change(None, ends, self.points, js="told => told", api_name=False)
        ends.change(None, ends, None, js=RING, api_name=False)
        turned = "told => told.split('-').reverse().join('-')"
        self.swap.click(None, ends, ends, js=turned, api_name=False)
        self.show.click(self.on_show, None, [ctx.tabs, ctx.tab], **QUIET)


def drawn(lens, atlas, which, colour, ends, own):
    "The map with what is marked on it; marks of another run's map are left out."
    try:
        chosen = ends_of(ends, len(atlas.indices))
    except ValueError:
        chosen = []
    place = star(lens, atlas, which, own)
    return draw(atlas, which, colour, chosen=chosen, own=place and place.xy)


def map_file(run):
    return run.path / "evaluation" / "latent_map.json"


def written(ends: list[int]) -> str:
    "Numbers of points as the page's address has them."
    return "-".join(map(str, ends))


def ends_of(told: str, points: int) -> list[int]:
    "Up to two numbers of points, of a map of so many; a `ValueError` says what is possible."
    parts = told.split("-") if told else []
    if len(parts) > 2 or not all(p.isdecimal() and int(p) < points for p in parts):
        possible = f"two numbers from 0 to {points - 1} as 3-17" if points else "nothing: no map"
        raise ValueError(possible)
    return [int(p) for p in parts]


@lru_cache(maxsize=4)
def _thumbnails(path: str, when: float, indices: tuple[int, ...]):
    "The sheet of a map, of the run in `path`, that was written at `when`."
    return thumbnails(open_lens(path), list(indices))


def thumbnail_sheet(lens, atlas) -> dict:
    "What the page needs to show the picture of a point."
    when, indices = map_file(lens.run).stat().st_mtime, tuple(atlas.indices)
    sheet, columns = _thumbnails(str(lens.run.path), when, indices)
    url = f"gradio_api/file={served(sheet)}"
    side = sheet.width // columns
    return {"url": url, "side": side, "columns": columns, "count": len(indices)}


def told(lens, atlas) -> str:
    "How to use the map, what it is of, and whether the run has other weights by now."
    says, now = f"{HINT}  \n{plain(atlas.about)}.", lens.tokenizer.fingerprint
    if atlas.tokenizer == now:
        return says
    return (
        f"{says}  \n**The map is of other weights** ({plain(atlas.tokenizer)}, "
        f"the run now has {plain(now)}): compute it again."
    )


def key_of(lens, index: int) -> str:
    "What the other tabs call this picture."
    if index < len(lens.images.heldout):
        return f"heldout:{index}"
    return f"file:{served(to_pil(picture_of(lens, index)))}"


def way_of(lens, ends: list[int], pictures: int) -> tuple[str, str]:
    "The way between the ends as a picture, and what they are."
    atlas = read_atlas(lens.run)
    indices = [atlas.indices[n] for n in ends]
    heldout = [i < len(lens.images.heldout) for i in indices]
    named = [
        f"class {plain(atlas.classes[n])} ({'held-out' if held else 'training'})"
        for n, held in zip(ends, heldout, strict=True)
    ]
    xs = [picture_of(lens, i) for i in indices]
    if len(xs) < 2:
        says = f"First: {named[0]}.  \nNow click a second point."
        return downloadable(enlarge(to_pil(xs[0]), 160)), says
    x = latent_path(lens, *xs, int(pictures))
    sheet = grid(x, min(len(x), 4), max(1, 96 // x.shape[-1]))
    return downloadable(sheet), f"From {named[0]}  \nto {named[1]}"
