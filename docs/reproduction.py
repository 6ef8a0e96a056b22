"""The page about the paper's numbers, docs/reproduction.md: each value beside ours and its command.

    python docs/reproduction.py [--collect RUNS ...] [--check]

The paper's numbers are CSV files in docs/paper, rows.yaml says which part of which sweep a row is.
`--collect` takes what the sweeps under RUNS have measured into docs/paper/measured.json, from which
the page is written; without runs it is written from what was collected before.
"""

import argparse
import csv
import functools
import json
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PAPER = ROOT / "docs" / "paper"
PAGE = ROOT / "docs" / "reproduction.md"
MEASURED = PAPER / "measured.json"
SCALES = ("digits", "pictures")  # those of our own sweeps, from the smaller to the larger
# tables with reconstruction and generation -> their column of gFID
BOTH = {"table3": "sit_l_gfid_no_cfg", "table4": "sit_l_gfid"}
SUMMARISED = ("table3", "table4")  # whose claims are counted at the top of the page
BOTH_FIGURE = ROOT / "docs" / "reconstruction_and_generation.png"
IMAGENET = "/data/imagenet"  # stands for the person's folder in all commands


@dataclass(frozen=True)
class Row:
    "A row of a table: its name, the paper's numbers, and what of it can be run here."

    name: str
    paper: dict[str, str]  # column of the CSV -> number, '' where the paper has none
    only: dict | None = None  # its part of the sweep at the paper's size
    small: dict[str, dict] = field(default_factory=dict)  # and at smaller scales
    run: str = ""  # a command for another system
    none: str = ""  # why there is nothing to run
    counts: dict | None = None  # the generator of another system, where its FLOPs can be counted
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

    @property
    def scales(self) -> list[str]:
        "The smaller scales at which there is a sweep of the table."
        return [scale for scale in SCALES if scale in self.sweeps]

    def prints(self, column: str) -> bool:
        "Whether the paper prints the numbers of a column; a figure only draws them."
        return column in self.rows[0].paper


def _written(value) -> str:
    return (
        {True: "true", False: "false", None: "null"}.get(value, str(value))
        if isinstance(value, bool | None)
        else str(value)
    )


@functools.cache
def described() -> dict[str, dict]:
    "What rows.yaml says of each table."
    return yaml.safe_load((PAPER / "rows.yaml").read_text())


@functools.cache
def tables() -> dict[str, Table]:
    "All tables of rows.yaml; a `ValueError` where it does not fit a CSV."
    found = {}
    for key, about in described().items():
        with open(PAPER / about["csv"]) as f:
            numbers = list(csv.DictReader(f))
        if len(numbers) != len(about["rows"]):
            raise ValueError(
                f"{key}: {len(about['rows'])} rows for {len(numbers)} of {about['csv']}"
            )
        sweep = about["sweeps"]["paper"]
        rows = tuple(
            _row(_name(about["name"], n), n, {"sweep": sweep} | own)
            for n, own in zip(numbers, about["rows"])
        )
        found[key] = Table(key, about["title"], about["columns"], about["sweeps"], rows)
    return found


def _row(name: str, paper: dict[str, str], own: dict) -> Row:
    small = {scale: own[scale] for scale in SCALES if scale in own}
    return Row(name, paper, small=small, **{k: v for k, v in own.items() if k not in SCALES})


def _name(pattern: str, row: dict[str, str]) -> str:
    "The name of a row; of a system without a tokenizer that of its generator."
    if "tokens" in row and not row["tokens"]:
        return row["generator"]
    said = {k: f"{int(v):,}" if v.isdigit() and int(v) > 9999 else v for k, v in row.items()}
    return pattern.format(**{k: v or "none" for k, v in said.items()})


# what was measured


def figures_of(run: Path) -> dict[str, float]:
    "All metrics of a run's evaluation/*.json; those of a probe as 'SITE: METRIC'."
    found = {}
    for file in sorted(run.glob("evaluation/*.json")):
        said = json.loads(file.read_text())
        site = said["passport"].get("site", "").replace(",", "")
        found |= {f"{site}: {k}" if site else k: v for k, v in said["figures"].items()}
    return found


