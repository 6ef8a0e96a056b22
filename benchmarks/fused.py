"""SoftVQ's fused kernels on a GPU: seconds of forward and backward pass in each precision and in
blocks, and the share of the card's float32 arithmetic that they reach.
"""

import statistics

import torch
from measure import agree, alternate, high_water
from torch import Tensor

from softvq_lab.core import best_device
from softvq_lab.quantizers import fused
from softvq_lab.quantizers.softvq import SoftVQ

# float32 of the ordinary units, from the data sheets; the first name that fits
FLOAT32 = {"H100 PCIe": 51.2e12, "H100": 66.9e12, "H200": 66.9e12, "A100": 19.5e12}
WAYS = {
    "ieee": (True, "ieee"),
    "tf32x3": (True, "tf32x3"),
    "tf32": (True, "tf32"),
    "blocks": (False, None),
}


def work(B: int, L: int, D: int, K: int, G: int) -> tuple[int, int]:
    """FLOPs of the nine products of a forward and backward pass (a multiply-add is two), and the
    bytes that have to pass through memory: latents, codewords, and the gradients of both.
    """
    tokens, codewords = B * L, G * K
    flops = 9 * 2 * tokens * K * D
    return flops, 4 * D * (6 * tokens + 4 * codewords)


def quantize(m: SoftVQ, z: Tensor, way: str) -> list[Tensor]:
    "Forward and backward: z, the loss, and the gradients."
    m.fused, fused.PRECISION = WAYS[way]
    try:
        out = m(z)
        loss = out.z.square().mean() + out.losses["kl"]
        return [out.z.detach(), loss.detach(), *torch.autograd.grad(loss, [z, m.codebook])]
    finally:
        fused.PRECISION = None


def row_fused(rounds: int, B: int, L: int, D: int, K: int, G: int, ways=tuple(WAYS)) -> dict:
    device = best_device()
    m = SoftVQ(D, K, G).to(device)
    z = torch.randn(B, L, D, device=device).requires_grad_()
    expected = quantize(m, z, "blocks")
    # three TF32 products are nearly float32; one has three digits, of a gradient two
    bounds = {"tf32": 0.05}
    differ = {w: agree(quantize(m, z, w), expected, bounds.get(w, 1e-3)) for w in ways}
    times = alternate({w: lambda w=w: quantize(m, z, w) for w in ways}, rounds)
    seconds = {w: statistics.median(t) for w, t in times.items()}
    flops, needed = work(B, L, D, K, G)
    name = torch.cuda.get_device_name() if device.type == "cuda" else ""
    most = next((v for k, v in FLOAT32.items() if k in name), None)
    return {
        "fused_s": seconds,
        "fused_differ": differ,
        "flops": flops,
        "needed_bytes": needed,
        "rise_bytes": {w: high_water(lambda w=w: quantize(m, z, w)) for w in ways},
        "share": {w: most and flops / t / most for w, t in seconds.items()},
    }


def notes(name: str, r: dict):
    "Lines about the row, below the tables."
    for way, seconds in r["fused_s"].items():
        share = r["share"][way]
        of = f", {share:.0%} of the data sheet's float32 arithmetic" if share else ""
        yield (
            f"\n{name}, {way}: {1e3 * seconds:.3g} ms; {r['flops'] / 1e9:.3g} GFLOP{of}; memory "
            f"rises by {r['rise_bytes'][way] / 2**20:.0f} MiB (the least that has to move is "
            f"{r['needed_bytes'] / 2**20:.0f} MiB); differs from the blocks by "
            f"{r['fused_differ'][way]:.0e}."
        )
