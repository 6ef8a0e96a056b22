"""What one of several processes does in tests/test_whole_step.py: in a module of its own, so that
they start with little.
"""

import torch
import torch.distributed as dist

from softvq_lab.quantizers.base import Quantizer
from softvq_lab.ranks import parts_of_step
from softvq_lab.settings.sections import TokenizerConfig
from softvq_lab.tokenizer.model import make_quantizer
from softvq_lab.training.adversarial import LeCAM

QUANTIZERS = {
    "ae": dict(quantizer="ae"),
    "kl": dict(quantizer="kl"),
    "softvq": dict(),
    "softvq of three codebooks": dict(codebooks=3),
    "softvq of distances, learned tau": dict(similarity="l2", learn_tau=True, detach_logits=False),
    "gmmvq": dict(quantizer="gmmvq", codebooks=2),
    "vq": dict(quantizer="vq"),
    "vq, revived": dict(quantizer="vq", revive=True),
    "vq of averages": dict(quantizer="vq", codebook_ema=0.9, codebooks=2),
    "vq of averages, revived": dict(
        quantizer="vq", codebook_ema=0.3, revive=True, codebooks=3, similarity="l2"
    ),
    "product": dict(groups=2),
    "residual of averages": dict(quantizer="vq", residual=2, codebook_ema=0.8, revive=True),
    "product of residuals": dict(groups=2, residual=2, codebooks=2),
    "fsq": dict(quantizer="fsq"),
    "lfq": dict(quantizer="lfq"),
    "simvq": dict(quantizer="simvq"),
    "rotation": dict(quantizer="rotation"),
}
STEPS, IMAGES, TOKENS, WIDTH, K = 4, 24, 6, 4, 64


def latents(step: int, width: int) -> torch.Tensor:
    "The batch of a step, of all processes."
    wide = torch.linspace(0.2, 2.0, width)  # not the same in all directions
    return wide * torch.randn(
        IMAGES, TOKENS, width, generator=torch.Generator().manual_seed(1000 + step)
    )


def made(name: str) -> Quantizer:
    "The same one each time; where codewords are revived, some are nearly dead."
    torch.manual_seed(0)
    q = make_quantizer(
        TokenizerConfig(tokens=TOKENS, latent_dim=WIDTH, codebook_size=K, **QUANTIZERS[name])
    )
    for part in q.modules():
        if getattr(part, "revive", False):
            part.counts[:, ::5] = 0.01
    return q.train()


def learn(name: str, rank: int = 0, world: int = 1, parts: int = 1, frozen: bool = False) -> dict:
    """Some steps of one process with its latents in so many parts: the state at the end, and
    losses, stats and gradients of each step.
    """
    q = made(name).train(not frozen)
    params, found = [p for p in q.parameters() if p.requires_grad], {}
    for step in range(STEPS):
        torch.manual_seed(10 * step + rank)  # as the loop does: noise differs between processes
        z = latents(step, q.input_dim or WIDTH)[rank::world]
        for k, v in one_step(q, params, list(z.chunk(parts))).items():
            found[f"step {step}: {k}"] = v
    return found | {k: v.clone() for k, v in q.state_dict().items()}


def one_step(q: Quantizer, params: list, pieces: list[torch.Tensor]) -> dict:
    for p in params:
        p.grad = None
    shares = [len(piece) / sum(map(len, pieces)) for piece in pieces]
    total: dict = {}
    for i in parts_of_step(q, shares, lambda i: q(pieces[i])):
        z_hat = pieces[i].clone().requires_grad_()
        out = q(z_hat)
        noise = q.input_dim is not None  # KL draws z: that differs between processes
        loss = sum(out.losses.values()) + (0 if noise else out.z.square().mean())
        (loss * shares[i]).backward()
        for k, v in (out.losses | out.stats).items():
            v = v.detach()
            total[k] = v if k in q.whole_step_stats else total.get(k, 0) + v * shares[i]
    for j, p in enumerate(params):
        if p.grad is not None:
            total[f"gradient {j}"] = p.grad
    if dist.is_initialized():  # what the wrapper of ranks does with gradients, the log with stats
        flat = torch.cat([v.flatten() for v in total.values()] or [torch.zeros(1)])
        dist.all_reduce(flat)
        flat /= dist.get_world_size()
        for v, mean in zip(total.values(), flat.split([v.numel() for v in total.values()] or 1)):
            v.copy_(mean.view_as(v))
    with torch.no_grad():
        for p in params:
            if p.grad is not None:
                p -= 0.05 * p.grad
    return total


def lecam(rank: int = 0, world: int = 1, parts: int = 1) -> dict:
    "The averages after some steps, and the regularisation of each step."
    module, losses = LeCAM(weight=0.5, decay=0.8), []
    for step in range(STEPS):
        logits = torch.randn(2, IMAGES, 3, generator=torch.Generator().manual_seed(step))
        pieces = logits[:, rank::world].chunk(parts, 1)
        mine = 0.0
        for i in parts_of_step(module, [1 / parts] * parts, lambda i: module(*pieces[i])):
            mine = mine + module(*pieces[i]) / parts
        if dist.is_initialized():
            dist.all_reduce(mine)
        losses.append(mine / world)
    return {"losses": torch.stack(losses)} | module.state_dict()


def alone(name: str, rank: int = 0, world: int = 1) -> dict:
    "Forward passes that no loop announces: in training mode each is a step, whoever shares it."
    q = made(name)
    stats = {}
    for step in range(STEPS):
        torch.manual_seed(10 * step + rank)
        stats = q(latents(step, WIDTH)[rank::world]).stats
    return {k: v for k, v in stats.items() if k in q.whole_step_stats} | q.state_dict()


def player(rank: int, world: int, store, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    found = {}
    for parts in (1, 2, 3):
        found |= {(name, parts): learn(name, rank, world, parts) for name in QUANTIZERS}
        found["lecam", parts] = lecam(rank, world, parts)
    found["frozen", 1] = learn("softvq of three codebooks", rank, world, frozen=True)
    found["frozen", 3] = learn("softvq of three codebooks", rank, world, 3, frozen=True)
    found |= {(name, "alone"): alone(name, rank, world) for name in QUANTIZERS if name != "kl"}
    torch.save(found, folder / f"{world}-{rank}.pt")
    dist.destroy_process_group()
