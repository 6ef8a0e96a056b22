"""In the tab Sample: the same sample over two settings, as a labelled table of pictures."""

import gradio as gr
from tabs.drawing import AT_WORK, Drawing, Start, reason, untouched
from tabs.newest import QUIET, Newest
from tabs.picker import Part, still
from tabs.picture_files import downloadable

from softvq_lab.explore.sample_grid import (
    NONE,
    SETTINGS,
    check_axes,
    grid_pictures,
    labelled,
    read_axis,
    suggested,
)
from softvq_lab.explore.sampling import StepsLeft

ABOUT = (
    "The first sample of the seed, with one setting along the rows and another along the columns. "
    "All other settings are those on the left, and the class is the first that is chosen there, or "
    "that of the seed's first sample."
)
AXES = ("rows", "row_values", "columns", "column_values")  # names in the link
SAMPLES, GRID, SWEEP, VARIATIONS = "samples", "grid", "sweep", "variations"  # what is shown
TYPED = "separated by commas"


class SampleGrid(Part):
    "`sample` is the tab whose settings stand for what does not vary."

    def __init__(self, sample):
        self.sample = sample
        super().__init__(sample.ctx)

    def layout(self):
        with gr.Accordion("Grid: two settings at once", open=False, elem_id="grid") as self.box:
            gr.Markdown(ABOUT)
            self.rows, self.row_values = self.layout_axis("Rows", "guidance", "grid-rows")
            columns = self.layout_axis("Columns", "seed", "grid-columns")
            self.columns, self.column_values = columns
            with gr.Row():
                self.go = gr.Button("Draw the grid", variant="primary", elem_id="grid-go")
                self.stop = gr.Button("Stop", elem_id="grid-stop")
            self.message = gr.Markdown(elem_id="grid-message")
            self.picture = still("grid-picture")
        # what was drawn last: one of SAMPLES, GRID, SWEEP, VARIATIONS; "" is nothing yet
        self.shows = gr.Textbox("", visible="hidden")
        self.linked = {
            "rows": self.rows,
            "row_values": self.row_values,
            "columns": self.columns,
            "column_values": self.column_values,
            "shows": self.shows,
        }
        self.follows = [self.message, self.picture, self.box]

    def layout_axis(self, label, setting, elem_id):
        with gr.Row():
            chosen = gr.Dropdown(
                [NONE, *SETTINGS],
                value=setting,
                label=label,
                elem_id=elem_id,
                min_width=140,
                allow_custom_value=True,  # `read_axis` checks it
            )
            values = gr.Textbox(
                "",
                label=f"Values of the {label.lower()}",
                info=TYPED,
                elem_id=f"{elem_id}-values",
                min_width=160,
                max_lines=1,
            )
        return chosen, values

    def fit(self, name, kept):
        "Suggestions for the chosen settings; typed values stay where they are possible."
        try:
            loaded = self.sample.find(name)
        except (ValueError, LookupError):
            return {}
        limits = {self.shows: dict(value="", own=True, check=check_shown)}
        if kept.get("shows") == GRID:
            limits[self.box] = dict(open=True)
        for axis, typed in ("rows", "row_values"), ("columns", "column_values"):
            control = self.linked[axis]
            setting = kept.get(axis, control.value)
            if setting not in (NONE, *SETTINGS):
                setting = control.value
            limits[self.linked[typed]] = dict(
                value=suggested(loaded, setting),
                check=lambda text, setting=setting: read_axis(loaded, setting, text),
            )
        return limits

    def fresh(self, name):
        return {self.message: "", self.picture: None}

    def axes(self, loaded, values):
        "Rows and columns; a `ValueError` says what is not possible."
        rows = read_axis(loaded, values["rows"], values["row_values"])
        columns = read_axis(loaded, values["columns"], values["column_values"])
        check_axes(rows, columns)
        return rows, columns

    def on_setting(self, name, setting):
        "Values to begin with, or why there are none."
        try:
            loaded = self.sample.find(name)
            values = suggested(loaded, setting) if setting in SETTINGS else ""
            if not values:
                read_axis(loaded, setting, values)
        except (ValueError, LookupError) as e:
            return "", reason(e)
        return values, ""

    def on_go(self, name, rows, row_values, columns, column_values, session, *usual):
        "The grid after each of its pictures."
        wish = Drawing(session)
        try:
            loaded = self.sample.find(name)
            typed = rows, row_values, columns, column_values
            axes = self.axes(loaded, dict(zip(AXES, typed, strict=True)))
            how = self.sample.settings_of(loaded, *usual)
            total = len(axes[0].values) * len(axes[1].values)
            found, pace = {}, StepsLeft(total, "picture")
            for i, j, x in grid_pictures(loaded, *axes, how, wish.goes_on):
                found[i, j] = x
                drawn = labelled(found, *axes, tuple(x.shape[-2:]))
                message = pace.after(len(found))
                yield (
                    downloadable(drawn, wish.made),
                    message if len(found) < total else f"Done: {total} pictures.",
                )
            if wish.replaced:
                yield untouched(2)
            elif wish.stopped:
                yield gr.skip(), f"Stopped at {pace.place}."
        except (ValueError, LookupError) as e:
            yield gr.skip(), reason(e)

    def wire(self):
        name, session = self.ctx.run, self.ctx.session
        for axis, typed in (self.rows, self.row_values), (self.columns, self.column_values):
            chosen = Newest(self.on_setting, [name, axis], [typed, self.message], **QUIET)
            axis.input(**chosen.event)
        axes = [self.linked[name] for name in AXES]
        self.go.click(**Start(self, self.message, shows=GRID).event).then(
            self.on_go,
            [name, *axes, session, *self.sample.usual],
            [self.picture, self.message],
            api_name=False,
            **AT_WORK,
        )


def check_shown(value: str):
    possible = SAMPLES, GRID, SWEEP, VARIATIONS
    if value and value not in possible:
        raise ValueError(", ".join(possible))