def measured_jobs(run: Path, task: dict, curve: int) -> list[dict]:
    """What a finished task of a sweep has measured: what varies, and the metrics. With `curve` one
    for each measurement along the training, in `step`.
    """
    if task["state"] != "done" or (task["stage"] == "evaluation") == bool(curve):
        return []
    if not curve:
        return [{"vary": task["vary"], "figures": figures_of(run)}]
    lines = (run / "metrics.jsonl").read_text().splitlines() if task["stage"] == "generator" else []
    rows = [row for row in map(json.loads, lines) if any(k.startswith("online_") for k in row)]
    return [{"vary": task["vary"] | {"step": row.pop("step")}, "figures": row} for row in rows]


def collect(roots: list[Path]) -> dict[str, list[dict]]:
    "Sweep -> what its jobs have measured, of all sweeps under `roots`."
    jobs: dict[str, list[dict]] = {}
    swept = [(key, t.sweeps[scale]) for key, t in tables().items() for scale in t.scales]
    for key, name in swept:
        for report in (p for root in roots for p in root.glob(f"sweeps/{name}*/sweep.json")):
            for task in json.loads(report.read_text())["tasks"]:
                run = report.parents[2] / Path(task["run"]).relative_to(
                    Path(task["run"]).parents[1]
                )
                for job in measured_jobs(run, task, described()[key].get("curve", 0)):
                    if job not in jobs.setdefault(name, []):
                        jobs[name].append(job)
    return jobs


def kept(jobs: dict[str, list[dict]]) -> dict[str, list[dict]]:
    "Of the metrics only those that a table shows."
    wanted = {
        t.sweeps[scale]: {about.get(scale) for about in t.columns.values()}
        for t in tables().values()
        for scale in t.scales
    }
    return {
        name: [
            j | {"figures": {k: round(v, 5) for k, v in j["figures"].items() if k in wanted[name]}}
            for j in sorted(rows, key=lambda j: json.dumps(j["vary"], sort_keys=True))
        ]
        for name, rows in sorted(jobs.items())
    }


def merged(before: dict[str, list[dict]], now: dict[str, list[dict]]) -> dict[str, list[dict]]:
    "What was measured now, and of before what was not measured again."
    all_jobs = {}
    for name in sorted({*before, *now}):
        fresh = now.get(name, [])
        again = [j["vary"] for j in fresh]
        all_jobs[name] = fresh + [j for j in before.get(name, []) if j["vary"] not in again]
    return all_jobs


def values(table: Table, row: Row, column: str, jobs: dict, scale: str) -> list[float]:
    "What was measured of a cell at a smaller scale, by seed."
    about = table.columns[column]
    if scale not in row.small or scale not in about:
        return []
    found = {
        j["vary"]["seed"]: j["figures"][about[scale]]
        for j in jobs.get(table.sweeps.get(scale), [])
        if all(j["vary"].get(k) == v for k, v in row.small[scale].items())
        and about[scale] in j["figures"]
    }
    return [v * about.get("scale", 1) for _, v in sorted(found.items())]


def measured_scales(table: Table, jobs: dict) -> list[str]:
    "The smaller scales at which something of the table has been measured."
    return [scale for scale in table.scales if jobs.get(table.sweeps[scale])]


def measured_before() -> dict[str, list[dict]]:
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


def configs(row: Row) -> list:
    "The checked settings of a row's trainings at the paper's size: tokenizer, and generator."
    from softvq_lab.experiments.parameters import check_parameters
    from softvq_lab.experiments.sweep import narrow, read_sweep, settings_of

    if row.only is None:
        return []
    spec = narrow(read_sweep(ROOT / "sweeps" / f"{row.sweep}.yaml"), row.only)
    stages = {"train": spec.tokenizer, "train_generator": spec.generator}
    return [
        check_parameters(workflow, stage.set | settings_of(stage)[0])
        for workflow, stage in stages.items()
        if stage
    ]


def cost(row: Row) -> str:
    "Parameters and estimated GPU hours of a row's trainings at the paper's size."
    parts, found = [], configs(row)
    for c in found:
        t = found[0].tokenizer
        parameters, flops = (
            _tokenizer_flops(t)
            if c is found[0]
            else _generator_flops(c.generator, t.tokens, t.latent_dim)
        )
        hours = flops * c.optim.steps * c.optim.batch_size / RATE / 3600
        parts.append(f"{parameters / 1e6:.0f} M, {hours:,.0f} h")
    return " + ".join(parts)


