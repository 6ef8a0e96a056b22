"""Tab Latent map: where images lie among each other, and what lies between two of them."""

from functools import lru_cache

import gradio as gr
from tabs.picker import Newest, failed, picture, plain, resolve, served

from softvq_lab.data.images import grid, to_pil
from softvq_lab.experiments.execute import Job
from softvq_lab.experiments.job import output_of, progress, start
from softvq_lab.explore.latent_map import (
    SIDE,
    draw,
    latent_path,
    picture_of,
    read_atlas,
    thumbnails,
)
from softvq_lab.explore.session import enlarge, open_lens

AT_WORK = ("queued", "running")
NONE = "**No map of this run yet.** Compute one: a separate process that takes about a minute for a thousand small images. You may leave the page meanwhile."
HINT = "Hover over a point to see its image; click one, and it is the image that *Reconstruct* shows. The last two clicked are the ends of the way below."
CSS = " .map-tip {position: fixed; display: none; pointer-events: none; z-index: 50; border: 2px solid #888; border-radius: 4px; background: #fff; image-rendering: pixelated} #map-hook {min-height: 0 !important; padding: 0 !important}"
HOOK = """
let bound = null;
const hook = () => {
  const plot = document.querySelector('#map-plot .js-plotly-plot');
  if (!plot || plot === bound || !plot.on) return;
  bound = plot;
  plot.on('plotly_hover', e => {
    const tip = element.querySelector('.map-tip'), n = e.points[0].customdata, s = props.value;
    if (!tip || !s || !s.url || n >= s.count) return;
    const k = 2 * s.side;
    Object.assign(tip.style, {display: 'block', width: k + 'px', height: k + 'px', backgroundImage: `url("${s.url}")`, backgroundSize: `${k * s.columns}px auto`,
      backgroundPosition: `-${k * (n % s.columns)}px -${k * Math.floor(n / s.columns)}px`, left: Math.min(e.event.clientX + 16, window.innerWidth - k - 8) + 'px', top: Math.max(8, e.event.clientY - k - 16) + 'px'});
  });
  plot.on('plotly_unhover', () => { const tip = element.querySelector('.map-tip'); if (tip) tip.style.display = 'none'; });
  plot.on('plotly_click', e => trigger('select', {index: e.points[0].customdata}));
};
setInterval(hook, 250);
"""  # gr.Plot has no event of its own for a point


@lru_cache(maxsize=4)
def _sheet(path: str, when: float, indices: tuple[int, ...]) -> tuple[str, int]:
    sheet, columns = thumbnails(open_lens(path), list(indices))
    return sheet, columns


def _key(lens, index: int) -> str:
    "What the other tabs call this picture."
    return (
        f"heldout:{index}"
        if index < len(lens.images.heldout)
        else f"file:{served(to_pil(picture_of(lens, index)))}"
    )


