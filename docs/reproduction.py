"""The page about the paper's numbers, docs/reproduction.md: each value beside ours and its command.

    python docs/reproduction.py [--collect RUNS ...] [--check]

The paper's numbers are CSV files in docs/paper, rows.yaml says which part of which sweep a row is.
`--collect` takes what the sweeps under RUNS have measured into docs/paper/digits.json, from which
the page is written; without runs it is written from what was collected before.
"""

import argparse
import csv
import functools
import json
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAPER = ROOT / "docs" / "paper"
PAGE = ROOT / "docs" / "reproduction.md"
MEASURED = PAPER / "digits.json"
IMAGENET = "/data/imagenet"  # stands for the person's folder in all commands


@dataclass(frozen=True)
class Row:
    "A row of a table: its name, the paper's numbers, and what of it can be run here."

    name: str
    paper: dict[str, str]  # column of the CSV -> number, '' where the paper has none
    only: dict | None = None  # its part of the sweep at the paper's size
    digits: dict | None = None  # and at that of digits
    run: str = ""  # a command for another system
    none: str = ""  # why there is nothing to run
    sweep: str = ""  # of the paper's size

    @property
    def command(self) -> str:
        "What measures the row at the paper's size; empty where nothing does."
        if self.only is None:
            return self.run
        part = ",".join(f"{k}={_written(v)}" for k, v in self.only.items())
        return f"softvq-lab sweep sweeps/{self.sweep}.yaml data_path={IMAGENET} --only {part}"


@dataclass(frozen=True)
class Table:
    "A table of the paper, with its rows in their order and the columns that are compared."

    key: str
    title: str
    columns: dict[str, dict]
    sweeps: dict[str, str]  # size -> sweep
    rows: tuple[Row, ...]


def _written(value) -> str:
    return (
        {True: "true", False: "false", None: "null"}.get(value, str(value))
        if isinstance(value, bool | None)
        else str(value)
    )


@functools.cache
def tables() -> dict[str, Table]:
    "All tables of rows.yaml; a `ValueError` where it does not fit a CSV."
    found = {}
    for key, about in yaml.safe_load((PAPER / "rows.yaml").read_text()).items():
        with open(PAPER / about["csv"]) as f:
            numbers = list(csv.DictReader(f))
        if len(numbers) != len(about["rows"]):
            raise ValueError(
                f"{key}: {len(about['rows'])} rows for {len(numbers)} of {about['csv']}"
            )
        sweep = about["sweeps"]["paper"]
        rows = tuple(
            Row(about["name"].format(**_said(n)), n, **{"sweep": sweep} | own)
            for n, own in zip(numbers, about["rows"])
        )
        found[key] = Table(key, about["title"], about["columns"], about["sweeps"], rows)
    return found


def _said(row: dict[str, str]) -> dict[str, str]:
    return {k: v or "none" for k, v in row.items()}


# what was measured


def figures_of(run: Path) -> dict[str, float]:
    "All metrics of a run's evaluation/*.json; those of a probe as 'SITE: METRIC'."
    found = {}
    for file in sorted(run.glob("evaluation/*.json")):
        said = json.loads(file.read_text())
        site = said["passport"].get("site", "").replace(",", "")
        found |= {f"{site}: {k}" if site else k: v for k, v in said["figures"].items()}
    return found


def collect(roots: list[Path]) -> dict[str, list[dict]]:
    "Sweep -> its jobs that are measured: what varies (with the seed) and the metrics."
    jobs: dict[str, list[dict]] = {}
    for table in tables().values():
        name = table.sweeps.get("digits", "")
        for report in (p for r in roots for p in r.glob(f"sweeps/{name}*/sweep.json") if name):
            root = report.parents[2]
            for task in json.loads(report.read_text())["tasks"]:
                if task["stage"] != "evaluation" or task["state"] != "done":
                    continue
                run = root / Path(task["run"]).relative_to(Path(task["run"]).parents[1])
                job = {"vary": task["vary"], "figures": figures_of(run)}
                if job not in jobs.setdefault(name, []):
                    jobs[name].append(job)
    return jobs