def counted(row: Row) -> str:
    "GFLOPs (multiply-adds) of a forward pass of a row's generator; '' where they do not follow."
    from softvq_lab.settings.sections import GeneratorConfig

    if row.counts:
        own = dict(row.counts)
        sizes = own.pop("tokens"), own.pop("latent_dim")
        config = GeneratorConfig(**own)
    elif len(found := configs(row)) == 2:
        sizes, config = (
            (found[0].tokenizer.tokens, found[0].tokenizer.latent_dim),
            found[1].generator,
        )
    else:
        return ""
    return f"{_generator_flops(config, *sizes)[1] / 6e9:.2f}"


# the page


def _measured(found: list[float]) -> str:
    if not found:
        return "not run"
    mean = statistics.fmean(found)
    spread = f" ({min(found):.3g} .. {max(found):.3g})" if len(found) > 1 else ""
    return f"{mean:.3g}{spread}"


def table_lines(table: Table, jobs: dict) -> list[str]:
    "The Markdown of a table: the paper's value and ours of every column."
    run = measured_scales(table, jobs)
    ours = {column: [s for s in run if s in about] for column, about in table.columns.items()}
    head = ["row"]
    for column, about in table.columns.items():
        if table.prints(column):
            head += [f"{about['title']}: paper" if ours[column] else about["title"]]
        head += [f"{about['title']}: {scale}" for scale in ours[column]]
        head += ["counted"] * about.get("counted", 0)
    lines = [_line(head), _line(["---"] * len(head))]
    for row in table.rows:
        cells = [row.name]
        for column, about in table.columns.items():
            cells += [row.paper[column]] if table.prints(column) else []
            cells += [_measured(values(table, row, column, jobs, s)) for s in ours[column]]
            cells += [counted(row)] * about.get("counted", 0)
        lines.append(_line(cells))
    return lines


def command_lines(table: Table) -> list[str]:
    "The Markdown of the commands that measure the rows of a table, and what they cost."
    lines = [_line(["row", "command", "parameters, GPU hours"]), _line(["---"] * 3)]
    for row in table.rows:
        what = f"`{row.command}`" if row.command else row.none
        lines.append(_line([row.name, what, cost(row)]))
    return lines


def printed_twice(table: Table, other: str) -> list[str]:
    "Where another table of the paper prints the same rows with other numbers."
    with open(PAPER / other) as f:
        rows = {
            tuple(r[k] for k in ("generator", "tokenizer", "tokens")): r for r in csv.DictReader(f)
        }
    says = []
    for row in table.rows:
        there = rows.get(tuple(row.paper[k] for k in ("generator", "tokenizer", "tokens")), {})
        for column, about in table.columns.items():
            if column in there and there[column] != row.paper[column]:
                says.append(
                    f"- {row.name}, {about['title']}: {row.paper[column]} here, {there[column]} in "
                    f"{other.partition('-')[0].replace('table', 'Table ')}."
                )
    return says


def _line(cells: list) -> str:
    return "| " + " | ".join(str(c).replace("|", r"\|") for c in cells) + " |"


def agreement(table: Table, jobs: dict, scale: str) -> list[str]:
    "Sentences about the order of a table's rows, only of those that have both numbers."
    from scipy.stats import spearmanr

    says = []
    for column, about in table.columns.items():
        pairs = {}
        for row in table.rows:
            if row.paper.get(column) and (found := values(table, row, column, jobs, scale)):
                pairs[row.name] = float(row.paper[column]), statistics.fmean(found)
        if len(pairs) > 3:
            r = spearmanr(*zip(*pairs.values())).statistic
            says.append(
                f"- {about['title']}: rank correlation of the {len(pairs)} rows that have both "
                f"numbers, paper against {scale}: {r:+.2f}."
            )
    return says


def verdict(better: list[float], worse: list[float], sign: int) -> str:
    "Whether seeds measured `better` ahead of `worse`, as the paper has it; `sign` of what is good."
    ahead, behind = [sign * v for v in better], [sign * v for v in worse]
    few = ", one seed" if min(len(ahead), len(behind)) < 2 else ""
    if min(ahead) > max(behind):
        return "same" + few
    return "opposite" + few if max(ahead) < min(behind) else "undecided"


