"""Does the GPU wait for its images? Training steps on a folder of JPEGs, against the same steps on
a batch that is there already.
"""

import itertools
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from measure import seconds
from PIL import Image
from steps import OPTIM, PIXELS, Ours, images
from torch import Tensor

from softvq_lab.core import best_device
from softvq_lab.data.datasets import load_data, training_view
from softvq_lab.data.transfer import to_device
from softvq_lab.runs import Run
from softvq_lab.settings.sections import DataConfig, OptimConfig, TokenizerConfig
from softvq_lab.signals import end_workers
from softvq_lab.training.loop import load_batches
from softvq_lab.training.tokenizer_task import TokenizerTask

SIZE = (500, 375)  # width and height of most photographs of ImageNet


def write_photos(folder: Path, count: int):
    "JPEGs of about 100 KB, as those of ImageNet: soft shapes with some noise."
    draws = np.random.default_rng(0)
    for i in range(count):
        few = Image.fromarray(draws.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        pixels = np.asarray(few.resize(SIZE, Image.Resampling.BICUBIC), dtype=np.float32)
        pixels = (pixels + draws.normal(0, 12, pixels.shape)).clip(0, 255).astype(np.uint8)
        place = folder / f"class-{i % 2}"
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(place / f"{i:05d}.jpg", quality=90)


def row_loader(
    rounds: int,
    preset: str = "B",
    batch: int = 128,
    photos: int = 512,
    workers: int | None = None,  # None: one for each core, 16 at most
    precision: str = "bf16",
    **config,
) -> dict:
    """Images a second: of training steps fed by worker processes (random crops, flips), of the
    same steps on one batch that lies on the device, and of the workers alone.
    """
    workers = min(16, os.cpu_count() or 1) if workers is None else workers
    c = TokenizerConfig(**(dict(preset=preset) | PIXELS | config))
    with tempfile.TemporaryDirectory() as folder:
        write_photos(Path(folder), photos)
        how = DataConfig(dataset="folder", data_path=folder, crop="random", flip=True)
        data = load_data(how, c.image_size)
        task = TokenizerTask(c, data, Run("unused"), view=training_view(data, how, 0))
        ours, x = Ours(task, precision=precision), images(batch, c.image_size)
        many = OptimConfig(**{**vars(OPTIM), "batch_size": batch})
        accelerator, steps = ours.loop.accelerator, 10 * rounds
        loader = load_batches(task, many, 0, accelerator, 0, workers)
        batches, number = iter(loader), itertools.count()

        def train(given: Iterator[list[Tensor]], n: int):
            for one in itertools.islice(given, n):
                ours(to_device(one, best_device())[0], next(number))

        train(itertools.repeat([x]), 5)  # the first steps choose kernels
        for _ in range(2 * workers):  # batches that may be waiting from before
            next(batches)
        alone = seconds(lambda: [next(batches) for _ in range(steps)]) / steps
        train(batches, 5)
        fed = seconds(lambda: train(batches, steps)) / steps
        there = seconds(lambda: train(itertools.repeat([x]), steps)) / steps
        end_workers(loader)
    return {
        "workers": workers,
        "images_s": batch / fed,
        "synthetic_images_s": batch / there,
        "of_synthetic": there / fed,
        "workers_alone_images_s": batch / alone,
    }
