"""Tab Runs: what there is, what was measured, what is at work; start, follow, stop, compare."""

import re
import shutil
import tempfile
import threading
from html import escape
from pathlib import Path

import gradio as gr
from gradio.utils import get_upload_folder
from tabs import sweeps
from tabs.picker import Newest, failed, plain, resolve

from softvq_lab.core import ConfigError, printable
from softvq_lab.experiments.execute import TRAININGS
from softvq_lab.experiments.job import (
    cancel,
    is_alive,
    jobs,
    jobs_of,
    process_of,
    progress,
    read_lines,
    run_of,
    start,
)
from softvq_lab.explore.latent_map import adapt
from softvq_lab.explore.run_forms import (
    fields_of,
    keep_inside,
    notebook_html,
    notebooks,
    overview,
    run_name,
)
from softvq_lab.plots import curves
from softvq_lab.runs import (
    Run,
    comparable,
    describe,
    differences,
    list_runs,
    read_metrics,
    strange_figures,
)
from softvq_lab.training.health import alarms

CURVES = [
    "heldout_psnr",
    "loss",
    "rec",
    "kl",
    "perplexity",
    "effective_codewords",
    "window_usage",
    "grad_norm",
    "lr",
    "adv",
    "percep",
    "align",
    "commitment",
    "d_loss",
]
SHOWN = {  # the fields a form shows; the rest are lines of text
    "train": (
        "dataset",
        "quantizer",
        "tokens",
        "latent_dim",
        "codebook_size",
        "steps",
        "batch_size",
        "lr",
        "seed",
    ),
    "train_generator": ("tokenizer_run", "generator", "size", "steps", "batch_size", "lr", "seed"),
    "evaluate": ("samples", "sample_steps", "sample_guidance", "seed"),
    "sampler_quality": ("samples", "seed"),
    "latent_map": ("neighbors", "min_dist", "images", "seed"),
}
NOT_SHOWN = {
    "efficiency": "it measures a machine, not a run",
    "profile": "likewise",
    "sweep": "the tab Sweeps shows it",
}  # workflows that the form leaves to a terminal, and why
NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*){0,2}")
CSS = (
    " .sheet {overflow-x: auto} .sheet table {border-collapse: collapse; width: 100%; font-size: 14px} .sheet th, .sheet td {text-align: left; padding: 4px 10px; border-bottom: 1px solid var(--border-color-primary); white-space: nowrap; color: var(--body-text-color)} .sheet th {font-weight: 600}"
    " .sheet .n {text-align: right; font-variant-numeric: tabular-nums} .sheet button {color: var(--link-text-color); text-decoration: underline; cursor: pointer; padding: 4px 0} .sheet h4 {margin: 18px 0 2px; font-weight: 600; color: var(--body-text-color)} .sheet p {margin: 0 0 4px; font-size: 13px; color: var(--body-text-color); opacity: .75; white-space: normal} #watch-status p {color: var(--body-text-color); margin: 4px 0}"
    " .bar {height: 8px; border-radius: 4px; background: var(--border-color-primary); overflow: hidden; margin-top: 4px} .bar i {display: block; height: 100%; background: var(--color-accent)} #paper iframe {width: 100%; height: 75vh; border: 1px solid var(--border-color-primary); border-radius: 6px; background: #fff}"
)
CLICK = "element.addEventListener('click', e => { const b = e.target.closest('button[data-run]'); if (b) trigger('select', {run: b.dataset.run}); });"


def text(x) -> str:
    "Anything from a file as HTML that shows it letter by letter."
    return escape(printable(x))


def sheet(head: list[str], rows: list[list], numbers: bool = False) -> str:
    "A table as HTML; every cell is text and nothing but text."
    kind = lambda i: " class=n" if numbers and i else ""
    cell = lambda x, i: (
        x
        if isinstance(x, Raw)
        else f"<td{kind(i)}>{text(f'{x:.4g}' if isinstance(x, float) else x)}</td>"
    )
    titles = "".join(f"<th{kind(i)}>{text(h)}</th>" for i, h in enumerate(head))
    return f'<div class="sheet"><table><tr>{titles}</tr>{"".join("<tr>" + "".join(cell(x, i) for i, x in enumerate(r)) + "</tr>" for r in rows)}</table></div>'


