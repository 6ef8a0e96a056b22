"""Samples may be drawn in float32, TF32 or bfloat16: float32 unless asked, the same bits as ever;
the others near to it, and never taken for it.
"""

import json

import pytest
import torch
from busy import busy_generator

from softvq_lab.core import PRECISIONS, in_precision
from softvq_lab.data.images import to_uint8
from softvq_lab.evaluation.passport import compare, passport
from softvq_lab.evaluation.sampling import (
    decoded,
    draw_samples,
    read_samples,
    sample_folder,
    sample_settings,
    sample_to_folder,
)
from softvq_lab.evaluation.scores import sampling_protocol
from softvq_lab.explore.session import load_run, sample_steps
from softvq_lab.registry import registered
from softvq_lab.runs import open_run
from softvq_lab.sample import main
from softvq_lab.settings.parse import parse
from softvq_lab.settings.sections import OptimConfig
from softvq_lab.settings.workflows import EvaluateConfig, GuidanceConfig, TrainGeneratorConfig
from softvq_lab.training.loop import fit
from softvq_lab.training.task import Task

CPU = torch.device("cpu")
Y = torch.arange(4)


# ---- samplers and the decoder
@pytest.mark.parametrize(
    "kind, sampler", [(k, s) for k in registered("generator") for s in busy_generator(k).samplers]
)
def test_a_sampler_in_half_precision_is_near_float32(kind, sampler):
    g, how = busy_generator(kind), dict(sampler=sampler, steps=6, guidance=2.0, seed=3)
    exact, half = g.sample(Y, **how), g.sample(Y, **how, precision="bf16")
    assert half.dtype == torch.float32 and half.isfinite().all()
    assert 1e-5 < (half - exact).norm() / exact.norm() < 0.02  # half precision has 8 bits
    assert torch.equal(exact, g.sample(Y, **how, precision="fp32"))
    assert torch.equal(exact, g.sample(Y, **how, precision="tf32"))  # which a CPU has not


def test_images_in_half_precision_look_the_same(pair):
    generator, tokenizer = pair
    z = generator.sample(Y, steps=5)
    exact, half = decoded(tokenizer, z), decoded(tokenizer, z, "bf16")
    assert half.dtype == torch.float32 and not half.requires_grad
    assert 0 < (half - exact).abs().max() < 0.1  # of 2: black to white
    assert torch.equal(exact, tokenizer.decode(z).detach())
    drawn = {
        p: torch.cat([x for _, x in draw_samples(*pair, settings(pair, precision=p), 8)])
        for p in PRECISIONS
    }
    off = (drawn["bf16"].float() - drawn["fp32"].float()).abs()
    assert off.max() > 0 and off.mean() < 4 and torch.equal(drawn["tf32"], drawn["fp32"])


def test_what_is_no_precision_is_refused(pair):
    for f in (
        lambda: in_precision("fp8", CPU).__enter__(),
        lambda: pair[0].sample(Y, precision="half"),
        lambda: settings(pair, precision="fp16"),
    ):
        with pytest.raises(ValueError, match="Possible: fp32, tf32, bf16"):
            f()


def test_after_an_error_all_is_as_before():
    with pytest.raises(RuntimeError), in_precision("bf16", CPU):
        assert torch.is_autocast_enabled("cpu")
        raise RuntimeError
    assert not torch.is_autocast_enabled("cpu")


# ---- how it is told
def settings(pair, **how) -> dict:
    return sample_settings(*pair, **{"steps": 2, **how})


def test_folders_of_float32_are_those_of_before(pair):
    "A setting that is as ever leaves no trace: what was drawn earlier is found again."
    assert settings(pair) == settings(pair, precision="fp32")
    assert "precision" not in settings(pair) and settings(pair, precision="bf16")["precision"]
    names = {sample_folder("r", settings(pair, precision=p)) for p in PRECISIONS}
    assert len(names) == 3


def test_a_folder_holds_samples_of_one_precision(pair, tmp_path):
    how = dict(steps=2, progress=False)
    sample_to_folder(*pair, tmp_path / "a", 4, precision="bf16", **how)
    assert json.loads((tmp_path / "a" / "samples.json").read_text())["precision"] == "bf16"
    sample_to_folder(*pair, tmp_path / "b", 4, **how)
    for there, other in (("a", "fp32"), ("b", "bf16")):
        with pytest.raises(ValueError, match="holds other samples"):
            sample_to_folder(*pair, tmp_path / there, 4, precision=other, **how)
    a, b = (to_uint8(read_samples(tmp_path / f)[0]).float() for f in "ab")
    assert 0 < (a - b).abs().mean() < 4


def test_metrics_of_another_precision_are_not_compared(pair):
    def measured(**how):
        about = sampling_protocol(settings(pair, **how))
        return {"figures": {"fid": 1.0}, "passport": passport("judge", "train", 8, **about)}

    plain, half = measured(), measured(precision="bf16")
    assert plain["passport"]["precision"] == "float32" and compare(plain, measured())
    with pytest.raises(ValueError, match="precision"):
        compare(plain, half)


# how samples are drawn: the setting, what it may be, what it may not be
ASKED = [("precision", "bf16", "fp16"), ("noise", "device", "gpu")]


@pytest.mark.parametrize("setting, good, bad", ASKED)
@pytest.mark.parametrize(
    "config, prefix",
    [(EvaluateConfig, "sample"), (GuidanceConfig, "sample"), (TrainGeneratorConfig, "online")],
)
def test_wherever_samples_are_set_so_is_how_they_are_drawn(config, prefix, setting, good, bad):
    name = f"{prefix}_{setting}"
    with pytest.raises(ValueError, match=name):
        parse(config, {name: bad})
    assert parse(config, {name: good}) != parse(config, {})


@pytest.mark.parametrize("setting, good, bad", ASKED)
def test_the_command_line(trained, tmp_path, capsys, setting, good, bad):
    ask = [str(trained / "generator"), *"--samples 3 --steps 2 --out".split(), str(tmp_path / "a")]
    assert main([*ask, f"--{setting}", good]) == 0
    assert json.loads((tmp_path / "a" / "samples.json").read_text())[setting] == good
    assert main([*ask, f"--{setting}", bad]) == 2
    assert f"'{good}'" in capsys.readouterr().err


def test_an_opened_run_draws_each_step_in_the_precision_asked_for(trained):
    loaded = load_run(trained / "generator")
    exact, half = (
        [x for _, x in sample_steps(loaded, Y, steps=3, seed=1, precision=p)]
        for p in ("fp32", "bf16")
    )
    assert len(exact) == len(half) == 3
    assert all(0 < (a - b).abs().mean() < 0.05 for a, b in zip(exact, half))


def test_a_training_leaves_later_products_as_exact_as_they_were(tmp_path):
    "With tf32 it lets GPUs round; what is measured after it in the same process does not."

    class Line(Task):
        def __init__(self):
            super().__init__()
            self.model, self.data = torch.nn.Linear(1, 1), [(torch.ones(1),)] * 8

        def forward(self, batch):
            torch.set_float32_matmul_precision("high")  # as on a GPU
            return {"loss": self.model(batch[0]).mean()}

    torch.set_float32_matmul_precision("highest")
    run = open_run(tmp_path / "r", "toy", {})
    fit(Line(), run, OptimConfig(steps=2, warmup_steps=1, batch_size=4))
    assert torch.get_float32_matmul_precision() == "highest"
