"""Rows of bench.py that only a CPU needs: training steps in bf16, frozen convolutional networks."""

import torch
from measure import compare
from torch import Tensor, nn

from softvq_lab.settings.sections import TokenizerConfig
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.training.losses import TimmNetwork, frozen_timm, mse
from softvq_lab.training.state import attend_by_products

LITE = "tf_efficientnet_lite0"


def _gradient(model: nn.Module, x: Tensor, bf16: bool) -> Tensor:
    "Forwards and backwards: the gradient of the first layer."
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        loss = mse(model(x)[0], x).mean()
    loss.backward()
    return next(model.parameters()).grad


def row_bf16(rounds: int, fused: bool, batch: int = 16) -> dict:
    """A tokenizer of emoji of 64 x 64 pixels, forwards and backwards, in bf16 with attention as
    products; the plain way is bf16 with PyTorch's `fused` attention, or float32.
    """
    c = TokenizerConfig(image_size=64, patch_size=8, tokens=64, latent_dim=8, preset="tiny")
    torch.manual_seed(0)
    plain = Tokenizer(c)
    ours = Tokenizer(c)
    ours.load_state_dict(plain.state_dict())
    attend_by_products(ours)
    x = torch.rand(batch, 3, 64, 64) * 2 - 1
    ways = {"ours": lambda: _gradient(ours, x, True), "plain": lambda: _gradient(plain, x, fused)}
    a, b = (way() for way in ways.values())
    return compare(ways, rounds) | {"differ": float((a - b).abs().max() / b.abs().max())}


def row_frozen(rounds: int, batch: int = 16) -> dict:
    "EfficientNet-Lite0's maps of 64-pixel images and their gradient, beside timm's model as it is."
    plain = frozen_timm(LITE, features_only=True).eval().requires_grad_(False)
    nets = {"ours": TimmNetwork(LITE).model, "plain": plain}
    x = torch.randn(batch, 3, 64, 64)

    def gradient(net: nn.Module) -> Tensor:
        y = x.clone().requires_grad_()
        sum(m.square().mean() for m in net(y)).backward()
        return y.grad

    a, b = (gradient(net) for net in nets.values())
    found = compare({w: lambda net=net: gradient(net) for w, net in nets.items()}, rounds)
    return found | {"differ": float((a - b).abs().max() / b.abs().max())}
