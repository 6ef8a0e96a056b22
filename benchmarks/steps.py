"""Training steps of a tokenizer: the loop's own and one written plainly; and how much of a GPU's
arithmetic they use.
"""

import copy

import torch
from measure import on_gpu, seconds
from plain import DenseSoftVQ
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from softvq_lab.core import best_device, seed_everything
from softvq_lab.data.datasets import shapes
from softvq_lab.data.images import stack
from softvq_lab.pretrained.files import TEACHERS
from softvq_lab.runs import Run
from softvq_lab.settings.sections import EngineConfig, OptimConfig, TokenizerConfig
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.training.adversarial import Adversary, g_loss
from softvq_lab.training.align import Aligner, TimmTeacher
from softvq_lab.training.augment import DiffAug
from softvq_lab.training.discriminators import DinoDiscriminator
from softvq_lab.training.loop import Loop, make_accelerator
from softvq_lab.training.losses import make_perceptual, reconstruction_loss
from softvq_lab.training.state import State
from softvq_lab.training.task import make_optimizer
from softvq_lab.training.tokenizer_task import TokenizerTask

PIXELS = dict(
    image_size=256, patch_size=16, tokens=64, latent_dim=32, codebook_size=8192, codebooks=4
)
OPTIM = OptimConfig(lr=1e-4, schedule="constant", warmup_steps=0, steps=100_000)
BF16 = {"H200": 989e12, "H100": 989e12, "A100": 312e12}  # dense FLOP/s of the data sheets


class PlainAdversary(Adversary):
    """The discriminator's weights get gradients in the generator's turn too, and each batch is a
    pass of its own.
    """

    def generator_loss(self, fake: Tensor) -> Tensor:
        return g_loss(self.g_kind, fake_logits=self.discriminator(self.augment(fake)))

    def _logits(self, x: Tensor):
        return self.discriminator(self.augment(x)), self.discriminator(x.float())


def make_task(config: TokenizerConfig, judged: bool, plain: bool = False) -> TokenizerTask:
    """The paper's objective with random weights in all judges (the real ones cannot be had here;
    the work is the same): VGG16, a DINO discriminator, DINOv2 as teacher.
    """
    task = TokenizerTask(config, shapes(config.image_size, 16), Run("unused"))
    if plain:
        dense = DenseSoftVQ(config.latent_dim, config.codebook_size, config.codebooks)
        dense.load_state_dict(task.model.quantizer.state_dict())
        task.model.quantizer = dense
    if not judged:
        return task
    torch.manual_seed(0)
    task.percep = make_perceptual("timm:vgg16")
    task.aligner = Aligner(
        TimmTeacher(TEACHERS["dinov2"], config.image_shape, config.patch_size), config.latent_dim
    )
    task.opponent = ((PlainAdversary if plain else Adversary)(DinoDiscriminator(), DiffAug()),)
    return task


class Ours:
    "The loop's step: (images, step) -> loss, on the device."

    def __init__(self, task: TokenizerTask, **engine):
        c, run = EngineConfig(tracker="none", **engine), Run("unused")
        self.loop = Loop(
            task, run, OPTIM, 0, State(task, OPTIM, c, make_accelerator(run, c)), tqdm(disable=True)
        )

    def __call__(self, x: Tensor, step: int) -> Tensor:
        self.loop.step(step, [x])
        return self.loop.losses["loss"]


class Plain:
    """The same step as a script has it: optimiser and averaged weights tensor by tensor, every loss
    read.
    """

    def __init__(self, task: TokenizerTask):
        self.task, self.players = (
            task.to(best_device()),
            [task, *(o.to(best_device()) for o in task.opponent)],
        )
        self.ema, self.optimizers = copy.deepcopy(task.model), [self.adamw(p) for p in self.players]

    @staticmethod
    def adamw(module: nn.Module):
        groups = [
            {k: g[k] for k in ("params", "weight_decay")}
            for g in make_optimizer(module, OPTIM).param_groups
        ]
        return torch.optim.AdamW(groups, OPTIM.lr, betas=(0.9, 0.95), foreach=False)

    def __call__(self, x: Tensor, step: int) -> Tensor:
        seed_everything(0, "step", step, 0)
        self.task.step, seen = step, []
        for player, optimizer in zip(self.players, self.optimizers):
            batch = [x] if player is self.task else self.task.oppose([x])
            player.train()
            optimizer.zero_grad()
            losses = player(batch)
            losses["loss"].backward()
            nn.utils.clip_grad_norm_(player.parameters(), OPTIM.clip, foreach=False)
            optimizer.step()
            seen.append({k: v.item() for k, v in losses.items()})
        with torch.no_grad():
            for e, p in zip(self.ema.parameters(), self.task.model.parameters()):
                e.mul_(0.999).add_(p, alpha=0.001)
        return torch.tensor(seen[0]["loss"])


def images(count: int, size: int) -> Tensor:
    return stack(shapes(size, count).train)[0].to(best_device())


def flops(config: TokenizerConfig, batch: int) -> int:
    "Of a forward and backward pass of the tokenizer, a multiply-add being two."
    with torch.device("meta"):
        model, x = Tokenizer(config), torch.empty(batch, 3, *config.image_shape)
    with FlopCounterMode(display=False) as counter:
        y, out = model(x)
        (reconstruction_loss("l2")(y, x).mean() + sum(out.losses.values())).backward()
    return counter.get_total_flops()


def row_utilisation(
    rounds: int, preset: str, batch: int = 128, compiled: str = "blocks", **config
) -> dict:
    """In bf16: images a second of the tokenizer's own training step, and the share of the data
    sheet's arithmetic that its matrix products use. `compiled`: 'none', 'blocks' (what the loop
    does) or 'whole', the model as one graph.
    """
    c = TokenizerConfig(**(dict(preset=preset) | PIXELS | config))
    how = dict(precision="bf16", compile=compiled == "blocks")
    ours, x = Ours(make_task(c, judged=False), **how), images(batch, c.image_size)
    if compiled == "whole":
        ours.loop.task.model.compile()
    warm = seconds(lambda: [ours(x, step) for step in range(10)])
    steps = 10 * rounds
    each = seconds(lambda: [ours(x, step) for step in range(10, 10 + steps)]) / steps
    name = torch.cuda.get_device_name() if on_gpu() else "CPU"
    most = next((v for k, v in BF16.items() if k in name), None)
    return {
        "compiled": compiled,
        "warm_s": warm,
        "images_s": batch / each,
        "step_flops": flops(c, batch),
        "utilisation": most and flops(c, batch) / each / most,
        "bytes": torch.cuda.max_memory_allocated() if on_gpu() else None,
    }
