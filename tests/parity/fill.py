"""Weights and inputs that follow from names alone, so that anyone can make them: normal draws of
PCG64 seeded with the CRC-32 of the name.

The numbers beside this file are what the authors' released code computes with such weights."""

import zlib

import numpy as np
import torch


def det(name: str, shape, scale: float = 1.0, dist: str = "normal") -> torch.Tensor:
    "A draw named `name`."
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    values = rng.standard_normal(shape) if dist == "normal" else rng.uniform(-1, 1, shape)
    return torch.from_numpy(values.astype(np.float32) * np.float32(scale))


def weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    "The weight of that name and shape, scaled by its kind."
    if name.endswith("codebook_used"):
        return torch.zeros(shape)
    if len(shape) <= 1 and "norm" in name and name.endswith("weight"):
        return 1 + det(name, shape, 0.1)
    if name.endswith("gamma"):
        return 0.5 + det(name, shape, 0.1)
    if len(shape) <= 1:
        return det(name, shape, 0.02)
    is_embedding = (
        ("embed" in name or "token" in name)
        and "patch_embed" not in name
        and "embedder" not in name
    )
    return det(name, shape, 0.02 if is_embedding else min(0.05, 1 / np.sqrt(np.prod(shape[1:]))))


def images(n: int, size: int) -> torch.Tensor:
    "The fixtures' smooth images (n, 3, size, size)."
    return torch.nn.functional.interpolate(
        det(f"image-{n}-{size}", (n, 3, 8, 8), 1.0, "uniform"),
        size=(size, size),
        mode="bilinear",
        align_corners=False,
    )
