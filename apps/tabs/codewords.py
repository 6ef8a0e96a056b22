"""Tab Codewords: what a token is made of, and what happens when it is edited."""

import json

import gradio as gr
from tabs.chooser import Chooser
from tabs.codewords_places import Places
from tabs.codewords_text import (
    SIDE,
    alone_tiles,
    attention_tiles,
    describe_changes,
    describe_token,
    differs,
    donor_picture,
    edit_of,
    formula_text,
    held_picture,
    named,
    numbers,
    rows_of,
    users_of,
    weight_bars,
    weight_map,
)
from tabs.controls import Dropdown, Slider
from tabs.newest import QUIET, Newest
from tabs.picker import CLICKS, LEFT, RIGHT, Part, failed, focus, picture, resolve, tiles
from tabs.picture_files import downloadable

from softvq_lab.data.images import to_pil
from softvq_lab.explore.codewords import (
    can_attend,
    edit_tokens,
    has_weights,
    read_weights,
    set_weight,
    weigh,
    write_weights,
)
from softvq_lab.explore.reproduce import edit_ways
from softvq_lab.explore.session import chosen_image, enlarge
from softvq_lab.registry import register

ABOUT = (
    "A token is a weighted sum of codewords. Click in a picture: the token that draws there is "
    "chosen. Look at its codewords one by one, change its weights, or put another token in its "
    "place: the reconstruction follows."
)
ALONE = (
    "Codewords of this token, each alone in it while all others are at their mean "
    "(the first picture); bright: what the codeword adds"
)
LOOKED = (
    "Where the encoder looked for this token (attention over the patches in its last blocks, "
    "with its fraction; the rest goes to other tokens)"
)
CAPTIONS = {
    "original": "Original",
    "before": "Reconstruction",
    "after": "With the changes",
    "change": "Change",
    "holds": "What this token holds",
}
MADE_ROOM = "The weights that were set before are smaller now: all of a token add up to 1."
HIDDEN = dict(show_progress="hidden")
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
class Codewords(Places, Part):
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
                self.place_message = gr.Markdown(elem_id="cw-place")  # in sight, where one clicks
                with gr.Row(elem_classes="pictures"):
                    self.pictures = [picture(f"cw-{k}", c) for k, c in CAPTIONS.items()]
                self.layout_place()
                self.layout_held()
                self.formula = gr.Markdown(elem_id="cw-formula")
                self.bars = gr.Plot(show_label=False, elem_id="cw-bars")
                self.layout_token()
                self.layout_strip()
                self.plot = gr.Plot(show_label=False, elem_id="cw-heatmap")
        self.edits = gr.Textbox("", visible="hidden")  # of `read_weights`
        self.slid_codewords = gr.State([])  # of the sliders
        self.top = gr.State([])  # (codeword, weight) of the rows of the table
        self.clicked = gr.State(None)  # number of a tile in the gallery `alone`
        # What the pictures show, and what they have shown for a moment: `look` follows that.
        self.drawn, self.rests = (gr.Textbox(visible="hidden") for _ in range(2))
        self.linked = {
            "token": self.token,
            "temperature": self.temperature,
            "sharp": self.sharp,
            "weights": self.edits,
            "ablate": self.ablated,
            "swap": self.swapped,
            "donor": self.donor,
            "click": self.chooses,
        }
        self.follows = [self.typed]

    def layout_weights(self):
        self.token = Slider(0, 31, 0, step=1, label="Token", elem_id="cw-token")
        self.temperature = gr.Slider(
            0.1,
            5,
            1,
            step=0.1,
            label="Temperature, times the trained tau",
            elem_id="cw-temperature",
        )
        self.sharp = gr.Checkbox(
            False,
            label="Sharpen to the strongest codeword (what VQ would do)",
            elem_id="cw-sharp",
        )
        self.sliders = [
            gr.Slider(0, 1, 0, step=0.001, label="Weight", visible=False, elem_id=f"cw-weight-{i}")
            for i in range(TOP)
        ]
        with gr.Accordion("Weights as a table", open=False, elem_id="cw-typed") as self.typed:
            self.table = gr.Dataframe(
                headers=["codeword", "weight"],
                datatype=["str", "number"],
                interactive=True,
                static_columns=[0],
                label="Weights of this token, 0 to 1: edit and press Enter",
                elem_id="cw-weights",
                buttons=[],
            )
        self.table_message = gr.Markdown(elem_id="cw-weights-message")

    def layout_tokens(self):
        several = dict(multiselect=True, allow_custom_value=True)
        self.ablated = Dropdown(
            [], label="Ablate tokens (they become their mean)", elem_id="cw-ablate", **several
        )
        self.swapped = Dropdown(
            [], label="Take tokens from another image", elem_id="cw-swap", **several
        )
        self.donor = Slider(
            0,
            100,
            1,
            step=1,
            label="The other image: number of the held-out image",
            elem_id="cw-donor",
        )
        self.donor_picture = picture("cw-donor-picture", "The other image", height=120)
        self.reset = gr.Button("Undo all changes", size="sm", elem_id="cw-reset")

    def layout_token(self):
        "What belongs to one token."
        with gr.Row():
            with gr.Column(min_width=280):
                gr.Markdown(ALONE)
                self.alone = tiles("cw-alone", 3, "max-content", fit_columns=False)
            with gr.Column(min_width=280):
                self.used_message = gr.Markdown(
                    "Held-out images that use its strongest codeword most",
                    elem_id="cw-used-message",
                )
                self.used = tiles("cw-used", 3, "max-content", fit_columns=False)
        gr.Markdown(LOOKED)
        self.attention = tiles("cw-attention", 6, "max-content", fit_columns=False)

    def fit(self, name, kept):
        try:
            loaded = self.ctx.open(name)
        except ValueError:
            return {}
        t, weights = loaded.tokenizer, has_weights(loaded.tokenizer)
        tokens = dict(choices=[str(i) for i in range(t.tokens)], value=[])
        return {
            self.chooses: dict(choices=self.click_choices(t), value="draws"),
            self.token: dict(maximum=max(1, t.tokens - 1), value=0),
            self.temperature: dict(value=1, visible=weights),
            self.sharp: dict(value=False, visible=weights),
            self.typed: dict(visible=weights),
            self.edits: dict(value="", own=True, check=lambda text: read_weights(text, t)),
            self.ablated: tokens,
            self.swapped: tokens,
            self.donor: dict(maximum=max(1, loaded.heldout_count - 1)),
        }

    def on_reset(self):
        "Nothing is changed any more; the token stays."
        return 1, False, "", [], [], ""

    def reproduce(self, name, image, values):
        run, swapped = resolve(self.ctx.runs, name).path, numbers(values["swap"])
        what = (values[k] for k in ("temperature", "sharp", "weights"))
        edit = edit_of(self.ctx.open(name).tokenizer, *what, swapped, numbers(values["ablate"]))
        donor = f"heldout:{int(values['donor'])}"
        token = int(values["token"]) if has_weights(self.ctx.open(name).tokenizer) else None
        return edit_ways(str(run), image, edit, donor, token)

    def show(self, stands, name, images, token, tau_factor, sharp, ablated, swapped, donor, edits):
        """Pictures, formula and bars. `look` follows with what belongs to the token, and with the
        map, which takes the page longest.
        """
        drawn = json.dumps([stands, token, tau_factor, sharp, edits])
        blank = [None] * len(CAPTIONS)
        if not name:
            return *blank, "", "", None, None, drawn
        try:
            loaded = self.ctx.open(name)
            x, t = chosen_image(loaded, focus(images)), loaded.tokenizer
            edit = edit_of(t, tau_factor, sharp, edits, numbers(swapped), numbers(ablated))
            other = chosen_image(loaded, f"heldout:{int(donor)}") if swapped else None
            r = edit_tokens(loaded, x, edit, other)
            token = min(int(token), t.tokens - 1)
            sentences = [
                describe_token(t, r["weights"], token, tau_factor),
                describe_changes(r["figures"]),
            ]
            if edit.weights:
                sentences.append("Edited weights in token " + ", ".join(map(str, edit.weights)))
            shown = to_pil(x), to_pil(r["before"]), to_pil(r["after"]), r["change"]
            pictures = [downloadable(enlarge(p, SIDE)) for p in shown]
            held = held_picture(loaded, focus(images), token)
            return (
                *pictures,
                None if held is None else downloadable(held),
                "  \n".join(sentences),
                formula_text(t, r, token, tau_factor, edit),
                weight_bars(t, r, token),
                donor_picture(loaded, int(donor)),
                drawn,
            )
        except ValueError as e:
            return *blank, failed(e), "", None, None, drawn

    def show_token(self, name, images, token, tau_factor, sharp, edits):
        """The map of all tokens, and what belongs to one: weights, codewords alone, where they are
        used, where the encoder looked.
        """
        empty = None, [], [], "", [], [], [], *self.at_sliders([])
        if not name:
            return empty
        try:
            loaded = self.ctx.open(name)
            x, t = chosen_image(loaded, focus(images)), loaded.tokenizer
            token = min(int(token), t.tokens - 1)
            looked = attention_tiles(loaded, x, token) if can_attend(t) else []
            if not has_weights(t):
                none = "*This tokenizer has no codeword weights.*"
                return None, [], [], none, [], [], looked, *empty[7:]
            edit = edit_of(t, tau_factor, sharp, edits)
            r = weigh(loaded, x, edit)
            q, own = r["weights"][token], r["own"][token]
            shown = {*own.topk(min(TOP, len(q))).indices.tolist(), *edit.weights.get(token, {})}
            shown |= {*q.topk(min(TOP, len(q))).indices.tolist()}
            codewords = sorted(shown, key=lambda k: -q[k])
            top = [(k, round(float(q[k]), 4)) for k in codewords]
            alone = alone_tiles(loaded, token, q, codewords)
            sliders = self.at_sliders(self.slid(top, own), t, token)
            table = rows_of(t, token, top)
            tokens = weight_map(t, r["weights"], token)
            used = users_of(loaded, token, codewords[0])
            return tokens, table, alone, *used, top, looked, *sliders
        except ValueError as e:
            return None, [], [], failed(e), *empty[4:]

    def slid(self, top, own):
        """(codeword, weight) of the sliders: in the order of the trained weights, in which they
        stay where they are while one is moved."""
        return sorted(top, key=lambda row: -own[row[0]])[:TOP]

    def at_sliders(self, rows, t=None, token=0):
        "The sliders at (codeword, weight); those without one are not seen."
        shown = [
            gr.Slider(label=f"Weight of codeword {named(t, token, k)}", value=w, visible=True)
            for k, w in rows
        ]
        rest = len(self.sliders) - len(shown)
        return [[k for k, _ in rows], *shown, *[gr.Slider(visible=False)] * rest]

    def slide_of(self, i):
        "The handler of slider `i`, which sets the weight of its codeword."

        def on_slide(name, token, slid, edits, weight):
            try:
                known = read_weights(edits, self.ctx.open(name).tokenizer)
                return with_weights(known, int(token), [(slid[i], weight)])
            except (ValueError, IndexError) as e:
                return gr.skip(), failed(e)

        return on_slide

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
            text, message = with_weights(read_weights(edits, t), token, changed)
            return text, gr.skip(), message
        except ValueError as e:
            return gr.skip(), rows_of(t, token, top), failed(e)

    def wire(self):
        ctx, asked, edits = self.ctx, self.asked, self.edits
        where, how = [ctx.run, ctx.images], [self.token, self.temperature, self.sharp]
        others = [self.ablated, self.swapped, self.donor]
        outputs = [self.message, self.formula, self.bars, self.donor_picture, self.drawn]
        shown = [*self.pictures, *outputs]
        draw = Newest(self.show, [asked, *where, *how, *others, edits], shown).event
        inputs = [c.input for c in (*how, *others)]
        gr.on([asked.change, *inputs, edits.change], **draw)
        self.drawn.change(None, self.drawn, self.rests, js=RESTS, api_name=False)
        outputs = [
            self.plot,
            self.table,
            self.alone,
            self.used_message,
            self.used,
            self.top,
            self.attention,
        ]
        outputs += [self.slid_codewords, *self.sliders]
        self.rests.change(**Newest(self.show_token, [*where, *how, edits], outputs).event)
        written = [ctx.run, self.token, self.table, self.top, edits]
        edited = [edits, self.table, self.table_message]
        self.table.input(**Newest(self.on_edit, written, edited, show_progress="hidden").event)
        for i, slider in enumerate(self.sliders):
            moved = [ctx.run, self.token, self.slid_codewords, edits, slider]
            outputs = [edits, self.table_message]
            slider.input(**Newest(self.slide_of(i), moved, outputs, **HIDDEN).event)
        undone = [
            self.temperature,
            self.sharp,
            edits,
            self.ablated,
            self.swapped,
            self.table_message,
        ]
        self.reset.click(self.on_reset, None, undone, **QUIET).then(**draw)
        self.wire_clicks()
        self.wire_places(draw)
        self.plot.change(None, None, None, js=LATER, api_name=False)

    def wire_clicks(self):
        "A click in the gallery: the newest one counts, and one that is clicked again."
        self.alone.select(on_tile, self.clicked, self.clicked, **CLICKS)
        users = Newest(
            lambda name, token, top, click: self.on_codeword(name, token, top, click[1]),
            [self.ctx.run, self.token, self.top, self.clicked],
            [self.used_message, self.used],
        )
        self.clicked.change(**users.event)


def on_tile(last, event: gr.SelectData):
    "The number of the click and of the tile."
    return (last or (0,))[0] + 1, event.index


def with_weights(known: dict, token: int, changed: list[tuple]) -> tuple[str, str]:
    """The edited weights with (codeword, weight) of `changed` in a token, as text, and a message if
    that made earlier ones smaller.
    """
    before = after = known.get(token, {})
    for codeword, weight in changed:
        after = set_weight(after, codeword, weight)
    earlier = before.keys() - {k for k, _ in changed}
    smaller = any(after[k] < before[k] for k in earlier)
    return write_weights(known | {token: after}), MADE_ROOM if smaller else ""
