"""Attention whose backward pass copies the projection's gradients once instead of twice: the same
bits as timm's, in every network that is trained or judges.
"""

import copy

import pytest
import torch
from timm.layers import Attention
from timm.layers.attention import AttentionRope
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from softvq_lab.core import device_asked
from softvq_lab.data.datasets import digits
from softvq_lab.progress import progress_bar
from softvq_lab.runs import Run
from softvq_lab.settings.sections import (
    EngineConfig,
    GeneratorConfig,
    LossConfig,
    OptimConfig,
    TokenizerConfig,
)
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.training import state as states
from softvq_lab.training.generator_task import GeneratorTask
from softvq_lab.training.loop import Loop, make_accelerator
from softvq_lab.training.losses import Frozen
from softvq_lab.training.state import LastAxisAttention, State, attend_on_last_axis, modules_of
from softvq_lab.training.tokenizer_task import TokenizerTask

TINY = dict(preset="tiny", image_size=32, patch_size=8, tokens=8, latent_dim=4, codebook_size=64)
B, N, C, H = 3, 7, 20, 5


@pytest.fixture(autouse=True)
def on_cpu():
    "Where every product has the same bits each time."
    with device_asked("cpu"):
        yield


KINDS = {
    "plain": dict(),
    "bias": dict(qkv_bias=True),
    "queries and keys are normed": dict(qk_norm=True, norm_layer=nn.LayerNorm),
    "the result is normed": dict(scale_norm=True, norm_layer=nn.LayerNorm),
    "dropout": dict(attn_drop=0.4, proj_drop=0.3),
}


def pair(dtype: torch.dtype = torch.float32, **kind) -> tuple[nn.Module, nn.Module]:
    "timm's attention, and ours with the same weights."
    torch.manual_seed(0)
    plain = Attention(C, H, **kind).to(dtype)
    ours = copy.deepcopy(plain)
    attend_on_last_axis(ours)
    assert type(plain) is Attention and type(ours) is LastAxisAttention
    return plain, ours


def results(m: nn.Module, **how) -> list[torch.Tensor]:
    "The result, and the gradients of all that goes in."
    dtype = next(m.parameters()).dtype
    x = torch.randn(B, N, C, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    torch.manual_seed(2)
    y = m(x, **how)
    y.float().sin().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in m.parameters())]


def equal(plain: list, ours: list) -> bool:
    return len(plain) == len(ours) and all(map(torch.equal, plain, ours))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_values_and_gradients_are_the_same_bits(kind, dtype):
    plain, ours = (results(m.train()) for m in pair(dtype, **KINDS[kind]))
    assert equal(plain, ours)


MASK = torch.ones(N, N, dtype=torch.bool).tril()
HOW = {"mask": {"attn_mask": MASK}, "causal": {"is_causal": True}, "not": {"is_causal": False}}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("how", HOW)
def test_masks_and_products_are_left_to_timm(how, fused):
    both = pair(qkv_bias=True)
    for m in both:
        m.fused_attn = fused
    plain, ours = (results(m, **HOW[how]) for m in both)
    assert equal(plain, ours)


class Copied(TorchDispatchMode):
    "Counts numbers that are written by copying, of tensors as large as a projection."

    COPIES = ("clone", "copy_", "cat", "stack")
    total = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        name = func.name().removeprefix("aten::").split(".")[0]
        if name in self.COPIES and out.numel() == B * N * 3 * C:
            self.total += out.numel()
        return out


def test_the_projections_gradient_is_copied_once():
    found = []
    for m in pair(qkv_bias=True):
        y = m(torch.randn(B, N, C, requires_grad=True)).sin().sum()
        with Copied() as copied:
            y.backward()
        found.append(copied.total / (B * N * 3 * C))
    assert found == [2, 1]


def test_variants_are_left_alone():
    class Own(Attention):
        pass

    roots = nn.ModuleList([Own(C, H), AttentionRope(C, H), Attention(C, H, gated=True)])
    kinds = [type(m) for m in roots]
    attend_on_last_axis(roots)
    assert [type(m) for m in roots] == kinds


ALL = LossConfig(percep="reference", adv="reference", align="reference")


def tokenizer_task(folder) -> TokenizerTask:
    task = TokenizerTask(TokenizerConfig(**TINY), digits(32), Run(folder), loss=ALL)
    task.judge = Frozen(nn.Sequential(Attention(C, H)))  # as DINO has them
    return task


def generator_task(folder) -> GeneratorTask:
    torch.manual_seed(0)
    config = GeneratorConfig(generator="sit", width=32, depth=2, heads=2)
    return GeneratorTask(config, Tokenizer(TokenizerConfig(**TINY)), digits(32), Run(folder))


def trained(task, steps: int = 4) -> State:
    run, optim = Run("unused"), OptimConfig(steps=steps, warmup_steps=1)
    c = EngineConfig(tracker="none", device="cpu")
    state = State(task, optim, c, make_accelerator(run, c))
    loop = Loop(task, run, optim, 0, state, progress_bar(disable=True))
    for step in range(steps):
        items = [task.data[i] for i in range(8 * step, 8 * step + 8)]
        loop.step(step, [torch.stack([torch.as_tensor(v) for v in col]) for col in zip(*items)])
    return state


@pytest.mark.parametrize("make", [tokenizer_task, generator_task])
def test_a_training_ends_with_the_same_bits(make, tmp_path, monkeypatch):
    ours = trained(make(tmp_path))
    kinds = {type(m) for m in modules_of(ours.task, ours.ema) if isinstance(m, Attention)}
    assert kinds == {LastAxisAttention}
    monkeypatch.setattr(states, "attend_on_last_axis", lambda *roots: None)
    plain = trained(make(tmp_path))
    assert {type(m) for m in modules_of(plain.task) if isinstance(m, Attention)} == {Attention}
    for one, other in ((ours.task, plain.task), (ours.ema.module, plain.ema.module)):
        assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
