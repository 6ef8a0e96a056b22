"""The exported losses: pixels, perceptual distances, the adversarial game, LeCAM on one and two
processes.
"""

import inspect
import os
import warnings

import lpips
import pytest
import torch
import torch.nn.functional as F
from adversary_rank import adversary, logits, pictures, player
from safetensors.torch import save_file
from two_ranks import found_by_two_ranks

from softvq_lab.core import ConfigError
from softvq_lab.pretrained.files import VGG, loss_weights, preflight
from softvq_lab.pretrained.reference import ReferenceNet
from softvq_lab.settings.sections import LossConfig, TokenizerConfig
from softvq_lab.training.adversarial import KINDS, LeCAM, adaptive_weight, d_loss, g_loss
from softvq_lab.training.losses import (
    Frozen,
    Perceptual,
    frozen_timm,
    make_perceptual,
    mse,
    reconstruction_loss,
)


@pytest.fixture(scope="module")
def vgg(tmp_path_factory):
    "A file like torchvision's VGG16 with made-up weights, its convolutions only."
    generator, state, c = torch.Generator().manual_seed(0), {}, 3
    for i, out in zip(
        (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
        (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512),
    ):
        state |= {
            f"features.{i}.weight": torch.randn(out, c, 3, 3, generator=generator)
            * (2 / (9 * c)) ** 0.5,
            f"features.{i}.bias": 0.1 * torch.randn(out, generator=generator),
        }
        c = out
    file = tmp_path_factory.mktemp("hub") / VGG
    torch.save(state, file)
    return file


def reference() -> ReferenceNet:
    torch.manual_seed(0)
    return ReferenceNet(5).eval().requires_grad_(False)


def make(name: str, vgg):
    return make_perceptual(
        name,
        file=str(vgg) if name == "lpips" else "",
        net=reference() if name == "reference" else None,
    )


PERCEPTUAL = (
    "lpips",
    "timm:resnet10t",
    "timm:vit_tiny_patch16_224",
    "timm:swin_tiny_patch4_window7_224",
    "reference",
)


# ---------------------------------------------------------------- shapes and errors


@pytest.mark.parametrize("name", PERCEPTUAL)
def test_a_perceptual_loss_is_a_distance_of_each_image(name, vgg):
    torch.manual_seed(0)
    loss, x, y = make(name, vgg), torch.rand(2, 3, 40, 32) * 2 - 1, torch.rand(2, 3, 40, 32) * 2 - 1
    d = loss(x, y)
    assert d.shape == (2,) and d.dtype == torch.float32
    torch.testing.assert_close(d, loss(y, x))
    torch.testing.assert_close(loss(x[:1], y[:1]), d[:1], rtol=1e-4, atol=1e-6)
    assert not loss(x, x).any() and (d > 1e-4).all() and not d.requires_grad


@pytest.mark.parametrize(
    "call,says",
    [
        (lambda: make_perceptual("lpip"), "Did you mean 'lpips'"),
        (lambda: make_perceptual("timm:resnet10x"), "timm has no model"),
        (lambda: make_perceptual("timm:resnet10t", file="w.pth"), "must be a .safetensors file"),
        (lambda: make_perceptual("reference"), "needs net"),
        (
            lambda: make_perceptual("lpips", file="/nowhere/vgg.pth"),
            "/nowhere/vgg.pth: there is no such file",
        ),
        (
            lambda: reconstruction_loss("l3"),
            "rec='l3'; possible: l1, l2",
        ),
        (
            lambda: d_loss("hinges", real_logits=torch.zeros(1), fake_logits=torch.zeros(1)),
            "Did you mean 'hinge'",
        ),
        (
            lambda: g_loss("lsgan", fake_logits=torch.zeros(1)),
            "possible: hinge, vanilla, non-saturating",
        ),
    ],
)
def test_bad_requests_say_what_is_possible(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_vgg_is_looked_for_and_never_fetched(tmp_path, monkeypatch, vgg):
    monkeypatch.delenv("SOFTVQ_LAB_WEIGHTS", raising=False)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(
        torch.hub, "load_state_dict_from_url", lambda *a, **k: pytest.fail("a download was tried")
    )
    with pytest.raises(ValueError, match="not found") as e:
        make_perceptual("lpips")
    assert str(tmp_path / "hub" / "checkpoints" / VGG) in str(
        e.value
    ) and "SOFTVQ_LAB_WEIGHTS" in str(e.value)
    with pytest.raises(ConfigError, match=VGG):
        preflight(TokenizerConfig(), LossConfig(percep="lpips"))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    (tmp_path / "hub" / "checkpoints" / VGG).symlink_to(vgg)
    x = torch.rand(1, 3, 32, 32)
    assert torch.equal(
        make_perceptual("lpips")(x, -x), make_perceptual("lpips", file=str(vgg))(x, -x)
    )
    assert (
        preflight(TokenizerConfig(), LossConfig(percep="lpips"))[0].path
        == tmp_path / "hub" / "checkpoints" / VGG
        and loss_weights(LossConfig(percep="reference")) == {}
    )


class Boom:
    def __reduce__(self):
        return os.mkdir, ("boom",)


def test_a_pickle_that_runs_code_and_another_networks_file_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"features.0.weight": Boom()}, "evil.pth")
    with pytest.raises(ValueError, match="evil.pth cannot be read as weights"):
        make_perceptual("lpips", file="evil.pth")
    assert not os.path.exists("boom")
    torch.save({"conv1.weight": torch.zeros(1)}, "resnet.pth")
    with pytest.raises(ValueError, match="not torchvision's VGG16: it lacks features.0.weight"):
        make_perceptual("lpips", file="resnet.pth")