def pairs_of(table: Table, jobs: dict, claim: dict, scale: str) -> list[tuple]:
    "What was measured at a scale of each pair of rows of a claim, and the verdict, if any."
    column = claim["column"]
    sign = 1 if table.columns[column]["better"] == "higher" else -1
    found = []
    for pair in claim["pairs"]:
        x, y = (values(table, table.rows[i], column, jobs, scale) for i in pair)
        found.append((x, y, verdict(x, y, sign) if x and y else ""))
    return found


def claimed(table: Table, claim: dict) -> str:
    "The metric of a claim and what the paper says of it."
    return f"{table.columns[claim['column']]['title']}: {claim['says']}"


def comparison(table: Table, jobs: dict, claim: dict) -> list[list[str]]:
    """A claim of the paper about pairs of rows of a table: claim, pair, both numbers of it in the
    paper; and for each smaller scale both numbers there, and whether it is so there.
    """
    lines = []
    for first, second in claim["pairs"]:
        a, b = table.rows[first], table.rows[second]
        there = [row.paper.get(claim["column"], "plot only") for row in (a, b)]
        line = ["" if lines else claimed(table, claim)]
        lines.append([*line, f"{a.name} : {b.name}", " : ".join(dict.fromkeys(there))])
    for scale in measured_scales(table, jobs):
        for line, (x, y, says) in zip(lines, pairs_of(table, jobs, claim, scale), strict=True):
            here = [f"{statistics.fmean(v):.3g}" if v else "not run" for v in (x, y)]
            line += [" : ".join(here), says]
    return lines


def tally(table: Table, jobs: dict, claim: dict, scale: str) -> str:
    "How many pairs of a claim have which verdict at a scale: '3 same, 1 opposite'."
    found = [says.partition(",")[0] for _, _, says in pairs_of(table, jobs, claim, scale) if says]
    counts = {says: found.count(says) for says in ("same", "opposite", "undecided")}
    return ", ".join(f"{n} {says}" for says, n in counts.items() if n) or "not run"


def summary_lines(jobs: dict) -> list[str]:
    "The Markdown of which claims hold at each smaller scale, by counts of their pairs of rows."
    head = ["what the paper's tables show", *(f"on {scale}" for scale in SCALES)]
    lines = [_line(head), _line(["---"] * len(head))]
    for key in SUMMARISED:
        table = tables()[key]
        for claim in described()[key]["claims"]:
            counts = [tally(table, jobs, claim, scale) for scale in SCALES]
            lines.append(_line([claimed(table, claim), *counts]))
    return lines


def claim_lines(table: Table, jobs: dict, claims: list[dict]) -> list[str]:
    "The Markdown of what the paper's table shows, beside what was found here."
    if not claims:
        return []
    head = ["what the table shows", "rows", "paper"]
    head += [cell for scale in measured_scales(table, jobs) for cell in (scale, f"on {scale}")]
    lines = [_line(head), _line(["---"] * len(head))]
    return lines + [_line(row) for c in claims for row in comparison(table, jobs, c)]


def section(table: Table, about: dict, jobs: dict) -> list[str]:
    "A table with what is said of it."
    says = [line for scale in table.scales for line in agreement(table, jobs, scale)]
    says += printed_twice(table, about["also"]) if "also" in about else []
    claims = claim_lines(table, jobs, about.get("claims", []))
    lines = [f"## {table.title}", "", *table_lines(table, jobs), ""]
    lines += [*says, ""] if says else []
    lines += [*claims, ""] if claims else []
    return [*lines, "Commands:", "", *command_lines(table)]


# reconstruction against generation (4.4)


def both_distances(jobs: dict, scale: str) -> dict[str, list[tuple[float, float]]]:
    """Kind of tokenizer -> rFID and gFID of its trainings at a scale, one pair for each seed; at
    scale 'paper' those of its tables.
    """
    pairs: dict[str, list[tuple[float, float]]] = {}
    for key, column in BOTH.items():
        table = tables()[key]
        for row in table.rows:
            if scale == "paper":
                found = [[float(row.paper[c])] if row.paper[c] else [] for c in ("rfid", column)]
            else:
                found = [values(table, row, c, jobs, scale) for c in ("rfid", column)]
            kind = row.name.split(",")[0] if row.only else "tokenizers of others"
            kind = kind if key == "table3" else "SoftVQ, teacher or none"
            known = {
                pair for others in pairs.values() for pair in others
            }  # run once for both tables
            fresh = [pair for pair in zip(*found, strict=True) if pair not in known]
            pairs.setdefault(kind, []).extend(fresh)
    return {kind: found for kind, found in pairs.items() if found}


