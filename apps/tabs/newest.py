"""Handlers that several events call, of which the newest call answers."""

import gradio as gr
from tabs import made

QUIET = dict(show_progress="hidden", api_name=False)
SLOW = dict(show_progress="minimal", api_name=False)
# Handlers that follow a slider: of the questions asked while one is at work, the newest counts.
LATEST = dict(trigger_mode="always_last", **SLOW)


class Newest:
    """A handler that several events call: of its calls in one session, only the newest answers.

    Calls run beside each other, so an earlier one may end later; its answer is then dropped.
    `after`: other handlers that write the same outputs; a newer call of one of them drops this
    answer, too.
    Use: `gr.on(events, **handler.event)`. No two of them may follow the same event of a component:
    gradio's page raises that event again for both when one has ended, and they never come to rest.
    One that writes pictures is a method of a `picker.Part`: it also gets what stands on the page,
    which goes into these pictures (see `picture_files.downloadable`).
    """

    def __init__(self, handler, inputs, outputs, after: tuple["Newest", ...] = (), **options):
        self.last = gr.State(Last())
        watched = [self.last, *(a.last for a in after)]
        inputs, outputs = _listed(inputs), _listed(outputs)
        part = handler.__self__ if any(isinstance(o, made.PICTURES) for o in outputs) else None
        stands = made.asked(part) if part else []

        def answer(*given):
            mine, others, given = given[0], given[1 : len(watched)], given[len(watched) :]
            call = mine.call = object()
            before = [o.call for o in others]
            given, stood = given[: len(inputs)], given[len(inputs) :]
            with made.recording(made.made_by(part, stood) if part else None):
                found = handler(*given)
            newest = mine.call is call and [o.call for o in others] == before
            return found if newest else gr.skip()

        answer.__name__, answer.__doc__ = handler.__name__, handler.__doc__
        self.event = dict(
            fn=answer,
            inputs=[*watched, *inputs, *stands],
            outputs=outputs,
            **(LATEST | options),
        )


class Last:
    "The newest call of a handler in one session."

    call = None


def _listed(components) -> list:
    if components is None:
        return []
    return list(components) if isinstance(components, (list, tuple)) else [components]
