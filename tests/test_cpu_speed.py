"""What makes a CPU faster changes no result: attention as products in bf16, folded batch norms."""

import os
import subprocess
import sys

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from timm.layers.attention import Attention
from torch import nn

from softvq_lab.core import best_device, fast_in_bf16
from softvq_lab.data.datasets import digits
from softvq_lab.runs import Run
from softvq_lab.settings.sections import (
    EngineConfig,
    GeneratorConfig,
    LossConfig,
    OptimConfig,
    TokenizerConfig,
)
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.training.generator_task import GeneratorTask
from softvq_lab.training.loop import make_accelerator
from softvq_lab.training.losses import Frozen, TimmNetwork, fold_batch_norms
from softvq_lab.training.state import State, attend_by_products, modules_of
from softvq_lab.training.task import Task
from softvq_lab.training.tokenizer_task import TokenizerTask

SMALL = dict(image_size=32, patch_size=8, tokens=8, latent_dim=8, codebook_size=16, preset="tiny")


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    monkeypatch.setenv("SOFTVQ_LAB_DEVICE", "cpu")


class OfFrozen(Task):
    "A task with attention of its own and in a frozen network."

    def __init__(self):
        super().__init__()
        self.model, self.judge = nn.Sequential(Attention(8, 2)), Frozen(Attention(8, 2))


def attention_of(task: Task, precision: str, folder) -> list[bool]:
    "Whether each attention of a task, averaged weights included, is PyTorch's fused kernel."
    engine = EngineConfig(tracker="none", precision=precision)
    run = Run(folder)
    state = State(task, OptimConfig(steps=2, warmup_steps=1), engine, make_accelerator(run, engine))
    modules = modules_of(task, *task.opponent, state.ema.module)
    return [m.fused_attn for m in modules if hasattr(m, "fused_attn")]


# ---- attention
@pytest.mark.parametrize("kind", ["tokenizer", "frozen", "sit", "mar"])
@pytest.mark.parametrize("precision, fused", [("fp32", True), ("bf16", False)])
def test_training_in_bf16_attends_by_products(kind, precision, fused, tmp_path):
    tokenizer = TokenizerConfig(**SMALL)
    if kind == "tokenizer":
        task = TokenizerTask(tokenizer, digits(32), Run(tmp_path), loss=LossConfig())
    elif kind == "frozen":
        task = OfFrozen()
    else:
        task = GeneratorTask(
            GeneratorConfig(generator=kind), Tokenizer(tokenizer), digits(32), Run(tmp_path)
        )
    found = attention_of(task, precision, tmp_path)
    assert len(found) > 1 and set(found) == {fused}


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_products_are_the_same_attention(precision):
    torch.manual_seed(0)
    task, x = OfFrozen(), torch.randn(2, 5, 8)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        fused = task.model(x)
        attend_by_products(task)
        plain = task.model(x)
    assert torch.allclose(fused.float(), plain.float(), atol=3e-3 if precision != x.dtype else 1e-6)


# ---- frozen networks
def lively(name: str, **kwargs) -> nn.Module:
    "A frozen model whose batch norms do something."
    torch.manual_seed(0)
    model = timm.create_model(name, features_only=True, **kwargs).eval().requires_grad_(False)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.normal_(m.running_mean)
            nn.init.uniform_(m.running_var, 0.5, 2.0)
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias)
    return model


def norms(model: nn.Module) -> int:
    return sum(isinstance(m, BatchNormAct2d) for m in model.modules())


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "mobilenetv3_small_050", "regnety_002", "resnet18"]
)
def test_folded_norms_change_neither_maps_nor_gradients(name):
    plain = lively(name)
    folded = fold_batch_norms(plain, (3, 64, 64))
    assert norms(folded) < norms(plain) or norms(plain) == 0
    grads = []
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    for model in (plain, folded):
        x = x.detach().requires_grad_()
        maps = model(x)
        sum(m.square().mean() / m.detach().square().mean() for m in maps).backward()
        grads.append(([m.detach() for m in maps], x.grad))
    for a, b in zip(grads[0][0], grads[1][0]):
        assert torch.allclose(a, b, atol=1e-4 * float(a.abs().max()))
    assert torch.allclose(grads[0][1], grads[1][1], atol=1e-3 * float(grads[0][1].abs().max()))


def test_a_norm_that_is_called_elsewhere_stays():
    class Swapped(nn.Module):
        "The norm stands behind the convolution and is called before it."

        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 3, 1), BatchNormAct2d(3)

        def forward(self, x):
            return [self.conv(self.norm(x))]

    model = Swapped().eval()
    nn.init.normal_(model.norm.running_mean)
    assert fold_batch_norms(model, (3, 8, 8)) is model
    assert norms(model) == 1


def test_a_frozen_network_computes_in_float32_under_autocast():
    net, x = TimmNetwork("tf_efficientnet_lite0"), torch.rand(1, 3, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        maps = net(x.bfloat16())
    assert {m.dtype for m in maps} == {torch.float32}
    for a, b in zip(maps, net(x.bfloat16().float())):
        assert torch.equal(a, b)


# ---- which precision is the faster one
def test_a_gpu_says_whether_it_is_fast_in_bf16(monkeypatch):
    monkeypatch.setattr("softvq_lab.core.best_device", lambda: torch.device("cuda"))
    for fast in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: fast)
        assert fast_in_bf16() is fast


@pytest.mark.parametrize("avx, amx", [(True, False), (False, True), (False, False)])
def test_a_cpu_is_fast_in_bf16_if_it_has_instructions_for_it(avx, amx, monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert fast_in_bf16() is (avx or amx)


def test_a_pytorch_that_does_not_say_is_taken_for_slow(monkeypatch):
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name)
    assert best_device().type == "cpu" and fast_in_bf16() is False


# ---- threads
@pytest.mark.parametrize("given, found", [({}, "3000"), ({"GOMP_SPINCOUNT": "7"}, "7")])
@pytest.mark.parametrize("first", ["core", "experiments.papermill_command", "cli"])
def test_threads_that_wait_go_to_sleep_in_all_that_is_started(first, given, found):
    "Set before torch is loaded, which reads it once; a person's own value stays."
    says = (
        f"import os, sys, softvq_lab.{first}\n"
        "print(os.environ['GOMP_SPINCOUNT'], 'torch' in sys.modules)"
    )
    bare = {k: v for k, v in os.environ.items() if k != "GOMP_SPINCOUNT"}
    p = subprocess.run(
        [sys.executable, "-c", says], env=bare | given, capture_output=True, text=True, check=True
    )
    assert p.stdout.split() == [found, "False"]