def kept(jobs: dict[str, list[dict]]) -> dict[str, list[dict]]:
    "Of the metrics only those that a table shows."
    wanted = {
        t.sweeps.get("digits"): {c["digits"] for c in t.columns.values()} for t in tables().values()
    }
    return {
        name: [
            j | {"figures": {k: round(v, 5) for k, v in j["figures"].items() if k in wanted[name]}}
            for j in sorted(rows, key=lambda j: json.dumps(j["vary"], sort_keys=True))
        ]
        for name, rows in sorted(jobs.items())
    }


def values(table: Table, row: Row, column: str, jobs: dict) -> list[float]:
    "What was measured of a cell on digits, by seed."
    about = table.columns[column]
    if row.digits is None or "digits" not in about:
        return []
    found = {
        j["vary"]["seed"]: j["figures"][about["digits"]]
        for j in jobs.get(table.sweeps.get("digits"), [])
        if all(j["vary"].get(k) == v for k, v in row.digits.items())
        and about["digits"] in j["figures"]
    }
    return [v * about.get("scale", 1) for _, v in sorted(found.items())]


def jobs_on_digits() -> dict[str, list[dict]]:
    return json.loads(MEASURED.read_text())["jobs"] if MEASURED.exists() else {}


# what it costs

RATE = 0.25 * 989e12  # FLOPs a second: what SoftVQ-B reached on an H200 in bf16 (see the page)


@functools.cache
def _tokenizer_flops(config) -> tuple[int, float]:
    from softvq_lab.evaluation.efficiency import count_tokenizer

    n = count_tokenizer(config)
    return n["parameters"], 6 * (n["encode"] + n["decode"])


@functools.cache
def _generator_flops(config, tokens: int, width: int) -> tuple[int, float]:
    from softvq_lab.evaluation.efficiency import count_generator

    n = count_generator(config, tokens, width)
    return n["parameters"], 6 * n["forward"]


def cost(row: Row) -> str:
    "Parameters and estimated GPU hours of a row's trainings at the paper's size."
    if row.only is None:
        return ""
    from softvq_lab.experiments.parameters import check_parameters
    from softvq_lab.experiments.sweep import narrow, read_sweep, settings_of

    spec = narrow(read_sweep(ROOT / "sweeps" / f"{row.sweep}.yaml"), row.only)
    given = spec.tokenizer.set | settings_of(spec.tokenizer)[0]
    t = check_parameters("train", given)
    parameters, flops = _tokenizer_flops(t.tokenizer)
    parts = [_part(parameters, flops * t.optim.steps * t.optim.batch_size)]
    if spec.generator:
        given = spec.generator.set | settings_of(spec.generator)[0]
        g = check_parameters("train_generator", given)
        parameters, flops = _generator_flops(
            g.generator, t.tokenizer.tokens, t.tokenizer.latent_dim
        )
        parts.append(_part(parameters, flops * g.optim.steps * g.optim.batch_size))
    return " + ".join(parts)


def _part(parameters: int, flops: float) -> str:
    return f"{parameters / 1e6:.0f} M, {flops / RATE / 3600:,.0f} h"


# the page


def _measured(found: list[float]) -> str:
    if not found:
        return "not run"
    mean = statistics.fmean(found)
    spread = f" ({min(found):.3g} .. {max(found):.3g})" if len(found) > 1 else ""
    return f"{mean:.3g}{spread}"


