"What a sweep says at its end."

import json
from pathlib import Path

import pytest
from rich.console import Console

from softvq_lab import cli
from softvq_lab.experiments.leaderboard import results, settings, spread_in_words
from softvq_lab.experiments.outcome import doubts, outcome, verdicts

PASSPORT = {"evaluator": "PSNR", "reference": "digits", "count": 10}


def job(root: Path, psnr: float | None, name="reconstruction", stage="tokenizer", **vary) -> dict:
    "A row of sweep.json, and its run."
    run = root / "pool" / "-".join(f"{k}{v}" for k, v in {**vary, "stage": stage}.items())
    (run / "evaluation").mkdir(parents=True)
    if psnr is not None:
        figures = {"psnr": psnr, "l1": 0.5} if stage == "tokenizer" else {"reference_frechet": psnr}
        found = {"figures": figures, "passport": PASSPORT, "subject": {}, "measured": "now"}
        (run / "evaluation" / f"{name}.json").write_text(json.dumps(found))
    state, why = ("done", None) if psnr is not None else ("failed", "ValueError: too hot\nand more")
    label = ", ".join(f"{k}={v}" for k, v in vary.items())
    return dict(stage=stage, state=state, run=str(run), output=f"{run}/notebook.ipynb") | dict(
        vary=vary, label=label, reason=why, seconds=1.0, id=run.name
    )


def report(root: Path, *jobs) -> dict:
    counts = {s: sum(j["state"] == s for j in jobs) for s in ("done", "failed")}
    return {"name": "s", "driver": {"state": "ended"}, "counts": counts, "tasks": list(jobs)}


def test_settings_that_vary_with_mean_and_spread_best_first(tmp_path):
    jobs = [
        job(tmp_path, p, tau=tau, tokens=32, seed=seed)
        for tau, p, seed in [(0.5, 20.0, 0), (0.5, 21.0, 1), (0.07, 23.0, 0), (0.07, 25.0, 1)]
    ]
    (sheet,) = outcome(report(tmp_path, *jobs))
    assert sheet.head == ["tau", "psnr", "seeds"], "tokens do not vary, l1 is no headline"
    assert sheet.rows == [["0.07", "24 ± 1.4", "2"], ["0.5", "20.5 ± 0.71", "2"]]
    assert sheet.title == "tokenizers: reconstruction"
    (told,) = verdicts(report(tmp_path, *jobs))
    assert told.startswith("tau=0.07") and "better in 2 of 2 seeds" in told


def test_one_seed_has_no_spread_and_nothing_reads_nan(tmp_path):
    jobs = [job(tmp_path, 20.0 + i, tau=0.5 + i, seed=0) for i in range(2)]
    jobs += [job(tmp_path, 3.0 - i, "samples", "generator", tau=0.5 + i, seed=0) for i in range(2)]
    said = report(tmp_path, *jobs)
    first, second = outcome(said)
    assert first.rows == [["1.5", "21", "1"], ["0.5", "20", "1"]]
    assert second.rows == [["1.5", "2", "1"], ["0.5", "3", "1"]], "a distance: lower is better"
    shown = spread_in_words(settings(results(said).query("stage == 'tokenizer'"), "psnr"))
    assert list(shown["spread"]) == ["one seed"] * 2 and "nan" not in shown.to_string().lower()


def test_a_sweep_of_which_nothing_was_measured_has_no_table(tmp_path):
    assert outcome(report(tmp_path, job(tmp_path, None, tau=0.5, seed=0))) == []
    assert outcome(report(tmp_path)) == [] == verdicts(report(tmp_path))
    assert verdicts(report(tmp_path, job(tmp_path, 20.0, tau=0.6, seed=0))) == []


def trained(root: Path, floor: float, *reached: float) -> dict:
    "Tokenizers whose last held-out PSNR is `reached`, and that of the mean image is `floor`."
    jobs = [job(root, p, tau=i, seed=0) for i, p in enumerate(reached)]
    for j, last in zip(jobs, reached):
        rows = [
            {"step": 1, "heldout_psnr": 3.0, "heldout_mean_image": floor},
            {"step": 2, "rec": 1.0},
        ]
        rows.insert(1, {"step": 2, "heldout_psnr": last, "heldout_mean_image": floor})
        lines = "".join(json.dumps(r) + "\n" for r in rows)
        (Path(j["run"]) / "metrics.jsonl").write_text(lines)
    return report(root, *jobs)


@pytest.mark.parametrize(
    "reached, said", [((12.1, 12.6, 20.0), "2 of 3 tokenizers"), ((11.0,), "1 of 1 tokenizers")]
)
def test_runs_that_are_no_better_than_the_mean_image_are_said(tmp_path, reached, said):
    (told,) = doubts(trained(tmp_path, 12.3, *reached))
    assert told.startswith(f"{said} reconstruct no better than the mean image")


def test_nothing_is_doubted_where_tokenizers_are_better_or_nothing_is_known(tmp_path):
    assert doubts(trained(tmp_path / "a", 12.3, 13.0, 20.0)) == []
    assert doubts(report(tmp_path / "b", job(tmp_path / "b", 5.0, tau=1, seed=0))) == []


@pytest.mark.parametrize("width", [60, 160])
def test_the_end_names_what_failed_and_where_more_is(tmp_path, monkeypatch, capsys, width):
    said = report(
        tmp_path, job(tmp_path, 20.0, tau=0.5, seed=0), job(tmp_path, None, tau=9, seed=0)
    )
    folder = tmp_path / "a sweep"
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps(said))
    monkeypatch.setattr(cli, "table_console", lambda: Console(width=width, force_terminal=False))
    cli._tell_outcome(folder)
    out = capsys.readouterr().out
    assert "psnr" in out and "20" in out
    assert "failed: tokenizer tau=9, seed=0: ValueError: too hot\n" in out and "and more" not in out
    assert f"softvq-lab run sweep sweep='{folder}'" in out
