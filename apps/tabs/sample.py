"""Tab Sample: new images of a class, their way out of the noise, and the training images nearest
to them."""

import gradio as gr
from tabs.picker import (
    LEFT,
    QUIET,
    RIGHT,
    Newest,
    Tab,
    View,
    failed,
    picture,
    plain,
    resolve,
    served,
    still,
    tiles,
)

from softvq_lab.core import PRECISIONS
from softvq_lab.data.images import grid, to_pil
from softvq_lab.explore.sampling import (
    Film,
    classes_of,
    guidance_sweep,
    memorised,
    nearest_training,
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
SWEEP = [1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
AT_WORK = dict(show_progress="minimal", concurrency_id="sample", concurrency_limit=2)


@register("tab", "Sample", place=4)
class Sample(Tab):
    def layout(self):
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column(**LEFT):
                self.layout_what()
                self.layout_how()
                self.layout_buttons()
            with gr.Column(**RIGHT):
                self.layout_samples()
        self.drawn = gr.State(None)  # (run, images (B, 3, H, W)) of the last sampling
        self.view = gr.State(View())  # gradio gives each session a copy

    def layout_what(self):
        # `on_go` checks the classes: an API client has not seen the choices.
        self.label = gr.Dropdown(
            [],
            value=[],
            multiselect=True,
            label="Classes (none: one of each in turn)",
            elem_id="class",
            allow_custom_value=True,
        )
        self.count = gr.Slider(1, 32, 10, step=1, label="Images", elem_id="count")
        self.guidance = gr.Slider(1, 8, 1.75, step=0.05, label="Guidance", elem_id="guidance")
        with gr.Accordion("Where guidance acts (t: 1 is noise, 0 the latent)", open=False):
            self.low = gr.Slider(0, 1, 0, step=0.05, label="From t", elem_id="low")
            self.high = gr.Slider(0, 1, 1, step=0.05, label="to t", elem_id="high")

    def layout_how(self):
        # The generator's samplers are not known yet; `on_go` checks the choice.
        self.sampler = gr.Dropdown(
            ["heun"], value="heun", label="Sampler", elem_id="sampler", allow_custom_value=True
        )
        self.steps = gr.Slider(1, 250, 25, step=1, label="Steps", elem_id="steps")
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
        self.near = tiles("nearest", 7, 150)
        self.near_says = gr.Markdown(elem_id="nearest-says")

    def find(self, name):
        "The opened generator of a run; a `LookupError` that says how to train one."
        runs = self.ctx.runs
        found = generator_for(resolve(runs, name), runs)
        if found is None:
            raise LookupError(NONE.format(plain(f"{runs}/{name}")))
        return open_lens(found.path)

    def on_run(self, name, tab, number, view):
        "Settings of the run's generator; what a person has drawn or set meanwhile stays."
        if tab != "sample" or not view.begin(name):
            return gr.skip()
        try:
            answer = self.filled(self.find(name))
        except (ValueError, LookupError) as e:
            answer = self.emptied(says(e) if name else "")
            if not view.left(name):
                view.forget()  # a generator may be trained meanwhile
                return {self.seed: number, **answer}
        unwanted = view.left(name) or view.in_use(name)
        return gr.skip() if unwanted else {self.seed: number, **answer}

    def filled(self, lens):
        "The settings of an opened generator."
        g = lens.generator
        name, first = next(iter(g.samplers.items()))
        return {
            self.label: gr.Dropdown(choices=list(lens.images.class_names), value=[]),
            self.guidance: g.guidance.scale,
            self.low: g.guidance.low,
            self.high: g.guidance.high,
            self.sampler: gr.Dropdown(choices=list(g.samplers), value=name),
            self.steps: first.steps,
            self.temperature: gr.Slider(value=1, visible="temperature" in first.options),
            self.go: gr.Button(interactive=True),
            self.message: f"{plain(lens.run.name)} draws.",
            **self.cleared(),
        }

    def emptied(self, message):
        "The tab without a generator."
        return {
            self.label: gr.Dropdown(choices=[], value=[]),
            self.go: gr.Button(interactive=False),
            self.message: message,
            **self.cleared(),
        }

    def cleared(self):
        "Nothing that another generator has drawn stays; without `drawn`, nothing is near it."
        return {self.samples: None, self.strip: None, self.drawn: None}

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
        view=None,
    ):
        "Samples of classes, after each step of the sampler; an end when another run is chosen."
        view = view or View()
        view.use(name)
        try:
            lens, film = self.find(name), Film()
            y = classes_of(lens, labels(label), max(1, min(64, int(count))))
            how = settings(lens, sampler, steps, seed, temperature, low, high, precision)
            for i, x in sample_steps(lens, y, guidance=guidance, **how):
                if view.left(name):
                    return
                film.add(x[0])
                sheet = sample_sheet(x, bool(labels(label)))
                yield sheet, f"step {i}", None, gr.skip(), gr.skip()
            yield (
                sheet,
                f"Done: {plain(drawn_of(lens, labels(label), y))}. "
                f"Seed {int(seed or 0)} draws the same again.",
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
        view=None,
    ):
        "The same samples, one row for each guidance scale."
        view = view or View()
        view.use(name)
        try:
            lens = self.find(name)
            y = classes_of(lens, labels(label), min(10, int(count)))
            how = settings(lens, sampler, steps, seed, temperature, low, high, precision)
            for scales, x in guidance_sweep(lens, y, SWEEP, **how):
                if view.left(name):
                    return
                sheet = grid(x.flatten(0, 1), len(y), max(1, 64 // x.shape[-1]))
                whole = len(scales) == len(SWEEP)
                rows = "Rows, from above: guidance " + ", ".join(f"{s:g}" for s in scales)
                end = ". The noise of a column is the same." if whole else " ..."
                yield served(sheet), rows + end
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
        running = self.go.click(
            self.on_go,
            [*what, self.guidance, *how, self.view],
            [self.samples, self.message, self.strip, self.drawn, self.which],
            api_name="sample",
            **AT_WORK,
        )
        sweeping = self.sweep.click(
            self.on_sweep,
            [*what, *how, self.view],
            [self.samples, self.message],
            api_name="sweep",
            **AT_WORK,
        )
        both = [running, sweeping]
        self.stop.click(lambda: "Stopped.", None, self.message, cancels=both, api_name=False)
        compare = Newest(self.on_near, [self.drawn, self.which], [self.near, self.near_says]).event
        gr.on([self.drawn.change, self.which.input], **compare)

    def wire_settings(self):
        ctx, seed, steps, temperature = self.ctx, self.seed, self.steps, self.temperature
        settings = [self.label, self.guidance, self.low, self.high, self.sampler]
        shown = [seed, *settings, steps, temperature, self.go, self.message]
        shown += [self.samples, self.strip, self.drawn]
        changes = [ctx.run.change, ctx.tab.change]
        gr.on(changes, self.on_run, [ctx.run, ctx.tab, ctx.seed, self.view], shown, **QUIET)
        asked = [ctx.run, self.sampler]
        chosen = Newest(self.on_sampler, asked, [steps, temperature], show_progress="hidden")
        self.sampler.input(**chosen.event)
        ctx.seed.change(lambda s: s, ctx.seed, seed, **QUIET)
        seed.input(lambda s: int(s or 0), seed, ctx.seed, **QUIET)


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
