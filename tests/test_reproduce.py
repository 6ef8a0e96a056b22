"""The lines under 'Reproduce this' make what the explorer shows."""

import shlex
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from softvq_lab import cli
from softvq_lab.core import write_json
from softvq_lab.data.images import grid, to_pil
from softvq_lab.experiments.parameters import check_parameters
from softvq_lab.explore.codewords import Edit, edit_tokens
from softvq_lab.explore.latent_map import latent_path, picture_of
from softvq_lab.explore.one_sample import Drawn, drawing, film_strip, frame, variation_steps
from softvq_lab.explore.reproduce import (
    UPLOADED,
    edit_ways,
    film_ways,
    map_ways,
    reconstruction_ways,
    sample_ways,
    sweep_ways,
    variation_ways,
)
from softvq_lab.explore.sampling import guidance_sweep
from softvq_lab.explore.session import chosen_image, load_run, reconstruct, sample_steps

DIGITS = tuple("0123456789")


def run_lines(python: str, folder, monkeypatch):
    monkeypatch.chdir(folder)
    exec(compile(python, "lines", "exec"), {})


def same_picture(a, b, most: int = 1):
    "Equal but for rounding of a level."
    a, b = (np.asarray(x.convert("RGB"), dtype=int) for x in (a, b))
    assert a.shape == b.shape and abs(a - b).max() <= most


def test_the_lines_of_a_reconstruction(trained, tmp_path, monkeypatch):
    run = trained / "tokenizer"
    run_lines(reconstruction_ways(str(run), "heldout:5").python, tmp_path, monkeypatch)
    loaded = load_run(run)
    shown = reconstruct(loaded, chosen_image(loaded, "heldout:5"))["reconstruction"]
    same_picture(Image.open(tmp_path / "reconstruction.png"), shown)


@pytest.mark.parametrize(
    "edit",
    [
        Edit(),
        Edit(tau_factor=0.5, sharp=True),
        Edit(weights={2: {7: 0.5}}, swap=(1,), ablate=(0, 3)),
    ],
)
def test_the_lines_of_an_edit(trained, tmp_path, monkeypatch, edit):
    run = trained / "tokenizer"
    ways = edit_ways(str(run), "heldout:5", edit, "heldout:9")
    run_lines(ways.python, tmp_path, monkeypatch)
    loaded = load_run(run)
    x, donor = (chosen_image(loaded, f"heldout:{i}") for i in (5, 9))
    same_picture(
        Image.open(tmp_path / "edited.png"), to_pil(edit_tokens(loaded, x, edit, donor)["after"])
    )


def test_an_uploaded_picture_is_named_by_its_user(trained, tmp_path, monkeypatch):
    "A path on the server is nobody's business, and gone tomorrow."
    Image.new("RGB", (16, 16), "red").save(tmp_path / "my-picture.png")
    ways = reconstruction_ways(str(trained / "tokenizer"), "file:/tmp/gradio/secret/x.png")
    assert "secret" not in ways.python and ways.note == UPLOADED
    run_lines(ways.python, tmp_path, monkeypatch)
    assert (tmp_path / "reconstruction.png").exists()


@pytest.mark.parametrize(
    "classes,guidance,interval,seed",
    [([3, 1, 3, 1], 2.5, (0.0, 1.0), 7), (list(range(10)) + [0, 1], 1.75, (0.1, 0.7), 0)],
)
def test_the_lines_of_samples(trained, tmp_path, monkeypatch, classes, guidance, interval, seed):
    run = trained / "generator"
    loaded = load_run(run)
    how = dict(sampler="heun", steps=3, guidance=guidance, interval=interval, seed=seed)
    ways = sample_ways(str(run), loaded.generator, classes, loaded.images.class_names, **how)
    *_, (_, drawn) = sample_steps(loaded, torch.tensor(classes), **how)

    run_lines(ways.python, tmp_path, monkeypatch)
    sheet = Image.open(tmp_path / "samples.png")
    side = drawn.shape[-1]
    same_picture(sheet.crop((0, 0, side, side)), to_pil(drawn[0]))

    words = shlex.split(ways.terminal)
    assert words[0] == "softvq-lab"
    done = CliRunner().invoke(cli.app, [*words[1:], "--out", str(tmp_path / "drawn")])
    assert done.exit_code == 0, done.output
    files = sorted((tmp_path / "drawn").glob("**/*.png"))
    assert len(files) == len(classes)
    for file, x in zip(files, drawn):
        same_picture(Image.open(file), to_pil(x))


