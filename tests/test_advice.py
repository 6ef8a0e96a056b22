"Advice about a folder of one's own: what it finds, what it proposes, and that the commands work."

import json
import re
import shlex
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from softvq_lab.cli import app
from softvq_lab.core import ConfigError
from softvq_lab.data.folder import folder
from softvq_lab.experiments import advice
from softvq_lab.experiments.advice import Cost, advise, candidates, look, remarks, yardstick
from softvq_lab.settings.parse import parse
from softvq_lab.settings.workflows import TrainConfig, TrainGeneratorConfig
from softvq_lab.train import images_of, prepare, train_here
from softvq_lab.training.health import averages_say


def write(root: Path, names, mode="RGB", sides=(40, 90), seed=0):
    r = np.random.default_rng(seed)
    for name in names:
        h, w = r.integers(*sides, 2)
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = r.integers(0, 255, (h, w, 3), dtype=np.uint8)
        Image.fromarray(pixels).convert(mode).save(root / name)


@pytest.fixture
def photos(tmp_path):
    root = tmp_path / "my photos"
    write(root, [f"{'cat' if i % 3 else 'dog'}/{i}.png" for i in range(31)])
    return root


def said_of(root) -> str:
    return "\n".join(remarks(look(folder(root, 32))[0], 64))


def settings_of(command: str) -> dict:
    "The parameters of a papermill command, numbers as numbers."
    words = shlex.split(command)
    pairs = [(words[i + 1], words[i + 2]) for i, w in enumerate(words) if w == "-p"]
    return {k: _value(v) for k, v in pairs}


def _value(text: str):
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text


@pytest.fixture
def unmeasured(monkeypatch):
    "Steps take half a second: what is proposed does not depend on the machine's load."
    measured = ([0.4, 0.5, 0.9], 10**7)
    monkeypatch.setattr(advice, "_tokenizer_step", lambda config, images: measured)
    monkeypatch.setattr(advice, "_generator_step", lambda config, tokenizer: measured)


def test_few_images_and_one_class_are_said(tmp_path):
    write(tmp_path / "a", [f"{i}.png" for i in range(9)])
    assert "9 images are few" in said_of(tmp_path / "a") and "one class" in said_of(tmp_path / "a")


def test_small_grey_and_long_images_are_said(tmp_path):
    write(tmp_path, [f"{i}.png" for i in range(30)], "L", (10, 60))
    said = said_of(tmp_path)
    assert "under 64 pixels" in said and "100% of the sample are grey" in said
    assert "cropped at the centre" in said


def test_large_square_colour_images_in_classes_are_not_blamed(tmp_path):
    write(tmp_path, [f"{'ab'[i % 2]}/{i}.png" for i in range(220)], sides=(64, 65))
    assert said_of(tmp_path) == ""


def test_broken_files_are_counted_and_the_first_is_named(photos):
    for i in range(20):
        (photos / "cat" / f"broken{i}.png").write_bytes(b"no picture")
    assert re.search(r"\d+ of \d+ images cannot be read.*broken\d+\.png", said_of(photos))


def test_a_single_broken_file_is_left_out_and_stops_nothing(photos):
    (photos / "cat" / "broken.png").write_bytes(b"no picture")
    said = said_of(photos)
    assert "They are left out" in said and "stop" not in said


def test_classes_with_few_pictures_are_named(photos, unmeasured):
    write(photos, [f"owl/{i}.png" for i in range(4)])
    assert "Few pictures of owl (under 10)" in said_of(photos)
    assert "3 classes: cat 20, dog 11, owl 4" in str(advise(photos, quiet=True))