class Raw(str):
    "HTML of our own."


def table(runs) -> str:
    "All runs; the name of each is a button."
    rows = overview(runs)
    if not rows:
        return "<p>No run yet: start one below, or by <code>make demo</code>.</p>"
    name = lambda n: Raw(f'<td><button data-run="{escape(n, True)}">{escape(n)}</button></td>')
    return sheet(
        ["run", "kind", "state", "step", "at work", "created"],
        [
            [name(r["name"]), *(r[k] for k in ("kind", "state", "step", "work", "created"))]
            for r in rows
        ],
    )


def measured(runs) -> str:
    "Figures, one table for each passport."
    found = list_runs(runs)
    groups = comparable(found)
    parts = [
        f"<p>{text(run_name(r.path, runs))}, {text(name)}: {text(why)}</p>"
        for r in found
        for name, why in strange_figures(r).items()
    ]
    if not groups and not parts:
        return "<p>Nothing was measured yet: start the workflow <i>evaluate</i> on a run.</p>"
    for name, passport, rows in groups:
        columns = list(dict.fromkeys(k for _, f in rows for k in f))
        about = " &middot; ".join(f"{text(k)}: {text(v)}" for k, v in passport.items())
        parts.append(
            f"<h4>{text(name)}</h4><p>{about}</p>"
            + sheet(
                ["run", *columns],
                [
                    [
                        run_name(r.path, runs),
                        *(f.get(c, "") for c in columns),
                    ]
                    for r, f in rows
                ],
                numbers=True,
            )
        )
    return f'<div class="sheet">{"".join(parts)}</div>'


def standing(run: Run) -> str:
    "State of a run and of its jobs, with a bar for what is at work."
    d, s, parts = describe(run), run.status, []
    if d["state"] != "unknown":
        parts.append(
            f"<b>{text(run.name)}</b>: {text(d['state'])}"
            + (f", step {text(d['step'])}" if d["step"] else "")
            + (f"<br>{text(s['error'])}" if s.get("error") and s["state"] != "unreadable" else "")
        )
    for j in jobs_of(run):
        info, (done, of, unit) = j.info, progress(j)
        bar = (
            f' &middot; {unit} {done} of {of}<div class="bar"><i style="width:{100 * done / max(of, 1):.1f}%"></i></div>'
            if info["state"] == "running" and of
            else ""
        )
        parts.append(
            f"job <i>{text(info.get('workflow') or j.output.name)}</i>: {text(info['state'])}"
            + (f"<br>{text(info['reason'])}" if info.get("reason") else "")
            + bar
        )
    return "".join(f"<p>{p}</p>" for p in parts) or "<p>Nothing here yet.</p>"


