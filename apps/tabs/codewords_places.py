"""Part of the tab Codewords: places in the picture, and what all tokens and temperatures show."""

import gradio as gr
from tabs.codewords_text import SIDE, named
from tabs.controls import Radio
from tabs.newest import Newest
from tabs.picker import CLICKS, failed, focus, tiles
from tabs.picture_files import served

from softvq_lab.explore.codewords import can_attend, has_weights
from softvq_lab.explore.session import chosen_image, enlarge
from softvq_lab.explore.token_views import (
    TAU_FACTORS,
    codewords_at,
    held_by_tokens,
    held_pictures,
    looks_of_tokens,
    over_temperature,
    tokens_at,
)

HELD = (
    "What each token holds: bright where the picture changes when this token alone becomes its "
    "mean. A click chooses the token."
)
STRIP = (
    "The picture over the temperature of all tokens, from the strongest codeword alone to the mean "
    "of all, with its PSNR in dB. A click sets the temperature."
)
DRAWS, LOOKS = ("draws there", "draws"), ("looks there (attention of the encoder)", "looks")


class Places:
    "What is clicked in pictures; the tab has `token`, `temperature`, `sharp` and `pictures`."

    def click_choices(self, tokenizer) -> list[tuple]:
        "How a click may choose a token; only a ViT has attention."
        return [DRAWS, LOOKS] if can_attend(tokenizer) else [DRAWS]

    def layout_place(self):
        self.chooses = Radio(
            [DRAWS, LOOKS],
            value="draws",
            label="A click in a picture chooses the token that",
            elem_id="cw-chooses",
        )

    def layout_held(self):
        gr.Markdown(HELD)
        self.held = tiles("cw-held", 8, "max-content", fit_columns=False)

    def layout_strip(self):
        gr.Markdown(STRIP)
        self.strip = tiles("cw-strip", 8, "max-content", fit_columns=False)

    def sides(self, name, images):
        "What each token holds, and the picture over the temperature."
        try:
            loaded, key = self.ctx.open(name), focus(images)
        except ValueError:
            return [], []
        held = []
        if loaded.heldout_count:
            pictures = held_pictures(loaded, key, 96)
            held = [(served(p), f"{i}") for i, p in enumerate(pictures)]
        return held, strip_tiles(loaded, key)

    def on_place(self, name, images, chooses, event: gr.SelectData):
        "A click in a picture: the token that draws there, or whose encoder looked there."
        try:
            loaded, key = self.ctx.open(name), focus(images)
            _, H, W = chosen_image(loaded, key).shape
            enlarged = max(1, SIDE // W)
            across, down = (v / (n * enlarged) for v, n in zip(event.index, (W, H), strict=True))
            maps = looks_of_tokens if chooses == "looks" else held_by_tokens
            found = tokens_at(maps(loaded, key), across, down, 0 if chooses == "looks" else 1)
        except (ValueError, TypeError) as e:
            return gr.skip(), failed(e)
        return found[0][0], describe_place(loaded, key, found, chooses, across, down)

    def on_held(self, event: gr.SelectData):
        return event.index

    def on_strip(self, event: gr.SelectData):
        "A click in the strip: its temperature; the mean has none."
        if event.index == 0:
            return gr.skip(), True
        if event.index > len(TAU_FACTORS):
            return gr.skip(), gr.skip()
        return TAU_FACTORS[event.index - 1], False

    def wire_places(self, draw: dict):
        where = [self.ctx.run, self.ctx.images]
        sides = Newest(self.sides, where, [self.held, self.strip])
        self.asked.change(**sides.event)
        self.asked.change(None, None, self.place_message, js="() => ''", api_name=False)
        for shown in self.pictures:
            chosen = [self.token, self.place_message]
            shown.select(self.on_place, [*where, self.chooses], chosen, **CLICKS).then(**draw)
        self.held.select(self.on_held, None, self.token, **CLICKS).then(**draw)
        self.strip.select(self.on_strip, None, [self.temperature, self.sharp], **CLICKS).then(
            **draw
        )


def strip_tiles(loaded, key: str) -> list[tuple[str, str]]:
    if not has_weights(loaded.tokenizer):
        return []
    return [(served(enlarge(p, 96)), name) for name, _, p in over_temperature(loaded, key)]


def describe_place(loaded, key: str, found, chooses: str, across: float, down: float) -> str:
    "Which tokens draw or look at a place, and which codewords of the first one draw there."
    t, (token, _) = loaded.tokenizer, found[0]
    best = ", ".join(f"token {i} ({part:.0%})" for i, part in found[:3])
    verb = "look" if chooses == "looks" else "draw"
    sentence = f"Tokens that {verb} here: {best}. **Token {token}** is selected"
    if not has_weights(t):
        return sentence + "."
    words = codewords_at(loaded, key, token, across, down)[:3]
    mix = ", ".join(f"**{named(t, token, k)}** (weight {w:.0%}, {c:.1%})" for k, w, c in words)
    return (
        f"{sentence}. Its codewords with the largest effect here: {mix}. The second percentage is "
        "how much this place changes when the codeword is replaced by others, in percent of the "
        "range from black to white."
    )
