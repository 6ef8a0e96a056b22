"""Tab Sample: new images of a class."""

import json

import gradio as gr
from tabs.controls import Dropdown
from tabs.drawing import AT_ONCE, AT_WORK, Drawing, Start, on_stop, reason, untouched
from tabs.newest import Newest
from tabs.no_generator import NoGenerator, missing
from tabs.one_sample import OneSample
from tabs.picker import LEFT, RIGHT, Part, picture, plain, resolve, stamp
from tabs.picture_files import downloadable
from tabs.sample_grid import GRID, SAMPLES, SWEEP, VARIATIONS, SampleGrid

from softvq_lab.core import PRECISIONS
from softvq_lab.data.images import grid
from softvq_lab.explore.one_sample import Drawn, drawing, film_strip, sample_sheet
from softvq_lab.explore.reproduce import (
    film_ways,
    grid_ways,
    sample_ways,
    sweep_ways,
    variation_ways,
)
from softvq_lab.explore.sampling import StepsLeft, classes_of, guidance_sweep, steps_taken
from softvq_lab.explore.session import generator_for, load_run
from softvq_lab.registry import register

ABOUT = (
    "A generator turns noise into latent tokens, step by step, and the decoder paints them. "
    "Guidance pulls towards the class: higher is clearer and less varied; 1 is none."
)
# Another sample than the one whose variations were drawn.
OTHER = f"shows => shows === '{VARIATIONS}' ? '{SAMPLES}' : shows"
# A link draws what it shows: it presses the buttons that somebody would press, and waits for what
# each of them draws. What is there already stays. Another link or run ends it.
PRESSED = {
    SAMPLES: [("go", "sample-large")],
    GRID: [("grid-go", "grid-picture")],
    SWEEP: [("sweep", "samples")],
    VARIATIONS: [("go", "sample-large"), ("vary", "variations")],
}
PRESS = """async asked => {
    window.linkDraws = asked;
    const wait = ms => new Promise(done => setTimeout(done, ms));
    const until = async (seconds, find) => {
        const goesOn = () => window.linkDraws === asked;
        for (let i = 0; i < 10 * seconds && goesOn() && !find(); i++) await wait(100);
        return goesOn() && find();
    };
    await wait(200);  // the page shows what came with this
    for (const [button, drawn] of (PRESSED)[asked.split(' ')[1]] ?? []) {
        const picture = () => document.querySelector(`#${drawn} img`);
        if (picture()) continue;
        const ready = await until(5, () => document.querySelector(`#${button}:not([disabled])`));
        if (!ready) return;
        ready.click();
        if (!await until(300, picture)) return;
    }
}"""
DICE = "() => Math.floor(Math.random() * 1e6)"
SCALES, MOST_SWEPT = [1.0, 1.5, 2.0, 3.0, 4.0, 6.0], 10  # of guidance; samples of each
HOW = ("sampler", "steps", "seed", "temperature", "low", "high", "precision")  # see `settings`


