"""Controls whose limits change with the chosen run.

A page may still send a value of the previous run before it has received the new limits. The server
knows them already, and gradio would refuse the request with an error on the page. These controls
take the nearest possible value instead; the page shows it with the answer.
"""

import gradio as gr


class Slider(gr.Slider):
    is_template = True  # the page draws it as what it derives from

    def preprocess(self, payload: float) -> float:
        return super().preprocess(min(max(payload, self.minimum), self.maximum))


class Dropdown(gr.Dropdown):
    is_template = True

    def preprocess(self, payload):
        anything = self.allow_custom_value  # the handler checks it
        return super().preprocess(payload if anything else _possible(payload, self.choices))


class Radio(gr.Radio):
    is_template = True

    def preprocess(self, payload):
        return super().preprocess(_possible(payload, self.choices))


def _possible(payload, choices: list[tuple]):
    "Of several chosen ones those that are offered; of one, itself, or else the first offered one."
    offered = [value for _, value in choices]
    if isinstance(payload, list):
        return [p for p in payload if p in offered]
    if payload in offered or payload is None:
        return payload
    return next(iter(offered), None)