def build(ctx):
    gr.Markdown(
        "Trainings and measurements are processes of their own: close the page or stop the app, and they go on; come back, and they are here."
    )
    root = Path(ctx.runs)
    timer = gr.Timer(2, active=False)
    width = gr.Number(1280, visible=False)
    drawn = gr.State(())
    with gr.Tabs(elem_id="runs-tabs") as inner:
        with gr.Tab("All", id="all"):
            listing = gr.HTML(js_on_load=CLICK, elem_id="runs-table", apply_default_css=False)
            gr.Markdown(
                "### Figures\nOnly figures that were measured in the same way stand in one table."
            )
            figures = gr.HTML(elem_id="runs-figures", apply_default_css=False)
        with gr.Tab("Watch", id="watch") as watch_tab:
            watched = gr.Dropdown(
                [], label="Run to watch", elem_id="watch", allow_custom_value=True
            )
            status = gr.HTML(elem_id="watch-status", apply_default_css=False)
            with gr.Row():
                stop = gr.Button(
                    "Stop", variant="stop", size="sm", scale=0, min_width=120, elem_id="watch-stop"
                )
                said = gr.Markdown(elem_id="watch-said")
            health = gr.Markdown(elem_id="watch-health")
            plot = gr.Plot(show_label=False, visible=False, elem_id="watch-curves")
            log = gr.Textbox(
                label="The end of the log",
                lines=8,
                max_lines=16,
                interactive=False,
                elem_id="watch-log",
            )
        with gr.Tab("Start", id="start"):
            flow = gr.Dropdown(
                list(SHOWN), value="train", label="Workflow", elem_id="start-workflow"
            )
            name = gr.Textbox(
                label="Name of the new run",
                placeholder="for example softvq-16",
                elem_id="start-name",
            )
            resume = gr.Checkbox(
                False, label="Go on with it, if it was stopped", elem_id="start-resume"
            )
            target = gr.Markdown("It works on the run chosen at the top.", visible=False)
            controls, groups = form()
            rest = gr.Textbox(
                label="Any other parameter, one a line: name=value",
                lines=3,
                placeholder="tau=0.05\nkeep=uniform",
                elem_id="start-rest",
            )
            go = gr.Button("Start", variant="primary", elem_id="start-go")
            answer = gr.Textbox(
                show_label=False,
                lines=1,
                max_lines=12,
                interactive=False,
                visible=False,
                elem_id="start-answer",
            )
        with gr.Tab("Compare", id="compare") as compare_tab:
            gr.Markdown("Settings of two runs, only what differs.")
            with gr.Row():
                left = gr.Dropdown(
                    [], label="Run", elem_id="compare-a", allow_custom_value=True, min_width=160
                )
                right = gr.Dropdown(
                    [], label="and run", elem_id="compare-b", allow_custom_value=True, min_width=160
                )
            differs = gr.HTML(elem_id="compare-table", apply_default_css=False)
        with gr.Tab("Sweeps", id="sweeps") as sweeps_tab:
            which_sweep = sweeps.build(ctx, sheet)
        with gr.Tab("Notebook", id="notebook") as notebook_tab:
            gr.Markdown("The executed notebooks of the run chosen at the top.")
            with gr.Row():
                which = gr.Dropdown(
                    [], label="Notebook", elem_id="paper-which", allow_custom_value=True
                )
                file = gr.DownloadButton(
                    "Download",
                    size="sm",
                    scale=0,
                    min_width=120,
                    visible=False,
                    elem_id="paper-file",
                )
            paper = gr.HTML(elem_id="paper", apply_default_css=False)

    def names():
        return [r["name"] for r in overview(root)]

    def folder(name: str) -> Run:
        "The run of that name, also of a job that has no config yet."
        for j in jobs(root):
            if run_name(run_of(j).path, root) == name:
                return run_of(j)
        return resolve(ctx.runs, name)

    def on_open(now, name):
        offered = names()
        chosen = now if now in offered else name if name in offered else next(iter(offered), None)
        return (
            table(root),
            measured(root),
            gr.Dropdown(choices=offered, value=chosen),
            gr.Timer(active=True),
        )

    def look(name, width, drawn):
        "What the page shows of a run; curves only when there are new lines."
        try:
            run = folder(name)
        except ValueError as e:
            return (
                f"<p>{text(e)}</p>",
                "",
                gr.Plot(value=None, visible=False),
                "",
                gr.Button(interactive=False),
                (),
            )
        work = jobs_of(run)
        alive = [j for j in work if is_alive(j)]
        file = run.path / "metrics.jsonl"
        mark = (name, file.stat().st_size, width) if file.exists() else (name, 0, width)
        shown, sick = gr.skip(), gr.skip()
        if mark != drawn:
            rows = read_metrics(run)
            sick = "  \n".join(plain(a) for a in alarms(rows)) or ("No alarms." if rows else "")
            wide = (width or 0) >= 700
            try:
                shown = gr.Plot(
                    value=adapt(
                        curves(
                            rows,
                            CURVES[: None if wide else 4],
                            log=("rec", "grad_norm"),
                            columns=3 if wide else 1,
                        )
                    ),
                    visible=True,
                )
            except ValueError:
                shown = gr.Plot(value=None, visible=False)
        newest = next(iter(work), None)
        return (
            standing(run),
            sick,
            shown,
            gr.Textbox(value=newest.last_lines(12) if newest else "", visible=bool(newest)),
            gr.Button(interactive=bool(alive)),
            mark,
        )

    def on_tick(name, width, drawn):
        return table(root), *look(name, width, drawn)

    def on_stop(name):
        try:
            alive = [j for j in jobs_of(folder(name)) if process_of(j)]
        except ValueError as e:
            return failed(e)
        for j in alive:
            threading.Thread(target=cancel, args=(j,)).start()
        return (
            "Asked to stop: a training finishes its step and saves first."
            if alive
            else "No job of this run is at work on this machine. What papermill itself or a cluster started, stop there."
        )

    def on_start(flow, run, name, resume, rest, *values):
        "Start a job with the fields that were changed and the lines of text; what is wrong is said whole."
        try:
            given = {
                n: v
                for (f, n), v in zip(controls, values)
                if f == flow and not same(fields_of(flow)[n], v)
            }
            more = read_lines(rest)
            if both := given.keys() & more.keys():
                raise ConfigError(f"{min(both)} is given in the form and in the lines")
            params = {**given, **more, **({"resume": True} if resume and flow in TRAININGS else {})}
            keep_inside(params, ctx.data)
            if flow not in TRAININGS:
                path = resolve(ctx.runs, run).path
            elif not NAME.fullmatch(name.strip()):
                raise ConfigError("Give the run a name of letters, digits, - and _ (folders by /).")
            else:
                path = root / name.strip()
            if not path.resolve().is_relative_to(root.resolve()):
                raise ConfigError("The run lies outside the folder of runs.")
            job = start(flow, path, params)
        except ValueError as e:
            return (
                gr.Textbox(value=str(e), visible=True, lines=min(12, str(e).count("\n") + 2)),
                gr.skip(),
                gr.skip(),
                gr.skip(),
            )
        label = run_name(run_of(job).path, root)
        return (
            gr.Textbox(value=f"{flow} of {label} has begun.", visible=True, lines=1),
            gr.Dropdown(choices=names(), value=label),
            gr.Tabs(selected="watch"),
            gr.Timer(active=True),
        )

    def on_flow(flow):
        trains = flow in TRAININGS
        tokenizers = [str(root / r["name"]) for r in overview(root) if r["kind"] == "tokenizer"]
        return (
            gr.Textbox(visible=trains),
            gr.Checkbox(visible=trains),
            gr.Markdown(visible=not trains),
            gr.Dropdown(choices=tokenizers, value=next(iter(tokenizers), None)),
            *(gr.Group(visible=f == flow) for f in SHOWN),
        )

    def on_compare(a, b):
        if not a or not b:
            return ""
        try:
            pair = [resolve(ctx.runs, a), resolve(ctx.runs, b)]
            for run in pair:
                _ = run.info  # says why it cannot be used
            rows = differences(pair)
        except (OSError, ValueError) as e:
            return f"<p>There is nothing to compare: {text(e)}</p>"
        return (
            sheet(["setting", a, b], [["-" if v is None else v for v in r] for r in rows])
            if rows
            else "<p>No difference.</p>"
        )

    def on_notebooks(name):
        try:
            found = notebooks(resolve(ctx.runs, name))
        except ValueError:
            found = []
        return gr.Dropdown(choices=found, value=next(iter(found), None))

    def on_notebook(name, which):
        try:
            run = resolve(ctx.runs, name)
            if which not in notebooks(run):
                raise ValueError("No notebook was executed into this run yet.")
            return (
                f'<iframe sandbox srcdoc="{escape(notebook_html(run.path / which), True)}"></iframe>',
                gr.DownloadButton(value=served_file(run.path / which), visible=True),
            )
        except (ValueError, OSError) as e:
            return f"<p>{text(e)}</p>", gr.DownloadButton(visible=False)

    view = [status, health, plot, log, stop, drawn]
    ctx.app.load(None, None, width, js="() => window.innerWidth", api_name=False)
    ctx.app.load(
        on_open,
        [watched, ctx.run],
        [listing, figures, watched, timer],
        show_progress="hidden",
        api_name=False,
    )
    ctx.run.change(
        lambda name: name or gr.skip(), ctx.run, watched, show_progress="hidden", api_name=False
    )
    ctx.tab.change(
        lambda tab: gr.Timer(active=tab == "runs"),
        ctx.tab,
        timer,
        show_progress="hidden",
        api_name=False,
    )
    hidden = dict(show_progress="hidden")
    watching = Newest(look, [watched, width, drawn], view, **hidden)
    watched.change(**watching.event)
    timer.tick(
        **Newest(on_tick, [watched, width, drawn], [listing, *view], (watching,), **hidden).event
    )
    stop.click(on_stop, watched, said, show_progress="hidden", api_name="stop")
    go.click(
        on_start,
        [flow, ctx.run, name, resume, rest, *controls.values()],
        [answer, watched, inner, timer],
        show_progress="minimal",
        api_name=False,
    )
    flow.change(
        on_flow,
        flow,
        [name, resume, target, controls["train_generator", "tokenizer_run"], *groups],
        show_progress="hidden",
        api_name=False,
    )

    def on_select(event: gr.EventData):
        return event.run, event.run, gr.Tabs(selected="watch")

    listing.select(
        on_select, None, [ctx.run, watched, inner], show_progress="hidden", api_name=False
    )

    def on_sweeps(now):
        offered = sweeps.names(root)
        return gr.Dropdown(
            choices=offered, value=now if now in offered else next(iter(offered), None)
        )

    sweeps_tab.select(on_sweeps, which_sweep, which_sweep, show_progress="hidden", api_name=False)

    def on_pair(a, b, name):
        kinds = {r["name"]: r["kind"] for r in overview(root)}
        one = a or name or next(iter(kinds), None)
        others = sorted(
            (n for n in kinds if n != one), key=lambda n: kinds[n] != kinds.get(one)
        )  # of the same kind first
        return gr.Dropdown(choices=list(kinds), value=one), gr.Dropdown(
            choices=list(kinds), value=b or next(iter(others), None)
        )

    compare_tab.select(
        on_pair, [left, right, ctx.run], [left, right], show_progress="hidden", api_name=False
    )
    beside = Newest(on_compare, [left, right], differs, api_name="compare", **hidden)
    gr.on([left.change, right.change], **beside.event)
    offered = Newest(on_notebooks, ctx.run, which, **hidden)
    gr.on([notebook_tab.select, ctx.run.change], **offered.event)
    read = Newest(on_notebook, [ctx.run, which], [paper, file])
    gr.on([which.change, notebook_tab.select], **read.event)