@register("tab", "Sample", place=4)
class Sample(Part):
    def layout(self):
        gr.Markdown(ABOUT)
        self.drawn = gr.State(None)  # (run, `Drawn`) of the last sampling
        with gr.Row(elem_classes="work"):
            with gr.Column(**LEFT):
                self.layout_what()
                self.layout_how()
                self.layout_buttons()
            with gr.Column(**RIGHT):
                self.layout_samples()
        self.asks = gr.Textbox(visible="hidden")  # what a link draws, and which link it was
        self.follows = [self.go, self.dice, self.message, self.samples, self.drawn, self.asks]
        self.linked = {
            "classes": self.label,
            "count": self.count,
            "guidance": self.guidance,
            "low": self.low,
            "high": self.high,
            "sampler": self.sampler,
            "steps": self.steps,
            "temperature": self.temperature,
            "precision": self.precision,
            "seed": self.seed,
        }

    def layout_what(self):
        # What depends on the generator is set before a person can: nothing comes late over it.
        # `on_go` checks the classes: an API client has not seen the choices.
        self.label = Dropdown(
            [],
            value=[],
            multiselect=True,
            label="Classes (none: one of each in turn)",
            elem_id="class",
            allow_custom_value=True,
            interactive=False,
        )
        self.count = gr.Slider(1, 32, 10, step=1, label="Images", elem_id="count")
        self.guidance = gr.Slider(
            1, 8, 1.75, step=0.05, label="Guidance", elem_id="guidance", interactive=False
        )
        with gr.Accordion("Where guidance acts (t: 1 is noise, 0 the latent)", open=False):
            self.low = gr.Slider(
                0, 1, 0, step=0.05, label="From t", elem_id="low", interactive=False
            )
            self.high = gr.Slider(
                0, 1, 1, step=0.05, label="to t", elem_id="high", interactive=False
            )

    def layout_how(self):
        # The generator's samplers are not known yet; `on_go` checks the choice.
        self.sampler = Dropdown(
            ["heun"],
            value="heun",
            label="Sampler",
            elem_id="sampler",
            allow_custom_value=True,
            interactive=False,
        )
        self.steps = gr.Slider(
            1, 250, 25, step=1, label="Steps", elem_id="steps", interactive=False
        )
        # Shown for samplers that have one.
        self.temperature = gr.Slider(
            0, 2, 1, step=0.05, label="Temperature", elem_id="temperature", visible=False
        )
        self.precision = gr.Dropdown(
            list(PRECISIONS), value="fp32", label="Precision", elem_id="precision"
        )
        self.seed = gr.Number(
            0, precision=0, minimum=0, maximum=2**31 - 1, label="Seed", elem_id="seed"
        )

    @property
    def how(self):
        "The controls that say how samples are drawn, as `settings` takes them."
        return [self.linked[name] for name in HOW]

    @property
    def usual(self):
        "The controls that `settings_of` takes."
        return [self.label, self.guidance, *self.how]

    def layout_buttons(self):
        with gr.Row():
            # Not before the generator's own settings stand beside it.
            self.go = gr.Button(
                "Sample", variant="primary", elem_id="go", min_width=90, interactive=False
            )
            self.dice = gr.Button("Dice", elem_id="dice", min_width=90, interactive=False)
            self.stop = gr.Button("Stop", elem_id="stop", min_width=90)
        self.sweep = gr.Button("Sweep guidance", elem_id="sweep")

    def layout_samples(self):
        self.samples = picture("samples", "Samples")
        self.message = gr.Markdown(elem_id="sample-message")
        NoGenerator(self.ctx, self.message)
        self.grid = SampleGrid(self)
        self.one = OneSample(self)

    def find(self, name):
        "The opened generator of a run; a `LookupError` says what is missing."
        run = resolve(self.ctx.runs, name)
        found = generator_for(run, self.ctx.runs)
        if found is None:
            raise LookupError(missing(run, self.ctx.runs))
        return load_run(found.path)

    def depends(self, name):
        "The generator, and its settings."
        found = generator_for(resolve(self.ctx.runs, name), self.ctx.runs)
        return found and (stamp(found), load_run(found.path).generator.guidance)

    def fit(self, name, kept):
        "The generator's classes, samplers and own settings."
        try:
            loaded = self.find(name)
        except (ValueError, LookupError):
            return {}
        g = loaded.generator
        first = next(iter(g.samplers))
        choice = g.samplers.get(kept.get("sampler"), g.samplers[first])
        ready = dict(interactive=True)
        return {
            self.label: dict(choices=list(loaded.images.class_names), value=[], **ready),
            self.guidance: dict(value=g.guidance.scale, **ready),
            self.low: dict(value=g.guidance.low, **ready),
            self.high: dict(value=g.guidance.high, **ready),
            self.sampler: dict(choices=list(g.samplers), value=first, **ready),
            self.steps: dict(value=choice.steps, **ready),
            self.temperature: dict(value=1, visible="temperature" in choice.options),
        }

    def fresh(self, name):
        "Another generator, or none: nothing that the last one has drawn stays."
        try:
            message, there = f"{plain(self.find(name).run.name)} draws.", True
        except (ValueError, LookupError) as e:
            message, there = reason(e) if name else "", False
        ready = gr.Button(interactive=there)
        blank = dict.fromkeys([self.samples, self.drawn]) | {self.asks: ""}
        return {self.go: ready, self.dice: ready, self.message: message, **blank}

    def on_link(self, number, values):
        shows = values.get("shows", [""])[-1]
        return {self.asks: f"{number} {shows if shows in PRESSED else ''}"}

    def reproduce(self, name, image, values):
        loaded = self.find(name)
        how = [values[name] for name in HOW]
        if values["shows"] == GRID:
            usual = self.settings_of(loaded, values["classes"], values["guidance"], *how)
            return grid_ways(str(loaded.run.path), *self.grid.axes(loaded, values), usual)
        y = classes_of(loaded, labels(values["classes"]), int(values["count"]))
        run, classes, how = str(loaded.run.path), y.tolist(), settings(loaded, *how)
        if values["shows"] == SWEEP:
            return sweep_ways(run, classes[:MOST_SWEPT], SCALES, how)
        how["guidance"] = values["guidance"]
        sample = min(int(values["sample"]), len(classes)) - 1
        if values["shows"] == VARIATIONS or values["variation"]:
            return variation_ways(run, classes, how, sample, values["strength"])
        sheet = sample_ways(run, loaded.generator, classes, loaded.images.class_names, **how)
        if values["film"] < 100:
            return film_ways(run, classes, how, sample, values["film"] / 100, sheet)
        return sheet

    def settings_of(self, loaded, label, guidance, *how) -> dict:
        "What `explore.sample_grid` takes for what does not vary."
        y = classes_of(loaded, labels(label), 1)
        named = (
            {"class": loaded.images.class_names[int(y[0])]} if loaded.generator.num_classes else {}
        )
        return settings(loaded, *how) | {"guidance": guidance} | named

    def on_sampler(self, name, sampler):
        try:
            choice = self.find(name).generator.samplers[sampler]
            return choice.steps, gr.Slider(visible="temperature" in choice.options)
        except (ValueError, LookupError):
            return gr.skip()

    def on_go(
        self,
        name,
        label,
        count,
        guidance,
        sampler,
        steps,
        seed,
        temperature=1,
        low=0,
        high=1,
        precision="fp32",
        session=None,
    ):
        """Samples of classes, after each step of the sampler; an end when another run is chosen, or
        when something else is to be drawn."""
        wish = Drawing(session)
        try:
            loaded = self.find(name)
            y = classes_of(loaded, labels(label), int(count))
            how = settings(loaded, sampler, steps, seed, temperature, low, high, precision)
            columns = sheet_columns(len(y), bool(labels(label)))
            drawn = Drawn(y, how | {"guidance": guidance}, columns)
            pace = StepsLeft(steps_taken(loaded, sampler, int(steps)))
            for i in drawing(loaded, drawn):
                if wish.replaced:
                    yield untouched(4)
                    return
                sheet, message = downloadable(sample_sheet(drawn), wish.made), pace.after(i)
                if wish.stopped:
                    break
                yield sheet, message, None, gr.skip()
            of = plain(drawn_of(loaded, labels(label), y))
            done = f"Done: {of}. Seed {int(seed or 0)} draws the same again."
            message = f"Stopped at {pace.place}." if wish.stopped else done
            strip = downloadable(film_strip(loaded, drawn, 0), wish.made)
            yield sheet, message, strip, (name, drawn)
        except (ValueError, LookupError) as e:
            yield None, reason(e), None, None

    def on_sweep(
        self,
        name,
        label,
        count,
        sampler,
        steps,
        seed,
        temperature,
        low,
        high,
        precision="fp32",
        session=None,
    ):
        "The same samples, one row for each guidance scale."
        wish, rows, pace = Drawing(session), "", StepsLeft(len(SCALES), "row")
        try:
            loaded = self.find(name)
            y = classes_of(loaded, labels(label), min(MOST_SWEPT, int(count)))
            how = settings(loaded, sampler, steps, seed, temperature, low, high, precision)
            for scales, x in guidance_sweep(loaded, y, SCALES, wish.goes_on, **how):
                sheet = grid(x.flatten(0, 1), len(y), max(1, 64 // x.shape[-1]))
                whole = len(scales) == len(SCALES)
                rows = "Rows, from above: guidance " + ", ".join(f"{s:g}" for s in scales)
                end = ". The noise of a column is the same."
                message = pace.after(len(scales))
                yield (
                    downloadable(sheet, wish.made),
                    rows + (end if whole else f" ... {message}"),
                    None,
                )
            if wish.replaced:
                yield untouched(3)
            elif wish.stopped:
                yield gr.skip(), f"{rows}  \nStopped at {pace.place}.".lstrip(), None
        except (ValueError, LookupError) as e:
            yield None, reason(e), None

    def wire(self):
        self.wire_settings()
        how = self.how
        what = [self.ctx.run, self.label, self.count]
        asked = [*what, self.guidance, *how, self.ctx.session]
        self.draw_after(self.go.click, asked, "sample")
        diced = self.dice.click(None, None, self.seed, js=DICE, api_name=False)
        self.draw_after(diced.then, asked, False)
        self.sweep.click(**Start(self, self.message, shows=SWEEP).event).then(
            self.on_sweep,
            [*what, *how, self.ctx.session],
            [self.samples, self.message, self.drawn],
            api_name="sweep",
            **AT_WORK,
        )
        drawn = {self.go: SAMPLES, self.dice: SAMPLES, self.sweep: SWEEP, self.grid.go: GRID}
        drawn[self.one.vary] = VARIATIONS
        for button, shown in drawn.items():
            button.click(None, None, self.grid.shows, js=f"() => '{shown}'", api_name=False)
        opened, shows = [self.samples.select, self.one.which.input], self.grid.shows
        gr.on(opened, None, shows, shows, js=OTHER, api_name=False)
        press = PRESS.replace("PRESSED", json.dumps(PRESSED))
        now = dict(trigger_mode="multiple", api_name=False)  # the last one may still be drawing
        self.asks.change(None, self.asks, None, js=press, **now)
        stops = [self.stop.click, self.grid.stop.click]
        gr.on(stops, on_stop, self.ctx.session, None, **AT_ONCE)

    def draw_after(self, event, asked, api_name):
        "Draw samples after an event, and open one of them."
        drawn = event(**Start(self, self.message, shows=SAMPLES).event).then(
            self.on_go,
            asked,
            [self.samples, self.message, self.one.strip, self.drawn],
            api_name=api_name,
            **AT_WORK,
        )
        self.one.follow(drawn.then(**self.one.opened.event))

    def wire_settings(self):
        asked = [self.ctx.run, self.sampler]
        shown = [self.steps, self.temperature]
        chosen = Newest(self.on_sampler, asked, shown, show_progress="hidden")
        self.sampler.input(**chosen.event)


def labels(chosen) -> list[str]:
    "The chosen classes; none: all in turn."
    return [chosen] if isinstance(chosen, str) else chosen or []


def settings(loaded, sampler, steps, seed, temperature, low, high, precision) -> dict:
    "The arguments of `sample_steps`; a temperature only for a sampler that has one."
    how = dict(sampler=sampler, steps=int(steps), seed=int(seed or 0), interval=(low, high))
    how["precision"] = precision
    known = getattr(loaded.generator.samplers.get(sampler), "options", ())
    if temperature != 1 and "temperature" in known:
        how["temperature"] = temperature
    return how


def sheet_columns(count: int, named: bool) -> int:
    "Rows of 10 where classes come in turn, else of 8."
    return min(count, 5 if count <= 10 else 8 if named else 10)


def drawn_of(loaded, chosen: list[str], y) -> str:
    "Which classes were drawn."
    if len(chosen) == 1:
        return f"{len(y)} of class {chosen[0]}"
    return ", ".join(loaded.images.class_names[c] for c in y.tolist())
