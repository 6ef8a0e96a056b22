"""Metrics of samples along a generator's training: the values of evaluate, on any number of
processes, without a trace in the weights; the best checkpoint is kept.
"""

import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file

from softvq_lab import registry
from softvq_lab.checkpoints import best_checkpoint, newest_checkpoint, steps_of
from softvq_lab.core import ConfigError, read_json
from softvq_lab.evaluation.extractors import make_extractor
from softvq_lab.evaluation.sampling import sample_to_folder
from softvq_lab.evaluation.scores import score_samples
from softvq_lab.hub.models import load_generator, load_tokenizer
from softvq_lab.metrics import lower_is_better, online_metrics
from softvq_lab.runs import Run, read_metrics
from softvq_lab.settings.parse import parse
from softvq_lab.settings.workflows import TrainGeneratorConfig
from softvq_lab.train import images_of, launch, prepare, train_here
from softvq_lab.training import state

SMALL = dict(width=32, depth=2, heads=2, class_dropout=0.1)
FEW = dict(
    steps=24,
    batch_size=16,
    warmup_steps=2,
    ema_decay=0.9,
    checkpoint_every=10,
    log_every=1,
    eval_every=12,
    keep_checkpoints=20,
    tracker="none",
)
ONLINE = dict(online_every=6, online_samples=150, online_steps=2, online_guidance=1.5)
NAMES = ["online_reference_frechet", "online_reference_score", "online_class_accuracy"]


def prepared(trained, folder, **settings) -> Run:
    told = SMALL | FEW | settings | {"tokenizer_run": str(trained / "tokenizer")}
    config = parse(TrainGeneratorConfig, told)
    return prepare(config, folder, images_of(config, load_tokenizer(config.tokenizer_run)))


def measured(run: Run) -> dict[int, list[float]]:
    "Step -> what was measured of samples."
    return {m["step"]: [m[n] for n in NAMES] for m in read_metrics(run) if NAMES[0] in m}


def weights(folder):
    newest = newest_checkpoint(folder / "checkpoints")
    return {
        f"{name}.{k}": v
        for name in ("model", "raw", "task_optimizer")
        for k, v in load_file(newest / f"{name}.safetensors").items()
    }


def same(a, b):
    a, b = weights(a), weights(b)
    return a.keys() == b.keys() and all(a[k].equal(b[k]) for k in a)


@pytest.fixture(scope="module")
def run(trained, tmp_path_factory) -> Run:
    run = prepared(trained, tmp_path_factory.mktemp("online") / "run", **ONLINE)
    train_here(run)
    return run


def evaluated(checkpoint, trained, run, into) -> list[float]:
    "What nbs/evaluate.ipynb says of the checkpoint: its functions, its folder of PNGs."
    tokenizer = load_tokenizer(trained / "tokenizer")
    images = images_of(
        parse(TrainGeneratorConfig, dict(tokenizer_run=str(trained / "tokenizer"))), tokenizer
    )
    judge = make_extractor("reference", images)
    generator, count = load_generator(checkpoint), ONLINE["online_samples"]
    sample_to_folder(generator, tokenizer, into, count, steps=2, guidance=1.5, progress=False)
    found = score_samples(into, images, judge, count=count, draws=0).figures
    return [found[n.removeprefix("online_")] for n in NAMES]


# Values


def test_the_values_are_those_of_evaluate_on_the_same_checkpoint(run, trained, tmp_path):
    logged = measured(run)
    assert list(logged) == [6, 12, 18, 24]
    for folder in steps_of(run.checkpoints):
        step = int(folder.name.removeprefix("step-"))
        if step in logged:
            assert evaluated(folder, trained, run, tmp_path / folder.name) == logged[step]
    assert len({values[0] for values in logged.values()}) == 4, "of each step, not of one"


@pytest.mark.slow
def test_two_processes_measure_what_one_does(trained, tmp_path):
    run = prepared(trained, tmp_path / "two", processes=2, **ONLINE)
    launch(run)
    logged = measured(run)
    assert run.status["state"] == "done" and list(logged) == [6, 12, 18, 24]
    for step in (6, 24):
        checkpoint = run.checkpoints / f"step-{step:06d}"
        found = evaluated(checkpoint, trained, run, tmp_path / f"of-{step}")
        assert logged[step] == pytest.approx(found, rel=1e-5)


@pytest.mark.slow
def test_more_processes_than_blocks_of_samples_do_not_wait_for_ever(trained, tmp_path):
    few = ONLINE | dict(online_samples=20, steps=6)
    run = prepared(trained, tmp_path / "two", processes=2, **few)
    launch(run)
    assert list(measured(run)) == [6] and run.status["state"] == "done"


def test_other_extractors_and_references_have_their_own_names(trained, tmp_path):
    told = dict(online_every=2, online_samples=64, online_steps=1, steps=3)
    run = prepared(
        trained,
        tmp_path / "run",
        **told,
        online_reference="heldout",
        online_metric="class_accuracy",
    )
    train_here(run)
    rows = [m for m in read_metrics(run) if NAMES[0] in m]
    assert [m["step"] for m in rows] == [2, 3], "the last step is measured, too"
    best = max(rows, key=lambda m: (m["online_class_accuracy"], m["step"]))
    assert best_checkpoint(run.checkpoints).name == f"step-{best['step']:06d}"


