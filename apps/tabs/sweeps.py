"""Sweeps, in the tab Runs: progress, ranking and failures of a sweep, while it runs or after it."""

import os
from pathlib import Path

import gradio as gr
from tabs.newest import QUIET, Newest
from tabs.picker import Part, preferred
from tabs.tables import sheet, text

from softvq_lab.core import printable
from softvq_lab.experiments.leaderboard import (
    declared_in,
    failures,
    progress,
    results,
    settings,
    spread_in_words,
    verdict,
)
from softvq_lab.experiments.sweep import read_report
from softvq_lab.experiments.sweep_plots import STATES, effects, overlaid, progress_bar, ranking
from softvq_lab.explore.latent_map import adapt
from softvq_lab.metrics import leading, shown

ABOUT = (
    "The best settings and how certain the ranking is. Values are means over seeds; *spread* is "
    "the standard deviation over seeds."
)
EMPTY = (
    "No sweep yet: <code>softvq-lab sweep sweeps/digits-tau.yaml</code> plans and runs one, "
    "and this page shows it while it runs."
)
FOREIGN = "This sweep.json is not of a sweep of ours."
PLOTS = 7
SHOWN = {  # of a stage: evaluation, curve
    "tokenizer": ("reconstruction", "rec"),
    "generator": ("samples", "loss"),
}


class Sweeps(Part):
    def layout(self):
        gr.Markdown(ABOUT)
        self.which = gr.Dropdown([], label="Sweep", elem_id="sweep-which", allow_custom_value=True)
        self.report = gr.HTML(elem_id="sweep-report", apply_default_css=False)
        self.plots = [
            gr.Plot(show_label=False, visible=False, elem_id=f"sweep-plot-{i}")
            for i in range(PLOTS)
        ]

    def show(self, name):
        hidden = [gr.Plot(value=None, visible=False)] * PLOTS
        if not name:
            return EMPTY, *hidden
        try:
            html, figs = page(self.ctx.runs, name)
        except (ValueError, KeyError, TypeError) as e:
            return f"<p>{text(e if isinstance(e, ValueError) else FOREIGN)}</p>", *hidden
        plots = [gr.Plot(value=f, visible=True) for f in figs] + hidden
        return f'<div class="sheet">{html}</div>', *plots[:PLOTS]

    def on_open(self, now):
        offered = list(folders(self.ctx.runs))
        return gr.Dropdown(choices=offered, value=preferred(offered, now))

    def wire(self):
        shown = [self.report, *self.plots]
        self.which.change(**Newest(self.show, self.which, shown, api_name="sweep_page").event)
        self.tab.select(self.on_open, self.which, self.which, **QUIET)


def folders(runs) -> dict[str, Path]:
    "Sweeps under `runs` by the printable name of their folder, the one written last first."
    found = Path(runs).glob("sweeps/*/sweep.json")
    written = {p.parent: os.path.getmtime(p) for p in found if os.path.exists(p)}
    return {printable(p.name): p for p in sorted(written, key=written.get, reverse=True)}


def report_of(runs, name: str) -> dict:
    """The report of a sweep, of runs under `runs` only (wherever the app was started).

    Raises a `ValueError` when there is none or it cannot be read.
    """
    folder = folders(runs).get(name)
    if folder is None:
        raise ValueError("This sweep is not there any more.")
    root = Path(runs).resolve()
    try:
        report = read_report(root / "sweeps" / folder.name)
        tasks = [moved(t, root) for t in report["tasks"]]
        tasks = [t for t in tasks if inside(t["run"], root) and inside(t["output"], root)]
        counts = {s: sum(t["state"] == s for t in tasks) for s in STATES}
        return {**report, "tasks": tasks, "counts": counts}
    except (OSError, ValueError) as e:
        raise ValueError(f"sweep.json of {name} cannot be read: {printable(e, 300)}") from None


def moved(task: dict, root: Path) -> dict:
    "A task with the paths that its run and notebook have under `root`."
    run = Path(task["run"])
    if run.parent.name != "pool":
        return task
    here = root / "pool" / run.name
    return {**task, "run": str(here), "output": str(here / Path(task["output"]).name)}


def inside(path: str, root: Path) -> bool:
    return Path(path).resolve().is_relative_to(root)


def as_text(table):
    "A table of results with labels that plotly, which reads some HTML, shows letter by letter."
    varied = [c for c in table if c.startswith("vary.")]
    safe = {c: table[c].map(lambda v: text(v) if isinstance(v, str) else v) for c in varied}
    return table.assign(label=table["label"].map(text), **safe)


def page(runs, name: str) -> tuple[str, list]:
    "What is said of a sweep as HTML, and its plots."
    report = report_of(runs, name)
    parts, figs = [heading(report)], [progress_bar({**report, "name": text(report["name"])})]
    table = results(report)
    for stage in SHOWN:
        texts, plots = stage_of(table, stage)
        parts += texts
        figs += plots
    failed = failures(report)
    if len(failed):
        columns = ["stage", "setting", "reason"]
        rows = failed[columns].astype(str).values.tolist()
        parts.append("<h4>What failed</h4>" + sheet(columns, rows))
    for f in figs:  # means, on light and dark
        adapt(f).update_traces(marker_line_color="#7f8793", selector={"marker.symbol": "line-ns"})
    return "".join(parts), figs


def heading(report: dict) -> str:
    p = progress(report)
    left = f", about {p['minutes_left']:.0f} minutes left" if p["minutes_left"] else ""
    return (
        f"<p>{text(report.get('about', ''))}<br>"
        f"{p['done']} of {len(report['tasks'])} done, {p['failed']} failed, "
        f"{p['running']} running; the driver: {text(p['driver'])}{left}</p>"
    )


def stage_of(table, stage: str) -> tuple[list[str], list]:
    "Ranking and curves of one stage: HTML, and plots."
    evaluation, curve = SHOWN[stage]
    rows = table
    if len(table):
        rows = table[(table["stage"] == stage) & (table["evaluation"] == evaluation)]
        rows = rows.dropna(axis=1, how="all")
    metric = leading(rows.columns, declared_in(table))
    if not metric:
        return [], []
    parts, figs = [], []
    for _, same in rows.groupby("passport", sort=False):  # other passports are not ranked together
        heading = f"<h4>{stage}: {metric}</h4><p>{text(verdict(same, metric))}</p>"
        parts.append(heading + ranking_table(same, metric))
        plots = ranking(as_text(same), metric), effects(as_text(same), metric)
        figs += [f for f in plots if f is not None]
    return parts, [*figs, overlaid(as_text(rows), curve)]


def ranking_table(rows, metric: str) -> str:
    "Settings by the mean of their seeds."

    def in_unit(value):
        return shown(metric, float(value), declared_in(rows))

    ranking = spread_in_words(settings(rows, metric))
    table = [
        [str(setting), in_unit(mean), spread, int(seeds), in_unit(worst), in_unit(best)]
        for setting, mean, spread, seeds, worst, best in ranking.itertuples()
    ]
    head = ["setting", "mean", "spread", "seeds", "worst", "best"]
    return sheet(head, table, numbers=True)
