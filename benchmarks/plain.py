"""The plain ways, written from the formulas and from what is known of the released code's
arrangement: the quantizer dense, guidance with every branch twice, a training step without care.
"""

import torch
from torch import Tensor, nn

from softvq_lab.quantizers.base import QuantOut
from softvq_lab.quantizers.softvq import SoftVQ, kl_term


class DenseSoftVQ(SoftVQ):
    """SoftVQ by its formula over the whole (tokens x codewords) matrix.

    No more statistics than the perplexity.
    """

    def forward(self, z_hat: Tensor) -> QuantOut:
        sim = self.similarities(z_hat)  # (G, B, L/G, K)
        q = (sim * self.sharpness(z_hat)).softmax(-1)
        z = torch.einsum("gblk,gkd->bgld", q, self.codewords()).flatten(1, 2)
        losses = {"kl": self.kl_weight * kl_term(sim, self.kl_tau)} if self.kl_weight else {}
        mean = q.detach().mean((1, 2))
        return QuantOut(
            z,
            z_hat,
            losses,
            {"perplexity": (-torch.xlogy(mean, mean).sum(-1)).exp().mean()},
            q.argmax(-1).transpose(0, 1).flatten(1),
        )


def released_euler(
    net: nn.Module, x: Tensor, y: Tensor, null: int, steps: int, scale: float, high: float
) -> Tensor:
    """Euler from t = 1 to 0 in the released arrangement: the batch is doubled beside its null
    classes at the start, and the network doubles it again where guidance is on. x (B, L, D) -> (B,
    L, D).
    """
    B, t = len(x), torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
    z, classes = torch.cat([x, x]).double(), torch.cat([y, torch.full_like(y, null)])
    for i in range(steps):
        now = z.float()
        if t[i] <= high:
            v = net(
                torch.cat([now, now]),
                torch.full((4 * B,), t[i], device=x.device),
                torch.cat([classes, classes]),
            )  # 4 B
            v = (v[B : 2 * B] + scale * (v[:B] - v[B : 2 * B])).repeat(2, 1, 1)
        else:
            ts = torch.full((2 * B,), t[i], device=x.device)
            v = net(now, ts, classes)[:B].repeat(2, 1, 1)  # 2 B
        z = z + (t[i + 1] - t[i]) * v.double()
    return z[:B].float()