# ---------------------------------------------------------------- against other code and the
# formula


def test_lpips_is_the_lpips_packages(vgg):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net="vgg", pnet_rand=True, verbose=False)
    state = torch.load(vgg, weights_only=True)
    for slice in (
        theirs.net.slice1,
        theirs.net.slice2,
        theirs.net.slice3,
        theirs.net.slice4,
        theirs.net.slice5,
    ):
        for i, layer in slice.named_children():
            if isinstance(layer, torch.nn.Conv2d):
                layer.load_state_dict({k: state[f"features.{i}.{k}"] for k in ("weight", "bias")})
    torch.manual_seed(0)
    x, y = torch.rand(3, 3, 48, 40) * 2 - 1, torch.rand(3, 3, 48, 40) * 2 - 1
    torch.testing.assert_close(
        make_perceptual("lpips", file=str(vgg))(x, y), theirs(x, y).flatten(), rtol=1e-5, atol=1e-7
    )


def test_other_networks_count_each_map_alike():
    torch.manual_seed(0)
    x, y, net = torch.rand(2, 3, 32, 32) * 2 - 1, torch.rand(2, 3, 32, 32) * 2 - 1, reference()
    slow = torch.zeros(2)
    for a, b in zip(net.maps(x), net.maps(y)):
        for n in range(2):
            places = [
                ((u / (u.norm() + 1e-10) - v / (v.norm() + 1e-10)) ** 2).sum()
                for u, v in zip(a[n].flatten(1).T, b[n].flatten(1).T)
            ]
            slow[n] += sum(places) / len(places) / 4
    torch.testing.assert_close(
        make_perceptual("reference", net=net)(x, y), slow, rtol=1e-4, atol=1e-6
    )


def test_timm_weights_come_from_the_file_that_is_given(tmp_path):
    model = frozen_timm("resnet10t")
    file = tmp_path / "resnet10t.safetensors"
    save_file(
        {k: v + 0.01 if v.is_floating_point() else v for k, v in model.state_dict().items()}, file
    )
    x = torch.rand(2, 3, 32, 32)
    assert not torch.equal(
        make_perceptual("timm:resnet10t", file=str(file))(x, -x),
        make_perceptual("timm:resnet10t")(x, -x),
    )
    moved = make_perceptual("timm:resnet10t", file=str(file)).maps.held[0].model
    assert torch.equal(moved.conv1[0].weight, model.conv1[0].weight + 0.01)


def test_reconstruction_losses_are_means_of_each_image():
    x, y = (
        torch.zeros(2, 3, 4, 5),
        torch.stack([torch.full((3, 4, 5), 0.5), torch.full((3, 4, 5), -0.25)]),
    )
    assert (
        reconstruction_loss("l1")(x, y).tolist() == [0.5, 0.25]
        and reconstruction_loss("l2")(x, y).tolist() == [0.25, 0.0625] == mse(x, y).tolist()
    )


