"""Tables of runs: which direction is better is declared and never guessed, numbers of different
passports stay apart, and no file can break a table.
"""

import json
import math
import subprocess
import sys

import pandas as pd
import pytest
import torch

from softvq_lab.core import ConfigError
from softvq_lab.evaluation.passport import Measured, passport
from softvq_lab.experiments.leaderboard import (
    boards,
    effect,
    pareto,
    results,
    settings,
    verdict,
)
from softvq_lab.experiments.sweep_plots import effects, pareto_front, ranking, rate_distortion
from softvq_lab.metrics import (
    Metric,
    declarations,
    declare,
    declare_features,
    find_metric,
    forget,
    goodness,
    leading,
    lower_is_better,
    read_declarations,
    why_not_ranked,
)
from softvq_lab.runs import Run, open_run


@pytest.fixture
def declared():
    "declared(Metric(...), ...): known until the test ends."
    names = []

    def add(*metrics):
        names.extend(m.name for m in metrics)
        declare(*metrics)

    yield add
    for name in names:
        forget(name)


def evaluated(path, figures: dict, name="reconstruction", about=None) -> Run:
    about = about or passport("one way", "images", 10)
    Measured(figures, about).write(path / "evaluation", name, {})
    return Run(path)


def order(board) -> list[str]:
    return [path.rsplit("/", 1)[1] for path in board.index]


def sweep(tmp_path, values: dict[str, list], figure: str, about=None) -> dict:
    "The report of a sweep over `tau`: values[tau][seed] is what was measured."
    tasks = []
    for tau, measured in values.items():
        for seed, value in enumerate(measured):
            run = tmp_path / f"{tau}-{seed}"
            (run / "evaluation").mkdir(parents=True, exist_ok=True)
            text = json.dumps(
                {"figures": {figure: value}, "passport": (about or {}).get(tau, {"count": 3})}
            )
            (run / "evaluation" / "reconstruction.json").write_text(text)
            vary = {"tau": tau, "seed": seed}
            tasks.append(dict(run=str(run), state="done", stage="tokenizer", vary=vary))
    return {"tasks": tasks}


# declarations


@pytest.mark.parametrize(
    "name,lower",
    [
        ("l1", True),
        ("lpips", True),
        ("psnr", False),
        ("reference_kid", True),
        ("reference_kid_std", None),
        ("inception_score", False),
        ("r_reference_score", False),
        ("rfid_infinity", True),
        ("proxy_fid", True),
        ("proxy_class_accuracy", False),
        ("heldout_fid", None),
        ("effective_codewords", None),
        ("losslessness", None),
        ("fidelity", None),
        ("kidney_score", None),
        ("l1_norm_of_weights", None),
    ],
)
def test_a_direction_is_declared_and_not_read_from_parts_of_a_name(name, lower):
    assert lower_is_better(name) is lower
    assert bool(why_not_ranked(name)) == (lower is None)


def test_a_direction_is_one_of_three():
    with pytest.raises(ValueError, match="better='small'. Possible: higher, lower, neither"):
        Metric("x", "small")


