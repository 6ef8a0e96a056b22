"""Compare, in the tab Runs: up to ten runs by settings, curves, metrics and the same pictures."""

import gradio as gr
from tabs.controls import Dropdown
from tabs.newest import QUIET, Newest
from tabs.picker import Part, all_runs, by_worth, plain, preferred, resolve, still
from tabs.picture_files import downloadable
from tabs.tables import Raw, sheet, text

from softvq_lab.explore.compare_runs import (
    MOST,
    curve_names,
    metric_tables,
    overlaid_curves,
    same_pictures,
)
from softvq_lab.explore.latent_map import adapt
from softvq_lab.explore.run_forms import overview
from softvq_lab.explore.run_table import LEADING
from softvq_lab.runs import Run, differences

PROPOSED = 3  # runs that stand there at first
CHOOSE = "Choose two runs or more: of one kind, as a tokenizer and a generator share few metrics."


EFFORT = ("tokens", "latent_dim", "steps", "batch_size")
UNEQUAL = (
    "These runs differ in {}. More of it alone makes a metric better: the (best) of a row below "
    "need not be the best choice of the other settings."
)


class Compare(Part):
    def layout(self):
        self.which = Dropdown(
            [],
            value=[],
            multiselect=True,
            max_choices=MOST,
            allow_custom_value=True,
            label=f"Runs (up to {MOST})",
            elem_id="compare-runs",
        )
        self.differs = gr.HTML(elem_id="compare-table", apply_default_css=False)
        self.curve = Dropdown(
            [],
            label="Curve",
            allow_custom_value=True,
            visible=False,
            elem_id="compare-curve",
        )
        self.plot = gr.Plot(show_label=False, visible=False, elem_id="compare-plot")
        self.caption = gr.Markdown(elem_id="compare-caption")
        self.pictures = still("compare-pictures", visible=False)
        self.linked = {"compare": self.which}

    def fit(self, name, kept):
        return {self.which: dict(choices=all_runs(self.ctx.runs), value=[])}

    def on_open(self, chosen, name):
        "The chosen run and the newest finished ones of its kind, unless others were chosen here."
        rows = overview(self.ctx.runs)
        names = [r["name"] for r in rows]
        if chosen:
            return gr.Dropdown(choices=names)
        return gr.Dropdown(choices=names, value=proposed(rows, name))

    def readable_runs(self, names) -> dict[str, Run]:
        "The runs of these names; a `ValueError` says which of them cannot be compared."
        runs = {name: resolve(self.ctx.runs, name) for name in names or ()}
        if len(runs) > MOST:
            raise ValueError(f"{len(runs)} runs are chosen. At most {MOST} are compared.")
        for run in runs.values():
            _ = run.info  # says why it cannot be used
        return runs

    def on_compare(self, names, curve):
        "Settings and metrics as HTML, and the curves."
        hidden = gr.Dropdown(visible=False), gr.Plot(value=None, visible=False)
        if not names or len(names) < 2:
            return f"<p>{CHOOSE}</p>", *hidden
        try:
            runs = self.readable_runs(names)
            html = f'<div class="sheet">{settings_table(runs)}{metrics_tables(runs)}</div>'
            logged = curve_names(runs)
        except (OSError, ValueError) as e:
            return f"<p>There is nothing to compare: {text(e)}</p>", *hidden
        curve = preferred(logged, curve)
        offered = gr.Dropdown(choices=logged, value=curve, visible=bool(logged))
        return html, offered, self.on_curve(names, curve)

    def on_curve(self, names, curve):
        try:
            runs = self.readable_runs(names)
        except (OSError, ValueError):
            runs = {}
        if not runs or curve not in curve_names(runs):
            return gr.Plot(value=None, visible=False)
        return gr.Plot(value=adapt(overlaid_curves(runs, curve)), visible=True)

    def on_pictures(self, names):
        "The same held-out pictures by each run; what has no pictures is said."
        try:
            runs = self.readable_runs(names) if names and len(names) > 1 else {}
        except (OSError, ValueError):
            runs = {}
        picture, missing = same_pictures(runs.items())
        shown = dict(value=downloadable(picture), visible=True) if picture else dict(visible=False)
        return gr.Image(**shown), "  \n".join(map(plain, missing))

    def wire(self):
        self.tab.select(self.on_open, [self.which, self.ctx.run], self.which, **QUIET)
        shown, drawn = [self.differs, self.curve, self.plot], [self.pictures, self.caption]
        asked = dict(api_name="compare", show_progress="hidden")
        beside = Newest(self.on_compare, [self.which, self.curve], shown, **asked)
        pictured = Newest(self.on_pictures, self.which, drawn)
        self.which.change(**beside.event).then(**pictured.event)
        curved = Newest(self.on_curve, [self.which, self.curve], self.plot, (beside,), **QUIET)
        self.curve.input(**curved.event)


def proposed(rows: list[dict], name: str | None) -> list[str]:
    "The run of that name, or the newest, and the most worthwhile others of its kind."
    known = {r["name"]: r for r in rows}
    one = preferred(known, name)
    alike = [n for n, r in known.items() if r["kind"] == known[one]["kind"]]
    alike.sort(key=lambda n: by_worth(known[n]["state"], n))
    return list(dict.fromkeys([one, *alike]))[:PROPOSED] if one else []


def settings_table(runs: dict[str, Run]) -> str:
    rows = [["-" if v is None else v for v in row] for row in differences(list(runs.values()))]
    if not rows:
        return "<h4>Settings</h4><p>No difference.</p>"
    unequal = [str(row[0]) for row in rows if str(row[0]) in EFFORT]
    fair = f"<p>{UNEQUAL.format(text(' and '.join(unequal)))}</p>" if unequal else ""
    return "<h4>Settings that differ</h4>" + sheet(["setting", *runs], rows) + fair


def metrics_tables(runs: dict[str, Run]) -> str:
    """A table for each passport; the rows beyond the headlines, and the passport, are folded. So
    are the evaluations behind the leading ones, as there may be a dozen probes.
    """
    parts, others = [], []
    for evaluation, passport, about, rows in metric_tables(runs):
        measured = [n for n in runs if any(n in r.shown for r in rows)]
        head = ["metric", "", *(Raw(f'<th class="n">{text(n)}</th>') for n in measured)]
        main, more = (
            [metric_line(r, measured) for r in rows if r.headline is leads]
            for leads in (True, False)
        )
        entries = "; ".join(f"{text(k)}: {text(v)}" for k, v in passport.items())
        count = f"{len(more)} more, and" if more else "The passport:"
        table = sheet(head, more) if more else ""
        place = parts if evaluation in LEADING else others
        place += [f"<h4>{text(evaluation)}, {text(about)}</h4>", sheet(head, main) if main else ""]
        summary = f"<summary>{count} how it was measured</summary>"
        place.append(f"<details>{summary}<p>{entries}</p>{table}</details>")
    if parts and others:
        summary = "<summary><b>Other evaluations</b>, such as probes</summary>"
        others = [f"<details>{summary}{''.join(others)}</details>"]
    found = "".join(parts + others)
    return found or "<h4>Metrics</h4><p>None of these runs was evaluated.</p>"


def metric_line(row, names: list[str]) -> list:
    def cell(name):
        value = text(row.shown.get(name, ""))
        return Raw(f'<td class="n">{f"<b>{value} (best)</b>" if name in row.best else value}</td>')

    return [row.title, row.direction, *map(cell, names)]
