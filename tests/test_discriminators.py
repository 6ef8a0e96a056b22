"""The exported discriminators, augmentation and adversary: shapes and errors, the authors' numbers,
properties, round trips.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from norm_rank import CUTS, activations, adversary, norm, pictures, plain, player
from parity.fill import images, weight
from safetensors.torch import save_file
from two_ranks import found_by_two_ranks

from softvq_lab.core import ConfigError
from softvq_lab.data.datasets import digits
from softvq_lab.pretrained.files import DINO, loss_weights, preflight
from softvq_lab.pretrained.reference import ReferenceNet
from softvq_lab.registry import registered
from softvq_lab.settings.sections import LossConfig, TokenizerConfig
from softvq_lab.training.adversarial import Adversary, d_loss
from softvq_lab.training.augment import DiffAug
from softvq_lab.training.discriminators import (
    PatchGAN,
    StyleGANDiscriminator,
    SyncedBatchNorm,
    VirtualBatchNorm,
    make_discriminator,
    minibatch_std,
    released_heads,
)
from softvq_lab.training.losses import frozen_timm
from softvq_lab.training.tokenizer_task import make_judges

PARITY = Path(__file__).parent / "parity"
KEYS = json.loads((PARITY / "dino-disc.keys.json").read_text())


def error(ours, expected) -> float:
    expected = torch.as_tensor(expected).double()
    return ((torch.as_tensor(ours).double() - expected).norm() / expected.norm()).item()


def reference(seed: int = 0) -> ReferenceNet:
    torch.manual_seed(seed)
    return ReferenceNet(5).eval().requires_grad_(False)


def make(name: str, size: int = 32):
    net = reference()
    torch.manual_seed(1)
    return make_discriminator(
        name,
        size,
        width={"patchgan": 8, "stylegan": 16}.get(name, 0),
        net=net if name == "reference" else None,
    )


# ---------------------------------------------------------------- shapes and errors


@pytest.mark.parametrize(
    "name,size,n",
    [
        ("patchgan", 32, 4),
        ("patchgan", (24, 40), 3),
        ("stylegan", 32, 1),
        ("stylegan", 64, 1),
        ("reference", 32, 208),
        ("reference", (48, 20), 208),
        ("dino", (40, 24), 980),
    ],
)
def test_logits_have_one_row_for_each_image(name, size, n):
    h, w = (size, size) if isinstance(size, int) else size
    assert make(name, size)(torch.randn(3, 3, h, w)).shape == (3, n)


@pytest.mark.parametrize(
    "call,says",
    [
        (lambda: make_discriminator("stylgan", 32), "Did you mean 'stylegan'"),
        (lambda: make_discriminator("stylegan", 48), "power of two from 32 pixels, got 48"),
        (lambda: make_discriminator("stylegan", 16), "power of two from 32 pixels, got 16"),
        (lambda: make_discriminator("stylegan", (64, 32)), "square images, got 64 x 32"),
        (lambda: make_discriminator("patchgan", 16), "at least 24 pixels"),
        (lambda: make_discriminator("reference", 32), "needs net"),
        (lambda: make_discriminator("dino", 32, width=64), "takes no width"),
        (lambda: make_discriminator("patchgan", 32, file="dino.safetensors"), "takes no file"),
        (lambda: make_discriminator("patchgan", 32, norm="sync"), "takes no norm"),
        (lambda: make_discriminator("dino", 32, norm="snyc"), "Did you mean 'sync'"),
        (lambda: Adversary(make("patchgan"), DiffAug(), consistency_of="max"), "sum, mean"),
        (lambda: LossConfig(adv="stylegan", adv_norm="sync"), "not for adv='stylegan'"),
        (lambda: make_discriminator("dino", 32, file="dino.pth"), "must be a .safetensors file"),
        (
            lambda: make_discriminator("dino", 32, file="/nowhere/dino.safetensors"),
            "must be a .safetensors file that is there",
        ),
        (lambda: make("stylegan")(torch.zeros(1, 3, 64, 64)), "made for 32 x 32 pixels"),
        (lambda: make("patchgan")(torch.zeros(1, 3, 32, 16)), "at least 24 pixels"),
        (lambda: Adversary(make("patchgan"), DiffAug(), d_kind="hing"), "Did you mean 'hinge'"),
        (lambda: Adversary(make("patchgan"), None, consistency=4.0), "needs augment"),
        (lambda: Adversary(make("patchgan"), DiffAug(prob=0.0), consistency=4.0), "needs augment"),
        (lambda: DiffAug(cutout=-0.1), "cutout=-0.1 of DiffAug"),
    ],
)
def test_bad_requests_say_what_is_possible(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_a_missing_weight_file_is_named_beforehand(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTVQ_LAB_WEIGHTS", str(tmp_path))
    with pytest.raises(ConfigError, match="vit_small_patch16_224.dino"):
        preflight(TokenizerConfig(), LossConfig(adv="dino"))
    (tmp_path / f"{DINO}.safetensors").touch()
    assert (
        preflight(TokenizerConfig(), LossConfig(adv="dino"))[0].path
        == tmp_path / f"{DINO}.safetensors"
        and loss_weights(LossConfig(adv="patchgan")) == {}
    )


# ---------------------------------------------------------------- the authors' numbers


def heads_state() -> dict:
    heads = {k: weight(k, tuple(s)) for k, s in KEYS["heads"].items()}
    for k, v in heads.items():
        if k.endswith(("weight_u", "weight_v")):
            heads[k] = F.normalize(v, dim=0)
    return released_heads(heads)


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    "The discriminator with weights that follow from their names, its frozen part from a file."
    dino = {k: weight(k, tuple(s)) for k, s in KEYS["dino"].items()}
    for k, v in dino.items():
        if k.endswith("qkv.bias"):
            v[384:768] = 0  # the released model has no bias of keys
    file = tmp_path_factory.mktemp("dino") / f"{DINO}.safetensors"
    save_file(dino, file)
    d = make_discriminator("dino", 224, file=str(file))
    d.heads.load_state_dict(heads_state())
    return d.eval()


@pytest.mark.parametrize("size", [224, 256, 64])
def test_dino_computes_what_the_released_discriminator_computes(released, size):
    expected = np.load(PARITY / "dino-disc.npz")
    x = images(2, size)
    with torch.no_grad():
        activations, logits = released.activations(x), released(x)
    for i, a in enumerate(activations):
        assert error(a[:, ::16, ::7], expected[f"act{i}_{size}_strided"]) < 1e-4
    assert logits.shape == (2, 980) and error(logits, expected[f"logits_{size}"]) < 1e-4


# ---------------------------------------------------------------- the norm of the released default


def test_released_heads_load_with_either_norm_and_of_two_images_compute_the_same(released):
    d = make_discriminator("dino", 224, norm="sync")
    missing, surplus = d.heads.load_state_dict(heads_state(), strict=False)
    running = {"running_mean", "running_var"}
    assert (
        not surplus and {k.rsplit(".", 1)[1] for k in missing} - {"num_batches_tracked"} == running
    )
    d.trunk.held[0].load_state_dict(released.trunk.held[0].state_dict())
    for m in d.heads.modules():
        m.training = isinstance(m, SyncedBatchNorm)  # spectral norm stands still
    with torch.no_grad():
        logits = d(images(2, 64))
    expected = np.load(PARITY / "dino-disc.npz")["logits_64"]
    assert error(logits, expected) < 1e-4  # two images: one group is one batch


def test_the_synchronised_norm_of_one_process_is_plain_batch_norm():
    x, n = activations(), norm().train()
    other = torch.nn.BatchNorm1d(3, eps=1e-6).double().train()
    other.load_state_dict(n.state_dict())
    torch.testing.assert_close(n(x), other(x))
    torch.testing.assert_close(n.eval()(x), other.eval()(x))  # running averages in use


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    "What two processes found."
    return found_by_two_ranks(player, tmp_path_factory.mktemp("ranks"))


@pytest.mark.slow
def test_two_ranks_normalise_as_one_process_with_all_images(ranks):
    n, x = norm().train(), activations().requires_grad_()
    y = n(x)
    y.sin().sum().backward()

    def both(k):
        return torch.cat([r[k] for r in ranks])

    torch.testing.assert_close(both("y"), y.detach())
    torch.testing.assert_close(both("x"), x.grad)
    torch.testing.assert_close(ranks[0]["weight"] + ranks[1]["weight"], n.weight.grad)
    for k, v in n.state_dict().items():
        for r in ranks:
            torch.testing.assert_close(r["norm"][k], v)
    for r, cut in zip(ranks, CUTS):  # a rank's own images would have given something else
        assert not torch.allclose(r["y"], norm().train()(activations()[cut]), atol=1e-2)


@pytest.mark.slow
def test_two_ranks_train_the_heads_as_one_process(ranks):
    one = plain(adversary())
    real, fake = pictures()
    for _ in range(2):
        one.generator_loss(fake)
        one([real, fake])["loss"].backward()
    for k, p in one.named_parameters():
        torch.testing.assert_close(ranks[0]["grads"][k], p.grad, rtol=1e-4, atol=1e-7)
        assert torch.equal(ranks[0]["grads"][k], ranks[1]["grads"][k])
    for k, v in one.state_dict().items():
        torch.testing.assert_close(ranks[1]["state"][k], v, rtol=1e-4, atol=1e-6)


def test_augmented_and_plain_images_are_batches_of_their_own_for_the_synchronised_norm():
    torch.manual_seed(0)
    net = make_discriminator("reference", 32, net=reference(), norm="sync").train()
    a, x = Adversary(net, DiffAug(), consistency=1.0), torch.randn(6, 3, 32, 32)
    for m in net.heads.modules():
        if not isinstance(m, SyncedBatchNorm):
            m.training = False  # so that spectral norm stands still
    torch.manual_seed(1)
    augmented, plainly = a._logits(x)
    torch.manual_seed(1)
    torch.testing.assert_close(augmented, net(a.augment(x)))
    torch.testing.assert_close(plainly, net(x))


def test_the_setting_chooses_the_norm():
    t = TokenizerConfig()
    for setting, kind in [("virtual", VirtualBatchNorm), ("sync", SyncedBatchNorm)]:
        c = LossConfig(adv="dino", adv_norm=setting)
        net = make_discriminator(c.adv, t.image_shape, norm=c.adv_norm)
        found = [m for m in net.heads.modules() if isinstance(m, kind)]
        assert len(found) == 10  # two in each of five heads


# ---------------------------------------------------------------- properties


def test_larger_images_are_cropped_in_training_and_only_there():
    d, x = make("dino", 256), torch.randn(1, 3, 240, 256)
    seen = [d.train().prepare(x) for _ in range(40)]
    area = F.interpolate(x, (224, 224), mode="area")
    cropped = [s for s in seen if not torch.equal(s, area)]
    assert 8 < len(cropped) < 32 and len({s[0, 0, 0, 0].item() for s in cropped}) > 4
    places = x[0, 0].unfold(0, 224, 1).unfold(1, 224, 1)  # all crops
    assert all((places == s[0, 0]).all((2, 3)).any() for s in cropped[:2])
    assert all(torch.equal(d.eval().prepare(x), area) for _ in range(8))
    assert torch.equal(d.train().prepare(x[..., :224, :224]), x[..., :224, :224])


def test_virtual_groups_hide_images_of_other_groups():
    norm, x = VirtualBatchNorm(3), torch.randn(16, 3, 7)
    a, x[8:] = norm(x), torch.randn(8, 3, 7)
    b = norm(x)
    assert torch.equal(a[:8], b[:8]) and not torch.allclose(a[8:], b[8:])
    torch.testing.assert_close(
        a[:8].transpose(0, 1).flatten(1).mean(1), torch.zeros(3), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(
        a[:8].transpose(0, 1).flatten(1).std(1, correction=0), torch.ones(3), atol=1e-4, rtol=0
    )


def test_batches_that_groups_do_not_divide_are_cut_as_evenly_as_can_be():
    norm, x = VirtualBatchNorm(3), 5 + torch.randn(11, 3, 7)

    def plain(part):
        return F.batch_norm(part, None, None, training=True, eps=1e-6)

    torch.testing.assert_close(norm(x), torch.cat([plain(x[:6]), plain(x[6:])]))


@pytest.mark.parametrize("B,size", [(8, 4), (6, 3), (5, 1)])
def test_minibatch_deviation_is_of_the_largest_group_that_divides_the_batch(B, size):
    x = torch.randn(B, 5, 2, 3)
    y = minibatch_std(x)
    assert torch.equal(y[:, :5], x)
    for b in range(B):
        group = x[b // size * size : b // size * size + size]
        torch.testing.assert_close(
            y[b, 5], (group.var(0, correction=0) + 1e-8).sqrt().mean().expand(2, 3)
        )


def test_stylegan_halves_without_shifting():
    d = StyleGANDiscriminator(32, 4)
    x = torch.randn(2, 3, 32, 32)
    shapes, y = [], d.blocks[0](x)
    for b in d.blocks[1:]:
        shapes.append((y := b(y)).shape[-1])
    assert shapes == [16, 8, 4]
    down = d.blocks[
        1
    ].skip  # 1 x 1 after blur: a constant stays, a flipped image gives a flipped map
    with torch.no_grad():
        down.weight.fill_(1 / down.scale / 4)
    torch.testing.assert_close(
        down(torch.ones(1, 4, 32, 32))[..., 1:-1, 1:-1], torch.ones(1, 4, 14, 14)
    )
    z = torch.randn(1, 4, 32, 32)
    torch.testing.assert_close(down(z.flip(-1)), down(z).flip(-1))


def test_patchgan_is_the_network_of_vqgan():
    net = PatchGAN()
    convs = [m for m in net.main if isinstance(m, torch.nn.Conv2d)]
    assert [(c.out_channels, c.stride[0], c.bias is not None) for c in convs] == [
        (64, 2, True),
        (128, 2, False),
        (256, 2, False),
        (512, 1, False),
        (1, 1, True),
    ]
    x = torch.randn(1, 3, 256, 256, requires_grad=True)
    net.eval()(x)[0, 450].backward()  # 30 x 30 logits; this one is in the middle
    rows = x.grad.abs().sum((0, 1, 3)).nonzero()
    assert net(x).shape == (1, 900) and rows.max() - rows.min() + 1 == 70


@pytest.mark.parametrize("name", registered("discriminator"))
def test_gradients_reach_the_image_and_all_that_learns_and_nothing_frozen(name):
    d, x = make(name), torch.randn(4, 3, 32, 32, requires_grad=True)
    d(x).square().mean().backward()
    assert x.grad.abs().amax((1, 2, 3)).min() > 0
    idle = [n for n, p in d.named_parameters() if p.grad is None or not p.grad.any()]
    assert all(n.endswith("0.bias") for n in idle)  # a bias before a batch norm has no effect
    if name in ("dino", "reference"):
        held = d.train().trunk.held[0]
        assert all(p.grad is None and not p.requires_grad for p in held.parameters()) and not any(
            m.training for m in held.modules()
        )


@pytest.mark.parametrize("name", registered("discriminator"))
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_training_discriminators_stay_finite_under_autocast(name, dtype):
    a, x = Adversary(make(name), DiffAug()), torch.randn(3, 3, 32, 32, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        g, d = a.generator_loss(x), a.discriminator_loss(torch.zeros_like(x), x)
    (g + d["loss"]).backward()
    assert (
        g.dtype == d["loss"].dtype == torch.float32
        and all(v.isfinite() for v in (g, *d.values()))
        and x.grad.isfinite().all()
    )
    assert all(p.grad.isfinite().all() for p in a.parameters())


# ---------------------------------------------------------------- augmentation


def test_no_augmentation_is_the_image_itself():
    x = torch.randn(3, 3, 20, 28)
    state = torch.get_rng_state()
    assert DiffAug(prob=0.0)(x) is x and torch.equal(torch.get_rng_state(), state)


def test_each_image_has_a_draw_of_its_own_and_a_draw_can_be_kept():
    torch.manual_seed(0)
    aug, x = DiffAug(cutout=0.0), torch.rand(1, 3, 20, 28).expand(6, -1, -1, -1)
    y, draw = aug(x), aug.draw(x)
    assert all(not torch.equal(y[i], y[j]) for i in range(6) for j in range(i)) and not torch.equal(
        aug(x), y
    )
    assert torch.equal(aug(x, draw), aug(x, draw)) and torch.equal(
        aug(x, draw)[2], aug(x[2:3], draw[2:3])[0]
    )
    torch.manual_seed(5)
    a = aug(x)
    torch.manual_seed(5)
    assert torch.equal(a, aug(x))


def test_the_probability_is_that_of_each_kind_and_image():
    torch.manual_seed(0)
    x = torch.randn(400, 3, 16, 16)
    same = (DiffAug(prob=0.3)(x) == x).all((1, 2, 3)).float().mean()
    assert (
        abs(same - 0.7**3 - 0.3 * 0.7**2 / 5) < 0.08
    )  # untouched, or moved by (0, 0) of 5 x 5 places at times


def test_augmentation_is_the_text_of_the_paper_written_as_loops():
    H, W = 16, 24
    x, u = torch.rand(5, 3, H, W) * 2 - 1, torch.rand(5, 10)
    expected = []
    for image, row in zip(x.double(), u.tolist()):
        image = image + row[3] - 0.5
        image = (image - image.mean(0)) * 2 * row[4] + image.mean(0)
        image = (image - image.mean()) * (0.5 + row[5]) + image.mean()
        dy, dx = int(row[6] * 5) - 2, int(row[7] * 7) - 3  # an eighth of the sides either way
        moved = torch.zeros_like(image)
        for i in range(H):
            for j in range(W):
                if 0 <= i - dy < H and 0 <= j - dx < W:
                    moved[:, i, j] = image[:, i - dy, j - dx]
        top, left = int(row[8] * (H + 1)) - 4, int(row[9] * (W + 1)) - 6  # half of the sides
        moved[:, max(0, top) : max(0, top + 8), max(0, left) : max(0, left + 12)] = 0
        expected.append(moved)
    torch.testing.assert_close(
        DiffAug(cutout=0.5)(x, u).double(), torch.stack(expected), rtol=1e-4, atol=1e-5
    )


def test_augmentation_is_differentiable():
    torch.manual_seed(0)
    aug, x, direction = (
        DiffAug(),
        torch.rand(2, 3, 8, 8, requires_grad=True),
        torch.randn(2, 3, 8, 8),
    )
    draw = aug.draw(x)

    def energy(x):
        return aug(x, draw).double().square().sum()

    energy(x).backward()
    with torch.no_grad():
        slope = (energy(x + 0.01 * direction) - energy(x - 0.01 * direction)) / 0.02
    assert abs(slope - (x.grad * direction).double().sum()) < 1e-2 * abs(slope)


# ---------------------------------------------------------------- the adversary


def steps(a: Adversary, real, fake, n: int = 12):
    optimizer = torch.optim.Adam(a.parameters(), 2e-3, betas=(0.0, 0.9))
    for _ in range(n):
        optimizer.zero_grad()
        out = a.discriminator_loss(real, fake)
        out["loss"].backward()
        optimizer.step()
    return out


@pytest.mark.parametrize("name", ["patchgan", "stylegan", "reference"])
@pytest.mark.parametrize("kind", ["hinge", "vanilla", "non-saturating"])
def test_both_players_move_their_way(name, kind):
    torch.manual_seed(0)
    a, real, fake = (
        Adversary(make(name), None, kind, kind, lecam=0.0, consistency=0.0),
        torch.randn(8, 3, 32, 32),
        torch.rand(8, 3, 32, 32),
    )
    before = a.discriminator_loss(real, fake)
    after = steps(a, real, fake)
    assert (
        after["real_logit"] - after["fake_logit"]
        > before["real_logit"] - before["fake_logit"] + 0.1
        and after["loss"] < before["loss"]
    )
    x = fake.clone().requires_grad_()
    (g,) = torch.autograd.grad(a.generator_loss(x), x)
    with torch.no_grad():
        assert (
            a.discriminator(fake - 1e-3 * g / g.norm() * g.numel() ** 0.5).mean()
            > a.discriminator(fake).mean()
        )


def test_the_generators_gradient_collects_nowhere_else_and_the_discriminators_not_in_the_fake():
    a, real, fake = (
        Adversary(make("reference"), DiffAug()),
        torch.randn(4, 3, 32, 32),
        torch.randn(4, 3, 32, 32, requires_grad=True),
    )
    a.discriminator.heads[0].requires_grad_(False)  # frozen by someone else: stays so
    a.generator_loss(fake).backward()
    assert fake.grad.any() and all(p.grad is None for p in a.parameters())
    assert [p.requires_grad for p in a.discriminator.heads[0].parameters()] == [False] * len(
        list(a.discriminator.heads[0].parameters())
    ) and all(p.requires_grad for p in a.discriminator.heads[1].parameters())
    fake.grad = None
    a([real, fake])["loss"].backward()
    assert fake.grad is None and all(
        p.grad is not None for p in a.discriminator.heads[1].parameters()
    )


def test_the_adversarys_loss_is_its_parts_written_out():
    real, fake = torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32)
    a = Adversary(make("reference").eval(), DiffAug(), lecam=0.01, consistency=4.0).eval()
    a.lecam.real.fill_(0.3), a.lecam.fake.fill_(-0.2)
    torch.manual_seed(3)
    out = a.discriminator_loss(real, fake)
    torch.manual_seed(3)
    (r, rp), (f, fp) = ((a.discriminator(a.augment(x)), a.discriminator(x)) for x in (real, fake))
    hinge, lecam = (
        d_loss("hinge", real_logits=r, fake_logits=f),
        0.01 * (F.relu(r + 0.2).square().mean() + F.relu(0.3 - f).square().mean()),
    )
    consistency = 4 * ((r - rp).square().mean() + (f - fp).square().mean())
    for name, value in dict(
        adversarial=hinge,
        lecam=lecam,
        consistency=consistency,
        loss=hinge + lecam + consistency,
        real_logit=r.mean(),
        fake_logit=f.mean(),
        real_right=(r > 0).float().mean(),
        fake_right=(f < 0).float().mean(),
    ).items():
        torch.testing.assert_close(out[name], value, rtol=1e-4, atol=1e-5)
    assert set(out) == {
        "loss",
        "adversarial",
        "lecam",
        "consistency",
        "real_logit",
        "fake_logit",
        "real_right",
        "fake_right",
    } and not any(v.requires_grad for k, v in out.items() if k != "loss")


def test_the_released_balance_weighs_consistency_two_and_a_half_times_as_much():
    real, fake, t = torch.randn(8, 3, 32, 32), torch.randn(8, 3, 32, 32), TokenizerConfig()
    found = {}
    for balance in ("sum", "released"):
        c = LossConfig(adv="reference", adv_balance=balance, lecam=0.01)
        torch.manual_seed(2)
        a = make_judges(c, t, digits(32))[2].eval()
        torch.manual_seed(3)
        found[balance] = a.discriminator_loss(real, fake)
        parts = sum(found[balance][k] for k in ("adversarial", "lecam", "consistency"))
        torch.testing.assert_close(found[balance]["loss"].detach(), parts)
    ours, theirs = found["sum"], found["released"]
    torch.testing.assert_close(theirs["adversarial"], 0.2 * ours["adversarial"])  # adv_weight
    torch.testing.assert_close(theirs["lecam"], 0.2 * ours["lecam"])
    torch.testing.assert_close(theirs["consistency"], ours["consistency"] / 2)  # mean, not sum

    def ratio(out):
        return out["consistency"] / out["adversarial"]

    torch.testing.assert_close(ratio(theirs) / ratio(ours), torch.tensor(2.5))


def test_without_weights_there_are_no_parts():
    out = Adversary(make("patchgan"), None, lecam=0.0, consistency=0.0).discriminator_loss(
        torch.zeros(2, 3, 32, 32), torch.ones(2, 3, 32, 32)
    )
    assert "lecam" not in out and "consistency" not in out and out["loss"] == out["adversarial"]


# ---------------------------------------------------------------- round trips


@pytest.mark.parametrize("name", registered("discriminator"))
def test_an_adversary_is_restored_from_what_learns(name):
    real, fake = torch.randn(3, 3, 32, 32), torch.randn(3, 3, 32, 32)
    a = Adversary(make(name), DiffAug())
    steps(a, real, fake, 1)
    state = {k: v.clone() for k, v in a.state_dict().items()}
    assert not any("trunk" in k for k in state) and {
        "lecam.real",
        "lecam.fake",
        "lecam.seen",
    } <= set(state)
    torch.manual_seed(9)  # the frozen part is the same whatever the seed
    b = Adversary(
        make_discriminator(
            name,
            32,
            width={"patchgan": 8, "stylegan": 16}.get(name, 0),
            net=reference() if name == "reference" else None,
        ),
        DiffAug(),
    )
    b.load_state_dict(state)
    torch.testing.assert_close(
        b.eval().discriminator(fake), a.eval().discriminator(fake), rtol=0, atol=0
    )


def test_random_frozen_networks_are_always_the_same_and_leave_the_generator_alone():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    a = frozen_timm(DINO, num_classes=0)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    b = frozen_timm(DINO, num_classes=0)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
