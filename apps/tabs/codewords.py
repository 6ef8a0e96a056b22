"""Tab Codewords: what a token is made of, and what happens when it is edited."""

import gradio as gr
from tabs.picker import (
    LEFT,
    QUIET,
    RIGHT,
    SLOW,
    Chooser,
    Newest,
    Tab,
    failed,
    focus,
    picture,
    plain,
    served,
    tiles,
)

from softvq_lab.data.images import to_pil
from softvq_lab.explore.codewords import (
    Edit,
    attention,
    can_attend,
    codeword_name,
    codewords_alone,
    has_weights,
    heatmap,
    overlay,
    token_figures,
    touch,
    what_instead,
    where_used,
)
from softvq_lab.explore.latent_map import adapt
from softvq_lab.explore.session import chosen_image, enlarge
from softvq_lab.registry import register

ABOUT = (
    "A token is a weighted sum of codewords. Click one in the map, look at its codewords one by "
    "one, change its weights, or put another token in its place: the reconstruction follows."
)
ALONE = (
    "Codewords of this token, each alone in it while all others are at their mean "
    "(the first picture); bright: what the codeword adds"
)
LOOKED = (
    "Where the encoder looked for this token (attention over the patches, block by block, "
    "with its fraction; the rest goes to other tokens)"
)
CAPTIONS = {
    "original": "Original",
    "before": "Reconstruction",
    "after": "With the changes",
    "change": "Change",
}
TOP = 5  # codewords of a token that are shown and can be edited
CLICK = """() => {
    for (const plot of document.querySelectorAll('#cw-heatmap .js-plotly-plot')) {
        if (plot.tokenClick) continue;
        plot.tokenClick = true;
        plot.on('plotly_click', e => {
            const box = document.querySelector('#cw-token input[type=number]');
            const value = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value');
            value.set.call(box, e.points[0].y);
            box.dispatchEvent(new Event('input', {bubbles: true}));
            box.dispatchEvent(new Event('blur'));
        });
    }
}"""
# plotly draws when it likes
LATER = f"() => {{ for (const ms of [100, 600, 2000]) setTimeout({CLICK}, ms); }}"