def test_the_registry_is_read_without_torch_and_pandas():
    code = (
        "import sys, softvq_lab.metrics; sys.exit(bool({'torch', 'pandas'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_a_table_is_ranked_by_its_first_headline_and_without_one_by_what_has_a_direction(declared):
    declared(Metric("a_plain", "lower"), Metric("a_star", "higher", headline=True))
    assert leading(["a_plain", "ssim", "psnr", "a_star"]) == "psnr"
    assert leading(["a_plain", "a_star"]) == "a_star"
    assert leading(["kid_std", "a_plain"]) == "a_plain"
    assert leading(["kid_std", "unheard_of"]) == ""


def test_every_network_has_declared_what_is_measured_with_its_features():
    declare_features("vit_tiny_")
    for name in ("vit_tiny_frechet", "r_vit_tiny_frechet_infinity", "proxy_vit_tiny_kid"):
        assert lower_is_better(name) is True
        forget(name)


def test_a_declaration_survives_its_file_and_what_is_none_is_left_out(declared):
    declared(Metric("plugin_blur", "lower", "blur", "px", headline=True))
    stored = json.loads(json.dumps(declarations(["plugin_blur", "unheard_of", "psnr"])))
    assert stored["plugin_blur"] == {
        "better": "lower",
        "label": "blur",
        "unit": "px",
        "headline": True,
    }
    assert read_declarations(stored)["plugin_blur"] == find_metric("plugin_blur")
    strange = {"a": 1, "b": {"better": None}, "c": {"better": ["lower"]}, "d": {}, "e": None}
    assert read_declarations(strange) == read_declarations(None) == read_declarations([1]) == {}


@pytest.mark.parametrize("kind", ["tokenizer", "generator"])
def test_everything_that_the_library_measures_is_declared(trained, kind):
    from softvq_lab.data.datasets import digits
    from softvq_lab.data.images import stack
    from softvq_lab.evaluation.extractors import make_extractor
    from softvq_lab.evaluation.image_metrics import reconstruct_split, reconstruction_metrics
    from softvq_lab.evaluation.probe import pixel_sites, probe_metrics
    from softvq_lab.evaluation.scores import reconstruction_fidelity, sample_metrics
    from softvq_lab.hub.models import load_tokenizer

    data = digits(32)
    judge = make_extractor("reference", data)
    if kind == "tokenizer":
        r = reconstruct_split(load_tokenizer(trained / "tokenizer"), data, extractor=judge)
        measured = [
            reconstruction_metrics(r, data),
            reconstruction_fidelity(r, data, judge, draws=0),
            probe_metrics(pixel_sites(data, {"pixels": 16}), data, epochs=1)["pixels"],
        ]
    else:
        x, y = stack(data.heldout, 60)
        measured = [sample_metrics(x, y, data, judge, draws=0)]
    names = [n for m in measured for n in m.figures]
    assert [n for n in names if not find_metric(n)] == [] and len(names) > 8


# boards


@pytest.mark.parametrize(
    "name,better,first",
    [
        ("psnr", None, "high"),
        ("l1", None, "low"),
        ("reference_frechet", None, "low"),
        ("plugin_lossless", "higher", "high"),
        ("plugin_fidelity", "higher", "high"),
        ("plugin_sharpness", "lower", "low"),
    ],
)
def test_the_best_run_comes_first(tmp_path, declared, name, better, first):
    if better:
        declared(Metric(name, better))
    runs = [evaluated(tmp_path / n, {name: v}) for n, v in (("low", 1.0), ("high", 2.0))]
    (board,) = boards(runs)
    assert order(board)[0] == first and board.attrs["by"] == name
    assert f"ranked by {name} (" in board.attrs["ranked"]


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_files_rank_the_metric_of_a_plugin_that_is_not_loaded(tmp_path, declared, better):
    declared(Metric("plugin_blur", better))
    runs = [evaluated(tmp_path / n, {"plugin_blur": v}) for n, v in (("a", 1.0), ("b", 2.0))]
    forget("plugin_blur")
    (board,) = boards(runs)
    assert order(board) == (["a", "b"] if better == "lower" else ["b", "a"])
    vary = [dict(tau=t, seed=0) for t in (1, 2)]
    tasks = [
        dict(run=str(r.path), state="done", stage="tokenizer", vary=v) for r, v in zip(runs, vary)
    ]
    best = settings(results({"tasks": tasks}), "plugin_blur").index[0]
    assert best == ("tau=1" if better == "lower" else "tau=2")


def test_files_that_disagree_rank_nothing(tmp_path, declared):
    declared(Metric("plugin_blur", "higher"))
    runs = [evaluated(tmp_path / "a", {"plugin_blur": 1.0})]
    declared(Metric("plugin_blur", "lower"))
    runs += [evaluated(tmp_path / "b", {"plugin_blur": 2.0})]
    forget("plugin_blur")
    (board,) = boards(runs)
    assert board.attrs["by"] == "" and board.attrs["ranked"] == "not ranked"


def test_a_file_does_not_turn_a_known_metric_round(tmp_path):
    runs = [evaluated(tmp_path / n, {"psnr": v}) for n, v in (("a", 1.0), ("b", 2.0))]
    path = runs[0].path / "evaluation" / "reconstruction.json"
    path.write_text(path.read_text().replace('"higher"', '"lower"'))
    assert '"lower"' in path.read_text() and order(boards(runs)[0]) == ["b", "a"]


def test_what_nobody_declared_is_shown_and_not_ranked(tmp_path):
    runs = [evaluated(tmp_path / n, {"odd": v}) for n, v in (("a", 1.0), ("b", 3.0), ("c", 2.0))]
    (board,) = boards(runs)
    assert list(board["odd"]) == [1.0, 3.0, 2.0] and board.attrs["ranked"] == "not ranked"


def test_ties_keep_their_order_and_a_run_without_the_number_comes_last(tmp_path):
    for name, better in (("psnr", "higher"), ("l1", "lower")):
        values = {"a": 2.0, "none": math.nan, "b": 2.0, "c": 2.0, "text": "9"}
        runs = [
            evaluated(tmp_path / name / n, {name: v, "entropy": 0.1}) for n, v in values.items()
        ]
        assert order(boards(runs)[0])[:3] == ["a", "b", "c"], better


HOSTILE = ["31", None, math.nan, math.inf, -math.inf, 10**400, [31.0], {"psnr": 31.0}, True, ""]


@pytest.mark.parametrize("value", HOSTILE, ids=lambda v: str(v)[:12])
def test_no_value_of_a_file_breaks_a_table_or_wins(tmp_path, value):
    runs = [evaluated(tmp_path / "good", {"psnr": 30.0, "l1": 0.1})]
    folder = tmp_path / "odd" / "evaluation"
    folder.mkdir(parents=True)
    about = json.loads((tmp_path / "good" / "evaluation" / "reconstruction.json").read_text())
    figures = {"psnr": value, "l1": value, "seed": value, "label": value}
    (folder / "reconstruction.json").write_text(json.dumps(about | {"figures": figures}))
    runs.append(Run(tmp_path / "odd"))
    assert order(boards(runs)[0])[0] == "good"
    tasks = [
        dict(run=str(r.path), state="done", stage="tokenizer", vary={"tau": i, "seed": 0})
        for i, r in enumerate(runs)
    ]
    table = results({"tasks": tasks})
    assert list(settings(table, "psnr").index) == ["tau=0"] and set(table["seed"]) == {0}
    assert "only setting that was measured" in verdict(table, "psnr")
    assert list(effect(table, "tau", "psnr").index) == [0]
    for draw in (ranking, effects):
        draw(table, "psnr")


@pytest.mark.parametrize("stored", ["text", None, 3, [1], {"psnr": 3}, {"psnr": {"better": 1}}])
def test_declarations_of_any_form_break_no_table(tmp_path, stored):
    run = evaluated(tmp_path / "a", {"psnr": 30.0})
    path = run.path / "evaluation" / "reconstruction.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": stored}))
    assert boards([run])[0].attrs["by"] == "psnr"


