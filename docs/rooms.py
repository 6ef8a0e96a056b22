"""docs/architecture.svg from the imports of the library; and the order of rooms, which imports may
not go against.

python docs/rooms.py [--check]
"""

import argparse
import ast
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ORDER = [
    "hall",
    "settings",
    "data",
    "runs",
    "pretrained",
    "quantizers",
    "tokenizer",
    "latents",
    "generators",
    "training",
    "hub",
    "evaluation",
    "front doors",
    "experiments",
    "explore",
    "apps",
]
MODULES = {
    "runs": "runs",
    "provenance": "runs",
    "commands": "front doors",
    "train": "front doors",
    "sample": "front doors",
    "cli": "apps",
}  # modules beside the rooms that are not the hall's
WHAT = {
    "hall": "seeds, files, locks, ranks, registry, checkpoints, figures - used by all of them",
    "settings": "names, types, ranges",
    "data": "images from files",
    "runs": "what a run records",
    "pretrained": "networks of others",
    "quantizers": "AE KL VQ SoftVQ GMMVQ",
    "tokenizer": "encoder and decoder",
    "latents": "statistics, cache",
    "generators": "SiT DiT MAR, samplers",
    "training": "one loop, two tasks",
    "hub": "save, load, released",
    "evaluation": "metrics with passports",
    "front doors": "train, sample",
    "experiments": "jobs, sweeps, tables",
    "explore": "behind app and widgets",
    "apps": "explorer, command line",
}
PLACE = {
    "hall": (0, 4),
    "settings": (0, 3),
    "data": (1, 3),
    "runs": (2, 3),
    "pretrained": (3, 3),
    "quantizers": (0, 2),
    "tokenizer": (1, 2),
    "latents": (2, 2),
    "generators": (3, 2),
    "training": (1, 1),
    "hub": (2, 1),
    "evaluation": (3, 1),
    "front doors": (0, 0),
    "experiments": (1, 0),
    "explore": (2, 0),
    "apps": (3, 0),
}  # column, row
COLUMNS, ROWS = 4, 5
BESIDE = (
    "settings",
    "data",
    "runs",
    "pretrained",
)  # their arrows would cover the others: said in words


def room(parts: tuple[str, ...]) -> str:
    if parts[0] != "softvq_lab":
        return "apps"
    if len(parts) < 2:
        return "hall"
    return parts[1] if (ROOT / "softvq_lab" / parts[1]).is_dir() else MODULES.get(parts[1], "hall")


def imports() -> Counter:
    "(room, room it uses) -> number of import lines."
    edges = Counter()
    for f in [*(ROOT / "softvq_lab").rglob("*.py"), *(ROOT / "apps").rglob("*.py")]:
        own = f.relative_to(ROOT).with_suffix("").parts
        if own[-1] in ("__init__", "_modidx"):
            continue
        for n in ast.walk(ast.parse(f.read_text())):
            if not isinstance(n, ast.ImportFrom):
                continue
            base = own[: -n.level] if n.level else ()
            names = base + tuple((n.module or "").split(".")) if n.module else base
            if names and names[0] == "softvq_lab":
                edges[room(own), room(names)] += 1
    return Counter({e: n for e, n in edges.items() if e[0] != e[1]})


def against(edges) -> list[str]:
    "Imports that go against ORDER."
    rank = {r: i for i, r in enumerate(ORDER)}
    return [f"{a} uses {b}" for a, b in edges if rank[a] < rank[b]]


W, H, WIDTH, HEIGHT = 200, 120, 164, 58  # of a room with what is around it, and of its box


def arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    "The path of an arrow between two boxes at these corners."
    (x1, y1), (x2, y2) = start, end
    right, down = x2 > x1, y2 > y1
    if y1 != y2:
        lean = 0.18 * WIDTH * (right - (x2 < x1))
        begin = f"{x1 + WIDTH / 2 + lean} {y1 + (HEIGHT if down else 0)}"
        return f"M{begin} L{x2 + WIDTH / 2 - lean} {y2 + (0 if down else HEIGHT)}"
    if abs(x1 - x2) > W:  # around the boxes between them
        bend = f"{(x1 + x2 + WIDTH) / 2} {y1 + HEIGHT + 42}"
        return f"M{x1 + WIDTH / 2} {y1 + HEIGHT} Q{bend} {x2 + WIDTH / 2} {y2 + HEIGHT}"
    begin = f"{x1 + (WIDTH if right else 0)} {y1 + HEIGHT / 2}"
    return f"M{begin} L{x2 + (0 if right else WIDTH)} {y2 + HEIGHT / 2}"


def box(room: str, x: int, y: int) -> list[str]:
    "A room with its name and what is in it."
    x, wide = (20, COLUMNS * W - 36) if room == "hall" else (x, WIDTH)
    fill = {"hall": "#eef1f5"} | dict.fromkeys(
        ("front doors", "experiments", "explore", "apps"), "#fdf1dc"
    )
    middle = f'<text x="{x + wide / 2}" text-anchor="middle"'
    return [
        f'<rect x="{x}" y="{y}" width="{wide}" height="{HEIGHT}" rx="8" '
        f'fill="{fill.get(room, "#dfeaf6")}" stroke="#7d8ca3"/>',
        f'{middle} y="{y + 25}" font-size="16" font-weight="bold" fill="#222">{room}</text>',
        f'{middle} y="{y + 45}" font-size="12" fill="#444">{WHAT[room]}</text>',
    ]


def svg(edges: Counter) -> str:
    places = {r: (20 + x * W, 20 + y * H) for r, (x, y) in PLACE.items()}
    width, height = COLUMNS * W + 4, ROWS * H
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" role="img" aria-label="Rooms of softvq_lab and what they use">',
        '<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" fill="#7d8ca3"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for (a, b), n in sorted(edges.items()):
        if b == "hall" or b in BESIDE and a not in BESIDE:
            continue  # nearly everybody uses it
        out.append(
            f'<path d="{arrow(places[a], places[b])}" fill="none" stroke="#7d8ca3" '
            f'stroke-width="{min(3, 1 + n / 4):.1f}" marker-end="url(#a)"/>'
        )
    for room, place in places.items():
        out += box(room, *place)
    return "\n".join(out + ["</svg>"]) + "\n"


def main() -> int:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--check",
        action="store_true",
        help="draw nothing: say whether the picture is what the imports say",
    )
    told = p.parse_args()
    edges = imports()
    if wrong := against(edges):
        print("imports against the order of rooms:", *wrong, sep="\n  ")
    path = ROOT / "docs" / "architecture.svg"
    if told.check:
        if stale := path.read_text() != svg(edges):
            print("docs/architecture.svg is not what the imports say: python docs/rooms.py")
        return bool(wrong or stale)
    path.write_text(svg(edges))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
