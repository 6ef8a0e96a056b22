"""Tab Reconstruct: an image, what came back, where they differ; two runs under one slider."""

import gradio as gr
from tabs.picker import (
    Context,
    Newest,
    choices,
    Chooser,
    failed,
    focus,
    picture,
    plain,
    resolve,
    served,
)

from softvq_lab.explore.session import (
    bundle,
    can_keep,
    chosen_image,
    enlarge,
    in_words,
    open_lens,
    perceptual_soon,
    read_upload,
    reconstruct,
    same_image,
    sheet,
)

NOBODY = "no second run"
WAIT = "The perceptual distance comes with the next picture: its network is being trained, once."


def build(ctx: Context):
    gr.Markdown(
        "Pick a held-out image (the tokenizer has never seen it) or upload your own: it is cropped to the centre, encoded into latent tokens and decoded again."
    )
    with gr.Row():
        with gr.Column(scale=2, min_width=280):
            Chooser(ctx, "rec", several=True)
        with gr.Column(scale=5, min_width=300):
            with gr.Row():
                pictures = [
                    picture(f"rec-{i}", caption)
                    for i, caption in [
                        ("original", "Original"),
                        ("reconstruction", "Reconstruction"),
                        ("error", "Error (brightest: half the range or more)"),
                    ]
                ]
            message = gr.Markdown(elem_id="rec-message")
            kept = gr.Slider(
                1,
                8,
                8,
                step=1,
                label="Tokens kept (the first k; this run was trained for any k)",
                elem_id="rec-kept",
                visible=False,
            )
            download = gr.DownloadButton(
                "Download pictures and figures", size="sm", elem_id="rec-download"
            )
            with gr.Column(visible=False) as several:
                gr.Markdown("All chosen images")
                rows = gr.Image(
                    show_label=False,
                    format="png",
                    interactive=False,
                    elem_id="rec-sheet",
                    elem_classes="pixel",
                    buttons=["download"],
                )
                numbers = gr.Dataframe(
                    headers=["picture", "PSNR", "SSIM", "perceptual"],
                    interactive=False,
                    elem_id="rec-numbers",
                )
            other = gr.Dropdown(
                [(NOBODY, "")],
                value="",
                label="Beside it",
                elem_id="rec-other",
                allow_custom_value=True,
            )
            with gr.Column(visible=False) as beside:
                swipe = gr.ImageSlider(
                    show_label=False,
                    interactive=False,
                    type="filepath",
                    format="png",
                    elem_id="rec-swipe",
                    elem_classes="pixel",
                    max_height=420,
                )
                second = gr.Markdown(elem_id="rec-second")
    with gr.Column(visible=False):  # for programs: /reconstruct takes a run and a file
        api_file, api_go = gr.File(type="filepath", label="image"), gr.Button()

    def on_run(name):
        "The slider of kept tokens and the runs that may stand beside this one."
        offered = [
            (NOBODY, ""),
            *((label, value) for label, value in choices(ctx.runs) if value != name),
        ]
        try:
            t = open_lens(resolve(ctx.runs, name).path).tokenizer
            return gr.Slider(
                maximum=max(2, t.tokens), value=t.tokens, visible=can_keep(t)
            ), gr.Dropdown(choices=offered, value="")
        except ValueError:
            return gr.Slider(visible=False), gr.Dropdown(choices=offered, value="")

    def told(lens, result, k):
        t, f = lens.tokenizer, result["figures"]
        says = f"### {in_words(f)}\n{t.tokens if k is None else f'first {k} of {t.tokens}'} tokens of width {t.latent_dim}"
        if "effective_codewords" in f:
            says += f"; a token mixes {f['effective_codewords']:.1f} codewords on average"
        return says

    def three(result):
        return [served(enlarge(result[k])) for k in ("original", "reconstruction", "error")]

    def show(name, images, tab, k, name2):
        "Everything of the tab, from the chosen run and pictures."
        nothing = (
            [None, None, None],
            None,
            gr.Column(visible=False),
            None,
            None,
            gr.Column(visible=False),
            None,
            "",
        )
        if tab != "reconstruct":
            return [gr.skip()] * 11
        pack = lambda pictures, message, file, *rest: [
            *pictures,
            message,
            gr.DownloadButton(value=file),
            *rest,
        ]
        if not name:
            return pack(nothing[0], "", *nothing[1:])
        try:
            lens = open_lens(resolve(ctx.runs, name).path)
            distance, k = (
                perceptual_soon(lens),
                int(k) if can_keep(lens.tokenizer) and k < lens.tokenizer.tokens else None,
            )
            keys = images or [focus(images)]
            results = [reconstruct(lens, chosen_image(lens, key), k, distance) for key in keys]
            says = told(lens, results[-1], k) + ("" if distance else f"  \n*{WAIT}*")
            names = [
                f"{i + 1}-{'upload' if key.startswith('file:') else key.replace(':', '-')}"
                for i, key in enumerate(keys)
            ]
            table = [
                [
                    n,
                    *(
                        round(r["figures"][m], 4) if m in r["figures"] else None
                        for m in ("psnr", "ssim")
                    ),
                    round(r["figures"][distance[0]], 4) if distance else None,
                ]
                for n, r in zip(names, results)
            ]
            many = (
                [
                    gr.Column(visible=True),
                    served(sheet(results, max(1, 96 // results[0]["original"].width))),
                    table,
                ]
                if len(keys) > 1
                else nothing[2:5]
            )
            return pack(
                three(results[-1]),
                says,
                served(bundle(dict(zip(names, results))), "zip"),
                *many,
                *compare(lens, keys[-1], results[-1], name2),
            )
        except ValueError as e:
            return pack(nothing[0], failed(e), *nothing[1:])

    def compare(lens, key, mine, name2):
        if not name2:
            return gr.Column(visible=False), None, ""
        try:
            two = open_lens(resolve(ctx.runs, name2).path)
            theirs = reconstruct(two, same_image(lens, key, two), None, perceptual_soon(two))
            a = enlarge(mine["reconstruction"], 400)
            pair = (
                served(a),
                served(theirs["reconstruction"].resize(a.size, 0)),
            )  # 0: a pixel is seen as a pixel
            return (
                gr.Column(visible=True),
                pair,
                f"Left: {plain(lens.run.name)}, {in_words(mine['figures'])}. Right: {plain(two.run.name)}, {two.tokenizer.tokens} tokens, {in_words(theirs['figures'])}.",
            )
        except ValueError as e:
            return gr.Column(visible=True), None, failed(e)

    def on_api(name, path):
        "A file through a run's tokenizer: original, reconstruction, error map and figures."
        try:
            if not path:
                raise ValueError("No file was given.")
            lens = open_lens(resolve(ctx.runs, name).path)
            result = reconstruct(
                lens, read_upload(path, lens.tokenizer.image_size), None, perceptual_soon(lens)
            )
            return *three(result), told(lens, result, None)
        except ValueError as e:
            return None, None, None, failed(e)

    out = [*pictures, message, download, several, rows, numbers, beside, swipe, second]
    asked = [ctx.run, ctx.images, ctx.tab, kept, other]
    draw = Newest(show, asked, out).event
    offer = Newest(on_run, ctx.run, [kept, other], show_progress="hidden").event
    ctx.run.change(**offer).then(**draw)
    gr.on([ctx.images.change, ctx.tab.change, kept.input, other.input], **draw)
    api_go.click(on_api, [ctx.run, api_file], [*pictures, message], api_name="reconstruct")