# sweeps


def test_settings_are_ranked_in_the_direction_of_the_metric(tmp_path):
    values = {"0.1": [3.0, 2.0], "0.5": [1.0, 1.5], "1.0": [9.0, math.nan]}
    table = results(sweep(tmp_path, values, "l1"))
    ranked = settings(table, "l1")
    assert list(ranked.index) == ["tau=0.5", "tau=0.1", "tau=1.0"]
    assert list(ranked["seeds"]) == [2, 2, 1]
    assert (ranked["best"] <= ranked["worst"]).all() and ranked.loc["tau=0.1", "best"] == 2
    assert verdict(table, "l1").startswith("tau=0.5 has the best l1: 1.25, by 1.25 before tau=0.1")
    assert "lower is better" in ranking(table, "l1").layout.xaxis.title.text


def test_a_metric_without_direction_gives_means_and_no_winner(tmp_path):
    table = results(sweep(tmp_path, {"b": [1.0], "a": [3.0]}, "unheard_of"))
    ranked = settings(table, "unheard_of")
    assert list(ranked.index) == ["tau=b", "tau=a"] and ranked[["worst", "best"]].isna().all(None)
    assert "nobody declared" in verdict(table, "unheard_of")
    assert "not ranked" in ranking(table, "unheard_of").layout.xaxis.title.text
    drawn = pareto_front(table.assign(gflops=[1.0, 2.0]), "unheard_of")
    assert not len(drawn.data[0].x)
    with pytest.raises(ValueError, match="nobody declared"):
        pareto(table.assign(gflops=1.0), "gflops", "unheard_of")


def test_a_plugin_without_direction_is_told_what_to_write(tmp_path):
    table = results(sweep(tmp_path, {"a": [1.0]}, "plugin_blur"))
    assert "@register('metric', 'blur', better='higher')" in verdict(table, "plugin_blur")


@pytest.mark.parametrize(
    "values,says",
    [
        ({"a": [30.0]}, "tau=a is the only setting that was measured."),
        ({"a": [math.nan]}, "Nothing has a psnr yet."),
        ({"a": [30.0, 31.0], "b": [30.0, 31.0]}, "tau=a and tau=b are equal in psnr: 30.5"),
        ({"a": [30.0], "b": [31.0]}, "One seed says little"),
        ({"a": [math.nan, 31.0], "b": [30.0]}, "no seed in common with tau=b"),
        (
            {"a": [30.0, 40.0], "b": [31.0, math.nan]},
            "but on the 1 seeds that both have tau=b is better by 1.",
        ),
        ({"a": [33.0, 34.0, 33.5], "b": [30.0, 31.0, 30.4]}, "times its standard error"),
        ({"a": [33.0, 30.0], "b": [30.0, 31.0]}, "not told from chance by 2 seeds"),
    ],
)
def test_a_verdict_says_no_more_than_the_seeds_do(tmp_path, values, says):
    assert says in verdict(results(sweep(tmp_path, values, "psnr")), "psnr")


def test_a_run_without_a_seed_is_compared_as_well(tmp_path):
    report = sweep(tmp_path, {"a": [31.0], "b": [30.0]}, "psnr")
    for t in report["tasks"]:
        t["vary"].pop("seed")
    assert "tau=a has the best psnr: 31, by 1 before tau=b" in verdict(results(report), "psnr")