def test_adversarial_losses_are_the_formulas():
    r, f = torch.tensor([[2.0, -1.0], [0.3, 0.0]]), torch.tensor([[-3.0], [0.5]])

    def sigmoid(x):
        return 1 / (1 + (-x).exp())

    real, fake = -sigmoid(r).log().mean(), -(1 - sigmoid(f)).log().mean()
    torch.testing.assert_close(
        d_loss("hinge", real_logits=r, fake_logits=f),
        torch.tensor(((0 + 2 + 0.7 + 1) / 4 + (0 + 1.5) / 2) / 2),
    )
    torch.testing.assert_close(d_loss("vanilla", real_logits=r, fake_logits=f), (real + fake) / 2)
    torch.testing.assert_close(d_loss("non-saturating", real_logits=r, fake_logits=f), real + fake)
    torch.testing.assert_close(g_loss("hinge", fake_logits=f), -f.mean())
    torch.testing.assert_close(g_loss("vanilla", fake_logits=f), (1 - sigmoid(f)).log().mean())
    torch.testing.assert_close(g_loss("non-saturating", fake_logits=f), -sigmoid(f).log().mean())


def test_lecam_is_the_formula_of_running_averages():
    torch.manual_seed(0)
    l, averages = LeCAM(weight=0.5, decay=0.75), None
    for i in range(9):
        r, f = 1 + torch.randn(5, 3), -1 + torch.randn(4, 2)
        new = torch.tensor([r.mean(), f.mean()])
        averages = new if i == 0 else averages + max(1 / (i + 1), 0.25) * (new - averages)
        expected = 0.5 * (
            F.relu(r - averages[1]).square().mean() + F.relu(averages[0] - f).square().mean()
        )
        torch.testing.assert_close(l(r, f), expected)
    assert l.eval()(r, f) == l(r, f) and l.seen == 9


# ---------------------------------------------------------------- properties


@pytest.mark.parametrize("kind", KINDS)
def test_losses_push_logits_the_right_way_round(kind):
    r, f = (
        torch.tensor([-0.5, 0.5], requires_grad=True),
        torch.tensor([0.6, -0.4], requires_grad=True),
    )
    d_loss(kind, real_logits=r, fake_logits=f).backward()
    assert (r.grad < 0).all() and (
        f.grad > 0
    ).all()  # a step down raises real logits and lowers fake ones
    f.grad = None
    g_loss(kind, fake_logits=f).backward()
    assert (f.grad < 0).all()  # and the generator's raises them


def test_logits_are_passed_by_name_only():
    for f in (d_loss, g_loss):
        assert all(
            p.kind is p.KEYWORD_ONLY
            for n, p in inspect.signature(f).parameters.items()
            if n.endswith("logits")
        )


def test_lecam_pulls_only_the_winning_side():
    l = LeCAM(weight=1.0).eval()
    l.real.fill_(1.0), l.fake.fill_(-1.0)
    r, f = (
        torch.tensor([3.0, -2.0], requires_grad=True),
        torch.tensor([-3.0, 2.0], requires_grad=True),
    )
    l(r, f).backward()
    assert r.grad[0] > 0 and f.grad[0] < 0 and r.grad[1] == f.grad[1] == 0


@pytest.mark.parametrize("name", PERCEPTUAL)
def test_gradients_reach_the_images_and_no_weights(name, vgg):
    loss, x, y = (
        make(name, vgg),
        torch.rand(2, 3, 32, 32, requires_grad=True),
        -torch.rand(2, 3, 32, 32),
    )
    loss.train()
    loss(x, y).sum().backward()
    net = loss.maps.held[0]
    assert x.grad.abs().amax((1, 2, 3)).min() > 0 and x.grad.isfinite().all()
    assert all(p.grad is None and not p.requires_grad for p in net.parameters()) and not any(
        m.training for m in net.modules()
    )
    assert not list(loss.parameters()) and not loss.state_dict()


def test_places_without_any_signal_give_no_nan():
    class Maps(torch.nn.Module):
        def forward(self, x):
            return [x]

    x = torch.zeros(1, 3, 4, 4, requires_grad=True)
    assert (
        torch.autograd.grad(lpips.normalize_tensor(x).sum(), x)[0].isnan().all()
    )  # the slope of a square root at 0
    Perceptual(Maps())(x, torch.ones(1, 3, 4, 4)).sum().backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", ["lpips", "timm:resnet10t", "reference"])
