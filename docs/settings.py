"""The page of all settings and metrics, docs/settings.md, from what the library declares.

    python docs/settings.py [--check]

Names, defaults, bounds and descriptions are data of `softvq_lab.settings`, `softvq_lab.registry`
and `softvq_lab.metrics`: nothing is written twice.
"""

import argparse
import dataclasses
import inspect
import sys
from contextlib import suppress
from pathlib import Path
from typing import get_args

from pydantic import TypeAdapter

from softvq_lab import metrics
from softvq_lab.core import ConfigError
from softvq_lab.registry import Entries, library
from softvq_lab.settings.parse import Choice, choice_of
from softvq_lab.settings.recipes import RECIPES
from softvq_lab.settings.workflows import WORKFLOWS

PAGE = Path(__file__).resolve().parent / "settings.md"
HEAD = """# Settings

*Written by `python docs/settings.py` from what the library declares. Do not edit it.*

Each setting is a parameter of papermill (`-p tokens 32`), of the command line
(`softvq-lab execute train tokens=32`) and of a sweep file (`tokens: 32`). An unknown name, a wrong
type, a value out of range and a combination that makes no sense stop a workflow before any work,
and the message says what is possible. The classes, with the rules for combinations:
[`nbs/settings/02_sections.ipynb`](../nbs/settings/02_sections.ipynb) and
[`nbs/settings/03_workflows.ipynb`](../nbs/settings/03_workflows.ipynb).

At the end of the page: [settings of single methods](#settings-of-single-methods), the values of
[recipe pictures](#recipe-pictures), and what the names of [metrics](#metrics) mean.
"""
METRICS = """Direction, unit and protocol are declared in
[`nbs/04_metrics.ipynb`](../nbs/04_metrics.ipynb). The command `show` prints these names. Nothing
is ranked by a metric for which neither direction is better. A prefix says what was measured:

- `r_`: reconstructions instead of samples (`rfid` with Inception).
- `reference_`, `dinov2_`, or the name of a model of timm: the features of this network instead of
  Inception's. The Fréchet distance is then called `frechet` instead of `fid`, the score `score`
  instead of `inception_score`.
- `proxy_`: samples of the small generator that `proxy=True` trains.
- `online_`: samples along a generator's training (`online_every`).

`top1`, `top5` and `train_top1` are fractions of images that a linear probe classifies correctly.
"""
# made from the names without them
PREFIXES = ("r_", "reference_", "dinov2_", "proxy_", metrics.ONLINE)


def sections(workflow) -> dict[str, object]:
    "The sections of settings that a workflow takes, by field name: instances with its defaults."
    return {
        f.name: f.default
        for f in dataclasses.fields(workflow)
        if dataclasses.is_dataclass(f.default)
    }


def title(section) -> str:
    "`TokenizerConfig` is the section Tokenizer."
    return type(section).__name__.removesuffix("Config")


def parent(workflow) -> str:
    "The workflow whose settings `workflow` extends; empty for most."
    return next((name for name, cls in WORKFLOWS.items() if cls in workflow.__mro__[1:]), "")


def _code(value) -> str:
    return f"`{value}`".replace("|", r"\|")


def _bounds(schema: dict) -> str:
    "The range of a number in words."
    words = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
    }
    if "minimum" in schema and "maximum" in schema:
        return f"{schema['type']}, {schema['minimum']} to {schema['maximum']}"
    says = [f"{said} {schema[key]}" for key, said in words.items() if key in schema]
    return ", ".join([schema["type"], *says])


def _possible(schema: dict) -> str:
    "What a JSON schema allows."
    if "anyOf" in schema:
        return "; ".join(map(_possible, schema["anyOf"]))
    if "const" in schema or "enum" in schema:
        return ", ".join(map(_code, schema.get("enum", [schema.get("const")])))
    kind = schema["type"]
    if kind in ("integer", "number"):
        return _bounds(schema)
    return {"boolean": "`True`, `False`", "null": "`None`", "string": "text"}[kind]


def possible(field, schema: dict) -> str:
    "What a setting may be, in one cell."
    named = [m for m in field.metadata if isinstance(m, Choice)]
    if choice := next(iter(named), None) or choice_of(field.annotation):
        names = [*choice.options, *[f"{choice.prefix}NAME"] * bool(choice.prefix)]
        none = "; `None`" if type(None) in get_args(field.annotation) else ""
        kinds = " or ".join(choice.kinds)
        return f"{', '.join(map(_code, names))}, or your own (a registered {kinds}){none}"
    return _possible(schema)


def table(cls, names: list[str], defaults: dict) -> list[str]:
    "The settings `names` of a class as a Markdown table."
    schema = TypeAdapter(cls).json_schema()["properties"]
    rows = ["| setting | default | possible | what it is |", "| --- | --- | --- | --- |"]
    for name in names:
        field = cls.__pydantic_fields__[name]
        about = (field.description or "").replace("|", r"\|").replace("<", "&lt;")
        cells = [_code(name), _code(repr(defaults[name])), possible(field, schema[name]), about]
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def _listed(values: dict) -> str:
    return ", ".join(_code(f"{k}={v!r}") for k, v in values.items())