def test_numbers_of_two_passports_are_never_averaged_or_ranked_together(tmp_path):
    about = {"a": {"evaluator": "SSIM on [-1, 1]"}, "b": {"evaluator": "SSIM on [0, 1]"}}
    report = sweep(tmp_path, {"a": [0.9, 0.91], "b": [0.8, 0.81]}, "ssim", about)
    table = results(report)
    costly = table.assign(gflops=1.0, tokens=[4, 8, 4, 8])
    for ask in (
        lambda: settings(table, "ssim"),
        lambda: verdict(table, "ssim"),
        lambda: effect(table, "tau", "ssim"),
        lambda: ranking(table, "ssim"),
        lambda: pareto_front(costly, "ssim"),
        lambda: rate_distortion(costly, "ssim"),
    ):
        with pytest.raises(ValueError, match="ssim was measured in 2 ways"):
            ask()
    each = [verdict(same, "ssim") for _, same in table.groupby("passport", sort=False)]
    assert each == [f"tau={t} is the only setting that was measured." for t in "ab"]
    assert len(boards([Run(t["run"]) for t in report["tasks"]])) == 2


def test_the_front_takes_the_direction_of_its_metric_and_no_row_without_numbers():
    frame = pd.DataFrame({"g": [1, 2, 3, 4], "psnr": [10, 20, 15, math.nan]})
    assert list(pareto(frame, "g", "psnr")) == [True, True, False, False]
    errors = frame.rename(columns={"psnr": "l1"})
    assert list(pareto(errors, "g", "l1")) == [True, False, False, False]


def test_lists_as_settings_are_drawn(tmp_path):
    report = sweep(tmp_path, {"a": [31.0], "b": [30.0]}, "psnr")
    for t, v in zip(report["tasks"], ([1, 2], [3])):
        t["vary"]["tau"] = v
    assert list(effect(results(report), "tau", "psnr").index) == ["[1, 2]", "[3]"]
    effects(results(report), "psnr")


# the best checkpoint


@pytest.mark.parametrize("name,kept", [("l1", 2), ("psnr", 1), ("heldout_psnr", 1)])
def test_the_best_checkpoint_is_the_best_in_the_direction_of_its_metric(tmp_path, name, kept):
    from softvq_lab.checkpoints import best_checkpoint
    from softvq_lab.settings.sections import OptimConfig
    from softvq_lab.training.loop import fit
    from softvq_lab.training.task import Task

    class Measuring(Task):
        best = name

        def __init__(self):
            super().__init__()
            self.model = torch.nn.Linear(3, 1)
            self.data = torch.utils.data.TensorDataset(torch.randn(20, 3))

        def forward(self, batch):
            return {"loss": self.model(batch[0]).square().mean()}

        def evaluate(self, model, step):
            return {name: {1: 3.0, 2: 0.5, 3: math.nan, 4: 2.0}[step]}

    o = OptimConfig(
        steps=4, warmup_steps=1, batch_size=4, checkpoint_every=1, eval_every=1, log_every=1
    )
    run = open_run(tmp_path / "run", "toy", {})
    fit(Measuring(), run, o)
    assert best_checkpoint(run.checkpoints).name == f"step-{kept:06d}"


def test_a_task_whose_best_metric_has_no_direction_is_refused(tmp_path):
    from softvq_lab.settings.sections import OptimConfig
    from softvq_lab.training.loop import fit
    from softvq_lab.training.task import Task

    task = Task()
    task.best, task.model = "quality", torch.nn.Linear(3, 1)
    task.data = torch.utils.data.TensorDataset(torch.randn(20, 3))
    with pytest.raises(ConfigError, match="best='quality' cannot choose the best checkpoint"):
        fit(task, open_run(tmp_path / "run", "toy", {}), OptimConfig(steps=4, warmup_steps=1))


def test_goodness_is_higher_for_the_better_and_none_for_no_number():
    assert (goodness("psnr", 3.0), goodness("l1", 3.0)) == (3.0, -3.0)
    assert [goodness("psnr", v) for v in (None, math.nan, math.inf)] == [None] * 3
    assert goodness("", 3.0) is None and goodness("kid_std", 3.0) is None


def test_measured_figures_carry_what_they_are(tmp_path):
    path = Measured({"psnr": 30.0, "odd": 1.0}, passport("a", "b", 3)).write(tmp_path, "x", {})
    stored = json.loads(path.read_text())["metrics"]
    assert stored["psnr"]["better"] == "higher" and "odd" not in stored


@pytest.mark.parametrize("wrong", [{"label": 5}, {"unit": None}, {"headline": "yes"}, {"name": 3}])
def test_a_declaration_of_another_type_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Metric(**({"name": "blur", "better": "lower"} | wrong))
