"""What each of two processes does in the test of the synchronised norm: in a module of its own, so
that they start with little.
"""

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from softvq_lab.pretrained.reference import ReferenceNet
from softvq_lab.training.adversarial import Adversary
from softvq_lab.training.augment import DiffAug
from softvq_lab.training.discriminators import SyncedBatchNorm, make_discriminator

CUTS = (slice(0, 5), slice(5, 10))  # of ten images, the share of each process


def norm() -> SyncedBatchNorm:
    torch.manual_seed(0)
    n = SyncedBatchNorm(3).double()
    torch.nn.init.normal_(n.weight)
    return n


def activations() -> torch.Tensor:
    z = torch.randn(10, 3, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return 50 + z * torch.arange(1, 11).view(-1, 1, 1)  # images differ, means are far from 0


def adversary() -> Adversary:
    torch.manual_seed(0)
    net = make_discriminator("reference", 32, net=ReferenceNet(5).eval(), norm="sync")
    return Adversary(net, DiffAug(prob=1.0, cutout=0.0), lecam=0.0, consistency=0.0).double()


def pictures() -> torch.Tensor:
    g = torch.Generator().manual_seed(7)
    return torch.randn(2, 10, 3, 32, 32, generator=g, dtype=torch.float64)  # real, fake


def plain(a: Adversary) -> Adversary:
    a.augment = torch.nn.Identity()  # the ranks draw from streams of their own
    return a


def player(rank: int, port: int, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    n, x = norm().train(), activations()[CUTS[rank]].requires_grad_()
    y = n(x)
    (y.sin().sum()).backward()
    out = {"y": y.detach(), "x": x.grad, "weight": n.weight.grad, "norm": n.state_dict()}

    mine = plain(adversary())
    wrapped = DistributedDataParallel(mine)
    real, fake = pictures()[:, CUTS[rank]]
    for _ in range(2):
        mine.generator_loss(fake)
        wrapped([real, fake])["loss"].backward()
    out |= {"grads": {k: p.grad for k, p in mine.named_parameters()}, "state": mine.state_dict()}
    torch.save(out, folder / f"{rank}.pt")
    dist.destroy_process_group()
