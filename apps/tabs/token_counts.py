"""Tab Token counts: one image from fewer and fewer tokens, and what that costs over all images."""

import gradio as gr
from tabs.chooser import Chooser
from tabs.controls import Slider
from tabs.newest import Newest
from tabs.picker import (
    CLICKS,
    LEFT,
    RIGHT,
    Part,
    failed,
    focus,
    picture,
    plain,
    resolve,
    stamp,
    tiles,
)
from tabs.picture_files import downloadable, served

from softvq_lab.data.images import to_pil
from softvq_lab.explore.latent_map import adapt
from softvq_lab.explore.reproduce import count_ways
from softvq_lab.explore.run_forms import run_name
from softvq_lab.explore.session import chosen_image, enlarge
from softvq_lab.explore.token_counts import (
    near_siblings,
    nested_runs,
    one_image,
    rate_distortion,
    rate_distortion_figure,
    token_counts,
)
from softvq_lab.explore.tokens_needed import (
    WANTED,
    at_budget,
    in_unit,
    nearest_budget,
    needed,
    picture_curve,
    token_budgets,
    usual,
)
from softvq_lab.hub.models import find_tokenizer
from softvq_lab.metrics import metric_title
from softvq_lab.registry import register
from softvq_lab.runs import Run, list_runs

ABOUT = (
    "How many tokens does an image need? Move the slider: the picture changes, and its dot moves "
    "on the curve. Enter the quality that you want, and read how many tokens it takes."
)
ALONE = (
    "*This run has one number of tokens only. Train one that decodes its first k tokens for any k: "
    "`papermill nbs/train.ipynb -p keep uniform -p tokens 32` (some minutes on two cores; with all "
    "its tokens it is some dB worse than a run that always uses all), then press Look again. Or "
    "train this one again with another `-p tokens` and otherwise the same settings, in a folder "
    "of its own.*"
)
CHOOSE = (
    "**This run has one number of tokens only.** Choose one above, at *Run*, that shows a picture "
    "from its first 1, 2, 3, ... tokens: {}."
)
CAPTIONS = {
    "original": "Original",
    "reconstruction": "From the tokens above",
    "error": "Error (brightest: half the range or more)",
}
WAIT = "*The curve of all held-out images is being measured.*"
COLUMNS = ["run", "tokens", "numbers", "bits", "PSNR", "SSIM", "L1", "images", "metrics"]


