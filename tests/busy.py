"Models that are not trained, in which every layer does something all the same."

import torch

from softvq_lab.generators.model import make_generator
from softvq_lab.latents.stats import LatentStats
from softvq_lab.settings.sections import GeneratorConfig


def busy_generator(kind: str):
    "Of 8 tokens with 4 values and 10 classes; what begins at zero is drawn at random."
    torch.manual_seed(0)
    stats = LatentStats((0.1,) * 4, (1.2,) * 4, 100)
    g = make_generator(GeneratorConfig(generator=kind), 8, 4, 10, stats, "").eval()
    for p in g.parameters():
        if p.numel() == 1 or p.std() == 0:
            torch.nn.init.normal_(p, std=0.05)
    return g
