"""Tab Sample: new images of a class, seen as they come out of the noise; where they came from, and whether they are only remembered."""

import gradio as gr
from tabs.picker import Context, Newest, View, failed, picture, plain, resolve, served

from softvq_lab.data.images import grid, to_pil
from softvq_lab.explore.sampling import (
    Film,
    classes_of,
    guidance_sweep,
    memorised,
    nearest_training,
)
from softvq_lab.explore.session import generator_for, open_lens, sample_steps

EACH = "one of each class"
NONE = "**No generator for this tokenizer yet.** Train one: `papermill nbs/train_generator.ipynb runs/g/notebook.ipynb -p tokenizer_run {}`"
SWEEP = [1.0, 1.5, 2.0, 3.0, 4.0, 6.0]


def build(ctx: Context):
    gr.Markdown(
        "A generator turns noise into latent tokens, step by step, and the decoder paints them. Guidance pulls towards the class: higher is clearer and less varied; 1 is none."
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            label = gr.Dropdown(
                [],
                value=[],
                multiselect=True,
                label="Classes (none: one of each in turn)",
                elem_id="class",
                allow_custom_value=True,
            )  # on_go checks it: an API client has not seen the choices
            count = gr.Slider(1, 32, 10, step=1, label="Images", elem_id="count")
            guidance = gr.Slider(1, 8, 1.75, step=0.05, label="Guidance", elem_id="guidance")
            with gr.Accordion("Where guidance acts (t: 1 is noise, 0 the latent)", open=False):
                low, high = (
                    gr.Slider(0, 1, 0, step=0.05, label="From t", elem_id="low"),
                    gr.Slider(0, 1, 1, step=0.05, label="to t", elem_id="high"),
                )
            sampler = gr.Dropdown(
                ["heun"], value="heun", label="Sampler", elem_id="sampler", allow_custom_value=True
            )  # the generator's; on_go checks it
            steps = gr.Slider(1, 250, 25, step=1, label="Steps", elem_id="steps")
            temperature = gr.Slider(
                0, 2, 1, step=0.05, label="Temperature", elem_id="temperature", visible=False
            )  # of samplers that have one
            seed = gr.Number(
                0, precision=0, minimum=0, maximum=2**31 - 1, label="Seed", elem_id="seed"
            )
            with gr.Row():
                go = gr.Button(
                    "Sample", variant="primary", elem_id="go", min_width=90, interactive=False
                )  # until the generator's own settings stand beside it
                stop = gr.Button("Stop", elem_id="stop", min_width=90)
            sweep = gr.Button("Sweep guidance", elem_id="sweep")
        with gr.Column(scale=5, min_width=300):
            samples = picture("samples", "Samples")
            message = gr.Markdown(elem_id="sample-message")
            gr.Markdown("The first of them, on its way out of the noise")
            strip = gr.Image(
                show_label=False,
                format="png",
                interactive=False,
                buttons=["download"],
                elem_id="trajectory",
                elem_classes="pixel",
            )
            gr.Markdown("One sample and the training images nearest to it (memorised?)")
            which = gr.Slider(1, 10, 1, step=1, label="Sample number", elem_id="which")
            near = gr.Gallery(
                show_label=False,
                columns=7,
                height=150,
                allow_preview=False,
                object_fit="contain",
                elem_id="nearest",
                elem_classes="pixel",
                buttons=[],
            )
            near_says = gr.Markdown(elem_id="nearest-says")
    drawn = gr.State(None)  # (run, images (B, 3, H, W)) of the last sampling
    view = gr.State(View())  # gradio gives each session a copy

    def find(name):
        source = resolve(ctx.runs, name)
        found = generator_for(source, ctx.runs)
        if found is None:
            raise LookupError(NONE.format(plain(f"{ctx.runs}/{name}")))
        return open_lens(found.path)

    def on_run(name, tab, number, view):
        "Settings of the run's generator; what a person has drawn or set meanwhile stays."
        unchanged = [gr.skip()] * 11
        if tab != "sample" or not view.begin(name):
            return unchanged
        try:
            answer = (number, *filled(find(name)))
        except (ValueError, LookupError) as e:
            answer = (number, *emptied(says(e) if name else ""))
            if not view.left(name):
                view.forget()  # a generator may be trained meanwhile
                return answer
        return unchanged if view.left(name) or view.in_use(name) else answer

    def filled(lens):
        g = lens.generator
        first = next(iter(g.samplers))
        return (
            gr.Dropdown(choices=list(lens.images.class_names), value=[]),
            g.guidance.scale,
            g.guidance.low,
            g.guidance.high,
            gr.Dropdown(choices=list(g.samplers), value=first),
            g.samplers[first].steps,
            gr.Slider(value=1, visible="temperature" in g.samplers[first].options),
            gr.Button(interactive=True),
            None,
            "",
        )

    def emptied(message):
        return (
            gr.Dropdown(choices=[], value=[]),
            *[gr.skip()] * 6,
            gr.Button(interactive=False),
            None,
            message,
        )

    def says(e):
        return str(e) if isinstance(e, LookupError) else failed(e)

    def on_sampler(name, sampler):
        try:
            choice = find(name).generator.samplers[sampler]
            return choice.steps, gr.Slider(visible="temperature" in choice.options)
        except (ValueError, LookupError):
            return gr.skip(), gr.skip()

    def settings(lens, sampler, steps, seed, temperature, low, high):
        told = (
            {}
            if temperature == 1
            or "temperature" not in getattr(lens.generator.samplers.get(sampler), "options", ())
            else {"temperature": temperature}
        )
        return dict(
            sampler=sampler, steps=int(steps), seed=int(seed or 0), interval=(low, high), **told
        )

    def labels(lens, label):
        chosen = [label] if isinstance(label, str) else label or []
        return [] if chosen == [EACH] else chosen

    def on_go(
        name, label, count, guidance, sampler, steps, seed, temperature=1, low=0, high=1, view=None
    ):
        "Samples of classes, after each step of the sampler; an end when another run is chosen."
        view = view or View()
        view.use(name)
        try:
            lens = find(name)
            chosen, names = labels(lens, label), lens.images.class_names
            y, film = classes_of(lens, chosen, max(1, min(64, int(count)))), Film()
            columns = min(len(y), 5 if len(y) <= 10 else 8 if chosen else 10)
            for i, x in sample_steps(
                lens,
                y,
                guidance=guidance,
                **settings(lens, sampler, steps, seed, temperature, low, high),
            ):
                if view.left(name):
                    return
                film.add(x[0])
                sheet = served(grid(x, columns, max(1, 96 // x.shape[-1])))
                yield sheet, f"step {i}", None, gr.skip(), gr.skip()
            told = (
                ", ".join(names[c] for c in y.tolist())
                if len(chosen) != 1
                else f"{len(y)} of class {chosen[0]}"
            )
            yield (
                sheet,
                f"Done: {plain(told)}. Seed {int(seed or 0)} draws the same again.",
                served(film.strip(max(1, 64 // x.shape[-1]))),
                (name, x),
                gr.Slider(maximum=max(2, len(y)), value=1),
            )
        except (ValueError, LookupError) as e:
            yield None, says(e), None, None, gr.skip()

    def on_sweep(name, label, count, sampler, steps, seed, temperature, low, high, view=None):
        "The same samples, one row for each guidance scale."
        view = view or View()
        view.use(name)
        try:
            lens = find(name)
            y = classes_of(lens, labels(lens, label), min(10, int(count)))
            for scales, x in guidance_sweep(
                lens, y, SWEEP, **settings(lens, sampler, steps, seed, temperature, low, high)
            ):
                if view.left(name):
                    return
                yield (
                    served(grid(x.flatten(0, 1), len(y), max(1, 64 // x.shape[-1]))),
                    "Rows, from above: guidance "
                    + ", ".join(f"{s:g}" for s in scales)
                    + (
                        ". The noise of a column is the same."
                        if len(scales) == len(SWEEP)
                        else " ..."
                    ),
                )
        except (ValueError, LookupError) as e:
            yield None, says(e)

    def on_near(drawn, which):
        "The training images nearest to a sample of the last sampling."
        if drawn is None:
            return [], ""
        try:
            name, x = drawn
            lens = find(name)
            chosen = x[min(int(which), len(x)) - 1]
            found = nearest_training(lens, chosen)
            return [
                (served(to_pil(chosen)), "sample"),
                *((served(p), f"{c}: {d:.2f}") for _, c, d, p in found["nearest"]),
            ], plain(memorised(found))
        except (ValueError, LookupError) as e:
            return [], says(e)

    asked = [seed, label, guidance, low, high, sampler, steps, temperature, go, samples, message]
    gr.on(
        [ctx.run.change, ctx.tab.change],
        on_run,
        [ctx.run, ctx.tab, ctx.seed, view],
        asked,
        show_progress="hidden",
        api_name=False,
    )
    chosen = Newest(on_sampler, [ctx.run, sampler], [steps, temperature], show_progress="hidden")
    sampler.input(**chosen.event)
    how = [sampler, steps, seed, temperature, low, high]
    running = go.click(
        on_go,
        [ctx.run, label, count, guidance, *how, view],
        [samples, message, strip, drawn, which],
        show_progress="minimal",
        concurrency_id="sample",
        concurrency_limit=2,
        api_name="sample",
    )
    sweeping = sweep.click(
        on_sweep,
        [ctx.run, label, count, *how, view],
        [samples, message],
        show_progress="minimal",
        concurrency_id="sample",
        concurrency_limit=2,
        api_name="sweep",
    )
    stop.click(lambda: "Stopped.", None, message, cancels=[running, sweeping], api_name=False)
    compare = Newest(on_near, [drawn, which], [near, near_says]).event
    gr.on([drawn.change, which.input], **compare)
    ctx.seed.change(lambda s: s, ctx.seed, seed, show_progress="hidden", api_name=False)
    seed.input(lambda s: int(s or 0), seed, ctx.seed, show_progress="hidden", api_name=False)
