"""Tab Latent map: where images lie among each other, and what lies between two of them."""

from functools import lru_cache

import gradio as gr
from tabs.controls import Dropdown
from tabs.map_compute import MapCompute
from tabs.map_points import MapPoints, star
from tabs.map_script import HOOK
from tabs.map_way import MapWay, ends_of
from tabs.newest import Newest
from tabs.picker import Part, failed, plain, preferred, resolve
from tabs.picture_files import served

from softvq_lab.explore.latent_map import draw, read_map, thumbnails
from softvq_lab.explore.reproduce import map_ways
from softvq_lab.explore.session import load_run
from softvq_lab.hub.models import find_tokenizer
from softvq_lab.registry import register

ABOUT = (
    "Every dot is an image: UMAP lays images with similar latents side by side. "
    "Who neighbours whom means something; the distance between islands means little."
)
NONE = (
    "**No map of this run yet.** Computing one takes about a minute for a thousand small images, "
    "in a process of its own: you may leave the page meanwhile."
)
GENERATOR = "This run is a generator: the map is its tokenizer's. Choose **{}** above."
HINT = (
    "Hover over a point to see its image; click one, and it is the image that *Reconstruct* "
    "shows. The last two clicked are ringed, and the way from one to the other is shown. Without "
    "a mouse, write their numbers into *Points*. Box and lasso, above the map, select images."
)


@register("tab", "Latent map", place=5)
class LatentMap(Part):
    def layout(self):
        gr.Markdown(ABOUT)
        self.layout_map()
        self.around = MapPoints(self)
        self.linked = {"map": self.which, "colour": self.colour}

    def layout_map(self):
        with gr.Row(visible="hidden") as self.options_row:  # until there is a map
            self.which = Dropdown([], label="Map", elem_id="map-which", min_width=160)
            self.colour = Dropdown(
                ["class"], value="class", label="Colour", elem_id="map-colour", min_width=160
            )
        self.message = gr.Markdown(elem_id="map-message")
        self.compute = MapCompute(self)
        with gr.Row():
            with gr.Column(scale=3, min_width=320):
                self.plot = gr.Plot(show_label=False, elem_id="map-plot", visible=False)
            with gr.Column(scale=2, min_width=320):
                self.way = MapWay(self)
        tip = '<div class="map-tip"></div>'
        self.hook = gr.HTML(value={}, html_template=tip, js_on_load=HOOK, elem_id="map-hook")

    def depends(self, name):
        "The map that was computed last."
        stored = self.stored(name)
        return stored and map_file(resolve(self.ctx.runs, name)).stat().st_mtime_ns

    def stored(self, name):
        "The map of the run of that name, None where there is none."
        run = resolve(self.ctx.runs, name)
        return None if run.kind == "generator" else read_map(run)

    def opened(self, name, which=None):
        "The models of a run and its map; a `ValueError` if it has none, or none called `which`."
        loaded = self.ctx.open(name)
        stored = read_map(loaded.run)
        if stored is None:
            raise ValueError("This run has no map.")
        if which is not None and which not in stored.maps:
            raise ValueError(f"There is no map {which!r}. Possible: {', '.join(stored.maps)}.")
        return loaded, stored

    def fit(self, name, kept):
        try:
            stored = self.stored(name)
        except ValueError:
            stored = None
        if stored is None:
            maps, colours = [], ["class"]
        else:
            maps, colours = list(stored.maps), ["class", *stored.figures]
        return {
            self.which: dict(choices=maps, value=preferred(maps, "z"), own=True),
            self.colour: dict(choices=colours, value="class"),
        }

    def reproduce(self, name, image, values):
        how = (int(values[k] or 0) for k in ("neighbours", "images", "map_seed"))
        ends = tuple(int(n) for n in (values["points"] or "").split("-") if n.isdecimal())
        shown = values["map"] or "z", values["region"], ends, int(values["pictures"])
        return map_ways(str(resolve(self.ctx.runs, name).path), *how, *shown)

    def on_run(self, name, which, colour, ends, own):
        "Another run: its map, or how to get one."
        if not name:
            return self.without("", able=False)
        try:
            run = resolve(self.ctx.runs, name)
            if run.kind == "generator":
                of = plain(find_tokenizer(run.path).name)
                return self.without(GENERATOR.format(of), able=False)
            stored = read_map(run)
            if stored is None:
                return self.without(NONE)
            return self.map_of(self.ctx.open(name), stored, which, colour, ends, own)
        except ValueError as e:
            return self.without(failed(e))

    def without(self, message, able=True, first=True):
        "No map; `able`: one can be computed, `first`: there is none yet."
        return {
            self.message: message,
            self.plot: gr.Plot(value=None, visible=False),
            self.hook: {},
            self.options_row: gr.Row(visible="hidden"),
            self.way.box: gr.Column(visible="hidden"),
            self.around.box: gr.Column(visible="hidden"),
            **self.compute.offered(able, first),
        }

    def map_of(self, loaded, stored, which, colour, ends, own):
        which = preferred(list(stored.maps), which, "z")
        colour = preferred(["class", *stored.figures], colour)
        return {
            **self.without(describe_map(loaded, stored), first=False),
            self.plot: gr.Plot(value=drawn(loaded, stored, which, colour, ends, own), visible=True),
            self.hook: thumbnail_sheet(loaded, stored),
            self.options_row: gr.Row(visible=True),
            self.way.box: gr.Column(visible=True),
            self.around.box: gr.Column(visible=True),
        }

    def on_look(self, name, which, colour, ends, own):
        try:
            return drawn(*self.opened(name), which, colour, ends, own)
        except ValueError:
            return gr.skip()

    def wire(self):
        run, around = self.ctx.run, self.around
        there = [self.options_row, self.way.box, around.box, *self.compute.offers]
        shown = [self.message, self.plot, self.hook, *there]
        asked = [run, self.which, self.colour, self.way.ends, around.own]
        mapped = Newest(self.on_run, asked, shown, show_progress="hidden")
        self.of_run.change(**mapped.event)
        colours = Newest(self.on_look, asked, self.plot, (mapped,), show_progress="hidden")
        looks = [self.which.input, self.colour.input, around.own.change]
        # not by the same event as the map: see `Newest`
        gr.on(looks, **colours.event).then(**around.compared.event)
        self.way.walked.then(**around.compared.event)