def served_file(path: Path) -> str:
    "A file of a run as a copy that may be sent, under its own name."
    copy = Path(tempfile.mkdtemp(dir=get_upload_folder())) / path.name
    shutil.copy(path, copy)
    return str(copy)


def same(field, value) -> bool:
    "Was this field of a form left as it was?"
    return (
        value in (None, "")
        and field.default in (None, "")
        or value == field.default
        or value is None
    )


def form() -> tuple[dict[tuple[str, str], object], list[gr.Group]]:
    "Controls by (workflow, parameter), made of the fields of the configs, and their groups."
    controls, groups = {}, []
    for flow, shown in SHOWN.items():
        known = fields_of(flow)
        with gr.Group(visible=flow == "train") as group, gr.Row():
            for n in shown:
                f, look = known[n], dict(label=n, min_width=200, elem_id=f"{flow}-{n}")
                about = dict(
                    info=None if f.choices and ";" in f.comment else f.comment.split(";")[0][:90]
                )  # of choices, a comment explains one after the other
                if n == "tokenizer_run":
                    c = gr.Dropdown([], value=None, allow_custom_value=True, **look, **about)
                elif f.choices:
                    c = gr.Dropdown(list(f.choices), value=f.default, **look, **about)
                elif f.kind is bool:
                    c = gr.Checkbox(f.default, **look, **about)
                elif f.kind in (int, float) or f.default is None:
                    c = gr.Number(
                        f.default, precision=0 if f.kind is int else None, **look, **about
                    )
                else:
                    c = gr.Textbox(f.default, **look, **about)
                controls[flow, n] = c
        groups.append(group)
    return controls, groups
