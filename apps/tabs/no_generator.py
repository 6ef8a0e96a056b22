"""In the tab Sample: what is said while a tokenizer has no generator that could draw."""

import contextlib
from pathlib import Path

import gradio as gr
from tabs.newest import QUIET
from tabs.picker import Part, plain, resolve

from softvq_lab.checkpoints import steps_of
from softvq_lab.core import json_or_empty, short_duration
from softvq_lab.experiments.job import is_alive, jobs_of
from softvq_lab.explore.run_again import seconds_left
from softvq_lab.explore.run_forms import run_name
from softvq_lab.explore.session import generator_for, generators_of
from softvq_lab.hub.models import find_tokenizer
from softvq_lab.runs import Run, list_runs
from softvq_lab.settings.recipes import generator_command

NONE = "**No generator for this tokenizer yet.** Train one: `{}`"
OTHERS = "  \nOr choose a generator that is there above, at *Run*: {}."
TRAINS = "**{} is in training{}.** It draws after its first checkpoint: this page waits for it."
ENDED = (
    "**{} has no checkpoint: it ended at step {} ({}).** Resume it in the tab *Runs*, at *Watch*."
)


class NoGenerator(Part):
    "Says how far the generator is, and opens it after its first checkpoint."

    def __init__(self, ctx, message: gr.Markdown):
        self.message = message
        super().__init__(ctx)

    def layout(self):
        self.timer = gr.Timer(3, active=False)
        self.timers = [self.timer]
        self.waiting = gr.State(False)
        self.follows = [self.waiting]

    def fresh(self, name):
        try:
            unready = generator_for(resolve(self.ctx.runs, name), self.ctx.runs) is None
        except ValueError:
            unready = False
        return {self.waiting: unready, self.timer: gr.Timer(active=unready)}

    def on_tick(self, name, waiting, refreshes):
        stop = {self.timer: gr.Timer(active=False), self.waiting: False}
        try:
            run = resolve(self.ctx.runs, name)
        except ValueError:
            return stop
        if not waiting:
            return stop
        if generator_for(run, self.ctx.runs) is None:
            return {self.message: missing(run, self.ctx.runs)}
        return stop | {self.ctx.refreshes: refreshes + 1}

    def wire(self):
        refreshes = self.ctx.refreshes
        outputs = [self.message, self.timer, self.waiting, refreshes]
        self.timer.tick(self.on_tick, [self.ctx.run, self.waiting, refreshes], outputs, **QUIET)


def missing(run: Run, runs: str) -> str:
    "Why nothing can be drawn for a run, and what to do."
    unready = next(generators_of(run, runs), None)
    if unready is None:
        drawing = [f"{name} (on {of})" for name, of in generators_with_tokenizer(runs)][:3]
        there = OTHERS.format(", ".join(map(plain, drawing))) if drawing else ""
        return NONE.format(command(run, runs)) + there
    status, name = unready.status, plain(run_name(unready.path, runs))
    if status["state"] == "running" or any(map(is_alive, jobs_of(unready))):
        left = short_duration(seconds_left(status))
        step = f": step {place(status)}" if "step" in status else ""
        return TRAINS.format(name, step + f", {left} left" * bool(left))
    return ENDED.format(name, place(status), plain(status["state"]))


def generators_with_tokenizer(runs: str) -> list[tuple[str, str]]:
    "Names of the generators that can draw, and of the tokenizers on whose latents they learned."
    found = []
    for run in list_runs(runs):
        if run.kind == "generator" and steps_of(run.checkpoints):
            with contextlib.suppress(ValueError, OSError):
                found.append((run_name(run.path, runs), Path(find_tokenizer(run.path)).name))
    return found


def place(status: dict) -> str:
    return f"{status.get('step', 0)} of {status.get('steps', '?')}"


def command(run: Run, runs: str) -> str:
    "The line that trains a generator on a tokenizer's latents."
    config = json_or_empty(run.path / "config.json").get("config", {})
    precision = str((config.get("engine") or {}).get("precision"))
    where = f"{runs}/{run_name(run.path, runs)}"
    return generator_command(where, str(config.get("recipe")), precision).replace("`", "'")
