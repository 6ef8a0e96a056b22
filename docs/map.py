"""Writes docs/map.md: every notebook, what it is about, and the names that its module defines.

python docs/map.py [--check]
"""

import argparse
import ast
import json
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "map.md"
ROOMS = [  # in the order in which an image meets them
    ("settings", "what a parameter may be"),
    ("data", "images and their labels"),
    ("pretrained", "weights that others trained, and the small network trained here"),
    ("quantizers", "what stands between encoder and decoder"),
    ("tokenizer", "encoder and decoder"),
    ("latents", "statistics of latents, and latents on disk"),
    ("generators", "SiT, DiT and MAR"),
    ("training", "losses and the training loop"),
    ("hub", "saving, loading, publishing"),
    ("evaluation", "metrics"),
    ("experiments", "jobs and sweeps"),
    ("explore", "what the explorer and the widgets call"),
]
HEAD = """# Where is what

*Written by `python docs/map.py` from the notebooks. Do not edit it.*

A notebook is a module: `nbs/quantizers/01_softvq.ipynb` is `softvq_lab.quantizers.softvq`. The
number gives the reading order. How the rooms build on each other: [architecture](architecture.md).
"""


def lead(notebook: dict) -> str:
    "The sentence in `>` under the title."
    first = "".join(notebook["cells"][0]["source"])
    found = re.search(r"^> *(.+)$", first, re.M)
    return found[1].strip() if found else ""


def module_of(notebook: dict) -> str:
    "The module that a notebook exports, as room.module; empty for workflows and tutorials."
    sources = ("".join(c["source"]) for c in notebook["cells"] if c["cell_type"] == "code")
    found = (re.search(r"^#\| *default_exp +([\w.]+)", s, re.M) for s in sources)
    return next((f[1] for f in found if f), "")


def public_names(module: str) -> list[str]:
    "What a module defines for others (its `__all__`)."
    tree = ast.parse((ROOT / "softvq_lab" / f"{module.replace('.', '/')}.py").read_text())
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return []


def rows(folder: str, exports: bool) -> list[str]:
    "A row of the table for each notebook in a folder of `nbs/`, those with or without a module."
    found = []
    for path in sorted((ROOT / "nbs" / folder).glob("*.ipynb")):
        notebook = json.loads(path.read_text(encoding="utf-8"))
        module = module_of(notebook)
        if bool(module) == exports:
            link = f"[`{path.stem}`](../{path.relative_to(ROOT).as_posix()})"
            names = ", ".join(f"`{n}`" for n in public_names(module)) if module else ""
            cells = [link, lead(notebook).replace("|", r"\|"), *([names] if exports else [])]
            found.append(f"| {' | '.join(cells)} |")
    return found


def page() -> str:
    modules = ["| notebook | what it is about | names |", "| --- | --- | --- |"]
    others = ["| notebook | what it is about |", "| --- | --- |"]
    lines = [HEAD, "## Workflows", "", *others, *rows("", exports=False), ""]
    lines += ["## Tutorials", "", *others, *rows("tutorials", exports=False), ""]
    lines += ["## The hall: what all rooms use, and the front doors", ""]
    lines += [*modules, *rows("", exports=True), ""]
    for room, what in ROOMS:
        lines += [f"## {room}: {what}", "", *modules]
        lines += [*rows(room, exports=True), ""]
    return "\n".join(lines).rstrip() + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description="docs/map.md from the notebooks")
    parser.add_argument("--check", action="store_true", help="exit status 1 if the page is old")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif page() != PAGE.read_text(encoding="utf-8"):
        print("docs/map.md is not what the notebooks say: run python docs/map.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
