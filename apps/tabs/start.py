"""Start, in the tab Runs: a form for each workflow, and lines of text for its other parameters."""

from pathlib import Path

import gradio as gr
from tabs.newest import LATEST, QUIET, SLOW
from tabs.picker import Part, all_runs, failed, resolve

from softvq_lab.core import ConfigError
from softvq_lab.experiments.execute import TRAININGS
from softvq_lab.experiments.job import read_lines, run_of, start
from softvq_lab.explore.run_again import as_line, free_name, new_name, settings_like
from softvq_lab.explore.run_folder import new_folder
from softvq_lab.explore.run_forms import keep_inside, overview, run_name
from softvq_lab.settings.parse import Setting, settings_of
from softvq_lab.settings.workflows import TRAINS, WORKFLOWS

SHOWN = {  # the fields a form shows; the rest are lines of text
    "train": (
        "dataset",
        "data_path",
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
    "guidance": ("scales", "intervals", "samples", "seed", "write"),
    "latent_map": ("neighbors", "min_dist", "images", "seed"),
}
NOT_SHOWN = {  # workflows that the form leaves to a terminal, and why
    "efficiency": "it measures a machine, not a run",
    "profile": "likewise",
    "sweep": "the tab Sweeps shows it",
}


MOST_FOLDERS = 100  # that are offered; any other one can be typed
NO_DATA = "your own pictures: start the app with --data FOLDER to allow a folder"


class Start(Part):
    "`watch` shows what was started; `view` is the open tab of Runs."

    def __init__(self, ctx, watch, view: gr.Textbox):
        self.watch, self.view = watch, view
        super().__init__(ctx)

    def layout(self):
        self.controls, self.groups = {}, []
        self.layout_run()
        for flow in SHOWN:
            self.layout_form(flow)
        self.rest = gr.Textbox(
            label="Any other parameter, one a line: name=value",
            lines=3,
            placeholder="tau=0.05\nkeep=uniform",
            elem_id="start-rest",
        )
        self.go = gr.Button("Start", variant="primary", elem_id="start-go")
        self.answer = gr.Textbox(
            show_label=False,
            lines=1,
            max_lines=12,
            interactive=False,
            visible=False,
            elem_id="start-answer",
        )

    def layout_run(self):
        self.flow = gr.Dropdown(
            list(SHOWN), value="train", label="Workflow", elem_id="start-workflow"
        )
        self.name = gr.Textbox(
            label="Name of the new run (empty: the one that stands there)",
            placeholder=self.suggested("train"),
            elem_id="start-name",
        )
        self.target = gr.Markdown("It works on the run chosen at the top.", visible=False)

    def layout_form(self, flow: str):
        "A control for each shown field of a workflow's config."
        known = settings_of(WORKFLOWS[flow])
        with gr.Group(visible=flow == "train") as group, gr.Row():
            for name in SHOWN[flow]:
                setting = known[name]
                made = (
                    own_data(self.ctx, setting) if name == "data_path" else control(setting, flow)
                )
                self.controls[flow, name] = made
        self.groups.append(group)

    def suggested(self, flow, rest="", values=()) -> str:
        "The name that a training gets where none is typed; none for settings that are wrong."
        try:
            return new_name(self.ctx.runs, flow, self.params(flow, rest, values))
        except ValueError:
            return ""

    def on_settings(self, flow, rest, *values):
        return gr.Textbox(placeholder=self.suggested(flow, rest, values))

    def on_flow(self, flow, tokenizer):
        "The form of another workflow; the tokenizer that was chosen stays."
        trains, rows = flow in TRAININGS, overview(self.ctx.runs)
        tokenizers = [str(Path(self.ctx.runs, r["name"])) for r in rows if r["kind"] == "tokenizer"]
        return (
            gr.Textbox(visible=trains),
            gr.Markdown(visible=not trains),
            gr.Dropdown(choices=tokenizers, value=tokenizer or next(iter(tokenizers), None)),
            *(gr.Group(visible=f == flow) for f in SHOWN),
        )

    def on_duplicate(self, name):
        "The form filled in with the settings of a training, under a new name."
        try:
            run = resolve(self.ctx.runs, name)
            flow = TRAINS.get(run.kind, "")
            fields, rest = settings_like(run, SHOWN.get(flow, ()))
            lines = "\n".join(as_line(n, v) for n, v in rest.items())
        except ValueError as e:
            return {self.watch.message: failed(e)}
        return {
            self.flow: flow,
            self.name: free_name(self.ctx.runs, name),
            self.rest: lines,
            self.answer: gr.Textbox(visible=False),
            self.view: "start",
            **{self.controls[flow, n]: gr.update(value=v) for n, v in fields.items()},
        }

    def on_start(self, flow, run, name, rest, *values):
        """Start a job with the fields that were changed and the lines of text.

        An error is shown in full.
        """
        try:
            params = self.params(flow, rest, values)
            if flow in TRAININGS and not (name or "").strip():
                name = new_name(self.ctx.runs, flow, params)
            job = start(flow, self.path(flow, run, name), params)
        except ValueError as e:
            lines = min(12, str(e).count("\n") + 2)
            return gr.Textbox(value=str(e), visible=True, lines=lines), gr.skip(), gr.skip()
        label = run_name(run_of(job).path, self.ctx.runs)
        names = all_runs(self.ctx.runs)
        return (
            gr.Textbox(value=f"{flow} of {label} has begun.", visible=True, lines=1),
            gr.Dropdown(choices=names, value=label),
            "watch",
        )

    def params(self, flow, rest, values) -> dict:
        "The parameters that were given, in the form and in the lines."
        known = settings_of(WORKFLOWS[flow])
        given = {
            n: v
            for (f, n), v in zip(self.controls, values, strict=True)
            if f == flow and not same(known[n], v)
        }
        more = read_lines(rest or "")
        if both := given.keys() & more.keys():
            raise ConfigError(f"{min(both)} is given in the form and in the lines")
        params = {**given, **more}
        keep_inside(params, self.ctx.data)
        return params

    def path(self, flow, run, name) -> Path:
        "The folder that the job works in: of a new run, or of the run chosen at the top."
        if flow in TRAININGS:
            return new_folder(self.ctx.runs, name)
        path, root = resolve(self.ctx.runs, run).path, Path(self.ctx.runs)
        if not path.resolve().is_relative_to(root.resolve()):
            raise ConfigError("The run lies outside the folder of runs.")
        return path

    def wire(self):
        what = [self.flow, self.ctx.run, self.name, self.rest]
        watched, controls = self.watch.watched, list(self.controls.values())
        self.go.click(
            self.on_start,
            [*what, *controls],
            [self.answer, watched, self.view],
            **SLOW,
        ).then(**self.ctx.refresh)
        filled = [self.flow, self.name, self.rest, self.answer, self.view, self.watch.message]
        self.watch.copy.click(self.on_duplicate, watched, [*filled, *controls], **QUIET)
        tokenizer = self.controls["train_generator", "tokenizer_run"]
        shown = [self.name, self.target, tokenizer, *self.groups]
        settings = [self.flow, self.rest, *controls]
        named = dict(fn=self.on_settings, inputs=settings, outputs=self.name, **LATEST | QUIET)
        gr.on([c.change for c in (self.rest, *controls, self.view)], **named)
        formed = self.flow.change(self.on_flow, [self.flow, tokenizer], shown, **QUIET)
        formed.then(**named)  # not by the same event: see `Newest`


def own_data(ctx, field: Setting) -> gr.Dropdown:
    "What names a folder of one's own pictures; only those that the server was given are read."
    offered = data_folders(ctx)
    hint = "your own pictures: a folder in {}" if offered else NO_DATA
    return gr.Dropdown(
        ["", *offered],
        value=field.default,
        allow_custom_value=True,
        label=field.name,
        info=hint.format(" or ".join(ctx.data[1:])),
        min_width=200,
        elem_id=f"train-{field.name}",
    )


def data_folders(ctx) -> list[str]:
    "The folders that the server was given, and those directly within."
    roots = [Path(d) for d in ctx.data[1:]]  # the first one is that of the runs
    inner = [p for r in roots if r.is_dir() for p in sorted(r.iterdir()) if p.is_dir()]
    return [str(p) for p in [*roots, *inner][:MOST_FOLDERS]]


def control(field: Setting, flow: str) -> gr.components.Component:
    "What sets a parameter in a form."
    # Of choices, a comment explains one after the other.
    many = field.choices and ";" in field.comment
    info = None if many else field.comment.split(";")[0][:90]
    look = dict(label=field.name, min_width=200, elem_id=f"{flow}-{field.name}", info=info)
    if field.name == "tokenizer_run":
        return gr.Dropdown([], value=None, allow_custom_value=True, **look)
    if field.choices:
        return gr.Dropdown(list(field.choices), value=field.default, **look)
    if field.kind is bool:
        return gr.Checkbox(field.default, **look)
    if field.kind in (int, float) or field.default is None:
        return gr.Number(field.default, precision=0 if field.kind is int else None, **look)
    return gr.Textbox(field.default, **look)


def same(field: Setting, value) -> bool:
    "Was this field of a form left as it was?"
    empty = (None, "")
    return value is None or value == field.default or (value in empty and field.default in empty)
