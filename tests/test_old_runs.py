"""Three runs that the code before the rooms were moved has made (commit 84fc27a) still serve.

`old/runs.tar.xz`: two tokenizers and a generator of digits at 16 x 16 pixels, three steps each,
their weights rounded to sixteenths so that the archive is small, and `expected.json`: what that
code made of them.
"""

import tarfile
from pathlib import Path

import pytest
import torch

from softvq_lab.core import read_json
from softvq_lab.data.datasets import digits
from softvq_lab.experiments.parameters import check_parameters
from softvq_lab.explore.session import load_run
from softvq_lab.hub.models import load_generator, load_pair, load_tokenizer
from softvq_lab.runs import Run, describe, list_runs, read_metrics
from softvq_lab.train import images_of, prepare, train_here

NAMES = ("softvq", "vq", "sit")


@pytest.fixture
def old(tmp_path, monkeypatch) -> Path:
    with tarfile.open(Path(__file__).parent / "old" / "runs.tar.xz") as tar:
        careful = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}  # 3.11.4 has it
        tar.extractall(tmp_path, **careful)
    monkeypatch.chdir(tmp_path)
    return Path("runs")


def test_they_are_listed_with_their_metrics(old):
    rows = {r.path.name: describe(r) for r in list_runs(old)}
    assert {n: (r["kind"], r["state"]) for n, r in rows.items()} == {
        "softvq": ("tokenizer", "done"),
        "vq": ("tokenizer", "done"),
        "sit": ("generator", "done"),
    }
    assert all(read_metrics(Run(old / n))[-1]["step"] == 3 for n in NAMES)


def test_they_compute_what_they_computed(old):
    expected = read_json(old / "expected.json")
    x = torch.stack([digits(16).heldout[i][0] for i in range(4)])

    def same(values, name, what):
        wanted = torch.tensor(expected[name][what], dtype=torch.float64)
        torch.testing.assert_close(values, wanted, atol=1e-5, rtol=1e-5)

    with torch.no_grad():
        for name in ("softvq", "vq"):
            t = load_tokenizer(old / name)
            assert t.fingerprint == expected[name]["fingerprint"]
            z = t.encode(x).z
            same(z.double().mean((1, 2)), name, "latents")
            same(t.decode(z).double().mean((1, 2, 3)), name, "reconstruction")
        g = load_generator(old / "sit")
        z = g.sample(torch.tensor([3, 5]), sampler="euler", steps=4, seed=0)
        same(z.double().mean((1, 2)), "sit", "latents")
    load_pair(old / "sit")


def test_the_explorer_opens_them(old):
    loaded = load_run(old / "sit")
    assert loaded.heldout_count == 360 and loaded.generator.num_classes == 10


def resumed(run: Path) -> Run:
    workflow = "train_generator" if run.name == "sit" else "train"
    config = check_parameters(workflow, {"run": str(run), "steps": 5, "resume": True})
    behind = [load_tokenizer(config.tokenizer_run)] if run.name == "sit" else []
    return prepare(config, run, images_of(config, *behind))


@pytest.mark.parametrize("name", NAMES)
def test_they_are_resumed(old, name):
    before = (old / name / "metrics.jsonl").read_text()
    train_here(resumed(old / name))
    assert (old / name / "metrics.jsonl").read_text().startswith(before)
    assert Run(old / name).status["state"] == "done"
    assert Run(old / name).status["step"] == 5
