"""Does the proxy gFID order tokenizers as full generators do?

    python benchmarks/proxy.py [--steps N] [--samples N] [--seeds N] [--out TABLE.json] RUNS...

RUNS are run folders of tokenizers on one data set (or folders that hold some), each with the runs
of full generators trained on it beside it or below. For each tokenizer the proxy is computed
(`softvq_lab.evaluation.proxy`, the mean over --seeds seeds), and the full number is the distance of
its generator's samples (its default sampler; the mean over
its generators). Prints the table, and the rank correlation of both with its 95% interval over
tokenizers; from 4 tokenizers on. What is done is kept in --out, so that a killed benchmark goes on.
"""

import argparse
import dataclasses
import os
import statistics
from pathlib import Path

from softvq_lab.checkpoints import steps_of
from softvq_lab.core import best_device, read_json, write_json
from softvq_lab.evaluation.extractors import make_extractor
from softvq_lab.evaluation.proxy import PROXY, proxy_metrics, rank_correlation
from softvq_lab.evaluation.references import split_reference
from softvq_lab.evaluation.sampling import sample_folder, sample_settings, sample_to_folder
from softvq_lab.evaluation.scores import score_samples
from softvq_lab.explore.session import load_run
from softvq_lab.hub.models import find_tokenizer
from softvq_lab.runs import Run, list_runs


def tokenizers_in(folders: list[str]) -> list[Run]:
    "The tokenizer runs that are named, or lie below what is named, with a checkpoint; each once."
    found = {
        r.path.resolve(): r
        for f in folders
        for r in list_runs(f)
        if r.kind == "tokenizer" and steps_of(r.checkpoints)
    }
    return [found[p] for p in sorted(found)]


def generators_of(run: Run) -> list[Run]:
    """The generator runs below the folder that holds the tokenizer's run and trained on it,
    finished.
    """

    def own(r: Run) -> bool:
        try:
            return (
                r.kind == "generator"
                and r.status["state"] == "done"
                and os.path.samefile(find_tokenizer(r.path), run.path)
            )
        except (ValueError, OSError):
            return False

    return sorted((r for r in list_runs(run.path.parent) if own(r)), key=lambda r: r.name)


def proxy_number(run: Run, budget, seeds: int) -> list[float]:
    loaded = load_run(run.path, capacity=1)
    judge = make_extractor("reference", loaded.images)
    reference, tokenizer = split_reference(loaded.images, judge), loaded.tokenizer.to(best_device())
    return [
        proxy_metrics(
            tokenizer, loaded.images, judge, reference, dataclasses.replace(budget, seed=s)
        ).figures["proxy_reference_frechet"]
        for s in range(seeds)
    ]


def full_number(run: Run, samples: int) -> float:
    loaded = load_run(run.path, capacity=1)
    generator, tokenizer = loaded.generator.to(best_device()), loaded.tokenizer.to(best_device())
    folder = sample_folder(run.path, sample_settings(generator, tokenizer))
    sample_to_folder(generator, tokenizer, folder, samples)
    return score_samples(
        folder, loaded.images, make_extractor("reference", loaded.images), count=samples, draws=0
    ).figures["reference_frechet"]


def main():
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("runs", nargs="+", metavar="RUNS")
    p.add_argument(
        "--steps",
        type=int,
        default=PROXY.steps,
        help="training steps of the proxy (default: %(default)s)",
    )
    p.add_argument(
        "--samples",
        type=int,
        default=PROXY.samples,
        help="of the proxy and of the full generators (default: %(default)s)",
    )
    p.add_argument("--seeds", type=int, default=1, help="proxies trained for each tokenizer")
    p.add_argument("--out", type=Path, default=Path("runs/proxy.json"))
    a = p.parse_args()
    budget = dataclasses.replace(PROXY, steps=a.steps, samples=a.samples)
    settings = {"budget": dataclasses.asdict(budget), "seeds": a.seeds}
    kept = read_json(a.out) if a.out.is_file() else {"settings": settings, "rows": {}}
    if kept["settings"] != settings:
        raise SystemExit(
            f"{a.out} holds numbers of another budget, {kept['settings']}: give another --out"
        )
    rows = kept["rows"]
    for run in tokenizers_in(a.runs):
        generators = generators_of(run)
        if not generators:
            print(f"{run.path}: no finished generator beside it; left out")
        for g in generators:
            row = rows.setdefault(str(run.path), {"full": {}})
            if "proxy" not in row:
                row["proxy"] = proxy_number(run, budget, a.seeds)
            if str(g.path) not in row["full"]:
                row["full"][str(g.path)] = full_number(g, a.samples)
            write_json(a.out, kept)
    print("| tokenizer | proxy | full | generators |\n| --- | --- | --- | --- |")
    pairs = [
        (statistics.fmean(r["proxy"]), statistics.fmean(r["full"].values())) for r in rows.values()
    ]
    for (path, r), (proxy, full) in zip(rows.items(), pairs):
        print(f"| {path} | {proxy:.2f} | {full:.2f} | {len(r['full'])} |")
    print(f"\nreference Fréchet distance of {a.samples} samples; the proxy: {budget}")
    if len(pairs) < 4:
        print(f"{len(pairs)} tokenizers: too few for a rank correlation, which needs 4")
    else:
        print("proxy and full", rank_correlation(*zip(*pairs)))


if __name__ == "__main__":
    main()
