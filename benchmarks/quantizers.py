"""Every quantizer on digits: what its run reached, and how long its training step takes.

    python benchmarks/quantizers.py [RUNS]

The runs are those of the commands in VARIANTS (`papermill nbs/train.ipynb
RUNS/q-NAME/notebook.ipynb ...`). Steps are timed here, in one process, the variants in turn,
medians; the ratio is to the plain
autoencoder's step of the same round.
"""

import statistics
import time

import torch
from measure import runs_parser

from softvq_lab.runs import Run, figures
from softvq_lab.settings.sections import TokenizerConfig
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.training.losses import mse

VARIANTS = {
    "ae": dict(quantizer="ae"),
    "kl": dict(quantizer="kl"),
    "vq": dict(quantizer="vq"),
    "vq-ema": dict(quantizer="vq", codebook_ema=0.99, revive=True),
    "vq-product": dict(quantizer="vq", groups=2),
    "vq-residual": dict(quantizer="vq", residual=2),
    "softvq": dict(quantizer="softvq"),
    "softvq-l2": dict(similarity="l2"),
    "softvq-tau": dict(learn_tau=True),
    "softvq-g4": dict(codebooks=4),
    "softvq-product": dict(groups=2),
    "softvq-residual": dict(residual=2),
    "gmmvq": dict(quantizer="gmmvq"),
    "fsq": dict(quantizer="fsq"),
    "lfq": dict(quantizer="lfq"),
    "simvq": dict(quantizer="simvq"),
    "rotation": dict(quantizer="rotation"),
}


def step_ratios(rounds: int = 15, batch: int = 64) -> dict[str, float]:
    """Median over rounds of the time of a training step (forward, backward, AdamW) over the plain
    autoencoder's in the same round.
    """
    torch.manual_seed(0)
    models = {n: Tokenizer(TokenizerConfig(**v)) for n, v in VARIANTS.items()}
    optimizers = {
        n: torch.optim.AdamW([p for p in m.parameters() if p.requires_grad], 1e-4)
        for n, m in models.items()
    }
    x, times = torch.rand(batch, 3, 32, 32) * 2 - 1, {n: [] for n in VARIANTS}
    for _ in range(rounds + 1):
        for n, m in models.items():
            began = time.perf_counter()
            y, out = m(x)
            (mse(y, x).mean() + sum(out.losses.values())).backward()
            optimizers[n].step()
            optimizers[n].zero_grad()
            times[n].append(time.perf_counter() - began)
    return {
        n: statistics.median(a / b for a, b in zip(t[1:], times["ae"][1:]))
        for n, t in times.items()
    }  # the first round warms up


def main():
    runs = runs_parser(__doc__).parse_args().runs
    ratios = step_ratios()
    print(
        "| run | parameters | PSNR (dB) | SSIM | usage | perplexity | effective codewords | step "
        "time / AE |\n| --- | --- | --- | --- | --- | --- | --- | --- |"
    )
    for name, given in VARIANTS.items():
        f = figures(Run(runs / f"q-{name}")).get("reconstruction", {}).get("figures", {})

        def cell(k, form):
            return format(f[k], form) if k in f else ""

        params = " ".join(f"`-p {k} {v}`" for k, v in given.items())
        print(
            f"| {name} | {params} | {cell('psnr', '.2f')} | {cell('ssim', '.3f')} | "
            f"{cell('usage', '.2f')} | {cell('perplexity', '.0f')} | "
            f"{cell('effective_codewords', '.1f')} | {ratios[name]:.2f} |"
        )


if __name__ == "__main__":
    main()