def build(ctx):
    gr.Markdown(
        "Every dot is an image: UMAP lays images with similar latents side by side. Who neighbours whom means something; the distance between islands means little."
    )
    with gr.Row():
        which = gr.Dropdown([], label="Map", elem_id="map-which", min_width=160)
        colour = gr.Dropdown(
            ["class"], value="class", label="Colour", elem_id="map-colour", min_width=160
        )
        pictures = gr.Slider(
            3, 16, 8, step=1, label="Pictures on the way", elem_id="map-pictures", min_width=200
        )
    message = gr.Markdown(elem_id="map-message")
    plot = gr.Plot(show_label=False, elem_id="map-plot", visible=False)
    hook = gr.HTML(
        value={}, html_template='<div class="map-tip"></div>', js_on_load=HOOK, elem_id="map-hook"
    )
    with gr.Row(visible=False) as found:
        with gr.Column(scale=3, min_width=280):
            way = picture(
                "map-way", "From one to the other: the straight line between their latents, decoded"
            )
        with gr.Column(scale=1, min_width=180):
            chosen = gr.Markdown(elem_id="map-chosen")
            swap = gr.Button("Turn round", size="sm", elem_id="map-swap")
            show = gr.Button(
                "Show in Reconstruct", variant="primary", size="sm", elem_id="map-show"
            )
    with gr.Accordion("Compute the map", open=False, elem_id="map-compute") as compute:
        with gr.Row():
            neighbours = gr.Number(
                15,
                precision=0,
                label="Neighbours",
                info="few show local, many global structure",
                elem_id="map-neighbors",
                min_width=140,
            )
            images = gr.Number(
                1000,
                precision=0,
                label="Images",
                info="at most so many, held-out ones first",
                elem_id="map-images",
                min_width=140,
            )
            seed = gr.Number(0, precision=0, label="Seed", elem_id="map-seed", min_width=100)
        go = gr.Button("Compute", elem_id="map-go")
    ends = gr.State([])  # indices of the last two points that were clicked
    seen = gr.State("")  # state of the job when the page last looked
    timer = gr.Timer(2, active=False)

    def overlay(lens, atlas):
        path = lens.run.path / "evaluation" / "latent_map.json"
        sheet, columns = _sheet(str(lens.run.path), path.stat().st_mtime, tuple(atlas.indices))
        return {
            "url": f"gradio_api/file={served(sheet)}",
            "side": SIDE,
            "columns": columns,
            "count": len(atlas.indices),
        }

    def says(lens, atlas):
        old = (
            f"  \n**The map is of other weights** ({plain(atlas.tokenizer)}, the run now has {plain(lens.tokenizer.fingerprint)}): compute it again."
            if atlas.tokenizer != lens.tokenizer.fingerprint
            else ""
        )
        return f"{HINT}  \n{plain(atlas.about)}.{old}"

    def on_run(name):
        "Another run: its map, or how to get one."
        hidden = lambda text, wanted=True: (
            gr.Dropdown(choices=[], value=None),
            gr.Dropdown(choices=["class"], value="class"),
            text,
            gr.Plot(value=None, visible=False),
            {},
            gr.Row(visible=False),
            gr.Accordion(open=wanted),
            [],
            None,
            "",
            gr.Timer(active=True),
            "",
        )
        if not name:
            return hidden("", False)
        try:
            run = resolve(ctx.runs, name)
            if run.kind == "generator":
                return hidden(
                    "This run is a generator: the map is its tokenizer's. Choose that run above.",
                    False,
                )
            atlas = read_atlas(run)
            if atlas is None:
                return hidden(NONE)
            lens = open_lens(run.path)
            first = "z" if "z" in atlas.maps else next(iter(atlas.maps))
            return (
                gr.Dropdown(choices=list(atlas.maps), value=first),
                gr.Dropdown(choices=["class", *atlas.figures], value="class"),
                says(lens, atlas),
                gr.Plot(value=draw(atlas, first), visible=True),
                overlay(lens, atlas),
                gr.Row(visible=True),
                gr.Accordion(open=False),
                [],
                None,
                "Click two points.",
                gr.Timer(active=True),
                "",
            )
        except ValueError as e:
            return hidden(failed(e))

    def on_look(name, which, colour):
        try:
            return draw(read_atlas(resolve(ctx.runs, name)), which, colour)
        except (ValueError, AttributeError):
            return gr.skip()

    def path_of(name, ends, pictures):
        "The way between the ends as a picture, and what they are."
        lens = open_lens(resolve(ctx.runs, name).path)
        atlas = read_atlas(lens.run)
        named = lambda n: (
            f"{plain(atlas.classes[n])} ({'held-out' if atlas.indices[n] < len(lens.images.heldout) else 'training'})"
        )
        xs = [picture_of(lens, atlas.indices[n]) for n in ends]
        if len(xs) < 2:
            return served(
                enlarge(to_pil(xs[0]), 160)
            ), f"First: class {named(ends[0])}.  \nNow click a second point."
        x = latent_path(lens, *xs, int(pictures))
        return served(
            grid(x, min(len(x), 8), max(1, 96 // x.shape[-1]))
        ), f"From class {named(ends[0])}  \nto class {named(ends[1])}"

    def on_click(name, ends, pictures, event: gr.EventData):
        try:
            lens = open_lens(resolve(ctx.runs, name).path)
            atlas, n = read_atlas(lens.run), int(event.index)
            if atlas is None or not 0 <= n < len(atlas.indices):
                return gr.skip()
            ends = [*ends, n][-2:]
            return ends, [_key(lens, atlas.indices[n])], *path_of(name, ends, pictures)
        except (ValueError, TypeError, AttributeError) as e:
            return gr.skip(), gr.skip(), None, failed(e)

    def on_way(name, ends, pictures):
        try:
            return path_of(name, ends, pictures) if ends else gr.skip()
        except (ValueError, IndexError, AttributeError) as e:
            return None, failed(e)

    def on_go(name, neighbours, images, seed):
        try:
            start(
                "latent_map",
                open_lens(resolve(ctx.runs, name).path).run.path,
                {"neighbors": neighbours, "images": images, "seed": seed},
            )
            return "The map is being computed ...", gr.Timer(active=True), "running"
        except ValueError as e:
            return failed(e).replace("\n", "  \n"), gr.skip(), gr.skip()

    def on_tick(name, seen):
        "Progress of the job, if there is one; True for a map that has come since."
        try:
            run = resolve(ctx.runs, name)
        except ValueError:
            return gr.skip(), gr.Timer(active=False), "", gr.skip()
        job = Job(output_of(run, "latent_map"))
        state = job.info["state"]
        if state in AT_WORK:
            done, of, unit = progress(job)
            return (
                f"The map is being computed: {unit} {done} of {of or '?'}. You may leave the page.",
                gr.skip(),
                state,
                gr.skip(),
            )
        if seen in AT_WORK:
            if state == "done":
                return gr.skip(), gr.Timer(active=False), state, name
            return (
                f"**The map was not computed ({state}).** The tab *Runs* has the log.",
                gr.Timer(active=False),
                state,
                gr.skip(),
            )
        return gr.skip(), gr.Timer(active=False), state, gr.skip()

    again = gr.Textbox(visible=False)  # the name of the run whose map has just come
    out = [which, colour, message, plot, hook, found, compute, ends, way, chosen, timer, seen]
    hidden = dict(show_progress="hidden")
    mapped = Newest(on_run, ctx.run, out, **hidden)
    ctx.run.change(**mapped.event)
    again.change(
        lambda name: (*(on_run(name) if name else [gr.skip()] * len(out)), ""),
        again,
        [*out, again],
        show_progress="hidden",
        api_name=False,
    )
    colours = Newest(on_look, [ctx.run, which, colour], plot, (mapped,), **hidden)
    gr.on([which.input, colour.input], **colours.event)
    hook.select(
        on_click,
        [ctx.run, ends, pictures],
        [ends, ctx.images, way, chosen],
        show_progress="hidden",
        trigger_mode="always_last",
        api_name=False,
    )
    walk = Newest(on_way, [ctx.run, ends, pictures], [way, chosen], (mapped,), **hidden).event
    pictures.change(**walk)
    swap.click(lambda ends: ends[::-1], ends, ends, api_name=False, **hidden).then(**walk)
    go.click(
        on_go,
        [ctx.run, neighbours, images, seed],
        [message, timer, seen],
        show_progress="minimal",
        api_name="latent_map",
    )
    timer.tick(
        on_tick,
        [ctx.run, seen],
        [message, timer, seen, again],
        show_progress="hidden",
        api_name=False,
    )
    show.click(
        lambda: (gr.Tabs(selected="reconstruct"), "reconstruct"),
        None,
        [ctx.tabs, ctx.tab],
        show_progress="hidden",
        api_name=False,
    )
