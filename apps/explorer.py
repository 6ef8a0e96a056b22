"""The explorer: edit a tokenizer's tokens and draw from its generator in the browser.

    python apps/explorer.py [--runs runs] [--port 7860]

`build(runs)` makes the app; this file starts a server only when it is run as a script.
"""

import argparse
import importlib
import ipaddress
import json
import math
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path

# Nothing goes to the outside network, and no folder is served.
os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1"}
os.environ.pop("GRADIO_ALLOWED_PATHS", None)
if __name__ == "__main__":  # before gradio, which makes folders when it is imported
    # A folder of this server alone for uploads and whatever libraries lay aside: gradio's own
    # folder is shared by all of a machine, and stays.
    ASIDE = tempfile.TemporaryDirectory(prefix="explorer-")
    tempfile.tempdir = os.environ["GRADIO_TEMP_DIR"] = ASIDE.name

    def end(*_):
        """Replace this process by `rm`, which ends all threads at once, so that no handler writes
        into the folder while it is removed.
        """
        os.execvp("rm", ["rm", "-rf", "--", ASIDE.name])

    for s in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(s) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(s, end)

import gradio as gr
import safehttpx
from tabs import address, picker, reproduce

from softvq_lab.registry import about, registered

for file in sorted((Path(__file__).parent / "tabs").glob("*.py")):
    importlib.import_module(f"tabs.{file.stem}")  # a file of a tab registers it

ABOUT = (
    "# softvq_lab explorer\nAn image becomes a few latent tokens and an image again; "
    "a generator draws new ones. Choose a run, then edit its tokens."
)
HERE = Path(__file__).parent
# The family's SemiBold that Gradio brings lacks most letters: headings are set in its Bold. Greys
# and blues are dark (on dark pages light) enough to be read: 4.5 to 1.
THEME = gr.themes.Default(
    primary_hue="blue",
    font=(gr.themes.LocalFont("Source Sans Pro", weights=(400, 700)), "system-ui", "sans-serif"),
    font_mono=("ui-monospace", "Consolas", "monospace"),
).set(
    body_text_color_subdued="*neutral_500",
    block_info_text_color="*neutral_500",
    button_primary_background_fill="*primary_600",
    button_primary_background_fill_hover="*primary_700",
    button_primary_background_fill_dark="*primary_600",
    button_primary_background_fill_hover_dark="*primary_700",
    button_cancel_background_fill=gr.themes.colors.red.c600,
    button_cancel_background_fill_hover=gr.themes.colors.red.c700,
)
# Gradio puts its own container before every rule of `css`: what is about that stands in the head.
# Where it is `hidden`, nothing within stays in sight while one scrolls.
OUTSIDE = ".gradio-container {overflow: clip !important}"
HEAD = f"<style>{OUTSIDE}</style><script>{(HERE / 'page.js').read_text()}</script>"
# Runs when a tab is selected. Only a click may set the tab: links and buttons set it themselves,
# and their select event can arrive after a later link.
OPENED = """now => {{
    if (window.clickedTab !== {title}) return now;
    window.clickedTab = null;
    return {name};
}}"""
# Calls of one handler that run at once, unless it says otherwise; and threads of all together.
QUEUE, LAUNCH = dict(default_concurrency_limit=4), dict(max_threads=16)


async def _refuse(hostname: str):
    raise ValueError(f"{hostname}: no address is opened for a visitor")


# Gradio would fetch a URL that stands in place of an upload, and asks a public name server about
# its host.
safehttpx.async_validate_url = _refuse


def build(runs: str, data: tuple[str, ...] = ()) -> gr.Blocks:
    """The app over the run folders under `runs`.

    A training that it starts may also read what lies under `data`.
    """
    with gr.Blocks(title="softvq_lab explorer", analytics_enabled=False, fill_width=True) as app:
        gr.Markdown(ABOUT)
        ctx = picker.build(app, runs, data)
        tabs = {title.lower().replace(" ", "-"): (title, fill) for title, fill in tabs_in_order()}
        ctx.expect(list(tabs))
        with gr.Tabs(elem_id="tabs") as ctx.tabs:
            for name, (title, fill) in tabs.items():
                with gr.Tab(title, id=name) as tab:
                    ctx.enter(name)
                    fill(ctx)
                    ctx.wire()
                opened = OPENED.format(title=json.dumps(title), name=json.dumps(name))
                tab.select(None, ctx.tab, ctx.tab, js=opened, api_name=False)
        reproduce.Reproduce(ctx, address.Address(ctx))
    return app


