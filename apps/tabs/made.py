"""How what the page shows was made. Pictures that can be downloaded carry it with them."""

import re
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from urllib.parse import urlencode

import gradio as gr

from softvq_lab.core import hex_digest
from softvq_lab.explore.png_texts import LINK, PYTHON, TERMINAL
from softvq_lab.explore.reproduce import Ways

NOW = ContextVar("made", default=None)  # what the handler that is at work draws from
PICTURES = (gr.Image, gr.ImageSlider, gr.DownloadButton)  # components that offer a download


class Made:
    """What the page showed when something was drawn: a run, a tab, the chosen pictures, and the
    `values` of the tab's controls in the order of `controls`.
    """

    def __init__(self, ctx, tab: str, run: str | None, images: list[str] | None, values):
        self.ctx, self.tab, self.run, self.images = ctx, tab, run, images or []
        self.values = dict(zip(controls(ctx, tab), values, strict=True))

    @property
    def query(self) -> str:
        "The page's address, from which `address` opens it again."
        fields = [("run", self.run or ""), ("tab", self.tab), ("image", image_names(self.images))]
        fields += [(n, v) for n, given in self.values.items() for v in written(given)]
        return urlencode([(name, v) for name, v in fields if v != ""])

    def ways(self) -> Ways | None:
        "The lines that make it without the app; a `ValueError` or `LookupError` says why not."
        key = self.images[-1] if self.images else "heldout:0"
        for part in self.ctx.parts.get(self.tab, ()):
            if self.run and (found := part.reproduce(self.run, key, self.values)):
                return found
        return None

    @property
    def file_name(self) -> str:
        "What a downloaded picture is called."
        return re.sub(r"[^\w.-]+", "-", f"{self.run}-{self.tab}")[:80].lstrip(".-") + ".png"

    @cached_property
    def texts(self) -> dict[str, str]:
        "What a downloaded picture says, by name."
        try:
            ways = self.ways()
        except (ValueError, LookupError):
            ways = None
        lines = {TERMINAL: ways.terminal, PYTHON: ways.python} if ways else {}
        return {LINK: f"?{self.query}"} | {name: text for name, text in lines.items() if text}


def controls(ctx, tab: str) -> dict:
    "The controls of a tab that stand in its link, by their names there."
    parts = ctx.parts.get(tab, ())
    return {name: control for part in parts for name, control in part.linked.items()}


def asked(part) -> list:
    "The components whose values `made_by` takes."
    return [part.ctx.run, part.ctx.images, *controls(part.ctx, part.tab_id).values()]


def made_by(part, given) -> Made:
    run, images, *values = given
    return Made(part.ctx, part.tab_id, run, images, values)


@contextmanager
def recording(made: Made | None):
    "Pictures written in this block record `made`."
    before = NOW.set(made)
    try:
        yield
    finally:
        NOW.reset(before)


def texts_now() -> dict[str, str]:
    "What a picture says that is drawn now; nothing where a program asks."
    made = NOW.get()
    return made.texts if made else {}


def file_name(key: str) -> str:
    "What an uploaded picture is called in the address of its own page."
    return f"upload-{hex_digest(key.encode(), 10)}"


def image_names(images: list[str]) -> str:
    "The chosen pictures as an address has them."
    return ",".join(
        file_name(key) if key.startswith("file:") else key.partition(":")[2] for key in images
    )


def written(value) -> list:
    "The value of a control as an address has it: once for each of several."
    given = value if isinstance(value, (list, tuple)) else [value]
    return [_text(v) for v in given if v is not None]


def _text(value):
    if isinstance(value, bool):
        return int(value)
    return f"{value:.9g}" if isinstance(value, float) else value
