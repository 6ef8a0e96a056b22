"""Everything that a GPU has to say, in one go: `make gpu`, at most eight minutes on one card.

    python benchmarks/gpu.py [--parts tests rows training] [--minutes 8] [--name MACHINE]
    python benchmarks/gpu.py --device cpu     # the same plan at tiny sizes: does it work?
    python benchmarks/gpu.py --compare        # all machines of results/ in one table, in README.md

Each row runs in a process of its own and has a limit; what was found is written at once. Leaves
results/MACHINE.json, and results/MACHINE-tests.jsonl with the traceback of each test that failed.
"""

import argparse
import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import bench
from bench import DIGITS, PAPER, row_claim, row_precisions, row_quantizer, row_sampling, row_step
from loader import row_loader
from measure import about_machine, machine_name
from steps import row_utilisation

from softvq_lab.core import DEVICES, ConfigError, best_device, device_asked, read_json, write_json
from softvq_lab.runs import read_metrics
from softvq_lab.settings.parse import parse
from softvq_lab.settings.workflows import TrainConfig
from softvq_lab.train import images_of, prepare, train_here

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[1]


# ---- the plan
TESTS = """quantizers fused compile devices precision tokenizer losses discriminators objective
    generator generator_parity mar sampling noise transfer profile benchmarks data""".split()
TINY_TESTS = ["devices", "-k", "fake or cpu or waits"]  # a few of one file


class Row(NamedTuple):
    limit: int  # seconds, loading included
    work: Callable[[], dict]
    # the same at a size for a CPU; None: another row does the like
    tiny: Callable[[], dict] | None = None


SMALL = dict(B=3, L=6, D=5, K=130, G=2)
PICTURE = dict(image_size=32, patch_size=8, tokens=8, latent_dim=4, codebook_size=64, codebooks=2)
FEW = dict(size="tiny", batch=2)


def used(preset: str, compiled: str, batch: int = 128) -> Row:
    "A row about a training step in bf16."
    tiny = dict(preset="tiny", batch=2, compiled=compiled, **PICTURE)
    limit = {"none": 30, "blocks": 60, "whole": 90}[compiled]
    return Row(
        limit,
        lambda: row_utilisation(2, preset, batch, compiled),
        (lambda: row_utilisation(1, **tiny)) if compiled == "none" else None,
    )


ROWS = {  # those that matter most first: when time is over, the rest is left out
    "SoftVQ, the paper's size": Row(
        40, lambda: row_quantizer(5, PAPER), lambda: row_quantizer(1, SMALL)
    ),
    "utilisation, B": used("B", "none"),
    "utilisation, B, compiled blocks": used("B", "blocks"),
    "sampling by precision": Row(
        60, lambda: row_precisions(3), lambda: row_precisions(1, 8, steps=2, **FEW)
    ),
    "training step, all losses": Row(
        40,
        lambda: row_step(3, True, 32),
        lambda: row_step(1, False, 2, preset="tiny", **PICTURE),
    ),
    "training step, tokenizer": Row(40, lambda: row_step(3, False, 64)),
    "loader against synthetic batches": Row(
        60,
        lambda: row_loader(4),
        lambda: row_loader(1, "tiny", 2, 24, workers=1, precision="fp32", **PICTURE),
    ),
    "SoftVQ, digits": Row(30, lambda: row_quantizer(10, DIGITS)),
    "sampling, 64 tokens": Row(
        40, lambda: row_sampling(3, 64), lambda: row_sampling(1, 3, shared={}, **FEW)
    ),
    "utilisation, L, compiled blocks": used("L", "blocks"),
    "claim": Row(40, lambda: row_claim(3), lambda: row_claim(1, "tiny")),
    "utilisation, B, compiled whole": used("B", "whole"),
}
TRAININGS = {  # name: (seeds, parameters of nbs/train.ipynb, those of a dry run)
    "digits": (5, {}, dict(steps=6)),
    "pictures": (1, dict(recipe="pictures", steps=1500), dict(recipe="pictures", steps=6)),
}


