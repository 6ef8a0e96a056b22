"""Chooses the pictures that a tab shows: held-out ones by class, or one's own."""

from pathlib import Path

import gradio as gr
from tabs.controls import Dropdown
from tabs.newest import LATEST, Newest
from tabs.picker import CLICKS, SEVERAL, Context, Part, failed, plain, tiles
from tabs.picture_files import served

from softvq_lab.explore.session import heldout_gallery, read_upload

ANY = "all classes"


class Chooser(Part):
    """Held-out pictures by class and uploads, which write `ctx.images`.

    `prefix` begins the ids of its components. `several`: more than one picture may be chosen.
    What cannot be read is said below.
    """

    def __init__(self, ctx: Context, prefix: str, height: int = 330, several: bool = False):
        self.prefix, self.height, self.several = prefix, height, several
        super().__init__(ctx)

    def layout(self):
        prefix, several = self.prefix, self.several
        self.classes = Dropdown([ANY], value=ANY, label="Class", elem_id=f"{prefix}-class")
        gr.Markdown("Held-out images")
        self.gallery = tiles(f"{prefix}-heldout", 3, self.height)
        self.many = gr.Checkbox(
            False,
            label=f"Several: a click adds a picture or takes it away (up to {SEVERAL})",
            elem_id=f"{prefix}-several",
            visible=several,
        )
        self.upload = gr.File(
            label="Your own image" + "s" * several,
            type="filepath",
            file_count="multiple" if several else "single",
            elem_id=f"{prefix}-upload",
            height=120,
        )
        self.message = gr.Markdown(elem_id=f"{prefix}-upload-message")
        self.shown = gr.State([])  # indices of the gallery's images
        self.linked = {"class": self.classes}
        if several:
            self.linked["several"] = self.many

    def heldout(self, loaded, label):
        "The gallery's pictures of a class, and their indices."
        names = loaded.images.class_names
        found = heldout_gallery(loaded, names.index(label) if label in names else None)
        return [(served(p), c) for _, p, c in found], [i for i, _, _ in found]

    def fit(self, name, kept):
        try:
            names = self.ctx.open(name).images.class_names
        except ValueError:
            names = []
        return {self.classes: dict(choices=[ANY, *names], value=ANY)}

    def on_class(self, name, label):
        try:
            return self.heldout(self.ctx.open(name), label)
        except ValueError:
            return [], []

    def on_pick(self, indices, images, many, event: gr.SelectData):
        if not (isinstance(event.index, int) and 0 <= event.index < len(indices)):
            return gr.skip()
        key = f"heldout:{indices[event.index]}"
        if not many:
            return [key]
        rest = [k for k in images if k != key]
        return rest if rest and key in images else [*rest, key][-SEVERAL:]

    def on_upload(self, name, paths, images, many):
        if not paths:
            return gr.skip(), ""
        good, problems = [], []
        for path in [paths] if isinstance(paths, str) else paths[:SEVERAL]:
            try:
                read_upload(path, self.ctx.open(name).tokenizer.image_size)
                good.append(f"file:{path}")
            except ValueError as e:
                problems.append(f"{plain(Path(path).name)}: {failed(e)}")
        chosen = [*images, *good][-SEVERAL:] if many else good
        return chosen if good else gr.skip(), "  \n".join(problems)

    def wire(self):
        run, images = self.ctx.run, self.ctx.images
        found = [self.gallery, self.shown]
        tiled = Newest(self.on_class, [run, self.classes], found, show_progress="hidden")
        gr.on([self.of_run.change, self.classes.input], **tiled.event)
        self.gallery.select(self.on_pick, [self.shown, images, self.many], images, **CLICKS)
        self.upload.upload(
            self.on_upload,
            [run, self.upload, images, self.many],
            [images, self.message],
            **LATEST,
        )
