"""Tab Runs: what there is, what was measured, what is at work; start, follow, stop, compare."""

from html import escape

import gradio as gr
from tabs.compare import Compare
from tabs.controls import Dropdown
from tabs.newest import QUIET, Newest
from tabs.picker import Part, all_runs, choices, preferred, resolve
from tabs.picture_files import served_copy
from tabs.run_folder import RunFolder
from tabs.run_table import RunTable
from tabs.start import Start
from tabs.sweeps import Sweeps
from tabs.tables import text
from tabs.training_pictures import TrainingPictures
from tabs.watch import Watch

from softvq_lab.explore.run_forms import notebook_html, notebooks, overview
from softvq_lab.registry import register

ABOUT = (
    "Trainings and measurements are processes of their own: close the page or stop the app, "
    "and they go on; come back, and they are here."
)
OPEN = "view => ({selected: view, __type__: 'update'})"


@register("tab", "Runs", place=6)
class Runs(Part):
    def layout(self):
        gr.Markdown(ABOUT)
        self.timer = gr.Timer(2, active=False)  # `address` alone starts and stops it
        self.timers = [self.timer]
        self.names = gr.State([])  # of the runs that are offered
        width = gr.Number(1280, visible=False)
        self.view = gr.Textbox("all", visible="hidden")  # the open one of the tabs below
        self.linked = {"view": self.view}
        with gr.Tabs(elem_id="runs-tabs") as self.inner:
            with gr.Tab("All", id="all") as all_runs:
                self.table = RunTable(self.ctx)
            with gr.Tab("Watch", id="watch") as watch:
                self.watch = Watch(self.ctx, width)
                TrainingPictures(self.ctx, self.watch)
                RunFolder(self.ctx, self.watch)
            with gr.Tab("Start", id="start") as start:
                Start(self.ctx, self.watch, self.view)
            self.views = {"all": all_runs, "watch": watch, "start": start}
            for part in (Compare, Sweeps, Notebook):
                name = part.__name__.lower()
                with gr.Tab(part.__name__, id=name) as self.views[name]:
                    part(self.ctx, self.views[name])
        self.ctx.app.load(None, None, width, js="() => window.innerWidth", api_name=False)

    def fit(self, name, kept):
        return {self.view: dict(value="all", check=self.check_view)}

    def check_view(self, view: str):
        if view not in self.views:
            raise ValueError(", ".join(self.views))

    def on_open(self):
        "The runs that are offered now; the timer looks for others."
        return all_runs(self.ctx.runs)

    def on_tick(self, names, seen, *asked):
        rows, count = overview(self.ctx.runs), len(self.table.inputs)
        table = self.table.update(rows, seen, *asked[:count])
        watch = self.watch.update(*asked[count:])
        return {**self.named(names, [r["name"] for r in rows]), **table, **watch}

    def named(self, names: list[str], offered: list[str]) -> dict:
        "Runs that have come or gone since those of `names` were offered."
        if offered == names:
            return {}
        return {
            self.names: offered,
            self.watch.watched: gr.Dropdown(choices=offered),
            self.ctx.run: gr.Dropdown(choices=choices(self.ctx.runs)),
        }

    def on_select(self, event: gr.EventData):
        "A run clicked in the table is watched."
        return event.run, event.run, "watch"

    def wire(self):
        ctx, table, watch = self.ctx, self.table, self.watch
        self.of_run.change(self.on_open, None, self.names, **QUIET)
        for name, tab in self.views.items():
            tab.select(None, None, self.view, js=f"() => '{name}'", api_name=False)
        self.view.change(None, self.view, self.inner, js=OPEN, api_name=False)
        asked = [self.names, table.seen, *table.inputs, *watch.inputs]
        shown = [self.names, ctx.run, watch.watched, table.listing, table.seen, *watch.shown]
        before = (table.drawing, watch.watching)
        ticking = Newest(self.on_tick, asked, shown, before, **QUIET)
        self.timer.tick(**ticking.event)
        table.listing.select(self.on_select, None, [ctx.run, watch.watched, self.view], **QUIET)


class Notebook(Part):
    def layout(self):
        gr.Markdown("The executed notebooks of the run chosen at the top.")
        with gr.Row():
            self.which = Dropdown(
                [], label="Notebook", elem_id="notebook-which", allow_custom_value=True
            )
            self.file = gr.DownloadButton(
                "Download",
                size="sm",
                scale=0,
                min_width=120,
                visible=False,
                elem_id="notebook-file",
            )
        self.page = gr.HTML(elem_id="notebook", apply_default_css=False)

    def on_run(self, name, which):
        "The notebooks of the chosen run, and the one that was looked at if it has that, too."
        try:
            found = notebooks(resolve(self.ctx.runs, name))
        except ValueError:
            found = []
        which = preferred(found, which)
        return gr.Dropdown(choices=found, value=which), *self.on_notebook(name, which)

    def on_notebook(self, name, which):
        try:
            run = resolve(self.ctx.runs, name)
            if which not in notebooks(run):
                raise ValueError("No notebook was executed into this run yet.")
            html, copy = (
                escape(notebook_html(run.path / which), True),
                served_copy(run.path / which),
            )
        except (ValueError, OSError) as e:
            return f"<p>{text(e)}</p>", gr.DownloadButton(visible=False)
        page = f'<iframe sandbox srcdoc="{html}"></iframe>'
        return page, gr.DownloadButton(value=copy, visible=True)

    def wire(self):
        run, which = self.ctx.run, self.which
        offered = Newest(self.on_run, [run, which], [which, self.page, self.file])
        gr.on([self.tab.select, self.of_run.change], **offered.event)
        read = Newest(self.on_notebook, [run, which], [self.page, self.file])
        which.input(**read.event)