@register("tab", "Codewords", place=2)
class Codewords(Tab):
    def layout(self):
        gr.Markdown(ABOUT)
        with gr.Row():
            with gr.Column(**LEFT):
                with gr.Accordion("Image", open=False, elem_id="cw-chooser"):
                    Chooser(self.ctx, "cw", height=220)
                self.layout_weights()
                self.layout_tokens()
            with gr.Column(**RIGHT):
                self.message = gr.Markdown(elem_id="cw-message")
                with gr.Row():
                    self.pictures = [picture(f"cw-{k}", c) for k, c in CAPTIONS.items()]
                self.plot = gr.Plot(show_label=False, elem_id="cw-heatmap")
                self.layout_token()
        self.edits = gr.State({})  # token -> codeword -> weight
        self.top = gr.State([])  # codewords in the gallery `alone`

    def layout_weights(self):
        self.token = gr.Slider(0, 31, 0, step=1, label="Token", elem_id="cw-token")
        self.heat = gr.Slider(
            0.1, 5, 1, step=0.1, label="Temperature, times the trained tau", elem_id="cw-heat"
        )
        self.sharp = gr.Checkbox(
            False,
            label="Sharpen to the strongest codeword (what VQ would do)",
            elem_id="cw-sharp",
        )
        self.table = gr.Dataframe(
            headers=["codeword", "weight"],
            datatype=["str", "number"],
            interactive=True,
            static_columns=[0],
            label="Weights of this token: edit and press Enter",
            elem_id="cw-weights",
            buttons=[],
        )

    def layout_tokens(self):
        several = dict(multiselect=True, allow_custom_value=True)
        self.ablated = gr.Dropdown(
            [], label="Ablate tokens (they become their mean)", elem_id="cw-knock", **several
        )
        self.swapped = gr.Dropdown(
            [], label="Take tokens from another image", elem_id="cw-swap", **several
        )
        self.donor = gr.Slider(
            0,
            100,
            1,
            step=1,
            label="The other image: number of the held-out image",
            elem_id="cw-donor",
        )
        self.reset = gr.Button("Undo all changes", size="sm", elem_id="cw-reset")

    def layout_token(self):
        "What belongs to one token."
        with gr.Row():
            with gr.Column(min_width=280):
                gr.Markdown(ALONE)
                self.alone = tiles("cw-alone", 3, 240, fit_columns=False)
            with gr.Column(min_width=280):
                self.used_says = gr.Markdown(
                    "Held-out images that use its strongest codeword most", elem_id="cw-used-says"
                )
                self.used = tiles("cw-used", 3, 240, fit_columns=False)
        gr.Markdown(LOOKED)
        self.looked = tiles("cw-attention", 4, 220, fit_columns=False)

    def on_run(self, name):
        "The controls of another run, with nothing changed."
        try:
            lens = self.ctx.open(name)
        except ValueError:
            return {self.edits: {}}
        t, weights = lens.tokenizer, has_weights(lens.tokenizer)
        tokens = gr.Dropdown(choices=[str(i) for i in range(t.tokens)], value=[])
        return {
            self.token: gr.Slider(maximum=max(1, t.tokens - 1), value=0),
            self.heat: gr.Slider(value=1, visible=weights),
            self.sharp: gr.Checkbox(value=False, visible=weights),
            self.table: gr.Dataframe(visible=weights),
            self.ablated: tokens,
            self.swapped: tokens,
            self.donor: gr.Slider(maximum=max(1, lens.heldout_count - 1)),
            self.edits: {},
        }

    def show(self, name, images, tab, token, heat, sharp, ablated, swapped, donor, edits):
        "Pictures, map and message; the table of the token follows by `look`."
        if tab != "codewords":
            return gr.skip()
        blank = [None] * len(CAPTIONS)
        if not name:
            return *blank, "", None
        try:
            lens = self.ctx.open(name)
            x, t = chosen_image(lens, focus(images)), lens.tokenizer
            weighted = (heat, bool(sharp), edits) if has_weights(t) else (1.0, False, {})
            other = chosen_image(lens, f"heldout:{int(donor)}") if swapped else None
            r = touch(lens, x, Edit(*weighted, numbers(swapped), numbers(ablated)), other)
            token = min(int(token), t.tokens - 1)
            says = [told_of_token(t, r["weights"], token, heat), told_of_changes(r["figures"])]
            if edits:
                says.append("Edited weights in token " + ", ".join(map(str, edits)))
            shown = to_pil(x), to_pil(r["before"]), to_pil(r["after"]), r["change"]
            pictures = [served(enlarge(p, 240)) for p in shown]
            return *pictures, "  \n".join(says), weight_map(t, r["weights"], token)
        except ValueError as e:
            return *blank, failed(e), None

    def look(self, name, images, tab, token, heat, sharp, edits):
        "What belongs to one token: weights, codewords alone, where used, where the encoder looked."
        if tab != "codewords":
            return gr.skip()
        if not name:
            return [], [], "", [], [], []
        try:
            lens = self.ctx.open(name)
            x, t = chosen_image(lens, focus(images)), lens.tokenizer
            token = min(int(token), t.tokens - 1)
            looked = attention_tiles(lens, x, token) if can_attend(t) else []
            if not has_weights(t):
                return [], [], "*This tokenizer has no codeword weights.*", [], [], looked
            q = touch(lens, x, Edit(heat, bool(sharp), edits))["weights"][token]
            shown = {*q.topk(min(TOP, len(q))).indices.tolist(), *edits.get(token, {})}
            top = sorted(shown, key=lambda k: -q[k])
            table = [[named(t, token, k), round(float(q[k]), 4)] for k in top]
            alone = alone_tiles(lens, token, q, top)
            return table, alone, *users_of(lens, token, top[0]), top, looked
        except ValueError as e:
            return [], [], failed(e), [], [], []

    def on_codeword(self, name, token, top, event: gr.SelectData):
        "A codeword clicked in the gallery: where it is used. The first tile is the mean."
        try:
            return users_of(self.ctx.open(name), int(token), top[max(0, event.index - 1)])
        except (ValueError, IndexError, TypeError):
            return gr.skip()

    def on_edit(self, token, table, top, edits):
        "Weights that differ from what the table was given are set."
        try:
            rows = zip(top, table.values.tolist(), strict=False)
            new = {k: float(weight) for k, (_, weight) in rows}
            if any(not 0 <= w <= 1 for w in new.values()):
                raise ValueError
            return edits | {int(token): edits.get(int(token), {}) | new}, ""
        except (ValueError, TypeError):
            return gr.skip(), "**Weights are numbers between 0 and 1.**"

    def wire(self):
        ctx, token, heat, sharp, edits = self.ctx, self.token, self.heat, self.sharp, self.edits
        asked = [ctx.run, ctx.images, ctx.tab, token, heat, sharp]
        others = [self.ablated, self.swapped, self.donor]
        controls = [token, heat, sharp, self.table, *others, edits]
        fresh = Newest(self.on_run, ctx.run, controls, show_progress="hidden").event
        shown = [*self.pictures, self.message, self.plot]
        draw = Newest(self.show, [*asked, *others, edits], shown).event
        told = [self.table, self.alone, self.used_says, self.used, self.top, self.looked]
        tell = Newest(self.look, [*asked, edits], told).event
        written = [token, self.table, self.top, edits]
        for event in (
            ctx.run.change(**fresh),
            self.reset.click(**fresh),
            ctx.images.change(lambda: {}, None, edits, **QUIET),
            self.table.input(self.on_edit, written, [edits, self.message], **QUIET),
        ):
            event.then(**draw).then(**tell)
        moved = [ctx.tab.change, token.change, heat.change, sharp.input]
        gr.on([*moved, *(c.input for c in others)], **draw)
        gr.on(moved, **tell)
        self.alone.select(
            self.on_codeword,
            [ctx.run, token, self.top],
            [self.used_says, self.used],
            **SLOW,
        )
        self.plot.change(None, None, None, js=LATER, api_name=False)