@register("tab", "Token counts", place=3)
class TokenCounts(Part):
    def layout(self):
        gr.Markdown(ABOUT)
        with gr.Row(elem_classes="work"):
            with gr.Column(**LEFT):
                Chooser(self.ctx, "tc", height=260)
            with gr.Column(**RIGHT):
                self.message = gr.Markdown(elem_id="tc-message")
                self.tokens = Slider(1, 32, 32, step=1, label="Tokens", elem_id="tc-tokens")
                with gr.Row(elem_classes="pictures"):
                    self.pictures = [picture(f"tc-{k}", c) for k, c in CAPTIONS.items()]
                self.shown = gr.Markdown(elem_id="tc-shown")
                self.layout_curve()
                gr.Markdown("From some numbers of tokens; a click shows one above")
                self.gallery = tiles("tc-rows", 4, "max-content", fit_columns=False)
                with gr.Accordion("All numbers as a table", open=False, elem_id="tc-numbers"):
                    self.table = gr.Dataframe(
                        headers=COLUMNS, interactive=False, elem_id="tc-table"
                    )
        self.counts = gr.State([])  # numbers of tokens of the gallery's tiles
        # (what it belongs to, rows): of `rate_distortion`, and of `picture_curve`
        self.rows, self.own = gr.State((None, [])), gr.State((None, []))
        self.linked = {
            "tokens": self.tokens,
            "metric": self.metric,
            "rate": self.rate,
            "wanted": self.wanted,
        }

    def layout_curve(self):
        self.answer = gr.Markdown(elem_id="tc-answer")
        with gr.Row():
            metrics = [(metric_title(m), m) for m in WANTED]
            self.metric = gr.Radio(metrics, value="psnr", label="Metric", elem_id="tc-metric")
            rates = [("tokens", "tokens"), ("numbers", "numbers"), ("bits an image", "bits")]
            self.rate = gr.Radio(rates, value="tokens", label="What it costs", elem_id="tc-rate")
            self.wanted = gr.Number(
                WANTED["psnr"], label="Wanted value of the metric", elem_id="tc-wanted"
            )
        self.plot = gr.Plot(show_label=False, elem_id="tc-curve")

    def depends(self, name):
        "The runs that it may be compared with."
        return [stamp(r) for r in list_runs(self.ctx.runs)]

    def fit(self, name, kept):
        wanted = {self.wanted: dict(value=WANTED.get(kept.get("metric"), WANTED["psnr"]))}
        try:
            counts = [r.tokens for r in self.budgets(name)]
        except (ValueError, KeyError, TypeError):
            return wanted
        low, high = min(counts), max(counts)
        limits = dict(minimum=min(low, high - 1), maximum=high, value=high, visible=low < high)
        return wanted | {self.tokens: limits}

    def tokenizer_run(self, name) -> Run:
        "The run of that name, or that of its tokenizer: the tokens are the tokenizer's."
        run = resolve(self.ctx.runs, name)
        return Run(find_tokenizer(run.path)) if run.kind == "generator" else run

    def budgets(self, name):
        return token_budgets(self.tokenizer_run(name), self.ctx.runs)

    def counts_of(self, name):
        "The opened run, the token counts to compare, and what could not be opened."
        return self.ctx.open(name), *token_counts(self.tokenizer_run(name), self.ctx.runs)

    def reproduce(self, name, image, values):
        run = str(self.tokenizer_run(name).path)
        what = (values[k] for k in ("metric", "rate", "wanted"))
        return count_ways(run, self.ctx.runs, image, values["tokens"], *what)

    def show(self, name, images, tokens, metric, rate, wanted, rows, own):
        "The picture from the chosen number of tokens, its dot on the curve, and the answer."
        blank = [None] * len(CAPTIONS)
        if not name:
            return *blank, "", "", None
        try:
            loaded, budgets, key = self.ctx.open(name), self.budgets(name), focus(images)
            found = at_budget(nearest_budget(budgets, tokens), loaded, key)
            known = rows[1] if rows[0] == name else []
            mine = own[1] if own[0] == (name, key) else []
            wanted = WANTED[metric] if wanted is None else wanted
            figure = rate_distortion_figure(known, metric, rate, mine, found["row"], wanted)
        except ValueError as e:
            return *blank, failed(e), "", None
        waiting = "" if rows[0] == name else WAIT
        answer = [needed(mine, metric, wanted), usual(known, metric, wanted) or waiting]
        pictures = [downloadable(enlarge(found[k], 240)) for k in CAPTIONS]
        return *pictures, summary(found["row"], budgets), " ".join(answer), adapt(figure)

    def strip(self, name, images):
        "The chosen image from each number of tokens, and what was left out."
        if not name:
            return [], "", []
        try:
            loaded, counts, skipped = self.counts_of(name)
            key = focus(images)
            pictures = [(served(enlarge(to_pil(chosen_image(loaded, key)), 160)), "original")]
            for c, r in zip(counts, one_image(counts, loaded, key), strict=True):
                caption = f"{c.tokens}: {r['figures']['psnr']:.1f} dB"
                pictures.append((served(enlarge(r["reconstruction"], 160)), caption))
        except ValueError as e:
            return [], failed(e), []
        alone = alone_notes(self.tokenizer_run(name), self.ctx.runs) if len(counts) < 2 else []
        notes = "  \n".join([*alone, *(f"Left out: {plain(s)}" for s in skipped)])
        return pictures, notes, [counts[-1].tokens, *(c.tokens for c in counts)]

    def curve(self, name):
        "Over the held-out set: stored metrics where they are, measured now where not."
        try:
            found = rate_distortion(self.counts_of(name)[1]) if name else []
            return (name, found), [table_row(r) for r in found]
        except ValueError:
            return (name, []), []

    def own_curve(self, name, images):
        "Of the chosen picture, over all numbers of tokens."
        try:
            key = focus(images)
            return (name, key), picture_curve(self.budgets(name), self.ctx.open(name), key)
        except ValueError:
            return None, []

    def on_metric(self, metric):
        "A wanted value of the metric that was chosen."
        return WANTED[metric]

    def on_tile(self, counts, event: gr.SelectData):
        "A click in the gallery: that number of tokens."
        known = isinstance(event.index, int) and event.index < len(counts)
        return counts[event.index] if known else gr.skip()

    def wire(self):
        where = [self.ctx.run, self.ctx.images]
        how = [self.tokens, self.metric, self.rate, self.wanted]
        asked = [*where, *how, self.rows, self.own]
        shown = [*self.pictures, self.shown, self.answer, self.plot]
        draw = Newest(self.show, asked, shown).event
        inputs = [self.tokens.input, self.rate.input, self.wanted.input]
        gr.on([self.asked.change, self.rows.change, self.own.change, *inputs], **draw)
        self.metric.input(self.on_metric, self.metric, self.wanted, **CLICKS).then(**draw)
        tiled = Newest(self.strip, where, [self.gallery, self.message, self.counts])
        self.asked.change(**tiled.event)
        self.gallery.select(self.on_tile, self.counts, self.tokens, **CLICKS).then(**draw)
        self.of_run.change(**Newest(self.curve, self.ctx.run, [self.rows, self.table]).event)
        own = Newest(self.own_curve, where, self.own, show_progress="hidden")
        self.asked.change(**own.event)


def alone_notes(run: Run, runs: str) -> list[str]:
    "What to do with a run of one number of tokens: choose another that is there, or train one."
    if nested := nested_runs(runs)[:3]:
        return [CHOOSE.format(", ".join(plain(run_name(r.path, runs)) for r in nested))]
    return [ALONE, *(f"Not compared: {plain(s)}" for s in near_siblings(run, runs)[:3])]


def summary(row: dict, budgets) -> str:
    "What is shown: how many tokens, what they cost, and how near the picture is."
    figures = ", ".join(in_unit(m, row[m]) for m in WANTED if row[m] is not None)
    most = max(r.tokens for r in budgets)
    of = f"The first {row['tokens']} of {most} tokens" if row["kept"] else f"{row['tokens']} tokens"
    return f"**{of}** ({row['numbers']:,} numbers, {row['bits']:,.0f} bits): {figures}"


def table_row(r: dict) -> list:
    "A row of `rate_distortion` under the table's headers."
    figures = [None if r[m] is None else float(f"{r[m]:.4g}") for m in WANTED]
    return [
        *(r[k] for k in ("name", "tokens", "numbers")),
        round(r["bits"]),
        *figures,
        *(r[k] for k in ("images", "source")),
    ]
