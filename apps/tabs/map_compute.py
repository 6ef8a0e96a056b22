"""In the tab Latent map: the button that computes a map, and how far it is."""

import gradio as gr
from tabs.newest import QUIET
from tabs.picker import Part, failed, resolve

from softvq_lab.experiments.execute import AT_WORK, Job
from softvq_lab.experiments.job import output_of, progress, start

FIRST, AGAIN = "Compute the map", "Compute it again"


class MapCompute(Part):
    "`map` is the tab that shows the map; `message` is where it says what happens."

    def __init__(self, map):
        self.map, self.message = map, map.message
        super().__init__(map.ctx)

    def layout(self):
        # hidden where none can be computed: a link sets what is in it
        with gr.Column(visible="hidden") as self.box:
            with gr.Row():
                self.go = gr.Button(
                    FIRST, variant="primary", elem_id="map-go", scale=0, min_width=200
                )
            with gr.Accordion("How it is computed", open=False, elem_id="map-compute"), gr.Row():
                self.neighbours = gr.Number(
                    15,
                    precision=0,
                    label="Neighbours",
                    info="few show local, many global structure",
                    elem_id="map-neighbors",
                    min_width=140,
                )
                self.images = gr.Number(
                    1000,
                    precision=0,
                    label="Images",
                    info="at most; held-out ones first",
                    elem_id="map-images",
                    min_width=140,
                )
                self.seed = gr.Number(
                    0, precision=0, label="Seed", elem_id="map-seed", min_width=100
                )
        self.seen = gr.State("")  # state of the job when the page last refreshes
        self.timer = gr.Timer(2, active=False)
        self.timers = [self.timer]
        self.offers = [self.box, self.go, self.seen]
        self.linked = {"neighbours": self.neighbours, "images": self.images, "map_seed": self.seed}

    def offered(self, able: bool, first: bool) -> dict:
        "The button, where a map can be computed; large, where there is none yet."
        label, look = (FIRST, "primary") if first else (AGAIN, "secondary")
        return {
            self.box: gr.Column(visible=able or "hidden"),
            self.go: gr.Button(label, variant=look, size="lg" if first else "sm"),
            self.seen: "",
        }

    def on_go(self, name, neighbours, images, seed):
        try:
            path = self.ctx.open(name).run.path
            start("latent_map", path, {"neighbors": neighbours, "images": images, "seed": seed})
        except ValueError as e:
            return failed(e).replace("\n", "  \n"), gr.skip(), gr.skip()
        return "The map is being computed ...", gr.Timer(active=True), "running"

    def on_tick(self, name, seen, refreshes):
        "Progress of the job, if there is one; when its map has come, the page looks again."
        stop = {self.timer: gr.Timer(active=False)}
        try:
            job = Job(output_of(resolve(self.ctx.runs, name), "latent_map"))
        except ValueError:
            return {**stop, self.seen: ""}
        state = job.info["state"]
        if state in AT_WORK:
            done, of, unit = progress(job)
            message = f"The map is being computed: {unit} {done} of {of or '?'}. "
            return {self.message: message + "You may leave the page.", self.seen: state}
        if seen not in AT_WORK:
            return {**stop, self.seen: state}
        if state == "done":
            return {**stop, self.seen: state, self.ctx.refreshes: refreshes + 1}
        message = f"**The map was not computed ({state}).** The tab *Runs* has the log."
        return {**stop, self.seen: state, self.message: message}

    def wire(self):
        run, seen, timer, refreshes = self.ctx.run, self.seen, self.timer, self.ctx.refreshes
        self.go.click(
            self.on_go,
            [run, self.neighbours, self.images, self.seed],
            [self.message, timer, seen],
            show_progress="minimal",
            api_name="latent_map",
        )
        outputs = [self.message, timer, seen, refreshes]
        timer.tick(self.on_tick, [run, seen, refreshes], outputs, **QUIET)
