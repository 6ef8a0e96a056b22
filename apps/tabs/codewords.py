"""Tab Codewords: what a token is made of, and what happens when it is edited."""

import json

import gradio as gr
from tabs.picker import (
    CLICKS,
    LEFT,
    QUIET,
    RIGHT,
    Chooser,
    Newest,
    Tab,
    failed,
    focus,
    picture,
    plain,
    resolve,
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
    read_weights,
    set_weight,
    token_figures,
    touch,
    what_instead,
    where_used,
    write_weights,
)
from softvq_lab.explore.latent_map import adapt
from softvq_lab.explore.reproduce import edit_ways
from softvq_lab.explore.session import chosen_image, enlarge
from softvq_lab.registry import register

ABOUT = (
    "A token is a weighted sum of codewords. Choose one (*Token*, or a click in the map), look at "
    "its codewords one by one, change its weights, or put another token in its place: the "
    "reconstruction follows."
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
MADE_ROOM = "The weights that were set before are smaller now: all of a token add up to 1."
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
# What has stood for a moment: who drags a slider waits for the pictures only.
RESTS = """async drawn => {
    const mine = window.codewordsDrawn = {};
    await new Promise(done => setTimeout(done, 250));
    if (mine === window.codewordsDrawn) return drawn;
}"""
# plotly draws when it likes
LATER = f"() => {{ for (const ms of [100, 600, 2000]) setTimeout({CLICK}, ms); }}"


@register("tab", "Codewords", place=2)
class Codewords(Tab):
    def layout(self):
        gr.Markdown(ABOUT)
        with gr.Row(elem_classes="work"):
            with gr.Column(**LEFT):
                with gr.Accordion("Image", open=False, elem_id="cw-chooser"):
                    Chooser(self.ctx, "cw", height=220)
                self.layout_weights()
                self.layout_tokens()
            with gr.Column(**RIGHT):
                self.message = gr.Markdown(elem_id="cw-message")
                with gr.Row(elem_classes="pictures"):
                    self.pictures = [picture(f"cw-{k}", c) for k, c in CAPTIONS.items()]
                self.plot = gr.Plot(show_label=False, elem_id="cw-heatmap")
                self.layout_token()
        self.edits = gr.Textbox("", visible="hidden")  # of `read_weights`
        self.top = gr.State([])  # (codeword, weight) of the rows of the table
        self.clicked = gr.State(None)  # number of a tile in the gallery `alone`
        # What the pictures show, and what they have shown for a moment: `look` follows that.
        self.drawn, self.rests = (gr.Textbox(visible="hidden") for _ in range(2))
        self.linked = {
            "token": self.token,
            "temperature": self.heat,
            "sharp": self.sharp,
            "weights": self.edits,
            "ablate": self.ablated,
            "swap": self.swapped,
            "donor": self.donor,
        }
        self.follows = [self.table]

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
            label="Weights of this token, 0 to 1: edit and press Enter",
            elem_id="cw-weights",
            buttons=[],
        )
        self.table_says = gr.Markdown(elem_id="cw-weights-says")

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
                self.alone = tiles("cw-alone", 3, "max-content", fit_columns=False)
            with gr.Column(min_width=280):
                self.used_says = gr.Markdown(
                    "Held-out images that use its strongest codeword most", elem_id="cw-used-says"
                )
                self.used = tiles("cw-used", 3, "max-content", fit_columns=False)
        gr.Markdown(LOOKED)
        self.looked = tiles("cw-attention", 6, "max-content", fit_columns=False)

    def fit(self, name, kept):
        try:
            lens = self.ctx.open(name)
        except ValueError:
            return {}
        t, weights = lens.tokenizer, has_weights(lens.tokenizer)
        tokens = dict(choices=[str(i) for i in range(t.tokens)], value=[])
        return {
            self.token: dict(maximum=max(1, t.tokens - 1), value=0),
            self.heat: dict(value=1, visible=weights),
            self.sharp: dict(value=False, visible=weights),
            self.table: dict(visible=weights),
            self.edits: dict(value="", own=True, check=lambda told: read_weights(told, t)),
            self.ablated: tokens,
            self.swapped: tokens,
            self.donor: dict(maximum=max(1, lens.heldout_count - 1)),
        }

    def on_reset(self):
        "Nothing is changed any more; the token stays."
        return 1, False, "", [], [], ""

    def reproduce(self, name, image, values):
        run, swapped = resolve(self.ctx.runs, name).path, numbers(values["swap"])
        what = (values[k] for k in ("temperature", "sharp", "weights"))
        edit = edit_of(self.ctx.open(name).tokenizer, *what, swapped, numbers(values["ablate"]))
        return edit_ways(str(run), image, edit, f"heldout:{int(values['donor'])}")

    def show(self, stands, name, images, token, heat, sharp, ablated, swapped, donor, edits):
        "Pictures, map and message; what belongs to the token follows by `look`."
        drawn = json.dumps([stands, token, heat, sharp, edits])
        blank = [None] * len(CAPTIONS)
        if not name:
            return *blank, "", None, drawn
        try:
            lens = self.ctx.open(name)
            x, t = chosen_image(lens, focus(images)), lens.tokenizer
            edit = edit_of(t, heat, sharp, edits, numbers(swapped), numbers(ablated))
            other = chosen_image(lens, f"heldout:{int(donor)}") if swapped else None
            r = touch(lens, x, edit, other)
            token = min(int(token), t.tokens - 1)
            says = [told_of_token(t, r["weights"], token, heat), told_of_changes(r["figures"])]
            if edit.weights:
                says.append("Edited weights in token " + ", ".join(map(str, edit.weights)))
            shown = to_pil(x), to_pil(r["before"]), to_pil(r["after"]), r["change"]
            pictures = [served(enlarge(p, 240)) for p in shown]
            return *pictures, "  \n".join(says), weight_map(t, r["weights"], token), drawn
        except ValueError as e:
            return *blank, failed(e), None, drawn

    def look(self, name, images, token, heat, sharp, edits):
        "What belongs to one token: weights, codewords alone, where used, where the encoder looked."
        if not name:
            return [], [], "", [], [], []
        try:
            lens = self.ctx.open(name)
            x, t = chosen_image(lens, focus(images)), lens.tokenizer
            token = min(int(token), t.tokens - 1)
            looked = attention_tiles(lens, x, token) if can_attend(t) else []
            if not has_weights(t):
                return [], [], "*This tokenizer has no codeword weights.*", [], [], looked
            edit = edit_of(t, heat, sharp, edits)
            q = touch(lens, x, edit)["weights"][token]
            shown = {*q.topk(min(TOP, len(q))).indices.tolist(), *edit.weights.get(token, {})}
            codewords = sorted(shown, key=lambda k: -q[k])
            top = [(k, round(float(q[k]), 4)) for k in codewords]
            alone = alone_tiles(lens, token, q, codewords)
            table = rows_of(t, token, top)
            return table, alone, *users_of(lens, token, codewords[0]), top, looked
        except ValueError as e:
            return [], [], failed(e), [], [], []

    def on_codeword(self, name, token, top, tile):
        "A codeword clicked in the gallery: where it is used. The first tile is the mean."
        try:
            codeword, _ = top[max(0, tile - 1)]
            return users_of(self.ctx.open(name), int(token), codeword)
        except (ValueError, IndexError, TypeError):
            return gr.skip()

    def on_edit(self, name, token, table, top, edits):
        "A weight that was typed is set; what is no weight is said, and the table is as before."
        try:
            t, token = self.ctx.open(name).tokenizer, int(token)
        except ValueError as e:
            return gr.skip(), gr.skip(), failed(e)
        typed = [row[1] for row in table.values.tolist()]
        changed = [(k, w) for (k, was), w in zip(top, typed, strict=False) if differs(w, was)]
        try:
            known = read_weights(edits, t)
            before = dict(known.get(token, {}))
            for codeword, weight in changed:
                known[token] = set_weight(known.get(token, {}), codeword, weight)
            typed = {k for k, _ in changed}
            less = any(known[token][k] < w for k, w in before.items() if k not in typed)
            says = MADE_ROOM if less else ""
            return write_weights(known), gr.skip(), says
        except ValueError as e:
            return gr.skip(), rows_of(t, token, top), failed(e)

    def wire(self):
        ctx, asked, edits = self.ctx, self.asked, self.edits
        where, how = [ctx.run, ctx.images], [self.token, self.heat, self.sharp]
        others = [self.ablated, self.swapped, self.donor]
        shown = [*self.pictures, self.message, self.plot, self.drawn]
        draw = Newest(self.show, [asked, *where, *how, *others, edits], shown).event
        inputs = [c.input for c in (*how, *others)]
        gr.on([asked.change, *inputs, edits.change], **draw)
        self.drawn.change(None, self.drawn, self.rests, js=RESTS, api_name=False)
        told = [self.table, self.alone, self.used_says, self.used, self.top, self.looked]
        self.rests.change(**Newest(self.look, [*where, *how, edits], told).event)
        written = [ctx.run, self.token, self.table, self.top, edits]
        said = [edits, self.table, self.table_says]
        self.table.input(**Newest(self.on_edit, written, said, show_progress="hidden").event)
        undone = [self.heat, self.sharp, edits, self.ablated, self.swapped, self.table_says]
        self.reset.click(self.on_reset, None, undone, **QUIET).then(**draw)
        self.wire_clicks()
        self.plot.change(None, None, None, js=LATER, api_name=False)

    def wire_clicks(self):
        "A click in the gallery: the newest one counts, and one that is clicked again."
        self.alone.select(on_tile, self.clicked, self.clicked, **CLICKS)
        users = Newest(
            lambda name, token, top, click: self.on_codeword(name, token, top, click[1]),
            [self.ctx.run, self.token, self.top, self.clicked],
            [self.used_says, self.used],
        )
        self.clicked.change(**users.event)


def on_tile(last, event: gr.SelectData):
    "The number of the click and of the tile."
    return (last or (0,))[0] + 1, event.index


def edit_of(t, heat, sharp, edits: str, swapped=(), ablated=()) -> Edit:
    "The changes that the controls ask for; only tokens with weights can have other weights."
    weighted = (heat, bool(sharp), read_weights(edits, t)) if has_weights(t) else (1.0, False, {})
    return Edit(*weighted, swapped, ablated)


def rows_of(t, token: int, top) -> list[list]:
    "The table of weights."
    return [[named(t, token, k), w] for k, w in top]


def differs(typed, was: float) -> bool:
    "Was another weight typed?"
    try:
        return not abs(float(typed) - was) < 1e-9
    except (TypeError, ValueError):
        return True


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
