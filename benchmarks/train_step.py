"""Training steps of a tokenizer: images a second, model FLOP utilisation, peak memory.

    python benchmarks/train_step.py [--preset B] [--image-size 256] [--batch 64] [--steps 200] [--precision bf16] [--compile]

Drawn scenes (`shapes`), tokenizer only, by the loop that trains: forward, backward, clipping, AdamW, averaged weights. FLOPs are counted by torch (a multiply-add is two) on the meta device, forward and backward. Prints one row of the table in
docs/reproduction.md. The peak of a GPU is that of its data sheet for the precision; on a CPU there is no utilisation.
"""
import argparse
import time

import torch
from torch.utils.flop_counter import FlopCounterMode

from softvq_lab.core import best_device
from softvq_lab.data import shapes, stack
from softvq_lab.runs import Run
from softvq_lab.strict import parse
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.training.loop import make_accelerator
from softvq_lab.training.state import State
from softvq_lab.training.task import Task
from softvq_lab.workflows import TrainConfig

PEAK = {'H200': 989e12, 'H100': 989e12, 'A100': 312e12}  # dense bf16 FLOP/s


class Reconstruct(Task):
    def __init__(self, config):
        super().__init__()
        self.model = Tokenizer(config)

    def forward(self, batch):
        y, out = self.model(batch[0])
        return {'loss': (y - batch[0]).square().mean() + sum(out.losses.values())}


def flops(config, batch: int) -> int:
    "Of a forward and backward pass."
    with torch.device('meta'): task, x = Reconstruct(config), torch.empty(batch, 3, *config.image_shape)
    with FlopCounterMode(display=False) as counter: task([x])['loss'].backward()
    return counter.get_total_flops()


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--preset', default='B')
    p.add_argument('--image-size', type=int, default=256)
    p.add_argument('--batch', type=int, default=64)
    p.add_argument('--steps', type=int, default=200)
    p.add_argument('--precision', default='bf16')
    p.add_argument('--compile', action='store_true')
    a = p.parse_args()
    c = parse(TrainConfig, dict(preset=a.preset, image_size=a.image_size, patch_size=16, tokens=64, latent_dim=32, codebook_size=8192, codebooks=4, batch_size=a.batch, steps=a.steps + 10, warmup_steps=5, lr=1e-4,
                                precision=a.precision, compile=a.compile, tracker='none'))
    device, total = best_device(), flops(c.tokenizer, a.batch)
    torch.manual_seed(0)
    state = State(Reconstruct(c.tokenizer), c.optim, c.engine, make_accelerator(Run('unused'), c.engine))
    x = [stack(shapes(a.image_size, a.batch).train)[0].to(device)]
    sync = torch.cuda.synchronize if device.type == 'cuda' else lambda: None
    warm = min(10, max(1, a.steps // 10))
    for step in range(a.steps + warm):
        if step == warm:
            sync()
            began = time.perf_counter()
        state.player.step(step, x)
        state.player.optimizer.step()
        state.ema.update(state.task.model, step=step)
    sync()
    seconds = (time.perf_counter() - began) / a.steps
    name = torch.cuda.get_device_name() if device.type == 'cuda' else f'CPU, {torch.get_num_threads()} threads'
    peak = next((v for k, v in PEAK.items() if k in name), None)
    memory = f'{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB' if device.type == 'cuda' else ''
    print('| machine | preset | pixels | batch | precision | images a second | TFLOP a step | utilisation | peak memory |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- |')
    print(f'| {name} | {a.preset} | {a.image_size} | {a.batch} | {a.precision}{", compiled" if a.compile else ""} | {a.batch / seconds:.3g} | {total / 1e12:.2f} | {f"{total / seconds / peak:.0%}" if peak else ""} | {memory} |')


if __name__ == '__main__': main()