def table_lines(table: Table, jobs: dict) -> list[str]:
    "The Markdown of a table: the paper's value and ours of every column, cost and command."
    shown = [(c, a["title"]) for c, a in table.columns.items()]
    on_digits = "digits" in table.sweeps
    head = ["row"]
    for _, title in shown:
        head += [f"{title}: paper"] + [f"{title}: digits"] * on_digits
    lines = [_line([*head, "cost", "command"]), _line(["---"] * (len(head) + 2))]
    for row in table.rows:
        cells = [row.name]
        for column, _ in shown:
            cells += [row.paper[column] or ""]
            cells += [_measured(values(table, row, column, jobs))] * on_digits
        what = f"`{row.command}`" if row.command else row.none
        lines.append(_line([*cells, cost(row), what]))
    return lines


def _line(cells: list) -> str:
    return "| " + " | ".join(str(c).replace("|", r"\|") for c in cells) + " |"


def agreement(table: Table, jobs: dict) -> list[str]:
    "Sentences about the order of a table's rows, only of those that have both numbers."
    from scipy.stats import spearmanr

    says = []
    for column, about in table.columns.items():
        pairs = {}
        for row in table.rows:
            if row.paper[column] and (found := values(table, row, column, jobs)):
                pairs[row.name] = float(row.paper[column]), statistics.fmean(found)
        if len(pairs) > 3:
            r = spearmanr(*zip(*pairs.values())).statistic
            says.append(
                f"- {about['title']}: rank correlation of the {len(pairs)} rows that have both "
                f"numbers, paper against digits: {r:+.2f}."
            )
    return says


def comparison(table: Table, jobs: dict, claim: dict) -> str:
    "A claim of the paper about pairs of rows, with both numbers of each pair on either side."
    column, better = claim["column"], table.columns[claim["column"]]["better"]
    told, held = [], 0
    for first, second in claim["pairs"]:
        a, b = table.rows[first], table.rows[second]
        x, y = values(table, a, column, jobs), values(table, b, column, jobs)
        if not (x and y):
            continue
        sign = 1 if better == "higher" else -1
        apart = min(sign * v for v in x) > max(sign * v for v in y)
        other = max(sign * v for v in x) < min(sign * v for v in y)
        held += apart
        verdict = "as there" if apart else "the other way round" if other else "undecided"
        told.append(
            f"{a.name} against {b.name}: {a.paper[column]} and {b.paper[column]} in the paper, "
            f"{statistics.fmean(x):.3g} and {statistics.fmean(y):.3g} on digits ({verdict})"
        )
    if not told:
        return f"- {claim['says']}: not run here."
    return (
        f"- {claim['says']}: holds for {held} of {len(told)} pairs here. " + "; ".join(told) + "."
    )


def page() -> str:
    "The whole page."
    jobs = jobs_on_digits()
    about = yaml.safe_load((PAPER / "rows.yaml").read_text())
    text = (PAPER / "page.md").read_text()
    for key, table in tables().items():
        says = agreement(table, jobs) if "digits" in table.sweeps else []
        says += [comparison(table, jobs, c) for c in about[key].get("claims", [])]
        body = [f"## {table.title}", "", *table_lines(table, jobs), *([""] * bool(says)), *says]
        text = text.replace(f"{{{{{key}}}}}", "\n".join(body))
    if "{{" in text:
        raise ValueError(
            f"page.md asks for a table that rows.yaml lacks: {text[text.index('{{') :][:40]}"
        )
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collect", nargs="*", type=Path, default=[], metavar="RUNS")
    parser.add_argument("--check", action="store_true", help="say whether the page is up to date")
    args = parser.parse_args()
    if args.collect:
        found = kept(collect(args.collect))
        MEASURED.write_text(json.dumps({"jobs": found}, indent=1) + "\n")
        print(f"{sum(map(len, found.values()))} measured jobs in {MEASURED.relative_to(ROOT)}")
    text = page()
    if args.check:
        fresh = PAGE.exists() and PAGE.read_text() == text
        print("up to date" if fresh else f"{PAGE.name} is old: make reproduction")
        return 0 if fresh else 1
    PAGE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
