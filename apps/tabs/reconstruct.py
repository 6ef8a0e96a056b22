"""Tab Reconstruct: an image, its reconstruction, the error; two runs under one slider."""

import gradio as gr
from tabs import made
from tabs.chooser import Chooser
from tabs.controls import Dropdown, Slider
from tabs.newest import Newest
from tabs.picker import LEFT, RIGHT, Part, choices, failed, focus, picture, plain, resolve, still
from tabs.picture_files import downloadable, served

from softvq_lab.explore.familiarity import how_unlike
from softvq_lab.explore.png_texts import png_info
from softvq_lab.explore.reproduce import reconstruction_ways
from softvq_lab.explore.session import (
    bundle,
    can_keep,
    chosen_image,
    enlarge,
    in_words,
    perceptual,
    perceptual_soon,
    read_upload,
    reconstruct,
    same_image,
    sheet,
)
from softvq_lab.registry import register

ABOUT = (
    "Pick a held-out image (the tokenizer has never seen it) or upload your own: "
    "it is cropped to the centre, encoded into latent tokens and decoded again."
)
CAPTIONS = {
    "original": "Original",
    "reconstruction": "Reconstruction",
    "error": "Error (brightest: half the range or more)",
}
NO_SECOND_RUN = "no second run"
WAIT = "The perceptual distance comes with the next picture: its network is being trained, once."


