"""In the tab Latent map: neighbours of a point, the images in a region, an image of one's own."""

import gradio as gr
from tabs.newest import LATEST, QUIET, Newest
from tabs.picker import CLICKS, Part, failed, plain, tiled, tiles
from tabs.picture_files import served

from softvq_lab.data.images import to_pil
from softvq_lab.explore.familiarity import how_unlike
from softvq_lab.explore.latent_map import picture_of
from softvq_lab.explore.map_points import (
    Place,
    classes_in_words,
    neighbours_of_point,
    own_place,
    points_within,
    read_region,
    vectors_of,
)
from softvq_lab.explore.session import read_upload

NO_POINT = "*Click a point on the map, and its nearest images stand here.*"
NEAR, SHOWN = 8, 48  # neighbours, and images of a region, with their pictures
REGION = "corners as 0,0 4,0 4,5: the same as a box or lasso on the map"
WITHOUT = (
    "This map was made without keeping its latents, so an image of your own has no place on it. "
    "Compute it again above."
)
FLAT = "This map was made without keeping its latents: these are the nearest on the flat map."
OTHER = "The map is of other weights than the run has now. Compute it again above."


class MapPoints(Part):
    "`map` is the tab whose points they are."

    def __init__(self, map):
        self.map = map
        super().__init__(map.ctx)

    def layout(self):
        # hidden until there is a map: a link sets what is in it
        with gr.Column(visible="hidden") as self.box:
            self.layout_around()
        self.own = gr.State("")  # file of the image of one's own
        self.linked = {"region": self.region}

    def layout_around(self):
        small = dict(fit_columns=False, visible=False)
        gr.Markdown("Nearest to the last chosen point")
        self.near = tiles("map-near", NEAR, "max-content", **small)
        self.near_message = gr.Markdown(NO_POINT, elem_id="map-near-message")
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                self.region = gr.Textbox(
                    "", label="Region", info=REGION, elem_id="map-region", max_lines=1
                )
                self.inside_message = gr.Markdown(elem_id="map-inside-message")
                self.inside = tiles("map-inside", 12, "max-content", **small)
            with gr.Column(scale=2, min_width=280):
                self.upload = gr.File(
                    label="Your own image on the map", elem_id="map-upload", height=120
                )
                self.own_message = gr.Markdown(elem_id="map-own-message")
                self.own_near = tiles("map-own-near", 4, "max-content", **small)

    def fit(self, name, kept):
        return {self.region: dict(value="", own=True, check=check_region)}

    def pictured(self, loaded, stored, numbers):
        "Pictures of points, named by class and number."
        return [
            (
                served(to_pil(picture_of(loaded, stored.indices[n]))),
                f"{stored.classes[n]}, point {n}",
            )
            for n in numbers
        ]

    def on_near(self, name, which, ends):
        "The neighbours of the last chosen point, by its latents where they were kept."
        try:
            if not ends:
                return tiled([]), NO_POINT
            loaded, stored = self.map.opened(name, which)
            vectors, flat = vectors_of(loaded.run.path / "evaluation", stored, which)
            found = neighbours_of_point(vectors, int(ends.split("-")[-1]), NEAR)
        except (ValueError, IndexError) as e:
            return tiled([]), failed(e)
        classes = plain(classes_in_words([stored.classes[n] for n in found]))
        return tiled(
            self.pictured(loaded, stored, found)
        ), f"{classes}. {FLAT if flat else ''}".strip()

    def on_region(self, name, which, region):
        try:
            if not region:
                return tiled([]), ""
            loaded, stored = self.map.opened(name, which)
            found = points_within(stored.maps[which], read_region(region))
        except ValueError as e:
            return tiled([]), failed(e)
        classes = classes_in_words([stored.classes[n] for n in found])
        more = f"; the first {SHOWN} are shown" if len(found) > SHOWN else ""
        return tiled(self.pictured(loaded, stored, found[:SHOWN])), plain(f"{classes}{more}.")

    def on_select(self, event: gr.EventData):
        "A box or lasso on the map."
        return str(event.region)[:4000]

    def on_upload(self, name, path):
        "An image of one's own: the chosen image of all tabs, and a star on the map."
        if not path:
            return "", gr.skip()
        try:
            read_upload(path, self.ctx.open(name).tokenizer.image_size)
        except ValueError:
            return path, gr.skip()
        return path, [f"file:{path}"]

    def on_own(self, name, which, own):
        "What the image of one's own lies among."
        if not own:
            return tiled([]), ""
        try:
            loaded, stored = self.map.opened(name, which)
            if stored.tokenizer != loaded.tokenizer.fingerprint:
                return tiled([]), OTHER
            x = read_upload(own, loaded.tokenizer.image_size)
            place, strange = own_place(loaded, stored, which, x), plain(how_unlike(loaded, x))
        except ValueError as e:
            return tiled([]), failed(e)
        if place is None:
            return tiled([]), WITHOUT
        near = place.neighbours[:NEAR]
        classes = plain(classes_in_words([stored.classes[n] for n in near]))
        message = f"The star is your image. Nearest to it: {classes}."
        if strange:
            message += f" {strange} So its place means little."
        return tiled(self.pictured(loaded, stored, near)), message

    def wire(self):
        run, which, ends = self.ctx.run, self.map.which, self.map.way.ends
        self.compared = Newest(
            self.on_near, [run, which, ends], [self.near, self.near_message], **QUIET
        )
        shown = [self.inside, self.inside_message]
        inside = Newest(self.on_region, [run, which, self.region], shown, **QUIET)
        self.map.hook.apply(self.on_select, None, self.region, **CLICKS)
        self.region.change(**inside.event)
        own = Newest(
            self.on_own, [run, which, self.own], [self.own_near, self.own_message], **QUIET
        )
        uploads = [self.upload.upload, self.upload.clear]
        gr.on(uploads, self.on_upload, [run, self.upload], [self.own, self.ctx.images], **LATEST)
        self.own.change(**own.event)


def check_region(region: str):
    if region:
        read_region(region)


def star(loaded, stored, which, path) -> Place | None:
    "Where the image in a file lies on a map; None without one, or where it has no place."
    try:
        x = read_upload(path, loaded.tokenizer.image_size) if path else None
    except ValueError:
        return None
    return None if x is None else own_place(loaded, stored, which, x)
