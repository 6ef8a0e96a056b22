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


def svg(edges: Counter) -> str:
    W, H, w, h = 200, 120, 164, 58
    box = {r: (20 + x * W, 20 + y * H) for r, (x, y) in PLACE.items()}
    width, height = COLUMNS * W + 4, ROWS * H
    out = [
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
            'font-family="sans-serif" role="img" aria-label="Rooms of softvq_lab and what they '
            'use">'
        ),
        (
            '<defs><marker id="a" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" '
            'markerHeight="7" orient="auto"><path d="M0 0L10 5L0 10z" '
            'fill="#7d8ca3"/></marker></defs>'
        ),
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for (a, b), n in sorted(edges.items()):
        if b == "hall" or b in BESIDE and a not in BESIDE:
            continue  # nearly everybody uses it
        (x1, y1), (x2, y2) = box[a], box[b]
        if y1 == y2:
            far, right = abs(x1 - x2) > W, x2 > x1
            if far:
                d = (
                    f"M{x1 + w / 2} {y1 + h} Q{(x1 + x2 + w) / 2} {y1 + h + 42} {x2 + w / 2} "
                    f"{y2 + h}"
                )
            else:
                d = (
                    f"M{x1 + (w if right else 0)} {y1 + h / 2} L{x2 + (0 if right else w)} "
                    f"{y2 + h / 2}"
                )
        else:
            lean = 0.18 * w * (1 if x2 > x1 else -1 if x2 < x1 else 0)
            down = y2 > y1
            d = (
                f"M{x1 + w / 2 + lean} {y1 + (h if down else 0)} L{x2 + w / 2 - lean} "
                f"{y2 + (0 if down else h)}"
            )
        out.append(
            f'<path d="{d}" fill="none" stroke="#7d8ca3" stroke-width="{min(3, 1 + n / 4):.1f}" '
            'marker-end="url(#a)"/>'
        )
    for r, (x, y) in box.items():
        wide = (COLUMNS * W - 36) if r == "hall" else w
        x = 20 if r == "hall" else x
        fill = {
            "hall": "#eef1f5",
            "front doors": "#fdf1dc",
            "experiments": "#fdf1dc",
            "explore": "#fdf1dc",
            "apps": "#fdf1dc",
        }.get(r, "#dfeaf6")
        out += [
            (
                f'<rect x="{x}" y="{y}" width="{wide}" height="{h}" rx="8" fill="{fill}" '
                'stroke="#7d8ca3"/>'
            ),
            (
                f'<text x="{x + wide / 2}" y="{y + 25}" text-anchor="middle" font-size="16" '
                f'font-weight="bold" fill="#222">{r}</text>'
            ),
            (
                f'<text x="{x + wide / 2}" y="{y + 45}" text-anchor="middle" font-size="12" '
                f'fill="#444">{WHAT[r]}</text>'
            ),
        ]
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
