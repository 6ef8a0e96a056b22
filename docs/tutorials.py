"""The tutorials executed anew, with the outputs that are stored in them.

python docs/tutorials.py [NAME ...]    # 1_tokenizer, ...; all of them take 10 minutes

Tutorial 4 shows the runs of `make demo`: without them it would show those of a few steps.
"""

import argparse
import re
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

PLACE = Path(__file__).resolve().parent.parent / "nbs" / "tutorials"


WORK = re.compile(re.escape(tempfile.gettempdir()) + r"/tmp\w+/")  # where a page writes


def without_machine(output: dict):
    "An output without paths of this machine, and without a JPEG beside its PNG."
    data = output.get("data", {})
    if "image/png" in data:
        data.pop("image/jpeg", None)
    for place, name in ((output, "text"), (data, "text/plain")):
        if name in place:
            place[name] = WORK.sub("", place[name])


def execute(path: Path):
    "Execute a notebook in its folder and store what it shows."
    nb = nbformat.read(path, 4)
    NotebookClient(nb, timeout=None, resources={"metadata": {"path": path.parent}}).execute()
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            without_machine(output)
    nbformat.write(nb, path)


def main():
    known = sorted(p.stem for p in PLACE.glob("*.ipynb"))
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("names", nargs="*", metavar="NAME", help=", ".join(known))
    names = p.parse_args().names or known
    if strange := [name for name in names if name not in known]:
        p.error(f"there is no tutorial {strange[0]!r}; possible: {', '.join(known)}")
    if "4_tokens_to_samples" in names and not (PLACE.parents[1] / "runs" / "generator").is_dir():
        p.error("4_tokens_to_samples shows the runs of `make demo`: make them first")
    for name in names:
        print(name, flush=True)
        execute(PLACE / f"{name}.ipynb")


if __name__ == "__main__":
    main()
