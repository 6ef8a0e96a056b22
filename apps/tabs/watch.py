"""Watch, in the tab Runs: state, curves and log of one run; stopping it, and going on with it."""

import threading
from datetime import datetime
from pathlib import Path

import gradio as gr
from tabs.newest import Newest
from tabs.picker import Part, all_runs, failed, plain, preferred, resolve
from tabs.tables import text

from softvq_lab.checkpoints import steps_of
from softvq_lab.core import ConfigError, short_duration
from softvq_lab.experiments.job import (
    cancel,
    is_alive,
    jobs,
    jobs_of,
    process_of,
    progress,
    resume,
    run_of,
)
from softvq_lab.explore.latent_map import adapt
from softvq_lab.explore.reproduce import Ways
from softvq_lab.explore.run_again import can_go_on, seconds_left
from softvq_lab.explore.run_forms import run_name
from softvq_lab.metrics import online_metrics
from softvq_lab.plots import curves
from softvq_lab.runs import Run, describe, read_metrics
from softvq_lab.settings.parse import flatten
from softvq_lab.train import load_config
from softvq_lab.training.health import alarms, judge

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
ASKED = "{}: asked to stop. A training finishes its step and saves first."
NO_JOB = (
    "No job of this run is at work on this machine. "
    "What papermill itself or a cluster started, stop there."
)


class Watch(Part):
    "`width` holds the width of the page."

    def __init__(self, ctx, width: gr.Number):
        self.width = width
        super().__init__(ctx)

    def layout(self):
        self.watched = gr.Dropdown(
            [], label="Run to watch", elem_id="watch", allow_custom_value=True
        )
        self.status = gr.HTML(elem_id="watch-status", apply_default_css=False)
        small = dict(size="sm", scale=0, min_width=120)
        with gr.Row():
            self.stop = gr.Button("Stop", variant="stop", elem_id="watch-stop", **small)
            self.go_on = gr.Button("Resume", elem_id="watch-go-on", **small)
            self.until = gr.Number(
                label="Train until step",
                precision=0,
                visible=False,
                scale=0,
                min_width=160,
                elem_id="watch-until",
            )
            self.copy = gr.Button("Duplicate", elem_id="watch-duplicate", **small)
        self.message = gr.Markdown(elem_id="watch-message")
        self.health = gr.Markdown(elem_id="watch-health")
        self.plot = gr.Plot(show_label=False, visible=False, elem_id="watch-curves")
        self.log = gr.Textbox(
            label="The end of the log",
            lines=8,
            max_lines=16,
            interactive=False,
            elem_id="watch-log",
        )
        self.linked = {"watch": self.watched}
        self.drawn = gr.State(())  # what the curves were drawn of
        self.inputs = [self.watched, self.width, self.drawn]
        self.shown = [self.status, self.health, self.plot, self.log, self.stop, self.drawn]
        self.shown += [self.go_on, self.until, self.message]

    def fit(self, name, kept):
        "The run that is chosen at the top is watched, until another one is chosen here."
        offered = all_runs(self.ctx.runs)
        return {self.watched: dict(choices=offered, value=preferred(offered, name), own=True)}

    def folder(self, name: str) -> Run:
        "The run of that name, also of a job that has no config yet."
        for j in jobs(Path(self.ctx.runs)):
            if run_name(run_of(j).path, self.ctx.runs) == name:
                return run_of(j)
        return resolve(self.ctx.runs, name)

    def update(self, name, width, drawn):
        "What the page shows of a run; curves only when there are new lines."
        try:
            run = self.folder(name)
        except ValueError as e:
            return self.nothing(e)
        work, file = jobs_of(run), run.path / "metrics.jsonl"
        mark = (name, file.stat().st_size if file.exists() else 0, width)
        log = work[0].last_lines(12) if work else ""
        return {
            self.status: standing(run),
            **({} if mark == drawn else self.draw(run, (width or 0) >= 700)),
            self.log: gr.Textbox(value=log, visible=bool(work)),
            self.stop: gr.Button(interactive=any(map(is_alive, work))),
            self.drawn: mark,
            **self.going_on(run, turned=not drawn or drawn[0] != name),
        }

    def going_on(self, run, turned: bool):
        "The button that goes on; what was typed beside it stays until another run is watched."
        able = can_go_on(run)
        steps = {"value": run.status.get("steps")} if turned else {}
        return {
            self.go_on: gr.Button(interactive=able),
            self.until: gr.Number(visible=able, info=needs_more(run), **steps),
            **({self.message: ""} if turned else {}),
        }

    def nothing(self, e):
        "A run that is not there."
        return {
            self.status: f"<p>{text(e)}</p>",
            self.health: "",
            self.plot: gr.Plot(value=None, visible=False),
            self.log: "",
            self.stop: gr.Button(interactive=False),
            self.drawn: (),
            self.go_on: gr.Button(interactive=False),
            self.until: gr.Number(visible=False),
        }

    def draw(self, run, wide: bool):
        "Curves, fewer of them on a narrow page, and what is alarming about them."
        rows = read_metrics(run)
        names = [*online_metrics(rows), *CURVES]
        shown, columns = (names, 3) if wide else (names[:4], 1)
        try:
            fig = adapt(curves(rows, shown, log=("rec", "grad_norm"), columns=columns))
        except ValueError:
            fig = None
        sentences = "  \n".join(map(plain, self.judged(run, rows) or ["No alarms."] * bool(rows)))
        return {self.health: sentences, self.plot: gr.Plot(value=fig, visible=fig is not None)}

    def judged(self, run, rows: list[dict]) -> list[str]:
        "What is wrong; once the training has ended also what to change."
        if run.status["state"] != "done":
            return alarms(rows)
        try:
            return judge(rows, flatten(load_config(run)), run.status)
        except ConfigError:  # settings that this version does not know
            return alarms(rows)

    def on_stop(self, name):
        try:
            alive = [j for j in jobs_of(self.folder(name)) if process_of(j)]
        except ValueError as e:
            return failed(e)
        for j in alive:
            threading.Thread(target=cancel, args=(j,)).start()
        return ASKED.format(clock()) if alive else NO_JOB

    def on_go_on(self, name, until):
        try:
            run = resolve(self.ctx.runs, name)
            resume(run.path, until)
        except ValueError as e:
            return failed(e)
        step = run.status.get("step", 0)
        return f"{clock()}: started again, to go on from step {step}. This takes some seconds."

    def reproduce(self, name, image, values):
        "What was typed, or what the page has started, to train the run."
        command = resolve(self.ctx.runs, values["watch"] or name).info.get("command")
        return Ways(str(command), "") if command else None

    def wire(self):
        self.watching = Newest(self.update, self.inputs, self.shown, show_progress="hidden")
        self.updated = self.watched.change(**self.watching.event)
        asked = dict(show_progress="hidden", api_name="stop")
        self.stop.click(self.on_stop, self.watched, self.message, **asked)
        asked = dict(show_progress="minimal", api_name="resume", concurrency_limit=1)
        gone_on = self.go_on.click(self.on_go_on, [self.watched, self.until], self.message, **asked)
        gone_on.then(**self.ctx.refresh)


