"""The explorer: touch a tokenizer and its generator in the browser.

    python apps/explorer.py [--runs runs] [--port 7860]

`build(runs)` makes the app; this file starts a server only when it is run as a script.
"""
import argparse
import os
import sys
import threading

os.environ.setdefault('GRADIO_ANALYTICS_ENABLED', 'False')  # nothing goes to the outside network
os.environ.setdefault('HF_HUB_OFFLINE', '1')

import gradio as gr

from tabs import codewords, picker, reconstruct, sample, token_counts

TABS = [
    ('Reconstruct', reconstruct.build),
    ('Codewords', codewords.build),
    ('Token counts', token_counts.build),
    ('Sample', sample.build),
]  # title and builder, which fills the tab from what all tabs share (`picker.Context`)

THEME = gr.themes.Default(primary_hue='blue')
CSS = '.pixel img {image-rendering: pixelated} footer {display: none !important}'


def build(runs: str) -> gr.Blocks:
    "The app over the run folders under `runs`."
    with gr.Blocks(title='softvq_lab explorer', analytics_enabled=False, fill_width=True) as app:
        gr.Markdown('# softvq_lab explorer\nAn image becomes a few latent tokens and an image again; a generator draws new ones. Choose a run, then touch it.')
        ctx = picker.build(app, runs)
        with gr.Tabs(elem_id='tabs') as ctx.tabs:
            for title, fill in TABS:
                name = title.lower().replace(' ', '-')
                with gr.Tab(title, id=name) as tab: fill(ctx)
                tab.select(lambda name=name: name, None, ctx.tab, show_progress='hidden', api_name=False)
        picker.link(ctx)
    return app


def main(argv=None):
    "Parse the command line and serve on 127.0.0.1."
    parser = argparse.ArgumentParser(prog='explorer.py', description='Explore tokenizers and generators in the browser.')
    parser.add_argument('--runs', default='runs', help='folder of run folders (default: runs)')
    parser.add_argument('--port', type=int, default=7860, help='port on 127.0.0.1 (default: 7860)')
    args = parser.parse_args(argv)
    try:
        build(args.runs).queue(default_concurrency_limit=4).launch(server_name='127.0.0.1', server_port=args.port, theme=THEME, css=CSS, max_file_size='40mb', ssr_mode=False, quiet=True, prevent_thread_lock=True)
    except OSError as e: sys.exit(f'explorer: port {args.port} cannot be used ({e}); take another by --port')
    print(f'explorer: http://127.0.0.1:{args.port}  (Ctrl-C ends it)', flush=True)
    try: threading.Event().wait()
    except KeyboardInterrupt: pass


if __name__ == '__main__': main()
