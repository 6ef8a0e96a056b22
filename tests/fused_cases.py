"""What SoftVQ's fused kernels compute, against the formula written out in float64. Triton's
interpreter runs them on the CPU, so `test_fused.py` starts this file in a process of its own with
TRITON_INTERPRET=1.
"""

import os
from itertools import product
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from softvq_lab.quantizers import fused
from softvq_lab.quantizers.blockwise import soft_mix
from softvq_lab.quantizers.gmmvq import GMMVQ
from softvq_lab.quantizers.softvq import SoftVQ, kl_from

# The interpreter computes what a kernel masks away, too, and numpy says that it overflows.
pytestmark = pytest.mark.filterwarnings("ignore:overflow encountered")
assert os.environ.get("TRITON_INTERPRET") == "1", "without a GPU Triton needs its interpreter"
OUTPUTS = ["z", "entropy", "mean p", "strongest", "mean q", "each entropy", "du", "ds", "dC"]
KL = {"own softmax": (0.05, False), "no KL": (None, False), "posterior": (None, True)}


def dense(u, s, C, kl_tau, detach_logits, l2, of_posterior):
    "The formula over all (G, N, K) at once, each distance from its differences."
    K = C.detach() if detach_logits else C
    S = -(u[:, :, None] - K[:, None]).norm(dim=-1) if l2 else u @ K.mT
    q = (s * S).softmax(-1)
    each = -(q * (s * S).log_softmax(-1)).sum(-1)
    if of_posterior:
        entropy, mean = each.mean(), q.mean((0, 1))
    elif kl_tau is None:
        entropy, mean = S.new_zeros(()), S.new_zeros(S.shape[-1])
    else:
        p = (S / kl_tau).softmax(-1)
        entropy = -(p * (S / kl_tau).log_softmax(-1)).sum(-1).mean()
        mean = p.mean((0, 1))
    return q @ C, entropy, mean, q.argmax(-1), q.mean(1), each


def through_kernels(*inputs):
    return soft_mix(*inputs, fused=True)


def outputs_and_gradients(mix, dtype, size, kl, detach_logits, l2, one_tau):
    """All outputs, and the gradients of latents, sharpness and codewords of a loss that hears of z,
    entropy and mean p. The same numbers for every dtype.
    """
    G, N, D, K = size
    draw = torch.Generator().manual_seed(7)

    def rand(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    u, C = (F.normalize(rand(G, n, D), dim=-1).to(dtype).requires_grad_() for n in (N, K))
    s = (torch.tensor(9.0) if one_tau else 4 + 9 * rand(G, N, 1).abs()).to(dtype).requires_grad_()
    target = rand(G, N, D).to(dtype)
    out = mix(u, s.expand(G, N, 1), C, kl[0], detach_logits, l2, kl[1])
    ((out[0] * target).sum() / N + 3 * kl_from(out[1], out[2])).backward()
    return *(o.detach() for o in out), u.grad, s.grad, C.grad


def check(found, expected, tolerance=1e-5):
    for name, a, b in zip(OUTPUTS, found, expected, strict=True):
        assert a.shape == b.shape, name
        a, b = a.double(), b.double()
        assert (a - b).norm() <= tolerance * b.norm(), f"{name}: {(a - b).norm() / b.norm():.1e}"


VARIANTS = [
    pytest.param(KL[kl], detach, l2, tau, id=f"{kl}-{d}-{distance}-{sharpness}")
    for kl, (detach, d), (l2, distance), (tau, sharpness) in product(
        KL,
        [(True, "detached"), (False, "attached")],
        [(False, "inner product"), (True, "distance")],
        [(True, "tau"), (False, "omega")],
    )
]


@pytest.mark.parametrize("kl,detach_logits,l2,one_tau", VARIANTS)
def test_every_variant_is_the_formula(kl, detach_logits, l2, one_tau):
    case = (2, 19, 5, 40), kl, detach_logits, l2, one_tau
    found = outputs_and_gradients(through_kernels, torch.float32, *case)
    check(found, outputs_and_gradients(dense, torch.float64, *case))


SIZES = {
    "one token": (1, 1, 8, 33),
    "one codeword": (2, 5, 8, 1),
    "walks in parts": (2, 70, 8, 300),
    "many tokens, few codewords": (1, 300, 3, 7),
    "whole blocks": (1, 64, 16, 128),
    "unequal in all": (3, 37, 5, 70),
    "width 32": (2, 33, 32, 97),
    "width 64": (1, 17, 64, 65),
    "width 128": (1, 17, 128, 65),
    "width 100": (1, 9, 100, 40),
}


@pytest.mark.parametrize("size,l2", [(s, s == "width 100") for s in SIZES])
def test_every_size_is_the_formula(size, l2):
    case = SIZES[size], KL["own softmax"], False, l2, False
    found = outputs_and_gradients(through_kernels, torch.float32, *case)
    expected = list(outputs_and_gradients(dense, torch.float64, *case))
    if size == "one codeword":  # its gradients and entropies are 0, and dC is that of z alone
        assert all(v.abs().max() < 1e-5 for v in (found[1], *found[5:8]))
        found, expected = (
            [found[i] for i in (0, 2, 3, 4, 8)],
            [expected[i] for i in (0, 2, 3, 4, 8)],
        )
        for a, b in zip(found, expected):
            torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-5)
        return
    check(found, expected)


