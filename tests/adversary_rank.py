"""What each of two processes does in the test of ranks: in a module of its own, so that they start
with little.
"""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from softvq_lab.pretrained.reference import ReferenceNet
from softvq_lab.training.adversarial import Adversary, LeCAM, adaptive_weight
from softvq_lab.training.discriminators import make_discriminator


def adversary() -> Adversary:
    torch.manual_seed(0)
    return Adversary(
        make_discriminator("reference", 32, net=ReferenceNet(5).eval()), lecam=0.5, consistency=0.0
    ).double()  # in float32 a leaky ReLU takes the other slope at times


def logits(step: int):
    return torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(step))  # real, fake


def pictures():
    return torch.randn(
        2, 16, 3, 32, 32, generator=torch.Generator().manual_seed(7), dtype=torch.float64
    )  # real, fake


def player(rank: int, port: int, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    lecam, w, x = (
        LeCAM(decay=0.9),
        torch.tensor([1.0, 2.0], requires_grad=True),
        torch.tensor([[1.0, 0.0], [0.0, 3.0]])[rank],
    )
    for step in range(5):
        lecam(*logits(step)[:, rank::2])
    out = {
        "lecam": lecam.state_dict(),
        "weight": adaptive_weight((x * w).sum().square(), (x * w).sum(), w),
    }

    mine = adversary()
    wrapped = DistributedDataParallel(mine)
    for _ in range(2):
        fake = pictures()[1, 8 * rank : 8 * rank + 8].requires_grad_()
        mine.generator_loss(fake).backward()
        wrapped([pictures()[0, 8 * rank : 8 * rank + 8], fake])["loss"].backward()
    out |= {
        "grads": {k: p.grad for k, p in mine.named_parameters()},
        "fake": fake.grad,
        "adversary": mine.state_dict(),
    }
    torch.save(out, folder / f"{rank}.pt")
    dist.destroy_process_group()