def test_bfloat16_is_near_float32(name, vgg):
    torch.manual_seed(0)
    loss, x, y = make(name, vgg), torch.rand(2, 3, 32, 32), -torch.rand(2, 3, 32, 32)
    exact = loss(x, y)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        rough = loss(x, y.bfloat16())
    rough.sum().backward()
    assert rough.dtype == torch.float32 and x.grad.isfinite().all()
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=1e-3)


def test_frozen_networks_move_with_their_owner_and_are_not_saved():
    owner = torch.nn.Sequential(Frozen(torch.nn.BatchNorm1d(3)), torch.nn.Linear(3, 1)).train()
    assert (
        list(owner.state_dict()) == ["1.weight", "1.bias"]
        and len(list(owner.parameters())) == 2
        and not owner[0].held[0].training
    )
    assert owner.double()(torch.zeros(2, 3).double()).dtype == torch.float64


def test_adaptive_weight_is_the_ratio_of_gradient_lengths():
    w = torch.randn(4, 3, requires_grad=True)
    x = torch.randn(5, 4)
    rec, g = (x @ w).square().mean(), 0.01 * (x @ w).sum()
    a, b = (torch.autograd.grad(l, w, retain_graph=True)[0].norm() for l in (rec, g))
    weight = adaptive_weight(rec, g, w)
    torch.testing.assert_close(weight, a / (b + 1e-4))
    assert (
        not weight.requires_grad
        and w.grad is None
        and adaptive_weight(rec, g, w, maximum=0.5) == 0.5
    )
    assert (
        adaptive_weight(rec, 0 * g, w, maximum=7.0) == 7.0
    )  # no gradient to weigh: the limit, not infinity
    (rec + weight * g).backward()  # the graphs are still there


def test_adaptive_weight_sees_gradients_that_float16_cannot_hold():
    """The gradient of a mean over many pixels lies below float16's least number, and it is not the
    scaled loss of fp16 training that is asked.
    """
    torch.manual_seed(0)
    w, h, noise, found = (
        torch.randn(8, 3, requires_grad=True),
        torch.randn(2**17, 8),
        0.0005 * torch.randn(2**17, 3),
        {},
    )
    for dtype in (torch.float32, torch.float16):
        y = (h @ w).to(dtype)
        found[dtype] = adaptive_weight(
            (y.float() - y.detach().float() - noise - 0.0003).square().mean(),
            y.float().square().mean(),
            w,
        ).item()
    assert found[torch.float16] == pytest.approx(found[torch.float32], rel=0.05)


# ---------------------------------------------------------------- two processes


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    "What two processes found."
    return found_by_two_ranks(player, tmp_path_factory.mktemp("ranks"))


@pytest.mark.slow
def test_two_ranks_keep_equal_averages_and_those_of_one_process(ranks):
    a, b = ranks
    assert all(torch.equal(a["lecam"][k], b["lecam"][k]) for k in ("real", "fake", "seen"))
    one, w, x = (
        LeCAM(decay=0.9),
        torch.tensor([1.0, 2.0], requires_grad=True),
        torch.tensor([[1.0, 0.0], [0.0, 3.0]]),
    )
    for step in range(5):
        one(*logits(step))
    for k, v in one.state_dict().items():
        torch.testing.assert_close(a["lecam"][k], v)
    assert torch.equal(a["weight"], b["weight"])
    torch.testing.assert_close(
        a["weight"], adaptive_weight((x * w).sum(1).square().mean(), (x * w).sum(1).mean(), w)
    )


@pytest.mark.slow
def test_two_ranks_of_8_images_give_the_gradients_of_one_process_with_16(ranks):
    a, b, one = *ranks, adversary()
    for _ in range(2):
        fake = pictures()[1].requires_grad_()
        one.generator_loss(fake).backward()
        one([pictures()[0], fake])["loss"].backward()
    for k, p in one.named_parameters():
        assert torch.equal(a["grads"][k], b["grads"][k])
        torch.testing.assert_close(
            a["grads"][k], p.grad, rtol=1e-4, atol=1e-7
        )  # losses are in float32
    torch.testing.assert_close(
        torch.cat([a["fake"], b["fake"]]) / 2, fake.grad, rtol=1e-4, atol=1e-9
    )
    for k, v in one.state_dict().items():
        torch.testing.assert_close(a["adversary"][k], v, rtol=1e-4, atol=1e-6)
