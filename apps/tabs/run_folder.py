"""Notes, name and bin, in the tab Runs: what is done with the folder of the watched run."""

import gradio as gr
from tabs.controls import Dropdown
from tabs.newest import QUIET, Newest
from tabs.picker import Part, all_runs, failed, plain, preferred, resolve
from tabs.watch import Watch

from softvq_lab.explore.run_folder import (
    in_bin,
    needed_by,
    rename,
    restore,
    to_bin,
    write_notes,
)
from softvq_lab.explore.run_forms import MOST_NOTES, read_notes
from softvq_lab.runs import BIN

MANY = dict(trigger_mode="multiple", concurrency_limit=1, **QUIET)


class RunFolder(Part):
    "`watch` shows the run whose folder it is."

    def __init__(self, ctx, watch: Watch):
        self.watch, self.watched = watch, watch.watched
        super().__init__(ctx)

    def layout(self):
        small = dict(size="sm", scale=0, min_width=120)
        self.notes = gr.Textbox(
            label="Notes (saved when you leave the field)",
            lines=3,
            max_lines=12,
            max_length=MOST_NOTES,
            elem_id="folder-notes",
        )
        self.shown = gr.State("")  # the run whose notes these are
        with gr.Accordion("Name and bin", open=False, elem_id="folder-part"):
            with gr.Row(equal_height=False):
                self.name = gr.Textbox(label="New name", elem_id="folder-name")
                self.rename = gr.Button("Rename", elem_id="folder-rename", **small)
            with gr.Row(equal_height=False):
                self.binned = Dropdown(
                    [],
                    label=f"In the bin ({self.ctx.runs}/{BIN}, never emptied automatically)",
                    allow_custom_value=True,
                    elem_id="folder-binned",
                )
                self.restore = gr.Button("Restore", elem_id="folder-restore", **small)
            with gr.Row():
                self.delete = gr.Button(
                    "Move this run to the bin",
                    variant="stop",
                    elem_id="folder-delete",
                    **(small | {"min_width": 220}),
                )
        with gr.Row():
            self.message = gr.Markdown(elem_id="folder-message")
            self.undo = gr.Button("Undo", visible=False, elem_id="folder-undo", **small)
        self.undone = gr.State(None)  # (name in the bin, name before)

    def on_watch(self, name):
        "The notes and the name of the watched run."
        try:
            notes = read_notes(resolve(self.ctx.runs, name))
        except ValueError:
            return "", "", "", gr.Dropdown(choices=in_bin(self.ctx.runs), value=None)
        return notes, name, name, gr.Dropdown(choices=in_bin(self.ctx.runs), value=None)

    def on_notes(self, name, text):
        if not name:
            return gr.skip()
        try:
            run = resolve(self.ctx.runs, name)
            if text == read_notes(run):
                return gr.skip()
            write_notes(run, text)
        except (OSError, ValueError) as e:
            return failed(e)
        return f"Notes of {plain(name)} saved."

    def on_rename(self, name, new, chosen):
        try:
            changed = rename(self.ctx.runs, resolve(self.ctx.runs, name), new)
        except (OSError, ValueError) as e:
            return {self.message: failed(e)}
        also = (
            f" The new name was written into {plain(', '.join(changed))}, too." if changed else ""
        )
        message = f"{plain(name)} is called {plain(new.strip())} now.{also}"
        return self.moved(message, new.strip(), new.strip() if chosen == name else chosen)

    def on_delete(self, name, chosen):
        try:
            run = resolve(self.ctx.runs, name)
            needing = needed_by(self.ctx.runs, run)
            binned = to_bin(self.ctx.runs, run)
        except (OSError, ValueError) as e:
            return {self.message: failed(e)}
        message = f"{plain(name)} is in the bin."
        if needing:
            message += f" **{plain(', '.join(needing))} cannot be used without it.**"
        names = all_runs(self.ctx.runs)
        after = None if chosen == name else chosen
        undo = {self.undo: gr.Button(visible=True), self.undone: (binned, name)}
        return self.moved(message, preferred(names), after) | undo

    def on_restore(self, binned, chosen):
        return self.restored(binned, "", chosen)

    def on_undo(self, undone, chosen):
        return self.restored(*(undone or ("", "")), chosen)

    def restored(self, binned, name, chosen) -> dict:
        try:
            back = restore(self.ctx.runs, binned or "", name)
        except (OSError, ValueError) as e:
            return {self.message: failed(e)}
        return self.moved(f"{plain(back)} is out of the bin.", back, chosen)

    def moved(self, message: str, watched: str | None, chosen: str | None) -> dict:
        "The page after a folder was moved."
        offered, chosen = self.ctx.offered(chosen)
        names = all_runs(self.ctx.runs)
        return {
            self.message: message,
            self.watched: gr.Dropdown(choices=names, value=watched),
            self.ctx.run: gr.Dropdown(choices=offered, value=chosen),
            self.binned: gr.Dropdown(choices=in_bin(self.ctx.runs), value=None),
            self.undo: gr.Button(visible=False),
            self.undone: None,
        }

    def wire(self):
        run, watched = self.ctx.run, self.watched
        shown = [self.notes, self.shown, self.name, self.binned]
        looked = Newest(self.on_watch, watched, shown, **QUIET)
        self.watch.updated.then(**looked.event)
        self.notes.blur(self.on_notes, [self.shown, self.notes], self.message, **MANY)
        made = [self.message, watched, run, self.binned, self.undo, self.undone]
        self.rename.click(self.on_rename, [watched, self.name, run], made, **MANY)
        self.delete.click(self.on_delete, [watched, run], made, **MANY)
        self.restore.click(self.on_restore, [self.binned, run], made, **MANY)
        self.undo.click(self.on_undo, [self.undone, run], made, **MANY)