@pytest.mark.slow
@pytest.mark.parametrize("kl,detach_logits,l2,one_tau", VARIANTS)
@pytest.mark.parametrize("size", [s for s in SIZES if s != "one codeword"])
def test_every_variant_of_every_size_is_the_formula(size, kl, detach_logits, l2, one_tau):
    case = SIZES[size], kl, detach_logits, l2, one_tau
    found = outputs_and_gradients(through_kernels, torch.float32, *case)
    check(found, outputs_and_gradients(dense, torch.float64, *case))


def test_some_walks_have_several_parts():
    cpu = torch.device("cpu")
    BN, BK, _ = fused.TOKENS_FORWARD[16]
    G, N, _, K = SIZES["walks in parts"]
    assert fused.parts(G * -(-N // BN), -(-K // BK), cpu) > 1  # tokens' walk over codewords
    BN, BK, _ = fused.CODEWORDS[False][16]
    G, N, _, K = SIZES["many tokens, few codewords"]
    assert fused.parts(G * -(-K // BK), -(-N // BN), cpu) > 1


@pytest.mark.parametrize("kl,detach_logits,l2,one_tau", VARIANTS[::7])
def test_kernels_and_blocks_agree(kl, detach_logits, l2, one_tau):
    case = torch.float32, (2, 35, 6, 90), kl, detach_logits, l2, one_tau
    blocks = outputs_and_gradients(lambda *x: soft_mix(*x, fused=False), *case)
    check(outputs_and_gradients(through_kernels, *case), blocks)


def test_the_result_is_the_same_bit_for_bit_each_time():
    case = torch.float32, (1, 40, 8, 130), KL["own softmax"], False, False, False
    once, again = (outputs_and_gradients(through_kernels, *case) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again))


# ---------------------------------------------------------------- the edges of the formula


def test_distances_near_zero_keep_their_digits():
    "By |u|^2 + |c|^2 - 2uc a distance of 1e-4 between vectors of length 30 would be noise."
    torch.manual_seed(0)
    C = 10 * torch.randn(1, 40, 9, dtype=torch.float64)
    C = C.float().double()
    u = (C[:, :7] + 1e-4 * torch.randn(1, 7, 9)).float().double()
    s = torch.full((1, 7, 1), 2e3)
    found = soft_mix(u.float(), s, C.float(), 0.05, True, True, fused=True)
    expected = dense(u, s.double(), C, 0.05, True, True, False)
    assert (found[5].double() - expected[5]).abs().max() < 1e-5
    assert (found[0].double() - expected[0]).norm() < 1e-5 * expected[0].norm()


def test_a_latent_on_its_codeword_has_a_finite_gradient():
    torch.manual_seed(0)
    C = torch.randn(1, 20, 4)
    results = []
    for mix in (dense, through_kernels):
        dtype = torch.float64 if mix is dense else torch.float32
        u, c = (v.to(dtype).requires_grad_() for v in (C[:, 3:9], C))
        z, entropy, mean, *_ = mix(
            u, torch.full((1, 6, 1), 3.0, dtype=dtype), c, 0.5, False, True, False
        )
        (z.square().sum() + kl_from(entropy, mean)).backward()
        results.append((u.grad, c.grad))
    for a, b in zip(*results):
        torch.testing.assert_close(b.double(), a, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e-20, 1e4])
@pytest.mark.parametrize("l2", [False, True], ids=["inner product", "distance"])
def test_zero_and_huge_latents_give_finite_numbers(scale, l2):
    torch.manual_seed(0)
    u, C = (scale * torch.randn(2, 6, 5)).requires_grad_(), torch.randn(2, 21, 5).requires_grad_()
    s = torch.tensor(14.0, requires_grad=True)
    out = soft_mix(u, s, C, 0.01, False, l2, fused=True)
    (out[0].sum() + kl_from(out[1], out[2])).backward()
    for v in (*out, u.grad, s.grad, C.grad):
        assert v.isfinite().all()


@pytest.mark.parametrize("asked", ["u", "s", "C", "uC", "none"])
@pytest.mark.parametrize("detach_logits", [True, False], ids=["detached", "attached"])
def test_gradients_go_to_those_that_ask(asked, detach_logits):
    torch.manual_seed(0)
    given = dict(u=torch.randn(2, 5, 3), s=1 + torch.rand(2, 5, 1), C=torch.randn(2, 11, 3))
    found = []
    for mine in (True, False):
        inputs = {k: v.clone().requires_grad_(k in asked) for k, v in given.items()}
        out = soft_mix(*inputs.values(), 0.5, detach_logits, fused=mine)
        assert not any(o.requires_grad for o in out[3:])
        if asked == "none":
            assert not any(o.requires_grad for o in out)
            continue
        (out[0].square().sum() + kl_from(out[1], out[2])).backward()
        assert all((v.grad is not None) == (k in asked) for k, v in inputs.items())
        found.append([inputs[k].grad for k in inputs if k in asked])
    for a, b in zip(*found or ([], [])):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


# ---------------------------------------------------------------- in the quantizers, and compiled


def made(kind, fused, **config):
    torch.manual_seed(1)
    v = kind(6, 50, 2, **config)
    v.fused = fused
    return v


@pytest.mark.parametrize(
    "kind,config",
    [
        (SoftVQ, {}),
        (SoftVQ, dict(similarity="l2", learn_tau=True, kl_logits="posterior")),
        (SoftVQ, dict(similarity="dot", detach_logits=False, kl_weight=0.0)),
        (GMMVQ, {}),
        (GMMVQ, dict(similarity="l2", detach_logits=False, kl_logits="posterior")),
    ],
    ids=str,
)
def test_quantizers_train_the_same_by_kernels_as_in_blocks(kind, config):
    results = []
    for mine in (True, False):
        v = made(kind, mine, **config)
        torch.manual_seed(0)
        z_hat = torch.randn(3, 8, 6, requires_grad=True)
        out = v(z_hat)
        (out.z.square().sum() + sum(out.losses.values())).backward()
        gradients = [p.grad for p in v.parameters()] + [z_hat.grad]
        results.append([out.z, out.indices, *out.losses.values(), *out.stats.values(), *gradients])
    for a, b in zip(*results, strict=True):
        a, b = a.detach().double(), b.detach().double()
        assert (a - b).norm() <= 2e-5 * b.norm()


def test_under_bf16_autocast_the_mixing_stays_in_float32():
    z_hat = torch.randn(2, 4, 6).bfloat16().requires_grad_()
    a, b = made(SoftVQ, True), made(SoftVQ, False)
    with torch.autocast("cpu", torch.bfloat16):
        out, blocks = a(z_hat), b(z_hat)
    assert out.z.dtype == torch.bfloat16 and out.losses["kl"].dtype == torch.float32
    torch.testing.assert_close(out.losses["kl"], blocks.losses["kl"], rtol=1e-5, atol=1e-6)
    out.losses["kl"].backward()
    assert z_hat.grad.isfinite().all() and z_hat.grad.any()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_quantizer_compiles_as_one_graph(backend):
    torch.manual_seed(0)
    z_hat, results = torch.randn(3, 8, 6), []
    for compiled in (False, True):
        v, z = made(SoftVQ, True, learn_tau=True), z_hat.clone().requires_grad_()
        out = (torch.compile(v, backend=backend, fullgraph=True) if compiled else v)(z)
        (out.z.square().sum() + out.losses["kl"]).backward()
        results.append((out.z, out.losses["kl"], z.grad, v.codebook.grad, v.log_tau.grad))
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # of a tensor that opcheck made
@pytest.mark.parametrize(
    "kl", [fused.OWN_SOFTMAX, *(pytest.param(k, marks=pytest.mark.slow) for k in (0, 2))]
)
def test_the_operator_keeps_the_rules_of_torch(kl):
    "Schema, shapes of fake tensors, registration of its gradient, tracing."
    torch.manual_seed(0)
    u, C = torch.randn(2, 5, 3, requires_grad=True), torch.randn(2, 9, 3, requires_grad=True)
    s = (1 + torch.rand(2, 5, 1)).requires_grad_()
    torch.library.opcheck(fused.mix_forward, (u, s, C, 0.5, kl, False, False))


def test_a_small_kernel_tells_that_triton_works_and_a_compiler_takes_it_as_a_constant():
    fused._works.cache_clear()

    def f(u):
        return u + 1 if fused.works(u.device) else u - 1

    u = torch.zeros(3)
    assert torch.equal(torch.compile(f, backend="aot_eager", fullgraph=True)(u), u + 1)


def test_the_row_of_the_benchmark_runs(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "benchmarks"))
    import bench

    ways = ("ieee", "blocks")
    row = bench.fused.row_fused(1, B=2, L=6, D=5, K=40, G=2, ways=ways)
    assert set(row["fused_s"]) == set(ways) and row["flops"] == 9 * 2 * 12 * 40 * 5
    lines = list(bench.notes("SoftVQ, fused", row))
    assert len(lines) == 2 and "ms" in lines[0]
    assert fused.PRECISION is None
