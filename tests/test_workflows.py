"""The workflow notebooks as papermill runs them: end to end in a few steps, and strict."""

import ast
import json
import shutil

import nbformat
import plotly.io
import pytest
from outside import papermill
from PIL import Image

from softvq_lab.runs import Run, figures, read_metrics
from softvq_lab.settings.parse import parameters
from softvq_lab.settings.workflows import WORKFLOWS


@pytest.mark.parametrize("workflow", WORKFLOWS)
def test_the_parameters_cell_shows_the_real_defaults(root, workflow):
    nb = nbformat.read(root / "nbs" / f"{workflow}.ipynb", 4)
    (cell,) = [c for c in nb.cells if "parameters" in c.metadata.get("tags", [])]
    assert cell.source.startswith("# Parameters of")
    shown = {n.targets[0].id: ast.literal_eval(n.value) for n in ast.parse(cell.source).body}
    known = parameters(WORKFLOWS[workflow])
    assert shown == {k: known[k] for k in shown}


def test_from_pixels_to_figures(root, tmp_path):
    few = dict(
        steps=12, warmup_steps=2, batch_size=16, eval_every=6, checkpoint_every=6, log_every=2
    )
    done = papermill(root, tmp_path, "train", "runs/a/notebook.ipynb", tokens=8, **few)
    assert done.returncode == 0, done.stderr
    a = Run(tmp_path / "runs" / "a")
    assert (
        a.kind == "tokenizer"
        and a.status["state"] == "done"
        and a.info["config"]["tokenizer"]["tokens"] == 8
    )
    assert read_metrics(a)[-1]["step"] == 12 and len(list((a.path / "samples").glob("*.png"))) == 2
    assert {"psnr", "ssim", "usage", "perplexity"} <= figures(a)["reconstruction"]["figures"].keys()

    done = papermill(
        root, tmp_path, "train_generator", "runs/g.ipynb", tokenizer_run="runs/a", **few
    )
    assert done.returncode == 0, done.stderr
    assert Run(tmp_path / "runs" / "g").status["state"] == "done"

    done = papermill(
        root,
        tmp_path,
        "evaluate",
        "runs/g/evaluate.ipynb",
        run="runs/g",
        samples=20,
        sample_steps=2,
        probe="ridge",
        probe_layer=1,
        confidence=3,
    )
    assert done.returncode == 0, done.stderr
    found = figures(Run(tmp_path / "runs" / "g"))
    (measured,) = (m for name, m in found.items() if name.startswith("samples-heun-2-"))
    assert {"reference_frechet", "class_accuracy", "diversity"} <= measured["figures"].keys()
    assert (
        measured["passport"]["count"] == 20
        and measured["passport"]["steps"] == 2
        and "reference" in measured["passport"]["evaluator"]
    )
    assert {
        "reconstruction",
        "reconstruction_fidelity",
        "probe-ridge-z-flat",
        "probe-ridge-z_hat-mean",
        "probe-ridge-pixels",
        "probe-ridge-layer-1-t-0.5",
    } <= found.keys()
    assert (tmp_path / "runs" / "g" / "evaluation" / "reconstructions.png").is_file()

    shutil.rmtree(tmp_path / "runs" / "g" / "evaluation")
    done = papermill(
        root,
        tmp_path,
        "evaluate",
        "runs/g/evaluate.ipynb",
        run="runs/g",
        tokenizer_metrics=False,
        samples=20,
        sample_steps=2,
        confidence=3,
    )
    assert done.returncode == 0, done.stderr
    assert [name.partition("-")[0] for name in figures(Run(tmp_path / "runs" / "g"))] == ["samples"]
    executed = (tmp_path / "runs" / "g" / "evaluate.ipynb").read_text()
    assert "softvq-lab evaluate runs/a measures them" in executed

    shutil.copytree(a.path, tmp_path / "runs" / "b")
    done = papermill(
        root,
        tmp_path,
        "latent_map",
        "runs/a/latent_map.ipynb",
        run="runs/a",
        beside="runs/b",
        images=60,
        points=50,
    )
    assert done.returncode == 0, done.stderr
    together = Image.open(a.path / "evaluation" / "latent_maps.png")
    alone = Image.open(a.path / "evaluation" / "latent_map.png")
    assert together.size == (alone.width, 2 * alone.height)  # two panels wide, and two high
    assert len(json.loads((a.path / "evaluation" / "latent_map.json").read_text())["points"]) == 60

    # the same command again: refused, nothing lost
    before = [(a.path / name).read_bytes() for name in ("metrics.jsonl", "notebook.ipynb")]
    again = papermill(root, tmp_path, "train", "runs/a/notebook.ipynb", tokens=8, **few)
    assert again.returncode != 0 and "already holds a run (done, step 12)" in again.stderr
    assert before == [(a.path / name).read_bytes() for name in ("metrics.jsonl", "notebook.ipynb")]
    assert "Go on with it: softvq-lab resume" in again.stderr and "Traceback" not in again.stderr
    assert not (a.path / "notebook.refused.ipynb").exists(), "it was refused before it began"


def test_the_notebook_of_sliders_shows_all_and_draws(root, trained, tmp_path, capsys, monkeypatch):
    "Executed here and in no kernel: there an error under a slider would stop nothing."
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    runs, cells = (
        shutil.copytree(trained, tmp_path / "runs"),
        {},
    )  # figures that are measured are kept in the run
    for cell in nbformat.read(root / "nbs" / "explore.ipynb", 4).cells:
        if cell.cell_type == "code":
            exec(cell.source, cells)
        if "parameters" in cell.metadata.get("tags", []):
            cells.update(run=str(runs / "generator"), runs=str(runs))
    for name, value in dict(
        image=5, token=2, tau_factor=2.0, sharp=True, swap=(1, 3), ablate=(4,)
    ).items():
        capsys.readouterr()
        cells[name].value = value
        assert "PSNR" in capsys.readouterr().out, name
    cells["go"].click()
    assert "Nearest of 1,437 training images" in capsys.readouterr().out


@pytest.mark.slow
def test_an_external_autoencoder_is_measured_in_the_same_notebook(root, tmp_path):
    import diffusers

    blocks = dict(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    diffusers.AutoencoderKL(**blocks).save_pretrained(tmp_path / "vae")
    done = papermill(
        root,
        tmp_path,
        "evaluate",
        "runs/vae.ipynb",
        run="vae",
        dataset="shapes",
        data_size=40,
        probe="ridge",
        confidence=3,
    )
    assert done.returncode == 0, done.stderr
    f = figures(Run(tmp_path / "vae"))["reconstruction"]
    assert (
        f["passport"]["count"] == 80
        and "shapes" in f["passport"]["reference"]
        and f["figures"]["psnr"] < 30
    )


@pytest.mark.parametrize(
    "params,says",
    [
        ({"tokns": 32}, "Did you mean 'tokens'?"),
        ({"tokens": "abc"}, "should be a valid integer"),
        ({"tokens": 0}, "greater than or equal to 1"),
        (
            {"dataset": "folder", "data_path": "nowhere"},
            "data_path=nowhere: there is no such folder",
        ),
    ],
)
def test_a_wrong_parameter_stops_before_any_work(root, tmp_path, params, says):
    done = papermill(root, tmp_path, "train", "runs/a/notebook.ipynb", **params)
    assert done.returncode != 0 and says in done.stderr, done.stderr[-2000:]
    assert not (tmp_path / "runs" / "a" / "config.json").exists()
