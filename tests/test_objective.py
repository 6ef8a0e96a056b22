"""The tokenizer's objective: every loss, discriminator and teacher, some steps each, with gradients
to what they should reach and to nothing else.
"""

import math
import shutil

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from softvq_lab import registry
from softvq_lab.core import ConfigError
from softvq_lab.data.datasets import digits
from softvq_lab.generators.model import make_generator
from softvq_lab.hub.models import load_tokenizer
from softvq_lab.pretrained import files as weights
from softvq_lab.runs import open_run, read_metrics
from softvq_lab.settings.parse import parse
from softvq_lab.settings.sections import (
    EngineConfig,
    GeneratorConfig,
    LossConfig,
    OptimConfig,
    TokenizerConfig,
)
from softvq_lab.settings.workflows import TrainConfig, TrainGeneratorConfig
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.training.loop import fit
from softvq_lab.training.task import make_optimizer
from softvq_lab.training.tokenizer_task import TokenizerTask

TINY = TokenizerConfig(tokens=4, codebook_size=16)


@pytest.mark.parametrize(
    "bad,says",
    [
        (dict(percep="vgg"), "percep"),
        (dict(train_only="decoder"), "needs start_from"),
        (dict(adv="dinov2"), "'dino'"),
        (dict(recipe="papr"), "Did you mean 'paper'"),
    ],
)
def test_impossible_objectives_say_what_is_possible(bad, says):
    with pytest.raises(ConfigError, match=says):
        parse(TrainConfig, bad)


def test_how_many_tokens_share_the_patches_is_asked_of_known_teachers_only(monkeypatch):
    "A tokenizer of 4 x 4 patches: DINOv2 has as many, a teacher of one's own has what it has."
    monkeypatch.setitem(registry._registered["teacher"], "mine", None)
    with pytest.raises(
        ConfigError,
        match="shares 16 patches of the teacher out over tokens=3, which must divide them",
    ):
        parse(TrainConfig, dict(tokens=3, align="dinov2"))
    assert parse(TrainConfig, dict(tokens=3, align="mine")).loss.align == "mine"