def drawn(loaded, stored, which, colour, ends, own):
    "The map with what is marked on it; marks of another run's map are left out."
    try:
        chosen = ends_of(ends, len(stored.indices))
    except ValueError:
        chosen = []
    place = star(loaded, stored, which, own)
    return draw(stored, which, colour, chosen=chosen, own=place and place.xy)


def map_file(run):
    return run.path / "evaluation" / "latent_map.json"


@lru_cache(maxsize=4)
def _thumbnails(path: str, when: float, indices: tuple[int, ...]):
    "The sheet of a map, of the run in `path`, that was written at `when`."
    return thumbnails(load_run(path), list(indices))


def thumbnail_sheet(loaded, stored) -> dict:
    "What the page needs to show the picture of a point."
    when, indices = map_file(loaded.run).stat().st_mtime, tuple(stored.indices)
    sheet, columns = _thumbnails(str(loaded.run.path), when, indices)
    url = f"gradio_api/file={served(sheet)}"
    return {"url": url, "columns": columns, "count": len(indices)}


def describe_map(loaded, stored) -> str:
    "How to use the map, what it is of, and whether the run has other weights by now."
    text, now = f"{HINT}  \n{plain(stored.about)}.", loaded.tokenizer.fingerprint
    if stored.tokenizer == now:
        return text
    return (
        f"{text}  \n**The map is of other weights** ({plain(stored.tokenizer)}, "
        f"the run now has {plain(now)}): compute it again."
    )
