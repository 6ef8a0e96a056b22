"""What a page has asked to be drawn in the tab Sample: the newest wish counts, and Stop ends it."""

import gradio as gr
from tabs.picker import QUIET, Session, failed

AT_WORK = dict(
    show_progress="hidden", trigger_mode="multiple", concurrency_id="sample", concurrency_limit=2
)
AT_ONCE = dict(queue=False, trigger_mode="multiple", **QUIET)


class Drawing:
    """What a page has asked to be drawn, the newest of it. An API client has no session.

    Gradio's own way to cancel would leave the page as it was at that moment, without a word.
    """

    def __init__(self, session: Session | None):
        self.session = session or Session()
        self.run, self.session.sampling = self.session.marks.get("sample"), self

    @property
    def replaced(self) -> bool:
        "Was another run chosen, or something else asked for?"
        now = self.session
        return now.sampling is not self or now.marks.get("sample") != self.run

    @property
    def stopped(self) -> bool:
        "Was it stopped by the button?"
        return self.session.stopped and not self.replaced

    def goes_on(self) -> bool:
        return not (self.stopped or self.replaced)


def untouched(places: int):
    """The last answer of what is no longer wanted: gradio sends the last one again when a handler
    ends, and another's pictures may stand there by then.
    """
    return tuple(gr.skip() for _ in range(places))


def on_start(session):
    "Whatever was being drawn is not wanted any more."
    session.sampling, session.stopped = None, False
    return "Starting ..."


def on_stop(session):
    "What is being drawn ends after its step, and says so itself."
    session.stopped = True


def says(e: Exception) -> str:
    return str(e) if isinstance(e, LookupError) else failed(e)
