"""Sweeps, in the tab Runs: the morning page of a sweep, while it runs or after it."""

import os
from html import escape
from pathlib import Path

import gradio as gr
from tabs.picker import Newest

from softvq_lab.core import printable
from softvq_lab.experiments.leaderboard import (
    declared_in,
    failures,
    progress,
    results,
    settings,
    verdict,
)
from softvq_lab.experiments.sweep import read_report
from softvq_lab.experiments.sweep_plots import STATES, effects, overlaid, progress_bar, ranking
from softvq_lab.explore.latent_map import adapt
from softvq_lab.metrics import leading

SHOWN = {
    "tokenizer": ("reconstruction", "rec"),
    "generator": ("samples", "loss"),
}  # of a stage: evaluation, curve
EMPTY = "No sweep yet: <code>softvq-lab sweep sweeps/digits-tau.yaml</code> plans and runs one, and the page may be looked at meanwhile."


def names(runs) -> list[str]:
    "Sweeps under `runs`, the one written last first; one is called as its folder, printable."
    return list(_folders(runs))


def _folders(runs) -> dict[str, Path]:
    found = Path(runs).glob("sweeps/*/sweep.json")
    written = {p.parent: os.path.getmtime(p) for p in found if os.path.exists(p)}
    return {printable(p.name): p for p in sorted(written, key=written.get, reverse=True)}


def report_of(runs, name: str) -> dict:
    "The report of a sweep, of runs under `runs` only (wherever the app was started); a `ValueError` when there is none or it cannot be read."
    folder = _folders(runs).get(name)
    if folder is None:
        raise ValueError("This sweep is not there any more.")
    root = Path(runs).resolve()
    try:
        report = read_report(root / "sweeps" / folder.name)
        for t in report["tasks"]:
            if Path(t["run"]).parent.name == "pool":
                t["output"], t["run"] = (
                    str(root / "pool" / Path(t["run"]).name / n)
                    for n in (Path(t["output"]).name, "")
                )
        report["tasks"] = [
            t
            for t in report["tasks"]
            if Path(t["run"]).resolve().is_relative_to(root)
            and Path(t["output"]).resolve().is_relative_to(root)
        ]
        report["counts"] = {s: sum(t["state"] == s for t in report["tasks"]) for s in STATES}
        return report
    except (OSError, ValueError) as e:
        raise ValueError(f"sweep.json of {name} cannot be read: {printable(e, 300)}") from None


def as_text(table):
    "A table of results with labels that plotly, which reads some HTML, shows letter by letter."
    return table.assign(
        label=table["label"].map(printable).map(escape),
        **{
            c: table[c].map(lambda v: escape(printable(v)) if isinstance(v, str) else v)
            for c in table
            if c.startswith("vary.")
        },
    )


def page(runs, name: str, sheet) -> tuple[str, list]:
    "What is said of a sweep as HTML (`sheet` makes tables), and its figures."
    report = report_of(runs, name)
    p, parts = progress(report), []
    left = f", about {p['minutes_left']:.0f} minutes left" if p["minutes_left"] else ""
    parts.append(
        f"<p>{escape(printable(report.get('about', '')))}<br>{p['done']} of {len(report['tasks'])} done, {p['failed']} failed, {p['running']} running; the driver: {escape(printable(p['driver']))}{left}</p>"
    )
    figs, table = (
        [progress_bar({**report, "name": escape(printable(report["name"]))})],
        results(report),
    )
    for stage, (evaluation, curve) in SHOWN.items():
        rows = (
            table[(table["stage"] == stage) & (table["evaluation"] == evaluation)].dropna(
                axis=1, how="all"
            )
            if len(table)
            else table
        )
        if not (figure := leading(rows.columns, declared_in(table))):
            continue
        for _, same in rows.groupby(
            "passport", sort=False
        ):  # what was measured in different ways is not ranked together
            parts.append(
                f"<h4>{stage}: {figure}</h4><p>{escape(printable(verdict(same, figure)))}</p>"
                + sheet(
                    ["setting", "mean", "spread", "seeds", "worst", "best"],
                    [
                        [str(r[0]), *map(float, r[1:3]), int(r[3]), *map(float, r[4:])]
                        for r in settings(same, figure).itertuples()
                    ],
                    numbers=True,
                )
            )
            figs += [
                f
                for f in (ranking(as_text(same), figure), effects(as_text(same), figure))
                if f is not None
            ]
        figs.append(overlaid(as_text(rows), curve))
    failed = failures(report)
    if len(failed):
        parts.append(
            "<h4>What failed</h4>"
            + sheet(
                ["stage", "setting", "reason"],
                failed[["stage", "setting", "reason"]].astype(str).values.tolist(),
            )
        )
    for f in figs:
        adapt(f).update_traces(
            marker_line_color="#7f8793", selector={"marker.symbol": "line-ns"}
        )  # means, on light and dark
    return "".join(parts), figs


def build(ctx, sheet) -> gr.Dropdown:
    "Fill the tab; gives the dropdown of sweeps."
    gr.Markdown(
        "Who won, and whether that can be believed: means over seeds, *spread* is the standard deviation of single runs over them."
    )
    which = gr.Dropdown([], label="Sweep", elem_id="sweep-which", allow_custom_value=True)
    told = gr.HTML(elem_id="sweep-told", apply_default_css=False)
    plots = [gr.Plot(show_label=False, visible=False, elem_id=f"sweep-plot-{i}") for i in range(7)]

    def show(name):
        hidden = [gr.Plot(value=None, visible=False)] * len(plots)
        if not name:
            return EMPTY, *hidden
        try:
            html, figs = page(ctx.runs, name, sheet)
        except (ValueError, KeyError, TypeError) as e:
            return (
                f"<p>{escape(printable(e) if isinstance(e, ValueError) else 'This sweep.json is not of a sweep of ours.')}</p>",
                *hidden,
            )
        return f'<div class="sheet">{html}</div>', *(
            [gr.Plot(value=f, visible=True) for f in figs] + hidden
        )[: len(plots)]

    which.change(**Newest(show, which, [told, *plots], api_name="sweep_page").event)
    return which
