"""'Reproduce this', below the tabs: the lines that make elsewhere what the open tab shows."""

import gradio as gr
from tabs.made import Made, controls
from tabs.newest import QUIET
from tabs.picker import failed

NOTHING = "Nothing that could be made elsewhere is shown here."
ABOUT = "The same without the explorer, from the folder in which it was started."
# Lines of what was shown before would be wrong: they are asked for anew.
CLOSE = "() => ({open: false, __type__: 'update'})"


class Reproduce:
    "It is built after the tabs are filled and `address` has read them."

    def __init__(self, ctx, address):
        self.ctx, self.linked = ctx, address.linked
        with gr.Accordion("Reproduce this", open=False, elem_id="reproduce") as self.box:
            self.message = gr.Markdown(elem_id="reproduce-message")
            # No language: the colours that gr.Code gives it are too pale to be read on white.
            how = dict(language=None, interactive=False, wrap_lines=True, visible=False, lines=1)
            self.terminal = gr.Code(label="In a terminal", elem_id="reproduce-terminal", **how)
            self.python = gr.Code(label="In Python", elem_id="reproduce-python", **how)
        controls = list(self.linked.values())
        self.box.expand(
            self.show,
            [ctx.run, ctx.tab, ctx.images, *controls],
            [self.message, self.terminal, self.python],
            **QUIET,
        )
        changes = [c.change for c in (address.place, *controls)]
        gr.on(changes, None, None, self.box, js=CLOSE, api_name=False)

    def show(self, run, tab, images, *values):
        try:
            ways = Made(self.ctx, tab, run, images, self.of_tab(tab, values)).ways()
        except (ValueError, LookupError) as e:
            return failed(e), gr.Code(visible=False), gr.Code(visible=False)
        if ways is None:
            return NOTHING, gr.Code(visible=False), gr.Code(visible=False)
        shown = [gr.Code(value=x or None, visible=bool(x)) for x in (ways.terminal, ways.python)]
        return f"{ABOUT} {ways.note}", *shown

    def of_tab(self, tab, values) -> list:
        "The values of the controls of one tab."
        at = dict(zip(self.linked, values, strict=True))
        return [at[tab, name] for name in controls(self.ctx, tab)]