def tabs_in_order() -> list[tuple[str, Callable]]:
    "Title and builder of each registered tab, in their places; those without one come last."
    known = registered("tab").items()
    return sorted(known, key=lambda tab: about("tab", tab[0]).get("place", math.inf))


def credentials(auth: str) -> list[tuple[str, str]]:
    """(user, password) pairs of `user:password`, or of a file with one such line for each user.

    Raises a `ValueError` that does not repeat a password.
    """
    if auth and Path(auth).is_file():
        lines = [x for x in Path(auth).read_text(encoding="utf-8").splitlines() if x.strip()]
    elif ":" in auth:
        lines = [auth]
    else:
        raise ValueError("neither user:password nor a file of such lines")
    pairs = [tuple(line.strip().split(":", 1)) for line in lines]
    if not pairs or any(len(p) != 2 or not all(p) for p in pairs):
        raise ValueError("a user and a password are needed, as user:password")
    return pairs


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="explorer.py", description="Explore tokenizers and generators in the browser."
    )
    add = made.add_argument
    add("--runs", default="runs", help="folder of run folders (default: runs)")
    add(
        "--data",
        action="append",
        default=[],
        metavar="FOLDER",
        help="a folder whose files a training started in the app may read; "
        "may be given several times",
    )
    add(
        "--host",
        default="127.0.0.1",
        help="address to listen on (default: 127.0.0.1; another one needs --auth)",
    )
    add("--port", type=int, default=7860, help="port (default: 7860)")
    add(
        "--share", action="store_true", help="a public link through gradio's servers (needs --auth)"
    )
    add(
        "--auth",
        default=os.environ.pop("EXPLORER_AUTH", ""),
        metavar="USER:PASSWORD|FILE",
        help="who may come in; a file of user:password lines, or the environment variable "
        "EXPLORER_AUTH, keeps it out of the list of processes",
    )
    return made


def options(argv=None) -> argparse.Namespace:
    "The command line; what cannot be served ends with exit status 2."
    known = parser()
    args = known.parse_args(argv)
    try:
        args.auth = credentials(args.auth) if args.auth else None
    except (ValueError, OSError) as e:
        known.error(f"--auth: {e}")
    if not args.auth and (args.share or not is_loopback(args.host)):
        public = "--share makes the app public"
        open_to = public if args.share else f"--host {args.host} lets other machines in"
        known.error(
            f"{open_to}: that needs --auth user:password (or a file, or EXPLORER_AUTH). "
            "People who come in can start trainings."
        )
    if Path(args.runs).exists() and not Path(args.runs).is_dir():
        known.error(f"--runs {args.runs} is a file. Name the folder of the run folders.")
    if not 0 <= args.port < 65536:
        known.error(f"--port {args.port}: ports are 0 to 65535")
    return args


def main(argv=None):
    "Parse the command line and serve."
    args = options(argv)
    host = f"[{args.host}]" if ":" in args.host and not args.host.startswith("[") else args.host
    app = build(args.runs, tuple(args.data)).queue(**QUEUE)
    try:
        _, url, public = app.launch(
            server_name=host,
            server_port=args.port,
            share=args.share,
            auth=args.auth,
            theme=THEME,
            css_paths=HERE / "page.css",
            head=HEAD,
            max_file_size="40mb",
            ssr_mode=False,
            quiet=True,
            prevent_thread_lock=True,
            **LAUNCH,
        )
    except OSError as e:
        sys.exit(
            f"explorer: cannot listen on {host}:{args.port} ({e}); choose another port with --port"
        )
    if not Path(args.runs).exists():
        print(f"explorer: {args.runs} is not there yet; runs appear when it holds some", flush=True)
    shared = f"\npublic: {public}" if public else ""
    print(f"explorer: {url.rstrip('/')}  (Ctrl-C ends it; jobs go on){shared}", flush=True)
    threading.Event().wait()  # for a signal: see `end`


if __name__ == "__main__":
    main()