def clock() -> str:
    "Hour and minute, for messages that stay on the page."
    return datetime.now().strftime("%H:%M")


def needs_more(run: Run) -> str:
    "Why a training does not go on without a larger number of steps; empty where it does."
    status = run.status
    if status["state"] != "done" or status.get("step") != status.get("steps"):
        return ""
    return f"All {status.get('steps')} steps are done: ask for more."


def standing(run: Run) -> str:
    "State of a run and of its jobs, with a bar for what is at work."
    d, status, parts = describe(run), run.status, []
    if d["state"] != "unknown":
        step = f", step {text(d['step'])}" if d["step"] else ""
        if left := short_duration(seconds_left(status)):
            step += f", {left} left"
        has_reason = status.get("error") and status["state"] != "unreadable"
        why = f"<br>{text(status['error'])}" if has_reason else ""
        parts.append(f"<b>{text(run.name)}</b>: {text(d['state'])}{step}{why}")
    parts += map(standing_of_job, jobs_of(run))
    if status["state"] in ("preempted", "stopped", "interrupted") and can_go_on(run):
        saved = steps_of(run.checkpoints)
        where = f"after step {int(saved[-1].name.split('-')[1])}" if saved else "at its beginning"
        parts.append(f"<b>Resume</b>, below, continues {where}.")
    return "".join(f"<p>{p}</p>" for p in parts) or "<p>Nothing here yet.</p>"


def standing_of_job(job) -> str:
    info, (done, of, unit) = job.info, progress(job)
    by_a_person = info.get("stopped") and info["state"] in ("preempted", "interrupted")
    why = f"<br>{text(info['reason'])}" if info.get("reason") and not by_a_person else ""
    bar = ""
    if info["state"] == "running" and of:
        percent = 100 * done / max(of, 1)
        bar = f'<div class="bar"><i style="width:{percent:.1f}%"></i></div>'
        bar = f" &middot; {unit} {done} of {of}{bar}"
    name = text(info.get("workflow") or job.output.name)
    state = "stopped" if by_a_person else info["state"]
    return f"job <i>{name}</i>: {text(state)}{why}{bar}"
