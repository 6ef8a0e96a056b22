"""Pictures over a training, in the tab Runs: a slider over what the watched run has drawn."""

import gradio as gr
from tabs.controls import Slider
from tabs.newest import LATEST, QUIET, Newest
from tabs.picker import Part, failed, resolve, still
from tabs.picture_files import downloadable
from tabs.watch import Watch

from softvq_lab.explore.training_pictures import step_picture, step_pictures


class TrainingPictures(Part):
    "`watch` shows the run whose pictures they are."

    def __init__(self, ctx, watch: Watch):
        self.watch = watch
        super().__init__(ctx)

    def layout(self):
        with gr.Column(visible=False) as self.group:
            self.at = Slider(
                1, 2, 1, step=1, label="Picture of the training", elem_id="training-at"
            )
            self.caption = gr.Markdown(elem_id="training-step")
            self.picture = still("training-picture")
        self.known = gr.State(("", 0))  # run, and how many pictures it had

    def on_more(self, name, at, known):
        "Pictures of another run, or more of this one: a slider at its end stays there."
        try:
            count = len(step_pictures(resolve(self.ctx.runs, name)))
        except ValueError:
            count = 0
        if (name, count) == tuple(known):
            return gr.skip()
        there = {self.group: gr.Column(visible=count > 0), self.known: (name, count)}
        if not count:
            return there
        if name == known[0] and at < known[1]:
            return there | {self.at: gr.Slider(maximum=max(count, 2))}
        slider = gr.Slider(maximum=max(count, 2), value=count)
        caption, picture = self.on_slide(name, count)
        return there | {self.at: slider, self.caption: caption, self.picture: picture}

    def on_slide(self, name, at):
        try:
            step, picture = step_picture(resolve(self.ctx.runs, name), int(at or 1))
        except ValueError as e:
            return failed(e), None
        return f"After step {step}", downloadable(picture)

    def wire(self):
        watched, drawn = self.watch.watched, [self.caption, self.picture]
        shown = [self.group, self.known, self.at, *drawn]
        more = Newest(self.on_more, [watched, self.at, self.known], shown, **QUIET)
        self.watch.drawn.change(**more.event)
        slid = Newest(self.on_slide, [watched, self.at], drawn, (more,), **(LATEST | QUIET))
        self.at.input(**slid.event)