def scales_of_both(jobs: dict) -> list[str]:
    return ["paper", *(scale for scale in SCALES if both_distances(jobs, scale))]


def both_lines(jobs: dict) -> list[str]:
    "Sentences about how reconstruction and generation go together at each scale."
    from scipy.stats import spearmanr

    says = []
    for scale in scales_of_both(jobs):
        points = [pair for found in both_distances(jobs, scale).values() for pair in found]
        r = spearmanr(*zip(*points)).statistic
        best = min(range(len(points)), key=lambda i: points[i][0])
        place = sorted(gfid for _, gfid in points).index(points[best][1]) + 1
        says.append(
            f"- {scale}: rank correlation {r:+.2f} over {len(points)} trainings; the one with the "
            f"lowest rFID has place {place} in gFID."
        )
    return says


def both_figure(jobs: dict):
    "rFID and gFID of every training, a panel for each scale."
    from plotly.subplots import make_subplots

    from softvq_lab.plots import PALETTE, TEMPLATE

    scales = scales_of_both(jobs)
    fig = make_subplots(1, len(scales), subplot_titles=scales, horizontal_spacing=0.07)
    colours = dict(zip(both_distances(jobs, "paper"), PALETTE))
    for column, scale in enumerate(scales, 1):
        found = both_distances(jobs, scale)
        for kind, points in found.items():
            x, y = zip(*points)
            mark = dict(color=colours[kind], size=9)
            how = dict(mode="markers", marker=mark, name=kind, legendgroup=kind)
            fig.add_scatter(x=x, y=y, **how, showlegend=scale == "paper", row=1, col=column)
        for axis, values in zip("xy", zip(*(p for points in found.values() for p in points))):
            # a logarithmic axis within less than a decade has too few labels
            wide = max(values) > 10 * min(values)
            look = dict(type="log", dtick="D2") if wide else dict(type="linear")
            fig.update_layout({f"{axis}axis{column}": look})
    fig.update_xaxes(title="rFID")
    fig.update_yaxes(title="gFID", col=1)
    fig.update_layout(template=TEMPLATE, width=1200, height=420)
    return fig


def draw_both(jobs: dict):
    "Write the figure beside the page."
    from softvq_lab.figure_png import figure_png

    BOTH_FIGURE.write_bytes(figure_png(both_figure(jobs)))


def page() -> str:
    "The whole page: page.md with the tables in their places."
    jobs = measured_before()
    text = (PAPER / "page.md").read_text()
    text = text.replace("{{both}}", "\n".join(both_lines(jobs)))
    text = text.replace("{{summary}}", "\n".join(summary_lines(jobs)))
    for key, about in described().items():
        text = text.replace(f"{{{{{key}}}}}", "\n".join(section(tables()[key], about, jobs)))
    if "{{" in text:
        raise ValueError(f"page.md asks for what rows.yaml lacks: {text[text.index('{{') :][:40]}")
    return text


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collect", nargs="*", type=Path, default=[], metavar="RUNS")
    parser.add_argument("--check", action="store_true", help="say whether the page is up to date")
    args = parser.parse_args()
    if args.collect:
        found = merged(measured_before(), kept(collect(args.collect)))
        MEASURED.write_text(json.dumps({"jobs": found}, indent=1) + "\n")
        print(f"{sum(map(len, found.values()))} measured jobs in {MEASURED.relative_to(ROOT)}")
    text = page()
    if args.check:
        fresh = PAGE.exists() and PAGE.read_text() == text
        print("up to date" if fresh else f"{PAGE.name} is old: make reproduction")
        return 0 if fresh else 1
    PAGE.write_text(text)
    if args.collect:
        draw_both(
            measured_before()
        )  # last: where no browser draws, the page is written all the same
    return 0


if __name__ == "__main__":
    sys.exit(main())
