"""Tab Codewords: what a token is made of, and what happens when it is touched."""

import gradio as gr
from tabs.picker import Context, Newest, Chooser, failed, focus, picture, plain, resolve, served

from softvq_lab.data.datasets import to_pil
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
from softvq_lab.explore.session import chosen_image, enlarge, open_lens

TOP = 5  # codewords of a token that are shown and can be edited
CLICK = """() => { for (const plot of document.querySelectorAll('#cw-heatmap .js-plotly-plot')) { if (plot.tokenClick) continue; plot.tokenClick = true;
    plot.on('plotly_click', e => { const box = document.querySelector('#cw-token input[type=number]');
        Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(box, e.points[0].y); box.dispatchEvent(new Event('input', {bubbles: true})); box.dispatchEvent(new Event('blur')); }); } }"""
LATER = f"() => {{ for (const ms of [100, 600, 2000]) setTimeout({CLICK}, ms); }}"  # plotly draws when it likes


def build(ctx: Context):
    gr.Markdown(
        "A token is a weighted sum of codewords. Click one in the map, look at its codewords one by one, change its weights, or put another token in its place: the reconstruction follows."
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            with gr.Accordion("Image", open=False, elem_id="cw-chooser"):
                Chooser(ctx, "cw", height=220)
            token = gr.Slider(0, 31, 0, step=1, label="Token", elem_id="cw-token")
            heat = gr.Slider(
                0.1, 5, 1, step=0.1, label="Temperature, times the trained tau", elem_id="cw-heat"
            )
            sharp = gr.Checkbox(
                False,
                label="Sharpen to the strongest codeword (what VQ would do)",
                elem_id="cw-sharp",
            )
            table = gr.Dataframe(
                headers=["codeword", "weight"],
                datatype=["str", "number"],
                interactive=True,
                static_columns=[0],
                label="Weights of this token: edit and press Enter",
                elem_id="cw-weights",
                buttons=[],
            )
            knock = gr.Dropdown(
                [],
                multiselect=True,
                label="Take tokens away (they become their mean)",
                elem_id="cw-knock",
                allow_custom_value=True,
            )
            swap = gr.Dropdown(
                [],
                multiselect=True,
                label="Take tokens from another image",
                elem_id="cw-swap",
                allow_custom_value=True,
            )
            donor = gr.Slider(
                0,
                100,
                1,
                step=1,
                label="The other image: number of the held-out image",
                elem_id="cw-donor",
            )
            reset = gr.Button("Undo all changes", size="sm", elem_id="cw-reset")
        with gr.Column(scale=5, min_width=300):
            message = gr.Markdown(elem_id="cw-message")
            with gr.Row():
                pictures = [
                    picture(f"cw-{i}", caption)
                    for i, caption in [
                        ("original", "Original"),
                        ("before", "Reconstruction"),
                        ("after", "With the changes"),
                        ("change", "Change"),
                    ]
                ]
            plot = gr.Plot(show_label=False, elem_id="cw-heatmap")
            with gr.Row():
                with gr.Column(min_width=280):
                    gr.Markdown(
                        "Codewords of this token, each alone in it while all others are at their mean (the first picture); bright: what the codeword adds"
                    )
                    alone = gr.Gallery(
                        show_label=False,
                        columns=3,
                        height=240,
                        fit_columns=False,
                        allow_preview=False,
                        object_fit="contain",
                        elem_id="cw-alone",
                        elem_classes="pixel",
                        buttons=[],
                    )
                with gr.Column(min_width=280):
                    used_says = gr.Markdown(
                        "Held-out images that use its strongest codeword most",
                        elem_id="cw-used-says",
                    )
                    used = gr.Gallery(
                        show_label=False,
                        columns=3,
                        height=240,
                        fit_columns=False,
                        allow_preview=False,
                        object_fit="contain",
                        elem_id="cw-used",
                        elem_classes="pixel",
                        buttons=[],
                    )
            gr.Markdown(
                "Where the encoder looked for this token (attention over the patches, block by block, with its share; the rest goes to other tokens)"
            )
            looked = gr.Gallery(
                show_label=False,
                columns=4,
                height=220,
                fit_columns=False,
                allow_preview=False,
                object_fit="contain",
                elem_id="cw-attention",
                elem_classes="pixel",
                buttons=[],
            )
    edits = gr.State({})  # token -> codeword -> weight
    strongest = gr.State([])  # codewords in the gallery `alone`

    def on_run(name):
        try:
            lens = open_lens(resolve(ctx.runs, name).path)
            t, tokens = lens.tokenizer, [str(i) for i in range(lens.tokenizer.tokens)]
            weights = has_weights(t)
            return (
                gr.Slider(maximum=max(1, t.tokens - 1), value=0),
                gr.Slider(value=1, visible=weights),
                gr.Checkbox(value=False, visible=weights),
                gr.Dataframe(visible=weights),
                gr.Dropdown(choices=tokens, value=[]),
                gr.Dropdown(choices=tokens, value=[]),
                gr.Slider(maximum=max(1, lens.heldout_count - 1)),
                {},
            )
        except ValueError:
            return *[gr.skip()] * 7, {}

    def numbers(values):
        return tuple(int(v) for v in values or [] if str(v).isdecimal())

    def show(name, images, tab, token, heat, sharp, knock, swap, donor, edits):
        "Pictures, map and message; the table of the token follows by `look`."
        if tab != "codewords":
            return [gr.skip()] * 6
        if not name:
            return None, None, None, None, "", None
        try:
            lens = open_lens(resolve(ctx.runs, name).path)
            x, t = chosen_image(lens, focus(images)), lens.tokenizer
            weights, token = has_weights(t), min(int(token), t.tokens - 1)
            other = chosen_image(lens, f"heldout:{int(donor)}") if swap else None
            r = touch(
                lens,
                x,
                Edit(
                    heat if weights else 1.0,
                    bool(sharp and weights),
                    edits if weights else {},
                    numbers(swap),
                    numbers(knock),
                ),
                other,
            )
            f, lines = r["figures"], []
            if weights:
                entropy, effective = token_figures(r["weights"])
                tau = (
                    f"sharpness {heat:g} times softer"
                    if type(t.quantizer).__name__ == "GMMVQ"
                    else f"tau {t.quantizer.tau:.3g} x {heat:g} = {t.quantizer.tau * heat:.3g}"
                )
                lines.append(
                    f"**Token {token}**: entropy {entropy[token]:.2f} nats, {effective[token]:.1f} effective codewords (all tokens: {effective.mean():.1f}); {tau}"
                )
            else:
                lines.append(plain(what_instead(t)))
            lines.append(
                f"PSNR {f['before']:.1f} dB"
                + (
                    f", with the changes **{f['after']:.1f} dB** ({f['after'] - f['before']:+.1f})"
                    if f["between"] < 100
                    else "; nothing is changed"
                )
            )
            if edits:
                lines.append("Edited weights in token " + ", ".join(map(str, edits)))
            fig = (
                adapt(
                    heatmap(r["weights"], t.quantizer.codebooks, max(24, min(48, t.tokens)), token)
                )
                if weights
                else None
            )
            return (
                *(
                    served(enlarge(p, 240))
                    for p in (to_pil(x), to_pil(r["before"]), to_pil(r["after"]), r["change"])
                ),
                "  \n".join(lines),
                fig,
            )
        except ValueError as e:
            return None, None, None, None, failed(e), None

    def look(name, images, tab, token, heat, sharp, edits):
        "What belongs to one token: its weights, its codewords alone, where they are used, where the encoder looked."
        if tab != "codewords":
            return [gr.skip()] * 6
        empty = [], [], "", [], [], []
        if not name:
            return empty
        try:
            lens = open_lens(resolve(ctx.runs, name).path)
            x, t = chosen_image(lens, focus(images)), lens.tokenizer
            token, blocks = min(int(token), t.tokens - 1), []
            if can_attend(t):
                a = attention(lens, x)[:, token]
                blocks = [
                    (served(overlay(x, m, 160)), f"{i + 1}: {m.sum():.0%}")
                    for i, m in list(enumerate(a))[-6:]
                ]
            if not has_weights(t):
                return [], [], "*This tokenizer has no codeword weights.*", [], [], blocks
            q = touch(lens, x, Edit(heat, bool(sharp), edits))["weights"][token]
            top = sorted(
                {*q.topk(min(TOP, len(q))).indices.tolist(), *edits.get(token, {})},
                key=lambda k: -q[k],
            )
            names = [
                codeword_name(
                    token // (t.tokens // t.quantizer.codebooks), k, t.quantizer.codebooks
                )
                for k in top
            ]
            mean, each = codewords_alone(lens, token, top)
            tiles = [
                (served(enlarge(mean, 96)), "mean"),
                *(
                    (served(enlarge(p, 96)), f"{n}: {q[k]:.0%}")
                    for p, n, k in zip(each, names, top)
                ),
            ]
            return (
                [[n, round(float(q[k]), 4)] for n, k in zip(names, top)],
                tiles,
                *nearest(lens, token, top[0]),
                top,
                blocks,
            )
        except ValueError as e:
            return [], [], failed(e), [], [], []

    def nearest(lens, token, codeword):
        t = lens.tokenizer
        n = codeword_name(
            token // (t.tokens // t.quantizer.codebooks), codeword, t.quantizer.codebooks
        )
        return f"Held-out images that use codeword {n} most, with its weight and the token", [
            (served(to_pil(lens.images.heldout[i][0])), f"{w:.0%} t{l}")
            for i, l, w in where_used(lens, token, codeword, 6)
        ]

    def on_codeword(name, token, top, event: gr.SelectData):
        "A codeword clicked in the gallery: where it is used. The first tile is the mean."
        try:
            return nearest(
                open_lens(resolve(ctx.runs, name).path), int(token), top[max(0, event.index - 1)]
            )
        except (ValueError, IndexError, TypeError):
            return gr.skip(), gr.skip()

    def on_edit(token, table, top, edits):
        "Weights that differ from what the table was given are set."
        try:
            new = {k: float(w) for k, w in zip(top, [row[1] for row in table.values.tolist()])}
            if any(not 0 <= w <= 1 for w in new.values()):
                raise ValueError
            return edits | {int(token): edits.get(int(token), {}) | new}, ""
        except (ValueError, TypeError):
            return gr.skip(), "**Weights are numbers between 0 and 1.**"

    asked = [ctx.run, ctx.images, ctx.tab, token, heat, sharp]
    shown, told = [*pictures, message, plot], [table, alone, used_says, used, strongest, looked]
    controls = [token, heat, sharp, table, knock, swap, donor, edits]
    fresh = Newest(on_run, ctx.run, controls, show_progress="hidden").event
    draw = Newest(show, [*asked, knock, swap, donor, edits], shown).event
    tell = Newest(look, [*asked, edits], told).event
    for event in (
        ctx.run.change(**fresh),
        reset.click(**fresh),
        ctx.images.change(lambda: {}, None, edits, show_progress="hidden", api_name=False),
        table.input(
            on_edit,
            [token, table, strongest, edits],
            [edits, message],
            show_progress="hidden",
            api_name=False,
        ),
    ):
        event.then(**draw).then(**tell)
    gr.on(
        [
            ctx.tab.change,
            token.change,
            heat.change,
            sharp.input,
            knock.input,
            swap.input,
            donor.input,
        ],
        **draw,
    )
    gr.on([ctx.tab.change, token.change, heat.change, sharp.input], **tell)
    alone.select(
        on_codeword,
        [ctx.run, token, strongest],
        [used_says, used],
        show_progress="minimal",
        api_name=False,
    )
    plot.change(None, None, None, js=LATER, api_name=False)