@register("tab", "Reconstruct", place=1)
class Reconstruct(Part):
    def layout(self):
        gr.Markdown(ABOUT)
        with gr.Row(elem_classes="work"):
            with gr.Column(**LEFT):
                Chooser(self.ctx, "rec", several=True)
            with gr.Column(**RIGHT):
                with gr.Row(elem_classes="pictures"):
                    self.pictures = [picture(f"rec-{k}", c) for k, c in CAPTIONS.items()]
                self.layout_result()
                self.layout_several()
                self.layout_beside()
        self.linked = {"kept": self.kept, "beside": self.other}
        with gr.Column(visible=False):  # for programs: /reconstruct takes a run and a file
            self.api_file, self.api_go = (
                gr.File(type="filepath", label="image", elem_id="rec-api-file"),
                gr.Button(),
            )

    def layout_result(self):
        self.message = gr.Markdown(elem_id="rec-message")
        self.unlike = gr.Markdown(elem_id="rec-unlike")
        self.kept = Slider(
            1,
            8,
            8,
            step=1,
            label="Tokens kept (the first k; this run was trained for any k)",
            elem_id="rec-kept",
            visible=False,
        )
        self.download = gr.DownloadButton(
            "Download pictures and metrics", size="sm", elem_id="rec-download"
        )

    def layout_several(self):
        with gr.Column(visible=False) as self.several:
            gr.Markdown("All chosen images")
            self.rows = still("rec-sheet")
            self.numbers = gr.Dataframe(
                headers=["picture", "PSNR", "SSIM", "perceptual"],
                interactive=False,
                elem_id="rec-numbers",
            )

    def layout_beside(self):
        self.other = Dropdown(
            [(NO_SECOND_RUN, "")],
            value="",
            label="Beside it",
            elem_id="rec-other",
            allow_custom_value=True,
        )
        with gr.Column(visible=False) as self.beside:
            self.swipe = gr.ImageSlider(
                show_label=False,
                interactive=False,
                type="filepath",
                format="png",
                elem_id="rec-swipe",
                elem_classes="pixel",
                max_height=420,
            )
            self.second = gr.Markdown(elem_id="rec-second")

    def depends(self, name):
        return [value for _, value in choices(self.ctx.runs)]

    def awaits(self, name):
        return perceptual.known(self.ctx.open(name))

    def fit(self, name, kept):
        "The slider of kept tokens and the runs that may stand beside this one."
        others = [(label, value) for label, value in choices(self.ctx.runs) if value != name]
        limits = {self.other: dict(choices=[(NO_SECOND_RUN, ""), *others], value="")}
        try:
            t = self.ctx.open(name).tokenizer
        except ValueError:
            return limits
        kept = dict(maximum=max(2, t.tokens), value=t.tokens, visible=can_keep(t))
        return limits | {self.kept: kept}

    def reproduce(self, name, image, values):
        run = resolve(self.ctx.runs, name).path
        kept = first_k(self.ctx.open(name).tokenizer, values["kept"])
        return reconstruction_ways(str(run), image, kept)

    def show(self, name, images, k, other):
        "Everything of the tab, from the chosen run and pictures."
        if not name:
            return self.blank("")
        try:
            loaded = self.ctx.open(name)
            distance, kept = perceptual_soon(loaded), first_k(loaded.tokenizer, k)
            keys = images or [focus(images)]
            results = [
                reconstruct(loaded, chosen_image(loaded, key), kept, distance) for key in keys
            ]
            named = {
                called(i, key): r for i, (key, r) in enumerate(zip(keys, results, strict=True))
            }
            archive = bundle(named, png_info(made.texts_now()))
            text = summary(loaded, results[-1], kept) + ("" if distance else f"  \n*{WAIT}*")
            return {
                **self.blank(text),
                **dict(zip(self.pictures, three(results[-1]), strict=True)),
                self.download: gr.DownloadButton(value=served(archive, "zip")),
                **(self.together(named, distance) if len(keys) > 1 else {}),
                **(self.compare(loaded, keys[-1], results[-1], other) if other else {}),
            }
        except ValueError as e:
            return self.blank(failed(e))

    def blank(self, message):
        "The tab with this message and no picture."
        return {
            **dict.fromkeys([*self.pictures, self.rows, self.numbers, self.swipe]),
            self.message: message,
            self.download: gr.DownloadButton(value=None),
            self.several: gr.Column(visible=False),
            self.beside: gr.Column(visible=False),
            self.second: "",
        }

    def together(self, named, distance):
        "All chosen pictures on one sheet, and their metrics."
        results = list(named.values())
        scale = max(1, 96 // results[0]["original"].width)
        return {
            self.several: gr.Column(visible=True),
            self.rows: downloadable(sheet(results, scale)),
            self.numbers: [[n, *numbers_of(r["figures"], distance)] for n, r in named.items()],
        }

    def compare(self, loaded, key, mine, name):
        "The reconstruction of another run under the same slider."
        try:
            two = self.ctx.open(name)
            theirs = reconstruct(two, same_image(loaded, key, two), None, perceptual_soon(two))
        except ValueError as e:
            return {self.beside: gr.Column(visible=True), self.second: failed(e)}
        left = enlarge(mine["reconstruction"], 400)
        right = theirs["reconstruction"].resize(left.size, 0)  # 0: a pixel is seen as a pixel
        return {
            self.beside: gr.Column(visible=True),
            self.swipe: (downloadable(left), downloadable(right)),
            self.second: f"Left: {plain(loaded.run.name)}, {in_words(mine['figures'])}. "
            f"Right: {plain(two.run.name)}, {two.tokenizer.tokens} tokens, "
            f"{in_words(theirs['figures'])}.",
        }

    def judge(self, name, images):
        "A sentence about an upload that is unlike what the tokenizer has seen."
        key = focus(images)
        if not name or not key.startswith("file:"):
            return ""
        try:
            loaded = self.ctx.open(name)
            return plain(how_unlike(loaded, chosen_image(loaded, key)))
        except ValueError:
            return ""  # the message above says what is wrong

    def on_api(self, name, path):
        "A file through a run's tokenizer: original, reconstruction, error map and metrics."
        try:
            if not path:
                raise ValueError("No file was given.")
            loaded = self.ctx.open(name)
            x = read_upload(path, loaded.tokenizer.image_size)
            result = reconstruct(loaded, x, None, perceptual_soon(loaded))
            return *three(result), summary(loaded, result, None)
        except ValueError as e:
            return None, None, None, failed(e)

    def wire(self):
        asked = [self.ctx.run, self.ctx.images, self.kept, self.other]
        together = [self.several, self.rows, self.numbers]
        beside = [self.beside, self.swipe, self.second]
        shown = [*self.pictures, self.message, self.download, *together, *beside]
        draw = Newest(self.show, asked, shown).event
        gr.on([self.asked.change, self.kept.input, self.other.input], **draw)
        judged = Newest(self.judge, asked[:2], self.unlike, show_progress="hidden")
        self.asked.change(**judged.event)
        self.api_go.click(
            self.on_api,
            [self.ctx.run, self.api_file],
            [*self.pictures, self.message],
            api_name="reconstruct",
        )


def first_k(tokenizer, k) -> int | None:
    "How many tokens are decoded; None: all of them."
    return int(k) if can_keep(tokenizer) and k < tokenizer.tokens else None


def called(i: int, key: str) -> str:
    "The name of a chosen picture in the table and in the download."
    return f"{i + 1}-{'upload' if key.startswith('file:') else key.replace(':', '-')}"


def summary(loaded, result, kept) -> str:
    t, f = loaded.tokenizer, result["figures"]
    tokens = t.tokens if kept is None else f"first {kept} of {t.tokens}"
    text = f"### {in_words(f)}\n{tokens} tokens of width {t.latent_dim}"
    if "effective_codewords" in f:
        text += f"; a token mixes {f['effective_codewords']:.1f} codewords on average"
    return text


def three(result) -> list[str]:
    return [downloadable(enlarge(result[k])) for k in CAPTIONS]


def numbers_of(figures, distance) -> list[float | None]:
    "PSNR, SSIM and the perceptual distance, None where there is none."
    names = ["psnr", "ssim", distance[0] if distance else None]
    return [round(figures[n], 4) if n in figures else None for n in names]
