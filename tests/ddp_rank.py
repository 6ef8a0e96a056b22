"""What each of two processes does in tests/test_ranks.py: in a module of its own, so that they
start with little.
"""

import os

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.utils.data import TensorDataset

from softvq_lab.checkpoints import newest_checkpoint
from softvq_lab.core import ASKED_DEVICE
from softvq_lab.runs import Run
from softvq_lab.settings.sections import EngineConfig, OptimConfig, TokenizerConfig
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.training.loop import make_accelerator
from softvq_lab.training.state import State
from softvq_lab.training.task import Task

STEPS, IMAGES = 6, 8
OPTIM = OptimConfig(steps=STEPS, warmup_steps=1, lr=3e-4)
TINY = dict(preset="tiny", image_size=32, patch_size=8, tokens=8, latent_dim=4, codebook_size=64)
ENGINES = {
    "none": dict(),
    "bf16": dict(gradient_compression="bf16"),
    "in parts": dict(accumulate=2),
    "recompute": dict(recompute=True),
}


class Reconstructs(Task):
    "A tokenizer whose quantizer's loss begins at the third step."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.model, self.data = Tokenizer(TokenizerConfig(**TINY)), TensorDataset(torch.empty(0))

    def forward(self, batch: list) -> dict:
        y, out = self.model(batch[0])
        late = sum(out.losses.values()) if self.step >= 2 else 0
        return {"loss": (y - batch[0]).square().mean() + late}


def images(step: int) -> torch.Tensor:
    "The batch of a step, of all processes."
    return torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(step))


def learn(state: State, start: int = 0, stop: int = STEPS) -> State:
    "Steps of this rank."
    rank, world = state.accelerator.process_index, state.accelerator.num_processes
    for step in range(start, stop):
        state.task.step = step
        state.trainable.step(step, [images(step)[rank::world]])
        state.trainable.optimizer.step()
        state.average(step)
    return state


def weights(state: State) -> dict:
    return {k: v.detach().clone() for k, v in state.task.model.named_parameters()}


def as_before(world: int) -> State:
    "With torch's own choices for ranks."
    return State(Reconstructs(), OPTIM, EngineConfig(processes=world), Accelerator(cpu=True))


def made(run: Run, **engine) -> State:
    c = EngineConfig(processes=2, tracker="none", device="cpu", **engine)
    return State(Reconstructs(), OPTIM, c, make_accelerator(run, c))


def resumed(run: Run, **engine) -> State:
    "Stopped after three steps, and begun again from the checkpoint by a new state."
    learn(made(run, **engine), stop=3).save(run, 3, last=False)
    dist.barrier()
    state = made(run, **engine)
    return learn(state, start=state.load(newest_checkpoint(run.checkpoints)))


def in_bucket(p: nn.Parameter) -> bool:
    "Does its gradient lie in a larger tensor, that of a bucket?"
    return p.grad.untyped_storage().nbytes() > p.grad.nbytes


def player(rank: int, port: int, folder):
    torch.set_num_threads(1)
    os.environ |= dict(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", LOCAL_WORLD_SIZE="2")
    os.environ |= dict(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), ACCELERATE_USE_CPU="true")
    os.environ[ASKED_DEVICE] = "cpu"
    run = Run(folder / "run")
    found = {"as before": weights(learn(as_before(2)))}
    for name, engine in ENGINES.items():
        state = learn(made(run, **engine))
        found[name] = weights(state)
        found[f"{name}, in buckets"] = all(map(in_bucket, state.trainable.params))
    found["bf16, resumed"] = weights(resumed(run, **ENGINES["bf16"]))
    torch.save(found, folder / f"{rank}.pt")
    dist.destroy_process_group()