@pytest.mark.parametrize("minutes", [2, 5, 1000])
def test_a_short_training_has_a_held_out_curve_and_averages_that_forget(
    photos, unmeasured, minutes
):
    for p in advise(photos, minutes, quiet=True).proposals:
        o = parse(TrainConfig, settings_of(p.command)).optim
        assert o.eval_every <= max(50, o.steps // 4) or minutes == 1000
        assert o.checkpoint_every <= max(50, o.steps // 4) or minutes == 1000
        assert "too few" not in averages_say(o.ema_decay, o.ema_warmup, o.steps)


def test_a_generator_is_proposed_by_the_same_recipe(photos, unmeasured):
    quick, good, *_ = advise(photos, quiet=True).proposals
    assert " -p tokenizer_run RUN -p recipe pictures" in good.next_command
    assert "recipe" not in quick.next_command
    assert good.next_command in str(advise(photos, quiet=True))


@pytest.mark.parametrize(
    "cost, said",
    [
        (Cost(1000, (0.1, 0.1), 10**9), "2 min (1,000 steps of 0.1 s, measured), about 1000 MB"),
        (Cost(1000, (0.1, 0.32), 10**7), "2 min to 5 min (1,000 steps of 0.1 to 0.32 s"),
        (Cost(200, (0.1, 0.101), 10**7), "20 s (200 steps of 0.1 s, measured), about 10 MB"),
    ],
)
def test_a_time_has_two_ends_where_steps_differ(cost, said):
    assert str(cost).startswith(said)


def test_what_the_generator_takes_is_said_beside_its_line(photos, unmeasured):
    said = str(advise(photos, minutes=10, quiet=True))
    for p in advise(photos, minutes=10, quiet=True).proposals:
        assert f"a generator: {p.generator_cost}\n  {p.next_command}" in said
        assert " min to " in str(p.generator_cost) and "0.4 to 0.9 s" in str(p.generator_cost)


def test_files_that_are_no_pictures_are_named(photos, unmeasured):
    (photos / "notes.txt").write_text("x")
    (photos / "cat" / "film.mp4").write_bytes(b"x")
    assert "left out: files that are not read as images: 2" in str(advise(photos, quiet=True))


@pytest.mark.parametrize("load, busy", [(0.1, False), (40.0, True)])
def test_a_busy_machine_is_said(photos, unmeasured, monkeypatch, load, busy):
    monkeypatch.setattr(advice.psutil, "getloadavg", lambda: (load, load, load))
    assert ("busy with other work (load 40.0)" in str(advise(photos, quiet=True))) is busy


def test_a_split_of_its_own_is_kept(tmp_path):
    write(tmp_path / "train", [f"a/{i}.png" for i in range(7)])
    write(tmp_path / "val", [f"a/{i}.png" for i in range(5)], seed=1)
    found, _ = look(folder(tmp_path, 32))
    assert (found.train, found.heldout) == (7, 5)


def test_commands_parse_and_fit_into_the_minutes(photos, unmeasured):
    found = advise(photos, minutes=10, quiet=True)
    assert 2 <= len(found.proposals) <= 3
    for p in found.proposals:
        config = parse(TrainConfig, settings_of(p.command))
        assert config.data.data_path == str(photos)
        assert config.optim.steps == p.cost.steps and p.cost.steps * 0.5 <= 600
        assert p.numbers == config.tokenizer.tokens * config.tokenizer.latent_dim
        assert p.psnr_mean_image < p.psnr_linear
        drawn = parse(TrainGeneratorConfig, settings_of(p.next_command))
        assert drawn.optim.steps == p.generator_cost.steps <= 1200


def test_on_a_gpu_a_larger_preset_is_proposed(monkeypatch):
    import torch

    for bf16 in (True, False):
        monkeypatch.setattr(advice, "best_device", lambda: torch.device("cuda"))
        monkeypatch.setattr(advice, "fast_in_bf16", lambda bf16=bf16: bf16)
        large = parse(TrainConfig, candidates(Path("/p"), 5000)["large"])
        assert large.tokenizer.preset == "S" and large.tokenizer.image_size == 256
        assert (large.engine.precision == "bf16") is bf16


@pytest.mark.slow
def test_a_proposed_training_runs_and_measuring_leaves_nothing(photos, tmp_path, monkeypatch):
    (tmp_path / "t").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "t"))
    found = advise(photos, quiet=True)
    assert list((tmp_path / "t").iterdir()) == []
    for cost in (c for p in found.proposals for c in (p.cost, p.generator_cost)):
        assert 0 < cost.step_seconds[0] <= cost.step_seconds[1] and cost.memory > 10**6
    for p in found.proposals[:2]:
        short = settings_of(p.command) | {"steps": 3, "warmup_steps": 1, "tracker": "none"}
        config = parse(TrainConfig, short)
        images = images_of(config)
        run = prepare(config, tmp_path / p.name, images)
        train_here(run, images)
        assert run.status["state"] == "done"


def test_json_is_one_document(photos, unmeasured):
    out = CliRunner().invoke(app, ["advise", str(photos), "--json", "--minutes", "5"])
    found = json.loads(out.stdout)
    assert out.exit_code == 0 and found["found"]["classes"] == {"cat": 20, "dog": 11}
    assert all(p["command"].startswith("papermill nbs/train.ipynb") for p in found["proposals"])


@pytest.mark.parametrize("case", ["missing", "empty", "a file", "all broken", "no minutes"])
def test_what_cannot_be_advised_on_is_one_clear_error(tmp_path, photos, case):
    path, minutes = tmp_path / "x", 0 if case == "no minutes" else 5
    if case == "a file":
        path.write_text("x")
    elif case == "no minutes":
        path = photos
    elif case != "missing":
        path.mkdir()
        for i in range(12 * (case == "all broken")):
            (path / f"{i}.png").write_bytes(b"no picture")
    with pytest.raises(ConfigError):
        advise(path, minutes, quiet=True)


def test_more_numbers_bring_the_yardstick_nearer():
    import torch

    x = torch.rand(5, 3, 16, 24, generator=torch.Generator().manual_seed(3)) * 2 - 1
    found = [yardstick(x, x, n)[1] for n in (6, 60, 600)]
    assert found == sorted(found) and found[0] < found[2]