# Checkpoints


def test_each_measurement_has_its_checkpoint_and_the_best_is_kept(run, trained, tmp_path):
    assert [p.name for p in steps_of(run.checkpoints)] == [
        f"step-{n:06d}" for n in (6, 10, 12, 18, 20, 24)
    ]
    logged = measured(run)
    best = min(logged, key=lambda step: logged[step][0])
    assert best_checkpoint(run.checkpoints).name == f"step-{best:06d}"
    scores = {p.name: read_json(p / "manifest.json")["score"] for p in steps_of(run.checkpoints)}
    assert scores["step-000010"] is None and scores["step-000006"] == -logged[6][0]
    # of those only the newest and the best stay: by accuracy, which may go down
    told = ONLINE | dict(online_metric="class_accuracy", keep_checkpoints=1)
    other = prepared(trained, tmp_path / "run", **told)
    train_here(other)
    found = measured(other)
    assert found == logged, "another way to choose measures the same"
    top = max(found, key=lambda step: (found[step][2], step))
    kept = {f"step-{top:06d}", "step-000024"}
    assert {p.name for p in steps_of(other.checkpoints)} == kept


# Resume


def test_training_is_the_same_with_and_without(run, trained, tmp_path):
    plain = prepared(trained, tmp_path / "plain")
    train_here(plain)
    assert measured(plain) == {} and same(run.path, plain.path)
    assert [p.name for p in steps_of(plain.checkpoints)] == [f"step-{n:06d}" for n in (10, 20, 24)]


@pytest.mark.slow
@pytest.mark.parametrize("at", [12, 24])
def test_a_crash_between_metric_and_checkpoint_is_measured_again(
    run, trained, tmp_path, monkeypatch, at
):
    whole, again = state.save_checkpoint, prepared(trained, tmp_path / "run", **ONLINE)

    def crash(root, step, *args):
        if step == at:
            raise OSError("the disk went away")
        return whole(root, step, *args)

    monkeypatch.setattr(state, "save_checkpoint", crash)
    with pytest.raises(OSError, match="the disk went away"):
        train_here(again)
    assert at in measured(again), "logged, but never saved"
    assert newest_checkpoint(again.checkpoints).name == f"step-{10 if at == 12 else 20:06d}"
    monkeypatch.setattr(state, "save_checkpoint", whole)
    train_here(again)
    assert same(run.path, again.path) and measured(again) == measured(run)
    assert [m["step"] for m in read_metrics(again)] == [m["step"] for m in read_metrics(run)]
    for one, two in zip(steps_of(run.checkpoints), steps_of(again.checkpoints), strict=True):
        score = [read_json(p / "manifest.json")["score"] for p in (one, two)]
        assert score[0] == score[1]


@pytest.mark.slow
def test_a_run_may_be_measured_from_a_later_step_on(trained, tmp_path):
    first = prepared(trained, tmp_path / "run", steps=10)
    train_here(first)
    train_here(prepared(trained, tmp_path / "run", steps=14, resume=True, online_every=4))
    assert list(measured(first)) == [12, 14]


# Settings


@pytest.mark.slow
def test_off_by_default_nothing_of_it_is_loaded():
    code = (
        "import sys, softvq_lab.train\n"
        "print([m for m in sys.modules if 'torch_fidelity' in m or m.endswith('online')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    assert parse(TrainGeneratorConfig, {}).online.online_every == 0


@pytest.mark.parametrize(
    "told,says",
    [
        (dict(online_sampler="ddim"), "online_every=6: sampler='ddim': SiT has heun"),
        (dict(online_extractor="inception"), "weights-inception-2015-12-05"),
        (dict(online_reference="nowhere.npz"), "online_reference='nowhere.npz' is neither 'train'"),
        (
            dict(online_metric="class_accuracy", online_extractor="mean_colour"),
            "online_metric='class_accuracy' needs a classifier of the images' 10 classes",
        ),
    ],
    ids=["sampler", "extractor", "reference", "metric"],
)
def test_what_cannot_be_measured_stops_before_the_first_step(
    trained, tmp_path, told, says, mean_colour
):
    run = prepared(trained, tmp_path / "run", **(ONLINE | told))
    with pytest.raises(ConfigError, match=says):
        train_here(run)
    assert read_metrics(run) == [] and steps_of(run.checkpoints) == []


@pytest.fixture
def mean_colour():
    "A network of one's own that is no classifier."

    class Mean(torch.nn.Module):
        def maps(self, x):
            return [x]

    registry.register("network", "mean_colour")(lambda images: Mean())
    yield
    registry._registered["network"].pop("mean_colour")


def test_their_names_are_declared_and_found(run):
    assert online_metrics(read_metrics(run)) == NAMES
    assert [lower_is_better(n) for n in [*NAMES, "online_fid", "online_inception_score"]] == [
        True,
        False,
        False,
        True,
        False,
    ]
