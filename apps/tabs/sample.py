"""Tab Sample: new images of a class, their way out of the noise, and the training images nearest
to them."""

import gradio as gr
from tabs.picker import (
    LEFT,
    QUIET,
    RIGHT,
    Newest,
    Session,
    Tab,
    failed,
    picture,
    plain,
    resolve,
    served,
    stamp,
    still,
    tiles,
)

from softvq_lab.core import PRECISIONS
from softvq_lab.data.images import grid, to_pil
from softvq_lab.explore.reproduce import sample_ways
from softvq_lab.explore.sampling import (
    Film,
    StepsLeft,
    classes_of,
    guidance_sweep,
    memorised,
    nearest_training,
    steps_taken,
)
from softvq_lab.explore.session import generator_for, open_lens, sample_steps
from softvq_lab.registry import register

ABOUT = (
    "A generator turns noise into latent tokens, step by step, and the decoder paints them. "
    "Guidance pulls towards the class: higher is clearer and less varied; 1 is none."
)
NONE = (
    "**No generator for this tokenizer yet.** Train one: "
    "`papermill nbs/train_generator.ipynb runs/g/notebook.ipynb -p tokenizer_run {}`"
)
# The last answer of what is no longer wanted: gradio sends the last one again when a handler ends,
# and another's samples may stand there by then.
UNTOUCHED = tuple(gr.skip() for _ in range(5))
SWEEP = [1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
AT_WORK = dict(
    show_progress="hidden", trigger_mode="multiple", concurrency_id="sample", concurrency_limit=2
)
AT_ONCE = dict(queue=False, trigger_mode="multiple", **QUIET)


@register("tab", "Sample", place=4)
class Sample(Tab):
    def layout(self):
        gr.Markdown(ABOUT)
        with gr.Row(elem_classes="work"):
            with gr.Column(**LEFT):
                self.layout_what()
                self.layout_how()
                self.layout_buttons()
            with gr.Column(**RIGHT):
                self.layout_samples()
        self.drawn = gr.State(None)  # (run, images (B, 3, H, W)) of the last sampling
        self.follows = [self.go, self.message, self.samples, self.strip, self.drawn]
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
            "sample": self.which,
        }

    def layout_what(self):
        # What depends on the generator is set before a person can: nothing comes late over it.
        # `on_go` checks the classes: an API client has not seen the choices.
        self.label = gr.Dropdown(
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
        self.sampler = gr.Dropdown(
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

    def layout_buttons(self):
        with gr.Row():
            # Not before the generator's own settings stand beside it.
            self.go = gr.Button(
                "Sample", variant="primary", elem_id="go", min_width=90, interactive=False
            )
            self.stop = gr.Button("Stop", elem_id="stop", min_width=90)
        self.sweep = gr.Button("Sweep guidance", elem_id="sweep")

    def layout_samples(self):
        self.samples = picture("samples", "Samples")
        self.message = gr.Markdown(elem_id="sample-message")
        gr.Markdown("The first of them, on its way out of the noise")
        self.strip = still("trajectory")
        gr.Markdown("One sample and the training images nearest to it (memorised?)")
        self.which = gr.Slider(1, 10, 1, step=1, label="Sample number", elem_id="which")
        self.near = tiles("nearest", 7, "max-content", fit_columns=False)
        self.near_says = gr.Markdown(elem_id="nearest-says")

    def find(self, name):
        "The opened generator of a run; a `LookupError` that says how to train one."
        runs = self.ctx.runs
        found = generator_for(resolve(runs, name), runs)
        if found is None:
            raise LookupError(NONE.format(plain(f"{runs}/{name}")))
        return open_lens(found.path)

    def depends(self, name):
        "The generator, and its settings."
        found = generator_for(resolve(self.ctx.runs, name), self.ctx.runs)
        return found and (stamp(found), open_lens(found.path).generator.guidance)

    def fit(self, name, kept):
        "The generator's classes, samplers and own settings."
        try:
            lens = self.find(name)
        except (ValueError, LookupError):
            return {}
        g = lens.generator
        first = next(iter(g.samplers))
        choice = g.samplers.get(kept.get("sampler"), g.samplers[first])
        ready = dict(interactive=True)
        return {
            self.label: dict(choices=list(lens.images.class_names), value=[], **ready),
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
            message, there = says(e) if name else "", False
        blank = dict.fromkeys([self.samples, self.strip, self.drawn])
        return {self.go: gr.Button(interactive=there), self.message: message, **blank}

    def reproduce(self, name, image, values):
        lens = self.find(name)
        y = classes_of(lens, labels(values["classes"]), int(values["count"]))
        keys = ("sampler", "steps", "seed", "temperature", "low", "high", "precision")
        how = settings(lens, *(values[k] for k in keys))
        guidance = values["guidance"]
        return sample_ways(str(lens.run.path), lens.generator, y.tolist(), guidance=guidance, **how)

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
        drawing = Drawing(session)
        try:
            lens, film = self.find(name), Film()
            y = classes_of(lens, labels(label), int(count))
            how = settings(lens, sampler, steps, seed, temperature, low, high, precision)
            pace = StepsLeft(steps_taken(lens, sampler, int(steps)))
            for i, x in sample_steps(lens, y, guidance=guidance, **how):
                if drawing.replaced:
                    yield UNTOUCHED
                    return
                film.add(x[0])
                sheet, told = sample_sheet(x, bool(labels(label))), pace.after(i)
                if drawing.stopped:
                    break
                yield sheet, told, None, gr.skip(), gr.skip()
            of = plain(drawn_of(lens, labels(label), y))
            done = f"Done: {of}. Seed {int(seed or 0)} draws the same again."
            yield (
                sheet,
                f"Stopped at {pace.place}." if drawing.stopped else done,
                served(film.strip(max(1, 64 // x.shape[-1]))),
                (name, x),
                gr.Slider(maximum=max(2, len(y)), value=1),
            )
        except (ValueError, LookupError) as e:
            yield None, says(e), None, None, gr.skip()

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
        drawing, rows, pace = Drawing(session), "", StepsLeft(len(SWEEP), "row")
        try:
            lens = self.find(name)
            y = classes_of(lens, labels(label), min(10, int(count)))
            how = settings(lens, sampler, steps, seed, temperature, low, high, precision)
            for scales, x in guidance_sweep(lens, y, SWEEP, drawing.goes_on, **how):
                sheet = grid(x.flatten(0, 1), len(y), max(1, 64 // x.shape[-1]))
                whole = len(scales) == len(SWEEP)
                rows = "Rows, from above: guidance " + ", ".join(f"{s:g}" for s in scales)
                end = ". The noise of a column is the same."
                told = pace.after(len(scales))
                yield served(sheet), rows + (end if whole else f" ... {told}")
            if drawing.replaced:
                yield UNTOUCHED[:2]
            elif drawing.stopped:
                yield gr.skip(), f"{rows}  \nStopped at {pace.place}.".lstrip()
        except (ValueError, LookupError) as e:
            yield None, says(e)

    def on_near(self, drawn, which):
        "The training images nearest to a sample of the last sampling."
        if drawn is None:
            return [], ""
        try:
            name, x = drawn
            chosen = x[min(int(which), len(x)) - 1]
            found = nearest_training(self.find(name), chosen)
        except (ValueError, LookupError) as e:
            return [], says(e)
        near = [(served(p), f"{c}: {d:.2f}") for _, c, d, p in found["nearest"]]
        return [(served(to_pil(chosen)), "sample"), *near], plain(memorised(found))

    def wire(self):
        self.wire_settings()
        how = [self.sampler, self.steps, self.seed, self.temperature, self.low, self.high]
        how.append(self.precision)
        what = [self.ctx.run, self.label, self.count]
        running = self.go.click(on_start, self.ctx.session, self.message, **AT_ONCE).then(
            self.on_go,
            [*what, self.guidance, *how, self.ctx.session],
            [self.samples, self.message, self.strip, self.drawn, self.which],
            api_name="sample",
            **AT_WORK,
        )
        self.sweep.click(on_start, self.ctx.session, self.message, **AT_ONCE).then(
            self.on_sweep,
            [*what, *how, self.ctx.session],
            [self.samples, self.message],
            api_name="sweep",
            **AT_WORK,
        )
        self.stop.click(on_stop, self.ctx.session, None, **AT_ONCE)
        compare = Newest(self.on_near, [self.drawn, self.which], [self.near, self.near_says]).event
        gr.on([self.of_run.change, self.which.input], **compare)
        running.then(**compare)

    def wire_settings(self):
        asked = [self.ctx.run, self.sampler]
        shown = [self.steps, self.temperature]
        chosen = Newest(self.on_sampler, asked, shown, show_progress="hidden")
        self.sampler.input(**chosen.event)


class Drawing:
    """What a page has asked to be drawn, the newest of it. An API client has no session.

    Gradio's own way to cancel would leave the page as it was at that moment, without a word.
    """

    def __init__(self, session: Session | None):
        self.session = session or Session()
        self.run, self.session.sampling = self.session.marks.get("sample"), self

    @property
    def replaced(self) -> bool:
        "Was another run chosen, or something else asked for?"
        now = self.session
        return now.sampling is not self or now.marks.get("sample") != self.run

    @property
    def stopped(self) -> bool:
        "Was it stopped by the button?"
        return self.session.stopped and not self.replaced

    def goes_on(self) -> bool:
        return not (self.stopped or self.replaced)


def on_start(session):
    "Whatever was being drawn is not wanted any more."
    session.sampling, session.stopped = None, False
    return "Starting ..."


def on_stop(session):
    "What is being drawn ends after its step, and says so itself."
    session.stopped = True


def says(e: Exception) -> str:
    return str(e) if isinstance(e, LookupError) else failed(e)


def labels(chosen) -> list[str]:
    "The chosen classes; none: all in turn."
    return [chosen] if isinstance(chosen, str) else chosen or []


def settings(lens, sampler, steps, seed, temperature, low, high, precision) -> dict:
    "The arguments of `sample_steps`; a temperature only for a sampler that has one."
    how = dict(sampler=sampler, steps=int(steps), seed=int(seed or 0), interval=(low, high))
    how["precision"] = precision
    known = getattr(lens.generator.samplers.get(sampler), "options", ())
    if temperature != 1 and "temperature" in known:
        how["temperature"] = temperature
    return how


def sample_sheet(x, named: bool) -> str:
    "Samples (B, 3, H, W) as one picture: rows of 10 where classes come in turn, else of 8."
    wide = 8 if named else 10
    return served(grid(x, min(len(x), 5 if len(x) <= 10 else wide), max(1, 96 // x.shape[-1])))


def drawn_of(lens, chosen: list[str], y) -> str:
    "Which classes were drawn."
    if len(chosen) == 1:
        return f"{len(y)} of class {chosen[0]}"
    return ", ".join(lens.images.class_names[c] for c in y.tolist())
