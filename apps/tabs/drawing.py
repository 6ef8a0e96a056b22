"""What a page has asked to be drawn in the tab Sample: the newest wish counts, and Stop ends it."""

import gradio as gr
from tabs.made import asked, made_by
from tabs.newest import QUIET
from tabs.picker import Session, failed

AT_WORK = dict(
    show_progress="hidden", trigger_mode="multiple", concurrency_id="sample", concurrency_limit=2
)
AT_ONCE = dict(queue=False, trigger_mode="multiple", **QUIET)


class Drawing:
    """What a page has asked to be drawn, the newest of it. An API client has no session.

    `made`: what stood on the page then.

    Gradio's own way to cancel would leave the page as it was at that moment, without a word.
    """

    def __init__(self, session: Session | None):
        self.session = session or Session()
        self.mark = self.session.marks.get("sample")
        self.session.sampling = self
        self.made = self.session.drawn_from

    @property
    def replaced(self) -> bool:
        "Was another run chosen, or something else asked for?"
        now = self.session
        return now.sampling is not self or now.marks.get("sample") != self.mark

    @property
    def stopped(self) -> bool:
        "Was it stopped by the button?"
        return self.session.stopped and not self.replaced

    def goes_on(self) -> bool:
        return not (self.stopped or self.replaced)


def untouched(places: int):
    """The final answer of a replaced request. Gradio repeats a generator's last answer when it
    ends, which would overwrite newer pictures.
    """
    return tuple(gr.skip() for _ in range(places))


class Start:
    """The beginning of a drawing in a part of the tab: `button.click(**Start(part, text).event)`.

    `sets`: controls that the same click sets, which the server would hear of too late.
    """

    def __init__(self, part, message: gr.Markdown, **sets):
        self.part, self.sets = part, sets
        inputs = [part.ctx.session, *asked(part)]
        self.event = dict(fn=self.answer, inputs=inputs, outputs=message, **AT_ONCE)

    def answer(self, session, *stands):
        "Whatever was being drawn is not wanted any more."
        session.sampling, session.stopped = None, False
        session.drawn_from = made_by(self.part, stands)
        session.drawn_from.values |= self.sets
        return "Starting ..."


def on_stop(session):
    "What is being drawn ends after its step, and says so itself."
    session.stopped = True


def reason(e: Exception) -> str:
    return str(e) if isinstance(e, LookupError) else failed(e)
