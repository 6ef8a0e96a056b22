"""All, in the tab Runs: a table of all runs with metrics as columns, and each passport in full."""

from html import escape

import gradio as gr
from tabs.controls import Dropdown
from tabs.newest import QUIET, Newest
from tabs.picker import CLICKS, Part
from tabs.tables import Raw, sheet, text

from softvq_lab.explore.run_forms import overview, run_name
from softvq_lab.explore.run_table import (
    Column,
    arranged,
    evaluation_place,
    fact_columns,
    metric_columns,
    next_order,
)
from softvq_lab.metrics import shown_in
from softvq_lab.runs import comparable, list_runs, unusable_metrics

METRICS = "### Metrics\nOnly metrics that were measured in the same way stand in one table."
NONE = "<p>No run yet: start one in the tab <i>Start</i>, or by <code>make demo</code>.</p>"
CLICK = """element.addEventListener('click', e => {
    const b = e.target.closest('button');
    if (b) trigger('run' in b.dataset ? 'select' : 'click', {...b.dataset});
});"""
SORTED = {"-": ("descending", " \u25be"), "": ("ascending", " \u25b4")}


class RunTable(Part):
    def layout(self):
        self.words = gr.Textbox(
            label="Filter",
            placeholder="words of a name, kind, state or date",
            elem_id="runs-filter",
        )
        with gr.Accordion("Columns", open=False, elem_id="runs-columns-part"):
            self.columns = Dropdown(
                [],
                value=[],
                multiselect=True,
                label="Facts, and metrics by how they were measured",
                elem_id="runs-columns",
            )
        self.order = gr.Textbox("", visible="hidden", elem_id="runs-order")
        self.listing = gr.HTML(js_on_load=CLICK, elem_id="runs-table", apply_default_css=False)
        gr.Markdown(METRICS)
        self.metrics = gr.HTML(elem_id="runs-metrics", apply_default_css=False)
        self.seen = gr.State("")  # what stands there: it is not drawn again under a finger
        self.inputs = [self.words, self.columns, self.order]
        self.linked = {"filter": self.words, "columns": self.columns, "sort": self.order}

    def offered(self) -> list[Column]:
        return [*fact_columns(overview(self.ctx.runs)), *metric_columns(self.ctx.runs)]

    def depends(self, name):
        return [(c.key, c.usual) for c in self.offered()]

    def fit(self, name, kept):
        columns = self.offered()
        choices = [(f"{c.title} - {c.about}" if c.about else c.title, c.key) for c in columns]
        usual = [c.key for c in columns if c.usual]
        return {self.columns: dict(choices=choices, value=usual)}

    def drawn(self, rows, words, chosen, order) -> str:
        "`rows` of `overview` as HTML; the name of each run and each head are buttons."
        if not rows:
            return NONE
        columns = [*fact_columns(rows), *metric_columns(self.ctx.runs)]
        names = arranged([r["name"] for r in rows], columns, words or "", order or "")
        if not names:
            return f"<p>None of the {len(rows)} runs has all these words: {text(words)}</p>"
        shown = [c for c in columns if c.key in (chosen or ())]
        heads = [head("run", "run", order, kind="run"), *(column_head(c, order) for c in shown)]
        lines = [[button(n), *(cell(c, n) for c in shown)] for n in names]
        return sheet(heads, lines)

    def on_draw(self, *asked):
        table = self.drawn(overview(self.ctx.runs), *asked)
        return table, table

    def update(self, rows, seen, *asked) -> dict:
        "What has changed on the page since it was `seen`."
        table = self.drawn(rows, *asked)
        return {} if table == seen else {self.listing: table, self.seen: table}

    def on_sort(self, order, event: gr.EventData):
        key = str(event.order)
        return next_order(next((c for c in self.offered() if c.key == key), None), order or "")

    def on_open(self, *asked):
        return *self.on_draw(*asked), measured(self.ctx.runs)

    def wire(self):
        shown = [self.listing, self.seen]
        self.drawing = Newest(self.on_draw, self.inputs, shown, **QUIET)
        gr.on([c.change for c in self.inputs], **self.drawing.event)
        self.of_run.change(self.on_open, self.inputs, [*shown, self.metrics], **QUIET)
        self.listing.click(self.on_sort, self.order, self.order, **CLICKS)


def button(name: str) -> Raw:
    escaped = escape(name, True)
    return Raw(f'<td class="run"><button data-run="{escaped}">{escaped}</button></td>')


def cell(column: Column, name: str) -> Raw:
    kind = ' class="n"' if column.numbers else ""
    return Raw(f"<td{kind}>{text(column.shown.get(name, ''))}</td>")


def column_head(column: Column, order: str) -> Raw:
    about = [column.about, column.direction]
    return head(column.title, column.key, order, about, "n" if column.numbers else "")


def head(title: str, key: str, order: str, about=(), kind: str = "") -> Raw:
    "A column's head, which sorts; `about` stands below it."
    way, arrow = "none", ""
    if (order or "").removeprefix("-") == key:
        way, arrow = SORTED["-" if order.startswith("-") else ""]
    small = "".join(f"<small>{text(a)}</small>" for a in about if a)
    sorts = f'<button data-order="{escape(key, True)}">{text(title)}{arrow}</button>'
    return Raw(f'<th scope="col" class="{kind}" aria-sort="{way}">{sorts}{small}</th>')


def measured(runs) -> str:
    "Metrics, one table for each passport; before them, what is strange about any."
    found = list_runs(runs)
    parts = [
        f"<p>{text(run_name(r.path, runs))}, {text(name)}: {text(why)}</p>"
        for r in found
        for name, why in unusable_metrics(r).items()
    ]
    groups = sorted(comparable(found), key=lambda group: evaluation_place(group[0]))
    parts += [measured_alike(runs, *group) for group in groups]
    if not parts:
        return "<p>Nothing was measured yet: start the workflow <i>evaluate</i> on a run.</p>"
    return f'<div class="sheet">{"".join(parts)}</div>'


def measured_alike(runs, name: str, passport: dict, rows) -> str:
    "The metrics of one passport, folded under its name and the number of its images."
    columns = list(dict.fromkeys(k for _, metrics in rows for k in metrics))
    about = " &middot; ".join(f"{text(k)}: {text(v)}" for k, v in passport.items())
    lines = [
        [run_name(r.path, runs), *(shown_in(c, metrics) if c in metrics else "" for c in columns)]
        for r, metrics in rows
    ]
    measured_on = (
        f"{len(rows)} run{'s' * (len(rows) > 1)}, {text(passport.get('count', '?'))} images"
    )
    table = sheet(["run", *columns], lines, numbers=True)
    summary = f"<summary><b>{text(name)}</b>: {measured_on}</summary>"
    return f"<details>{summary}<p>{about}</p>{table}</details>"
