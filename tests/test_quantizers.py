"""All quantizers: the contract, and a few steps of training each from the config that names it."""

import pytest
import torch

from softvq_lab.data.datasets import digits
from softvq_lab.hub.models import load_tokenizer
from softvq_lab.quantizers.base import UsageWindow, check_quantizer
from softvq_lab.quantizers.blockwise import blocks, soft_mix
from softvq_lab.quantizers.gmmvq import GMMVQ
from softvq_lab.quantizers.softvq import SoftVQ, kl_from, kl_term
from softvq_lab.runs import open_run, read_metrics
from softvq_lab.settings.sections import OptimConfig, TokenizerConfig
from softvq_lab.tokenizer.model import make_quantizer
from softvq_lab.training.loop import fit
from softvq_lab.training.tokenizer_task import TokenizerTask

VARIANTS = {
    "ae": dict(quantizer="ae"),
    "kl": dict(quantizer="kl"),
    "vq": dict(quantizer="vq"),
    "vq-l2": dict(quantizer="vq", similarity="l2", codebooks=2),
    "vq-ema": dict(quantizer="vq", codebook_ema=0.9, revive=True),
    "softvq": dict(),
    "softvq-l2": dict(similarity="l2"),
    "softvq-codebooks": dict(codebooks=4),
    "softvq-learned": dict(learn_tau=True, detach_logits=False),
    "gmmvq": dict(quantizer="gmmvq", codebooks=2),
    "product": dict(groups=2),
    "residual": dict(residual=2),
    "product-residual-vq": dict(quantizer="vq", groups=2, residual=2),
    "gmmvq-product": dict(quantizer="gmmvq", groups=4),
    "gmmvq-equation-11": dict(quantizer="gmmvq", similarity="l2", kl_logits="posterior"),
    "softvq-equation-4": dict(similarity="l2", learn_tau=True, kl_logits="posterior"),
    "product-equation-11": dict(quantizer="gmmvq", groups=2, residual=2, kl_logits="posterior"),
    "fsq": dict(quantizer="fsq"),
    "lfq": dict(quantizer="lfq"),
    "simvq": dict(quantizer="simvq"),
    "rotation": dict(quantizer="rotation"),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_contract_and_a_few_steps_of_training(name, tmp_path):
    c = TokenizerConfig(tokens=8, codebook_size=64, **VARIANTS[name])
    check_quantizer(make_quantizer(c), tokens=8)
    run = open_run(tmp_path / "r", "tokenizer", {})
    fit(
        TokenizerTask(c, digits(32), run),
        run,
        OptimConfig(steps=12, warmup_steps=2, batch_size=16, log_every=1, eval_every=12),
    )
    m = [x for x in read_metrics(run) if "rec" in x]
    assert m[-1]["rec"] < m[0]["rec"], (m[0], m[-1])
    t, x = load_tokenizer(run.path), torch.stack([digits(32).heldout[i][0] for i in range(3)])
    assert torch.equal(t(x)[0], t(x)[0]) and t.latent_stats is not None


@pytest.mark.parametrize(
    "name", [n for n in VARIANTS if n not in ("fsq", "lfq", "simvq", "rotation")]
)
def test_a_training_step_never_waits_for_the_device(name):
    """The meta device holds no values: whoever asks for one (.item(), bincount, a mask as index)
    fails.
    """
    q = (
        make_quantizer(TokenizerConfig(tokens=8, codebook_size=64, **VARIANTS[name]))
        .train()
        .to("meta")
    )
    out = q(torch.randn(3, 8, q.input_dim or q.latent_dim, device="meta", requires_grad=True))
    (out.z.sum() + sum(out.losses.values())).backward()


@pytest.mark.parametrize(
    "bad,says",
    [
        (dict(groups=3), r"possible groups: \[1, 2, 4, 8\]"),
        (dict(quantizer="kl", groups=2), "groups above 1 is for softvq, gmmvq, vq"),
        (dict(quantizer="rvq"), "'softvq'"),
        (dict(tokens=6, codebooks=4), r"possible codebooks: \[1, 2, 3, 6\]"),
        (dict(kl_logits="tau"), "'fixed' or 'posterior'"),
        (dict(kl_logits="posterior", kl_tau=0.07), "kl_tau=0.07 is for kl_logits='fixed'"),
        (dict(kl_logits="posterior", quantizer="vq"), "not for quantizer='vq'"),
    ],
)
def test_impossible_combinations(bad, says):
    with pytest.raises(ValueError, match=says):
        TokenizerConfig(**bad)


# ---------------------------------------------------------------- the KL term of the posterior
# itself


def dense(u, s, C, detach_logits, l2):
    """Equation 11 as it stands, for u (G, N, D), s (G, N, 1), C (G, K, D): mixed codewords, mean
    entropy and mean weights.
    """
    K = C.detach() if detach_logits else C
    similarity = -(u[:, :, None] - K[:, None]).norm(dim=-1) if l2 else u @ K.mT
    q = (s * similarity).softmax(-1)
    return q @ C, -(q * (s * similarity).log_softmax(-1)).sum(-1).mean(), q.mean((0, 1))


def gradients(mix, size, detach_logits, l2, one_tau):
    """Loss of z and of the KL term, and its gradients to latents, sharpness and codewords, in
    float64.
    """
    G, N, D, K = size
    draw = torch.Generator().manual_seed(5)

    def rand(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64)

    u, C = rand(G, N, D).requires_grad_(), rand(G, K, D).requires_grad_()
    s = (torch.tensor(2.0).double() if one_tau else 0.5 + rand(G, N, 1).abs()).requires_grad_()
    z, entropy, mean = mix(u, s.expand(G, N, 1), C, detach_logits, l2)[:3]
    loss = (z * rand(G, N, D)).sum() / N + 3 * kl_from(entropy, mean)
    loss.backward()
    return loss.detach(), u.grad, s.grad, C.grad


@pytest.mark.parametrize("size", [(1, 7, 3, 5), (3, 37, 4, 11), (2, 45, 3, 8192), (5, 3, 2, 130)])
@pytest.mark.parametrize("detach_logits", [True, False])
@pytest.mark.parametrize("l2", [True, False], ids=["distance", "inner product"])
@pytest.mark.parametrize("one_tau", [True, False], ids=["tau", "omega"])
def test_the_blocks_are_equation_11_and_its_gradients(size, detach_logits, l2, one_tau):
    def in_blocks(u, s, C, d, l2):
        return soft_mix(u, s, C, 0.01, d, l2, of_posterior=True)

    found, expected = (gradients(f, size, detach_logits, l2, one_tau) for f in (in_blocks, dense))
    for a, b in zip(found, expected):
        assert (a - b).norm() <= 1e-9 * b.norm()
    if size[3] == 8192:  # of each of two codebooks 32 tokens, then 13
        assert len(blocks(*size[:2], size[3], torch.device("cpu"))) == 4


@pytest.mark.parametrize("similarity", ["l2", "cosine", "dot"])
@pytest.mark.parametrize("kind", [SoftVQ, GMMVQ])
def test_with_the_posteriors_own_logits_the_kl_term_trains_tau_and_omega(kind, similarity):
    torch.manual_seed(0)
    z_hat, found = torch.randn(3, 6, 5), {}
    for kl_logits in ("fixed", "posterior"):
        torch.manual_seed(1)
        more = dict(learn_tau=True) if kind is SoftVQ else {}
        v = kind(5, 11, 3, similarity, kl_weight=0.5, kl_logits=kl_logits, **more)
        learned = [v.log_tau] if kind is SoftVQ else [v.omega.weight, v.omega.bias]
        out = v(z_hat)
        out.losses["kl"].backward()
        found[kl_logits] = out.losses["kl"].item()
        reached = [p.grad is not None and bool(p.grad.any()) for p in learned]
        assert reached == [kl_logits == "posterior"] * len(learned)
    logits = v.similarities(z_hat) * v.sharpness(z_hat)
    assert found["posterior"] == pytest.approx(0.5 * kl_term(logits, 1.0).item(), rel=1e-5)
    fixed = 0.5 * kl_term(v.similarities(z_hat), 0.01).item()
    assert found["fixed"] == pytest.approx(fixed, rel=1e-5)


def test_the_released_kl_term_is_the_default_and_configs_without_the_choice_mean_it():
    c = TokenizerConfig(quantizer="gmmvq")
    assert c.kl_logits == "fixed" and make_quantizer(c).kl_logits == "fixed"
    c = TokenizerConfig(quantizer="gmmvq", kl_logits="posterior")
    assert make_quantizer(c).kl_logits == "posterior"
    at_rest = dict(quantizer="softvq", tau=0.01)  # where both are the same number
    torch.manual_seed(0)
    a, b = (make_quantizer(TokenizerConfig(kl_logits=k, **at_rest)) for k in ("fixed", "posterior"))
    b.load_state_dict(a.state_dict())
    z_hat = torch.randn(2, 4, 8)
    torch.testing.assert_close(a(z_hat).losses["kl"], b(z_hat).losses["kl"])


def test_a_sharpness_that_underflows_leaves_everything_finite():
    q = GMMVQ(8, codebook_size=16, kl_weight=1.0)
    torch.nn.init.constant_(q.omega.weight, -30)
    z_hat = torch.ones(2, 3, 8, requires_grad=True)
    out = q(z_hat)
    (out.z.sum() + sum(out.losses.values())).backward()
    assert all(v.isfinite().all() for v in (out.z, *out.losses.values(), z_hat.grad))


@pytest.mark.parametrize("size", [16, 131_072])
def test_uniform_use_of_any_codebook_is_no_collapse(size):
    window = UsageWindow(1, size)
    n = window.size // 4
    for _ in range(4):
        stats = window(torch.randint(size, (1, n)))
    assert stats["window_usage"] > 0.95
