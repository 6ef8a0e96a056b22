"""In the tab Latent map: two points of the map, and the way from one to the other."""

import gradio as gr
from tabs.map_script import RING
from tabs.newest import QUIET, Newest
from tabs.picker import CLICKS, Part, failed, picture, plain
from tabs.picture_files import downloadable, permanent

from softvq_lab.data.images import grid, to_pil
from softvq_lab.explore.latent_map import latent_path, picture_of
from softvq_lab.explore.session import enlarge

WAY = "From one to the other: the straight line between their latents, decoded"
TURN = "text => text.split('-').reverse().join('-')"


class MapWay(Part):
    "`map` is the tab whose points they are."

    def __init__(self, map):
        self.map = map
        super().__init__(map.ctx)

    def layout(self):
        self.ends = gr.Textbox("", visible="hidden")  # numbers of the last two points clicked
        # hidden until there is a map: a link sets what is in it
        with gr.Column(visible="hidden") as self.box:
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
                self.swap = gr.Button("Swap the ends", size="sm", elem_id="map-swap")
                self.show = gr.Button(
                    "Show in Reconstruct", variant="primary", size="sm", elem_id="map-show"
                )
        self.linked = {"pictures": self.pictures, "points": self.ends}

    def fit(self, name, kept):
        try:
            stored = self.map.stored(name)
        except ValueError:
            stored = None
        points = len(stored.indices) if stored else 0
        return {self.ends: dict(value="", own=True, check=lambda text: ends_of(text, points))}

    def on_click(self, name, ends, event: gr.EventData):
        "Another point: the end of the way from the one that was clicked before it."
        try:
            loaded, stored = self.map.opened(name)
            n = int(event.index)
            points = len(stored.indices)
            before = ends_of(ends, points) if event.before is None else [int(event.before)]
            ends = [*before, n][-2:]
            ends_of(written(ends), points)
            return written(ends), [key_of(loaded, stored.indices[n])]
        except (ValueError, TypeError, AttributeError):
            return gr.skip()

    def on_points(self, name, typed, ends):
        "Points by their numbers: what a click does, for those who have no mouse."
        try:
            loaded, stored = self.map.opened(name)
            wanted = ends_of(typed.replace(" ", ""), len(stored.indices))
        except ValueError as e:
            return gr.skip(), gr.skip(), f"**{plain(typed)}** cannot be used: {plain(e)}"
        if written(wanted) == ends:
            return gr.skip()
        images = [key_of(loaded, stored.indices[n]) for n in wanted[-1:]]
        return written(wanted), images or gr.skip(), gr.skip()

    def on_way(self, name, ends, pictures):
        try:
            if not ends:
                return None, "Click two points, or write their numbers."
            loaded, stored = self.map.opened(name)
            return way_of(loaded, stored, ends_of(ends, len(stored.indices)), pictures)
        except ValueError as e:
            return None, failed(e)

    def on_show(self):
        return gr.Tabs(selected="reconstruct"), "reconstruct"

    def wire(self):
        ctx, ends = self.ctx, self.ends
        self.map.hook.select(self.on_click, [ctx.run, ends], [ends, ctx.images], **CLICKS)
        asked, way = [ctx.run, ends, self.pictures], [self.way, self.chosen]
        walk = Newest(self.on_way, asked, way, show_progress="hidden").event
        self.pictures.input(**walk)
        self.walked = gr.on([self.of_run.change, ends.change], **walk)
        gr.on(
            [self.points.submit, self.points.blur],
            self.on_points,
            [ctx.run, self.points, ends],
            [ends, ctx.images, self.chosen],
            **QUIET,
        )
        ends.change(None, ends, self.points, js="text => text", api_name=False)
        ends.change(None, ends, None, js=RING, api_name=False)
        self.swap.click(None, ends, ends, js=TURN, api_name=False)
        self.show.click(self.on_show, None, [ctx.tabs, ctx.tab], **QUIET)


def written(ends: list[int]) -> str:
    "Numbers of points as the page's address has them."
    return "-".join(map(str, ends))


def ends_of(text: str, points: int) -> list[int]:
    "Up to two numbers of points, of a map of so many; a `ValueError` says what is possible."
    parts = text.split("-") if text else []
    if len(parts) > 2 or not all(p.isdecimal() and int(p) < points for p in parts):
        raise ValueError(f"write one or two numbers from 0 to {points - 1}, such as 3-17.")
    return [int(p) for p in parts]


def key_of(loaded, index: int) -> str:
    "What the other tabs call this picture."
    if index < len(loaded.images.heldout):
        return f"heldout:{index}"
    return f"file:{permanent(to_pil(picture_of(loaded, index)))}"


def way_of(loaded, stored, ends: list[int], pictures: int) -> tuple[str, str]:
    "The way between the ends as a picture, and what they are."
    indices = [stored.indices[n] for n in ends]
    heldout = [i < len(loaded.images.heldout) for i in indices]
    named = [
        f"class {plain(stored.classes[n])} ({'held-out' if held else 'training'})"
        for n, held in zip(ends, heldout, strict=True)
    ]
    xs = [picture_of(loaded, i) for i in indices]
    if len(xs) < 2:
        message = f"First: {named[0]}.  \nNow click a second point."
        return downloadable(enlarge(to_pil(xs[0]), 160)), message
    x = latent_path(loaded, *xs, int(pictures))
    sheet = grid(x, min(len(x), 4), max(1, 96 // x.shape[-1]))
    return downloadable(sheet), f"From {named[0]}  \nto {named[1]}"
