"""Tab Token counts: one image from fewer and fewer tokens, and what that costs over all images."""

import gradio as gr
from tabs.picker import (
    LEFT,
    RIGHT,
    Chooser,
    Newest,
    Tab,
    failed,
    focus,
    plain,
    resolve,
    served,
    stamp,
    tiles,
)

from softvq_lab.data.images import to_pil
from softvq_lab.explore.latent_map import adapt
from softvq_lab.explore.reproduce import count_ways
from softvq_lab.explore.session import chosen_image, enlarge, open_lens
from softvq_lab.explore.token_counts import (
    one_image,
    rate_distortion,
    rate_distortion_figure,
    token_counts,
)
from softvq_lab.hub.models import find_tokenizer
from softvq_lab.registry import register
from softvq_lab.runs import Run, list_runs

ABOUT = (
    "How many tokens does an image need? The runs that differ from the chosen one in the number "
    "of tokens only, and the first k tokens of a run trained with `keep=uniform`, on one image "
    "and over the held-out set."
)
ALONE = (
    "*No other run differs from this one in the number of tokens only. Train one: the same command "
    "with another `-p tokens`, and a folder of its own. "
    "Or train a single run that decodes its first k tokens for any k: `-p keep uniform`.*"
)


@register("tab", "Token counts", place=3)
class TokenCounts(Tab):
    def layout(self):
        gr.Markdown(ABOUT)
        with gr.Row(elem_classes="work"):
            with gr.Column(**LEFT):
                Chooser(self.ctx, "tc", height=260)
            with gr.Column(**RIGHT):
                self.message = gr.Markdown(elem_id="tc-message")
                self.gallery = tiles("tc-rows", 4, "max-content", fit_columns=False)
                self.metric = gr.Radio(
                    [("PSNR", "psnr"), ("SSIM", "ssim")],
                    value="psnr",
                    label="Rate and distortion over the held-out set",
                    elem_id="tc-metric",
                )
                self.plot = gr.Plot(show_label=False, elem_id="tc-curve")
                self.table = gr.Dataframe(
                    headers=["run", "tokens", "numbers", "PSNR", "SSIM", "images", "metrics"],
                    interactive=False,
                    elem_id="tc-table",
                )
        self.rows = gr.State([])  # of `rate_distortion`
        self.linked = {"metric": self.metric}

    def depends(self, name):
        "The runs that it may be compared with."
        return [stamp(r) for r in list_runs(self.ctx.runs)]

    def counts_of(self, name):
        "The opened run, the token counts to compare, and what could not be opened."
        run = resolve(self.ctx.runs, name)
        lens = open_lens(run.path)
        if lens.generator is not None:  # the tokens are its tokenizer's
            run = Run(find_tokenizer(run.path))
        return lens, *token_counts(run, self.ctx.runs)

    def reproduce(self, name, image, values):
        run = resolve(self.ctx.runs, name)
        if run.kind == "generator":  # the tokens are its tokenizer's
            run = Run(find_tokenizer(run.path))
        return count_ways(str(run.path), self.ctx.runs)

    def show(self, name, images):
        "The chosen image from each number of tokens."
        if not name:
            return [], ""
        try:
            lens, counts, skipped = self.counts_of(name)
            key = focus(images)
            pictures = [(served(enlarge(to_pil(chosen_image(lens, key)), 160)), "original")]
            for c, r in zip(counts, one_image(counts, lens, key), strict=True):
                caption = f"{c.tokens}: {r['figures']['psnr']:.1f} dB"
                pictures.append((served(enlarge(r["reconstruction"], 160)), caption))
        except ValueError as e:
            return [], failed(e)
        alone = [ALONE] if len(counts) < 2 else []
        return pictures, "  \n".join([*alone, *(f"Left out: {plain(s)}" for s in skipped)])

    def curve(self, name, metric):
        "Over the held-out set: stored metrics where they are, measured now where not."
        try:
            found = rate_distortion(self.counts_of(name)[1]) if name else []
            return self.on_metric(found, metric), [table_row(r) for r in found], found
        except ValueError:
            return None, [], []

    def on_metric(self, found, metric):
        return adapt(rate_distortion_figure(found, metric)) if found else None

    def wire(self):
        run, metric, plot = self.ctx.run, self.metric, self.plot
        draw = Newest(self.show, [run, self.ctx.images], [self.gallery, self.message])
        self.asked.change(**draw.event)
        measure = Newest(self.curve, [run, metric], [plot, self.table, self.rows])
        self.of_run.change(**measure.event)
        metric.input(**Newest(self.on_metric, [self.rows, metric], plot, (measure,)).event)


def table_row(r: dict) -> list:
    "A row of `rate_distortion` under the table's headers."
    ssim = None if r["ssim"] is None else round(r["ssim"], 4)
    return [
        *(r[k] for k in ("name", "tokens", "numbers")),
        round(r["psnr"], 2),
        ssim,
        *(r[k] for k in ("images", "source")),
    ]