@pytest.mark.parametrize(
    "setting,file",
    [
        (dict(percep="lpips"), "vgg16"),
        (dict(percep="timm:resnet50"), "resnet50"),
        (dict(adv="dino"), "vit_small_patch16_224.dino"),
        (dict(align="dinov2"), "vit_base_patch14_dinov2.lvd142m"),
    ],
)
def test_a_missing_file_is_named_before_any_work(tmp_path, monkeypatch, setting, file):
    monkeypatch.setenv("SOFTVQ_LAB_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(ConfigError, match=f"{file}.*not found"):
        weights.preflight(TINY, LossConfig(**setting))


def test_a_tokenizer_to_start_from_needs_no_file_for_its_encoder(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTVQ_LAB_WEIGHTS", str(tmp_path))
    c = TokenizerConfig(
        preset="S", patch_size=16, tokens=4, codebook_size=16, encoder_init="dinov2"
    )
    with pytest.raises(ConfigError, match="start of the encoder.: not found"):
        weights.preflight(c)
    start = Tokenizer(c)
    assert (
        TokenizerTask(
            c, digits(32), open_run(tmp_path / "run", "tokenizer", {}), start=start
        ).model.fingerprint
        == start.fingerprint
        and weights.preflight(c, start_from="x") == []
    )


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Made-up weights of every pretrained network, where users put theirs.

    The teachers are small ViTs under the big ones' settings; the loading is the real one.
    """
    folder, patch = tmp_path_factory.mktemp("weights"), pytest.MonkeyPatch()
    patch.setenv("SOFTVQ_LAB_WEIGHTS", str(folder))
    patch.setattr(
        weights,
        "TEACHERS",
        {
            "dinov2": "vit_tiny_patch16_224",
            "clip": "vit_tiny_patch16_224",
            "eva02": "eva02_tiny_patch14_224",
        },
    )
    for name in ("vit_tiny_patch16_224", "eva02_tiny_patch14_224", weights.DINO, "resnet10t"):
        torch.manual_seed(0)
        save_file(
            timm.create_model(name, num_classes=0).state_dict(), folder / f"{name}.safetensors"
        )
    from torchvision.models import vgg16

    torch.save(
        {k: v for k, v in vgg16(weights=None).state_dict().items() if k.startswith("features")},
        folder / weights.VGG,
    )
    yield folder
    patch.undo()


def task(tmp_path, config=TINY, **settings):
    return TokenizerTask(
        config, digits(32), open_run(tmp_path / "run", "tokenizer", {}), loss=LossConfig(**settings)
    )


def reached(module) -> set[str]:
    return {
        n.split(".")[0]
        for n, p in module.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }


def X(n=8):
    return [digits(32).train.tensors[0][:n]]


@pytest.mark.parametrize(
    "settings,name,more",
    [
        (dict(rec="l1"), "rec", set()),
        (dict(rec="l2"), "rec", set()),
        (dict(percep="reference"), "percep", set()),
        (dict(percep="lpips"), "percep", set()),
        (dict(percep="timm:resnet10t"), "percep", set()),
        *[(dict(adv=a), "adv", set()) for a in ("reference", "patchgan")],
        *[
            pytest.param(dict(adv=a), "adv", set(), marks=pytest.mark.slow)
            for a in ("dino", "stylegan")
        ],
        *[(dict(adv="patchgan", adv_loss=k), "adv", set()) for k in ("vanilla", "non-saturating")],
        (dict(adv="reference", adv_adaptive=True), "adv", set()),
        *[(dict(align=a), "align", {"aligner"}) for a in ("reference", "dinov2", "clip", "eva02")],
        *[
            (dict(align="reference", align_how=h), "align", {"aligner"})
            for h in ("avg_1d", "global")
        ],
    ],
    ids=lambda v: "-".join(map(str, v.values())) if isinstance(v, dict) else "",
)
def test_each_loss_reaches_what_it_should_and_nothing_else(files, tmp_path, settings, name, more):
    alone = (
        {} if name == "rec" or settings.get("adv_adaptive") else dict(rec_weight=0.0)
    )  # the adaptive weight is relative to rec's
    t = task(
        tmp_path, TokenizerConfig(tokens=4, codebook_size=16, kl_weight=0.0), **settings, **alone
    ).train()
    losses = t(X())
    assert name in losses and losses[name].isfinite() and not losses[name].requires_grad
    losses["loss"].backward()
    assert reached(t) == {"model"} | more
    ends = {"encoder", "to_latent", "quantizer"} | (
        set() if name == "align" else {"decoder", "from_latent"}
    )  # alignment is about the latents
    assert reached(t.model) == ends
    for o in t.opponent:
        assert all(p.grad is None for p in o.parameters())
    if t.opponent:  # its turn: it learns, and the tokenizer does not
        t.zero_grad()
        t.opponent[0].train()(t.oppose(X()))["loss"].backward()
        assert reached(t.opponent[0]) == {"discriminator"} and reached(t) == set()


@pytest.mark.slow
def test_some_steps_with_everything_on_and_back_from_the_checkpoint(files, tmp_path):
    t = task(tmp_path, percep="lpips", adv="dino", align="dinov2", percep_warmup=4, adv_start=1)
    fit(t, t.run, OptimConfig(steps=3, warmup_steps=1, batch_size=4, log_every=1))
    m = [m for m in read_metrics(t.run) if "rec" in m]
    assert all(math.isfinite(v) for row in m for v in row.values())
    assert [("adv" in row, "d_loss" in row) for row in m] == [
        (False, False),
        (True, True),
        (True, True),
    ]  # from adv_start on
    stored = {
        ".".join(n.split(".")[:3])
        for n in load_file(t.run.path / "checkpoints" / "step-000003" / "others.safetensors")
    }
    assert (
        {n.rsplit(".", 1)[0] for n in stored}
        == {"task.aligner", "opponent.discriminator", "opponent.lecam"}
        and "task.aligner.projector" in stored
        and not any("teacher" in n or "trunk" in n for n in stored)
    )  # no frozen network
    assert load_tokenizer(t.run.path).tokens == 4


def test_the_perceptual_weight_grows_over_its_warm_up(tmp_path):
    t, values = task(tmp_path, percep="reference", percep_warmup=10).eval(), []
    for t.step in (0, 4, 9, 500):
        values.append(t(X())["percep"].item())
    torch.testing.assert_close(
        torch.tensor(values) / values[-1], torch.tensor([0.1, 0.5, 1.0, 1.0])
    )


@pytest.mark.parametrize(
    "workflow,given,betas",
    [
        (TrainConfig, dict(recipe="paper", dataset="shapes"), (0.9, 0.95)),  # paper, C.1
        (TrainGeneratorConfig, dict(recipe="paper", generator="dit"), (0.9, 0.999)),  # DiT's code
        (TrainGeneratorConfig, dict(recipe="paper", generator="sit"), (0.9, 0.999)),  # SiT's code
        (TrainGeneratorConfig, dict(recipe="paper", generator="mar"), (0.9, 0.95)),  # paper, C.2
        (TrainGeneratorConfig, dict(generator="sit"), (0.9, 0.95)),
        (TrainConfig, dict(beta1=0.5, beta2=0.9), (0.5, 0.9)),
    ],
    ids=lambda v: "-".join(map(str, v.values())) if isinstance(v, dict) else "",
)
def test_the_optimiser_moves_by_the_betas_of_its_recipe(workflow, given, betas):
    c = parse(workflow, given)
    optimizer = make_optimizer(torch.nn.Linear(2, 2), c.optim)
    assert all(g["betas"] == betas for g in optimizer.param_groups)


@pytest.mark.parametrize("workflow", [TrainConfig, TrainGeneratorConfig])
def test_the_papers_averages_have_a_constant_decay(workflow):
    given = {"data_path": "imagenet"} if workflow is TrainConfig else {}
    c = parse(workflow, dict(recipe="paper", **given))
    assert (c.optim.ema_decay, c.optim.ema_warmup) == (0.9999, False)


def test_muon_goes_on_from_a_checkpoint_bit_for_bit(tmp_path):
    optim = OptimConfig(optimizer="muon", steps=6, warmup_steps=1, batch_size=4, checkpoint_every=3)
    engine = EngineConfig(tracker="none", keep_checkpoints=2)
    everything = dict(percep="reference", adv="reference", align="reference")
    t = task(tmp_path, **everything)
    fit(t, t.run, optim, engine=engine)
    last = t.run.checkpoints / "step-000006"
    whole = {n: load_file(last / f"{n}.safetensors") for n in ("raw", "model", "task_optimizer")}
    assert any(n.endswith("momentum_buffer") for n in whole["task_optimizer"])
    assert any(n.endswith("exp_avg_sq") for n in whole["task_optimizer"])
    shutil.rmtree(last)
    run = open_run(tmp_path / "run", "tokenizer", {}, resume=True)
    t = TokenizerTask(TINY, digits(32), run, loss=LossConfig(**everything))
    fit(t, t.run, optim, resume=True, engine=engine)
    for name, tensors in whole.items():
        again = load_file(last / f"{name}.safetensors")
        assert tensors.keys() == again.keys()
        assert all(again[k].equal(v) for k, v in tensors.items())


@pytest.mark.parametrize("generator", ["sit", "dit", "mar"])
def test_muon_takes_the_matrices_of_a_generators_blocks_and_adamw_the_rest(generator):
    settings = GeneratorConfig(generator=generator, size="tiny")
    net = make_generator(settings, 4, 4, 3, None, "")
    matrices, *rest = make_optimizer(net, OptimConfig(optimizer="muon")).param_groups
    names = {p: n for n, p in net.named_parameters()}
    assert all(names[p].endswith("weight") and "blocks." in names[p] for p in matrices["params"])
    assert not any("adaLN" in names[p] for p in matrices["params"])
    assert all(g["use_fallback"] for g in rest)
    attention = {p for n, p in net.named_parameters() if n.endswith("attn.qkv.weight")}
    assert attention and attention <= set(matrices["params"])


@pytest.mark.parametrize("module", [torch.nn.Linear(2, 2), torch.nn.Conv2d(2, 2, 3)])
def test_muon_says_so_where_there_are_no_blocks(module):
    with pytest.raises(ConfigError, match="optimizer='adamw' trains anything"):
        make_optimizer(module, OptimConfig(optimizer="muon"))