# ---- a process of its own, with a limit
def limited(words: list[str], seconds: float, **env: str) -> tuple[str, str]:
    """What a child process wrote to its output, and why that is not all ('' if it is): it failed,
    or did not end within `seconds`.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        p = subprocess.Popen(
            words, stdout=out, stderr=err, cwd=ROOT, env=os.environ | env, start_new_session=True
        )
        try:
            code, why = p.wait(max(1.0, seconds)), ""
        except subprocess.TimeoutExpired:
            code, why = 0, f"did not end within {seconds:.0f} s"
        finally:
            end_group(p)
        out.seek(0), err.seek(0)
        if code:
            why = f"ended with {code}: {err.read()[-2000:]}"
        return out.read(), why


def end_group(p: subprocess.Popen):
    "End a child and whatever it has started."
    try:
        os.killpg(p.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    p.wait()


def in_child(a: argparse.Namespace, seconds: float, *words: str) -> dict:
    "What this script gives as JSON when it is called with `words`, or {'failed': why}."
    tiny = ["--tiny"] if a.tiny else []
    called = [sys.executable, __file__, "--device", a.device, *tiny, *words]
    text, why = limited(called, seconds)
    return {"failed": why} if why else json.loads(text.splitlines()[-1])


# ---- the parts
def part_tests(a: argparse.Namespace, deadline: float, keep: Callable):
    "All that computes on the card; the traceback of a failure is in a file before the next test."
    if importlib.util.find_spec("pytest") is None:
        return keep({"failed": "pytest is not installed"})
    lines = a.folder / f"{a.name}-tests.jsonl"
    lines.unlink(missing_ok=True)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "tracebacks"]
    files = [f"tests/test_{n}.py" for n in (TINY_TESTS[:1] if a.tiny else TESTS)]
    words += [n for n in files if (ROOT / n).exists()] + (TINY_TESTS[1:] if a.tiny else [])
    if importlib.util.find_spec("xdist") and not a.tiny:
        words += ["-n", str(min(8, os.cpu_count() or 1)), "--dist", "loadfile"]
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    left = deadline - time.time()
    output, why = limited(words, left, TRACEBACKS=str(lines), PYTHONPATH=paths)
    if not lines.exists():
        return keep({"failed": f"no test was run: {output[-500:]}{why}"})
    keep(counted(lines) | ({"cut_off": why} if "did not end" in why else {}))


def counted(lines: Path) -> dict:
    "Numbers of tests by outcome in a file of `tracebacks`, and the names of those that failed."
    found = [json.loads(l) for l in lines.read_text().splitlines()]
    by = {o: sum(f["outcome"] == o for f in found) for o in ("passed", "skipped")}
    return by | {"wrong": [f["test"] for f in found if f["outcome"] == "failed"]}


def part_rows(a: argparse.Namespace, deadline: float, keep: Callable):
    rows = {}
    for name in a.only or [n for n, row in ROWS.items() if row.tiny or not a.tiny]:
        slack = 3 if a.tiny else 1  # limits are those of a card and of the machine around it
        left = min(slack * ROWS[name].limit, deadline - time.time())
        if left < 5:
            rows[name] = {"failed": "no time was left for it"}
        else:
            began = time.time()
            rows[name] = in_child(a, left, "--row", name) | {"took_s": time.time() - began}
        print(name, json.dumps(rows[name])[:300], flush=True)
        keep(rows)


def part_training(a: argparse.Namespace, deadline: float, keep: Callable):
    "As people train, in processes of their own; on a card all seeds of a data set at once."
    found = {}
    for name, (seeds, *_) in TRAININGS.items():

        def one(seed: int, name: str = name) -> dict:
            left = deadline - time.time()
            if left < 5:
                return {"failed": "no time was left for it"}
            return in_child(a, left, "--train", name, str(seed))

        with ThreadPoolExecutor(1 if a.tiny else seeds) as pool:
            for result in pool.map(one, range(min(2, seeds) if a.tiny else seeds)):
                found.setdefault(name, []).append(result)
                print(name, json.dumps(result)[:300], flush=True)
                keep(found)


def train(name: str, seed: int, tiny: bool) -> dict:
    "One real training: its held-out PSNR, and how long it took."
    settings = TRAININGS[name][2 if tiny else 1] | dict(seed=seed, tracker="none")
    steps = settings.get("steps", TrainConfig().optim.steps)
    every = dict(eval_every=steps, checkpoint_every=steps, warmup_steps=min(50, steps - 1))
    config = parse(TrainConfig, settings | every)
    try:
        images = images_of(config)
    except ConfigError as e:
        return {"left_out": str(e)}
    with tempfile.TemporaryDirectory() as folder:
        run = prepare(config, Path(folder) / "run", images)
        began = time.perf_counter()
        train_here(run, images)
        took = time.perf_counter() - began
        psnr = next(m["heldout_psnr"] for m in reversed(read_metrics(run)) if "heldout_psnr" in m)
    return {"heldout_psnr": psnr, "seconds": took, "steps": steps}


PARTS = {  # with their fractions of the time; what one leaves over, the next ones may use
    "tests": (0.35, part_tests),
    "rows": (0.45, part_rows),
    "training": (0.2, part_training),
}


# ---- what is kept, and shown
def table(result: dict) -> str:
    "Markdown of what was found."
    lines = [bench.table(result.get("rows", {}))]
    if t := result.get("tests"):
        outcome = t.get("failed") or f"{t['passed']} passed, {len(t['wrong'])} failed" + (
            f"; it {t['cut_off']}" if "cut_off" in t else ""
        )
        lines.append("\n".join([f"\nTests: {outcome}.", *(f"- {w}" for w in t.get("wrong", ()))]))
    lines += [f"\nTraining, {name}: {trained(runs)}" for name, runs in trainings(result).items()]
    return "\n".join(lines)


def trainings(result: dict) -> dict[str, list[dict]]:
    return result.get("training", {})


def trained(runs: list[dict]) -> str:
    "Held-out PSNR of a data set's trainings: the mean over seeds, and their range."
    values = [r["heldout_psnr"] for r in runs if "heldout_psnr" in r]
    if not values:
        return next(iter(runs[0].values()), "nothing")
    took = statistics.mean(r["seconds"] for r in runs if "seconds" in r)
    return (
        f"{statistics.mean(values):.2f} dB ({min(values):.2f} to {max(values):.2f} over "
        f"{len(values)} seeds), {took:.0f} s each"
    )


def cell(row: dict) -> str:
    "The one number of a row in the table of machines."
    if "failed" in row:
        return "failed"
    if "faster" in row:
        return f"{row['faster']:.2f}x"
    if "utilisation" in row:
        part = f", {row['utilisation']:.0%}" if row["utilisation"] else ""
        return f"{row['images_s']:.0f}/s{part}"
    if "of_synthetic" in row:
        return f"{row['images_s']:.0f}/s, {row['of_synthetic']:.0%} of synthetic batches"
    if "differ_from_fp32" in row:
        return ", ".join(f"{p} {v:.3g}/s" for p, v in row["images_s"].items())
    if "flops" in row:
        return f"{row['64_vs_256']['faster']:.1f}x"
    return "measured"


def comparison(results: list[dict]) -> str:
    "Markdown: a column for each machine, a row for all that any of them measured."
    names = [r["machine"]["name"] for r in results]
    lines = [f"| | {' | '.join(names)} |", "| --- |" + " --- |" * len(names)]
    lines.append("| torch | " + " | ".join(r["machine"]["torch"] for r in results) + " |")
    for row in dict.fromkeys(n for r in results for n in r.get("rows", {})):
        cells = (cell(r["rows"][row]) if row in r.get("rows", {}) else "" for r in results)
        lines.append(f"| {row} | {' | '.join(cells)} |")
    for name in dict.fromkeys(n for r in results for n in trainings(r)):
        cells = (trained(trainings(r)[name]) if name in trainings(r) else "" for r in results)
        lines.append(f"| training, {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def compare(folder: Path):
    "All machines' files in one table, between the markers of README.md."
    files = sorted(folder.glob("*.json"))
    text = comparison([read_json(f) for f in files])
    bench.write_page(text, "", "machines")
    print(text)


# ---- the command
def words() -> argparse.Namespace:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    p.add_argument("--only", nargs="+", choices=list(ROWS), help="these rows")
    p.add_argument("--minutes", type=float, default=8, help="for everything (default: %(default)s)")
    p.add_argument("--device", choices=DEVICES, default="cuda")
    p.add_argument("--tiny", action="store_true", help="sizes for a CPU; always with --device cpu")
    p.add_argument("--name", help="of the machine (default: of the card)")
    p.add_argument("--folder", type=Path, help="default: benchmarks/results; tiny: build/gpu")
    p.add_argument("--compare", action="store_true", help="the table of all machines, no more")
    p.add_argument("--row", help=argparse.SUPPRESS)
    p.add_argument("--train", nargs=2, help=argparse.SUPPRESS)
    return p.parse_args()


def run_parts(a: argparse.Namespace) -> dict:
    "The parts asked for, one after the other; all that is found is in one file."
    path, began = a.folder / f"{a.name}.json", time.time()
    result = read_json(path) if path.exists() else {}
    result["machine"] = about_machine(a.name) | {"tiny": a.tiny}
    whole, spent = 60 * a.minutes / sum(PARTS[p][0] for p in a.parts), 0.0
    for part in a.parts:
        share, work = PARTS[part]
        before = result.get(part, {}) if a.only else {}

        def keep(found: dict, part: str = part, before: dict = before):
            result[part] = before | found
            write_json(path, result)

        spent += whole * share
        work(a, began + spent, keep)
    return result


def do(a: argparse.Namespace):
    "What the words ask for."
    if a.compare:
        return compare(a.folder or HERE / "results")
    a.tiny = a.tiny or best_device().type == "cpu"
    if a.row:
        return print(json.dumps(ROWS[a.row].tiny() if a.tiny else ROWS[a.row].work()))
    if a.train:
        return print(json.dumps(train(a.train[0], int(a.train[1]), a.tiny)))
    a.folder = (a.folder or (ROOT / "build" / "gpu" if a.tiny else HERE / "results")).absolute()
    a.folder.mkdir(parents=True, exist_ok=True)
    a.name = a.name or machine_name()
    print(table(run_parts(a)))


def main():
    a = words()
    try:
        with device_asked("cpu" if a.compare else a.device):
            do(a)
    except ConfigError as e:
        sys.exit(str(e))


if __name__ == "__main__":
    main()