def test_the_line_of_a_map_has_parameters_that_there_are():
    words = shlex.split(map_ways("runs/my run", 30, 500, 2).terminal)
    assert words[:2] == ["papermill", "nbs/latent_map.ipynb"]
    given = dict(zip(words[3::3], words[4::3]))
    c = check_parameters("latent_map", given)
    assert (c.run, c.neighbors, c.images, c.seed) == ("runs/my run", 30, 500, 2)


@pytest.fixture(scope="module")
def drawn(trained):
    "Three samples of the trained pair."
    loaded = load_run(trained / "generator")
    how = dict(sampler="heun", steps=3, guidance=2.0, interval=(0, 1), seed=5)
    drawn = Drawn(torch.tensor([3, 1, 4]), how)
    for _ in drawing(loaded, drawn):
        pass
    return loaded, drawn


def test_the_lines_of_a_film(drawn, tmp_path, monkeypatch):
    loaded, drawn = drawn
    sheet = sample_ways(str(loaded.run.path), loaded.generator, [3, 1, 4], DIGITS, **drawn.how)
    ways = film_ways(str(loaded.run.path), [3, 1, 4], drawn.how, 1, 0.5, sheet)
    run_lines(ways.python, tmp_path, monkeypatch)
    same_picture(Image.open(tmp_path / "film.png"), film_strip(loaded, drawn, 1))
    step, x = frame(loaded, drawn, 1, 0.5)
    assert 1 <= step < 3
    same_picture(Image.open(tmp_path / "sample.png"), to_pil(x))
    assert ways.terminal == sheet.terminal and "finished samples only" in ways.note


def test_the_lines_of_a_guidance_sweep(trained, tmp_path, monkeypatch):
    run, scales = trained / "generator", [1.0, 4.0]
    loaded = load_run(run)
    how = dict(sampler="heun", steps=3, interval=(0.0, 0.7), seed=5)
    run_lines(sweep_ways(str(run), [3, 1, 4], scales, how).python, tmp_path, monkeypatch)
    *_, (_, rows) = guidance_sweep(loaded, torch.tensor([3, 1, 4]), scales, **how)
    sheet, side = Image.open(tmp_path / "sweep.png"), rows.shape[-1]
    for i, j in (0, 0), (0, 2), (1, 1):
        left, top = j * (side + 2), i * (side + 2)
        same_picture(sheet.crop((left, top, left + side, top + side)), to_pil(rows[i, j]))


def test_the_lines_of_variations(drawn, tmp_path, monkeypatch):
    loaded, drawn = drawn
    ways = variation_ways(str(loaded.run.path), [3, 1, 4], drawn.how, 2, 0.4)
    run_lines(ways.python, tmp_path, monkeypatch)
    *_, (_, images) = variation_steps(loaded, drawn, 2, 0.4)
    sheet, side = Image.open(tmp_path / "variations.png"), images.shape[-1]
    for n in (0, 7):
        left = n * (side + 2)
        same_picture(sheet.crop((left, 0, left + side, side)), to_pil(images[n]))


def test_the_lines_of_a_region_and_of_a_way(trained, tmp_path, monkeypatch, capsys):
    run = tmp_path / "tokenizer"
    shutil.copytree(trained / "tokenizer", run)
    points = [
        {"index": 10 * n, "class": str(n), "z": [n, n % 2], "z_hat": [-n, 0]} for n in range(6)
    ]
    about = {"tokenizer": "x", "neighbors": 15, "points": points}
    write_json(run / "evaluation" / "latent_map.json", about)
    ways = map_ways(str(run), 15, 1000, 0, "z", "0.5,-1 3.5,-1 3.5,2", (4, 1), 5)
    run_lines(ways.python, tmp_path, monkeypatch)
    assert capsys.readouterr().out.splitlines()[-1] == "[(2, '2'), (3, '3')]"
    loaded = load_run(run)
    ends = (picture_of(loaded, i) for i in (40, 10))
    same_picture(Image.open(tmp_path / "way.png"), grid(latent_path(loaded, *ends, 5), 4))
