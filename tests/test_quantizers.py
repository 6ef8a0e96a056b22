"""All quantizers: the contract, and a few steps of training each from the config that names it."""

import pytest
import torch

from softvq_lab.config import OptimConfig, TokenizerConfig
from softvq_lab.data import digits
from softvq_lab.hub import load_tokenizer
from softvq_lab.quantizers.base import check_quantizer
from softvq_lab.runs import open_run, read_metrics
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
    "The meta device holds no values: whoever asks for one (.item(), bincount, a mask as index) fails."
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
        (dict(quantizer="kl", groups=2), "groups above 1 is for softvq, gmmvq and vq"),
        (dict(quantizer="rvq"), "'softvq'"),
        (dict(tokens=6, codebooks=4), r"possible codebooks: \[1, 2, 3, 6\]"),
    ],
)
def test_impossible_combinations(bad, says):
    with pytest.raises(ValueError, match=says):
        TokenizerConfig(**bad)
