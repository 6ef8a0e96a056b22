"""In the tab Sample: one of the samples large, with the film of its steps, the training images
nearest to it, and variations of it.
"""

import gradio as gr
from tabs.controls import Slider
from tabs.drawing import AT_WORK, Drawing, Start, reason, untouched
from tabs.newest import QUIET, Newest
from tabs.picker import CLICKS, Part, picture, plain, still, tiled, tiles
from tabs.picture_files import downloadable, served
from tabs.sample_grid import VARIATIONS

from softvq_lab.data.images import to_pil
from softvq_lab.explore.one_sample import film_strip, frame, sample_at, variation_steps
from softvq_lab.explore.sampling import StepsLeft, memorised, nearest_training, steps_taken
from softvq_lab.explore.session import enlarge

ABOUT = "## One sample\nClick a sample on the sheet, or move *Sample number*, and it opens here."
STRENGTH = "0: the sample itself; 1: another one of its class"
NOTHING = "Nothing is drawn yet: press Sample."
NO_VARIATIONS = "*None yet. Draw samples, choose one of them, and draw its variations.*"
VARIED = 8  # variations of a sample


class OneSample(Part):
    "`sample` is the tab whose samples they are."

    def __init__(self, sample):
        self.sample = sample
        super().__init__(sample.ctx)

    def layout(self):
        gr.Markdown(ABOUT)
        with gr.Row(elem_classes="work"):
            with gr.Column(scale=2, min_width=280):
                with gr.Row(elem_classes="pictures"):
                    self.large = picture("sample-large", "The sample, large")
            with gr.Column(scale=3, min_width=300):
                self.layout_choice()
        gr.Markdown("On its way out of the noise")
        self.strip = still("trajectory")
        small = dict(fit_columns=False, visible=False)  # while it is empty
        gr.Markdown("The sample and the training images nearest to it")
        self.near = tiles("nearest", 7, "max-content", **small)
        self.near_message = gr.Markdown(f"*{NOTHING}*", elem_id="nearest-message")
        self.layout_variations(small)
        self.varied = gr.State(None)  # the last variations, (B, 3, H, W)
        self.variation = gr.Number(0, precision=0, minimum=0, maximum=VARIED, visible="hidden")
        self.linked = {
            "sample": self.which,
            "film": self.film,
            "strength": self.strength,
            "variation": self.variation,  # the one that is shown large; 0: the sample itself
        }
        self.follows = [self.large, self.strip, self.variations, self.varied, self.vary_message]

    def layout_choice(self):
        self.which = Slider(1, 32, 1, step=1, label="Sample number", elem_id="which")
        self.film = gr.Slider(
            0, 100, 100, step=1, label="Film: percent of its steps", elem_id="film"
        )
        self.step = gr.Markdown(elem_id="film-step")

    def layout_variations(self, small):
        gr.Markdown("Variations: the same class, from noise close to the sample's own")
        with gr.Row():
            self.strength = gr.Slider(
                0, 1, 0.3, step=0.05, label="Strength", info=STRENGTH, elem_id="strength"
            )
            with gr.Column(scale=0, min_width=160):
                self.vary = gr.Button("Draw variations", elem_id="vary")
        self.vary_message = gr.Markdown(NO_VARIATIONS, elem_id="vary-message")
        self.variations = tiles("variations", VARIED, "max-content", **small)

    def fresh(self, name):
        blank = dict.fromkeys([self.large, self.strip, self.varied])
        return blank | {self.variations: tiled([]), self.vary_message: NO_VARIATIONS}

    def chosen(self, drawn, which):
        "The models, what was drawn with them, and the index of the chosen sample."
        if drawn is None:
            raise LookupError(NOTHING)
        name, samples = drawn
        return self.sample.find(name), samples, min(int(which), len(samples)) - 1

    def on_click(self, drawn, event: gr.SelectData):
        "The number of the sample that was clicked on the sheet."
        number = sample_at(drawn[1], *event.index) if drawn else None
        return gr.skip() if number is None else number + 1

    def on_open(self, drawn, which, done):
        "The chosen sample, large; a step of its film, and the film as a strip."
        try:
            loaded, samples, n = self.chosen(drawn, which)
            strip = film_strip(loaded, samples, n)
        except (ValueError, LookupError):
            return None, "", None, gr.skip(), 0
        slider = gr.Slider(maximum=max(2, len(samples)), value=n + 1)
        return *self.on_film(drawn, which, done), downloadable(strip), slider, 0

    def on_film(self, drawn, which, done):
        try:
            loaded, samples, n = self.chosen(drawn, which)
        except (ValueError, LookupError):
            return None, ""
        step, x = frame(loaded, samples, n, done / 100)
        of_class = plain(loaded.images.class_names[int(samples.classes[n])])
        last = samples.film.seen
        caption = f"Sample {n + 1} (class {of_class}) after step {step} of {last}"
        return downloadable(enlarge(to_pil(x))), caption

    def on_near(self, drawn, which):
        "The training images nearest to the chosen sample."
        try:
            loaded, samples, n = self.chosen(drawn, which)
            x = samples.images[n]
            found = nearest_training(loaded, x)
        except LookupError:
            return tiled([]), f"*{NOTHING}*"
        except ValueError as e:
            return tiled([]), reason(e)
        near = [(served(p), f"{c}: {d:.2f}") for _, c, d, p in found["nearest"]]
        return tiled([(served(to_pil(x)), "sample"), *near]), plain(memorised(found))

    def on_vary(self, drawn, which, strength, session=None):
        "Variations of the chosen sample, after each step."
        wish = Drawing(session)
        try:
            loaded, samples, n = self.chosen(drawn, which)
            how = samples.how
            pace = StepsLeft(steps_taken(loaded, how["sampler"], how["steps"]))
            for i, images in variation_steps(loaded, samples, n, strength):  # noqa: B007
                if wish.replaced:
                    yield untouched(3)
                    return
                message = pace.after(i)
                if wish.stopped:
                    message = f"Stopped at {pace.place}."
                    break
                yield gr.skip(), message, gr.skip()
            else:
                message = f"Variations of sample {n + 1}. Click one, and it is shown large."
            found = [(served(to_pil(x)), f"variation {k}") for k, x in enumerate(images, 1)]
            yield tiled(found), message, images
        except (ValueError, LookupError) as e:
            yield tiled([]), reason(e), None

    def on_variation(self, varied, number):
        "A variation, large."
        if varied is None or not 1 <= number <= len(varied):
            return gr.skip()
        return downloadable(enlarge(to_pil(varied[number - 1]))), f"Variation {number}"

    def wire(self):
        drawn, shown = self.sample.drawn, [self.large, self.step]
        asked = [drawn, self.which]
        opened = [*shown, self.strip, self.which, self.variation]
        # gradio's seconds would lie on the pictures of a sample that was just drawn
        self.opened = Newest(self.on_open, [*asked, self.film], opened, **QUIET)
        self.compared = Newest(self.on_near, asked, [self.near, self.near_message], **QUIET)
        moved = Newest(self.on_film, [*asked, self.film], shown, (self.opened,), **QUIET)
        self.film.input(**moved.event)
        self.follow(gr.on([self.of_run.change, self.which.input], **self.opened.event))
        clicked = self.sample.samples.select(self.on_click, drawn, self.which, **QUIET)
        self.follow(clicked.then(**self.opened.event))
        self.vary.click(**Start(self, self.vary_message, shows=VARIATIONS, variation=0).event).then(
            self.on_vary,
            [*asked, self.strength, self.ctx.session],
            [self.variations, self.vary_message, self.varied],
            api_name=False,
            **AT_WORK,
        )
        enlarged = Newest(self.on_variation, [self.varied, self.variation], shown, (self.opened,))
        clicked = self.variations.select(clicked_tile, None, self.variation, **CLICKS)
        clicked.then(**enlarged.event)

    def follow(self, opened):
        "After a sample was opened: the training images nearest to it."
        opened.then(**self.compared.event)


def clicked_tile(event: gr.SelectData):
    "The number of a clicked picture, from 1."
    return event.index + 1
