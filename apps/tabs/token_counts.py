"""Tab Token counts: the same image from fewer and fewer tokens, and what that costs on the held-out set."""

import gradio as gr
from tabs.picker import Context, Newest, Chooser, failed, focus, plain, resolve, served

from softvq_lab.data.datasets import to_pil
from softvq_lab.explore.latent_map import adapt
from softvq_lab.explore.session import chosen_image, enlarge, open_lens
from softvq_lab.explore.token_counts import (
    one_image,
    rate_distortion,
    rate_distortion_figure,
    token_counts,
)
from softvq_lab.hub.models import find_tokenizer
from softvq_lab.runs import Run

ALONE = (
    "*No other run differs from this one in the number of tokens only. Train one: the same command with another `-p tokens`, and a folder of its own. "
    "Or train a single run that decodes its first k tokens for any k: `-p keep uniform`.*"
)


def build(ctx: Context):
    gr.Markdown(
        "How many tokens does an image need? The runs that differ from the chosen one in the number of tokens only, and the first k tokens of a run trained with `keep=uniform`, on one image and over the held-out set."
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            Chooser(ctx, "tc", height=260)
        with gr.Column(scale=5, min_width=300):
            message = gr.Markdown(elem_id="tc-message")
            gallery = gr.Gallery(
                show_label=False,
                columns=4,
                height="max-content",
                fit_columns=False,
                allow_preview=False,
                object_fit="contain",
                elem_id="tc-rows",
                elem_classes="pixel",
                buttons=[],
            )
            metric = gr.Radio(
                [("PSNR", "psnr"), ("SSIM", "ssim")],
                value="psnr",
                label="Rate and distortion over the held-out set",
                elem_id="tc-metric",
            )
            plot = gr.Plot(show_label=False, elem_id="tc-curve")
            table = gr.Dataframe(
                headers=["run", "tokens", "numbers", "PSNR", "SSIM", "images", "figures"],
                interactive=False,
                elem_id="tc-table",
            )
    rows = gr.State([])

    def counts_of(name):
        run = resolve(ctx.runs, name)
        lens = open_lens(run.path)
        if lens.generator is not None:  # the tokens are its tokenizer's
            run = Run(find_tokenizer(run.path))
        return lens, *token_counts(run, ctx.runs)

    def show(name, images, tab):
        if tab != "token-counts":
            return gr.skip(), gr.skip()
        if not name:
            return [], ""
        try:
            lens, counts, says = counts_of(name)
            tiles = [(served(enlarge(to_pil(chosen_image(lens, focus(images))), 160)), "original")]
            for c, r in zip(counts, one_image(counts, lens, focus(images))):
                tiles += [
                    (
                        served(enlarge(r["reconstruction"], 160)),
                        f"{c.tokens}: {r['figures']['psnr']:.1f} dB",
                    )
                ]
            return tiles, "  \n".join(
                [*([ALONE] if len(counts) < 2 else []), *(f"Left out: {plain(s)}" for s in says)]
            )
        except ValueError as e:
            return [], failed(e)

    def curve(name, tab, metric):
        "Over the held-out set: stored figures where they are, measured now where not."
        if tab != "token-counts":
            return gr.skip(), gr.skip(), gr.skip()
        try:
            if not name:
                return None, [], []
            found = rate_distortion(counts_of(name)[1])
            return (
                adapt(rate_distortion_figure(found, metric)),
                [
                    [
                        r["name"],
                        r["tokens"],
                        r["numbers"],
                        round(r["psnr"], 2),
                        None if r["ssim"] is None else round(r["ssim"], 4),
                        r["images"],
                        r["source"],
                    ]
                    for r in found
                ],
                found,
            )
        except ValueError:
            return None, [], []

    def on_metric(found, metric):
        return adapt(rate_distortion_figure(found, metric)) if found else None

    draw = Newest(show, [ctx.run, ctx.images, ctx.tab], [gallery, message]).event
    gr.on([ctx.run.change, ctx.images.change, ctx.tab.change], **draw)
    measure = Newest(curve, [ctx.run, ctx.tab, metric], [plot, table, rows])
    gr.on([ctx.run.change, ctx.tab.change], **measure.event)
    metric.input(**Newest(on_metric, [rows, metric], plot, (measure,)).event)