def other_defaults(workflow) -> list[str]:
    "Sentences: defaults that are not those of the sections, and where those of recipes stand."
    own = dataclasses.asdict(workflow())
    says = []
    for name, section in sections(workflow).items():
        usual = dataclasses.asdict(type(section)())
        if differs := {k: v for k, v in own[name].items() if v != usual[k]}:
            link = f"[{title(section)}](#{title(section).lower()})"
            says.append(f"Other defaults than in {link}: {_listed(differs)}.")
    if "recipe" in own:
        says.append(
            "`recipe=paper` and `recipe=released` change defaults: [their values, with the source "
            "of each](paper/recipe.csv)."
        )
        with suppress(ConfigError):  # efficiency takes no pictures
            workflow.defaults({"recipe": "pictures"})
            says[-1] += " So does `recipe=pictures`: [its values](#recipe-pictures)."
    return says


def of_workflow(name: str, workflow) -> list[str]:
    "What a workflow takes: the sections by link, and the settings that it alone has."
    about = inspect.getdoc(workflow).partition(": ")[2].splitlines()[0]
    base = parent(workflow)
    inherited = {f.name for f in dataclasses.fields(WORKFLOWS[base])} if base else set()
    own = [
        f.name
        for f in dataclasses.fields(workflow)
        if f.name not in sections(workflow) and f.name not in inherited
    ]
    lines = [f"### {name}", "", f"[`nbs/{name}.ipynb`](../nbs/{name}.ipynb): {about}", ""]
    if base:
        lines += [f"All settings of [{base}](#{base}), and:", ""]
    elif named := [f"[{title(s)}](#{title(s).lower()})" for s in sections(workflow).values()]:
        lines += [f"Sections: {', '.join(named)}.", ""]
    for sentence in [] if base else other_defaults(workflow):
        lines += [sentence, ""]
    return [*lines, *table(workflow, own, dataclasses.asdict(workflow())), ""] if own else lines


def of_single_methods() -> list[str]:
    "The settings of the registry's entries that have some of their own."
    lines = ["## Settings of single methods", ""]
    for kind, entries in library().items():
        for name in (n for n, entry in entries.items() if entry.has_settings):
            cls = Entries(kind).settings(name)
            defaults = dataclasses.asdict(cls())
            lines += [f"### {kind} {name}", "", f"With `{kind}={name}` only.", ""]
            lines += [*table(cls, list(defaults), defaults), ""]
    return lines


def of_recipe(name: str) -> list[str]:
    "The values of a recipe, one column for each thing that is trained or measured."
    columns: dict[tuple[str, ...], dict] = {}
    for (what, *_), values in RECIPES[name].items():
        same = next((key for key, others in columns.items() if others == values), ())
        columns.pop(same, None)
        columns[(*same, what)] = values
    head = ["setting", *(", ".join(key) for key in columns)]
    about = f"The defaults that `recipe={name}` changes, of each thing that is trained or measured."
    lines = [f"## Recipe {name}", "", about, ""]
    lines += [f"| {' | '.join(head)} |", f"| {' | '.join(['---'] * len(head))} |"]
    for setting in dict.fromkeys(s for values in columns.values() for s in values):
        found = [values.get(setting) for values in columns.values()]
        cells = [_code(setting), *(_code(repr(f.value)) if f else "" for f in found)]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def of_metrics() -> list[str]:
    "What the names of metrics mean, and which direction is better."
    known = metrics.declarations(metrics.known_metrics())
    plain = {n: about for n, about in known.items() if not n.startswith(PREFIXES)}
    lines = ["## Metrics", "", METRICS, "| metric | better | unit | what it is |"]
    lines += ["| --- | --- | --- | --- |"]
    for name, about in plain.items():
        if says := [about[k] for k in ("label", "protocol") if k in about]:
            cells = [_code(name), about["better"], about.get("unit", ""), "; ".join(says)]
            lines.append(f"| {' | '.join(cells)} |")
    logged = [n for n, about in plain.items() if not about.keys() & {"label", "protocol"}]
    lines += ["", "A training also logs the terms of its loss and the state of its optimiser:"]
    return [*lines, f"{', '.join(map(_code, logged))}.", ""]


def page() -> str:
    "docs/settings.md."
    lines = [HEAD, "## Workflow by workflow", ""]
    for name, workflow in WORKFLOWS.items():
        lines += of_workflow(name, workflow)
    known = {title(s): type(s) for w in WORKFLOWS.values() for s in sections(w).values()}
    for name, cls in known.items():
        about = inspect.getdoc(cls).replace("<", "&lt;")
        defaults = dataclasses.asdict(cls())
        lines += [f"## {name}", "", about, "", *table(cls, list(defaults), defaults), ""]
    lines += [*of_single_methods(), *of_recipe("pictures"), *of_metrics()]
    return "\n".join(lines).rstrip() + "\n"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "--check", action="store_true", help="write nothing; exit status 1 if the page is old"
    )
    return made


def main() -> int:
    check, text = parser().parse_args().check, page()
    if not check:
        PAGE.write_text(text, encoding="utf-8")
    elif text != PAGE.read_text(encoding="utf-8"):
        print("docs/settings.md is not what the settings say: run python docs/settings.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