def numbers(values) -> tuple[int, ...]:
    return tuple(int(v) for v in values or [] if str(v).isdecimal())


def named(t, token: int, codeword: int) -> str:
    "What a codeword of the codebook of `token` is called."
    codebooks = t.quantizer.codebooks
    return codeword_name(token // (t.tokens // codebooks), codeword, codebooks)


def told_of_token(t, weights, token: int, heat: float) -> str:
    "How mixed the token is, and at which temperature."
    if weights is None:
        return plain(what_instead(t))
    entropy, effective = token_figures(weights)
    tau = f"sharpness {heat:g} times softer"
    if type(t.quantizer).__name__ != "GMMVQ":
        tau = f"tau {t.quantizer.tau:.3g} x {heat:g} = {t.quantizer.tau * heat:.3g}"
    return (
        f"**Token {token}**: entropy {entropy[token]:.2f} nats, "
        f"{effective[token]:.1f} effective codewords (all tokens: {effective.mean():.1f}); {tau}"
    )


def told_of_changes(figures: dict) -> str:
    "PSNR before and after the changes."
    before, after = figures["before"], figures["after"]
    if figures["between"] >= 100:
        return f"PSNR {before:.1f} dB; nothing is changed"
    return f"PSNR {before:.1f} dB, with the changes **{after:.1f} dB** ({after - before:+.1f})"


def weight_map(t, weights, token: int):
    "The map of tokens and codewords; None where tokens have no weights."
    if weights is None:
        return None
    return adapt(heatmap(weights, t.quantizer.codebooks, max(24, min(48, t.tokens)), token))


def alone_tiles(lens, token: int, q, top: list[int]) -> list[tuple[str, str]]:
    "The picture of all mean tokens, and each codeword of `top` alone, with its weight in `q`."
    mean, each = codewords_alone(lens, token, top)
    captions = ["mean", *(f"{named(lens.tokenizer, token, k)}: {q[k]:.0%}" for k in top)]
    return [(served(enlarge(p, 96)), c) for p, c in zip([mean, *each], captions, strict=True)]


def attention_tiles(lens, x, token: int) -> list[tuple[str, str]]:
    "Where the last six blocks looked for the token."
    blocks = list(enumerate(attention(lens, x)[:, token], start=1))[-6:]
    return [(served(overlay(x, m, 160)), f"{i}: {m.sum():.0%}") for i, m in blocks]


def users_of(lens, token: int, codeword: int):
    "The held-out images that use a codeword most, under a sentence that says so."
    name, found = named(lens.tokenizer, token, codeword), where_used(lens, token, codeword, 6)
    return f"Held-out images that use codeword {name} most, with its weight and the token", [
        (served(to_pil(lens.images.heldout[i][0])), f"{w:.0%} t{at}") for i, at, w in found
    ]
