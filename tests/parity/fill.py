"""Weights and inputs that follow from names alone, so that anyone can make them: normal draws of
PCG64 seeded with the CRC-32 of the name.

The numbers beside this file are what the authors' released code computes with such weights."""

import json
import zlib
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file


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


def released_weight(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    "As `weight`, for TiTok and MAETok: some of their names it would read wrongly."
    if name.endswith("weight") and ".ln_" in name:
        return 1 + det(name, shape, 0.1)
    if name == "pixel_quantize.embedding.weight":
        return det(name, shape, 1.0)
    if name in ("encoder.freqs", "decoder.freqs"):
        return det(name, shape, 0.5)
    if ".freqs_t_" in name:  # columns and rows of a square grid
        place, side = torch.arange(shape[0]), round(shape[0] ** 0.5)
        return (place % side if name.endswith("x") else place // side).float()
    return weight(name, shape)


HERE = Path(__file__).parent


def keys_of(case: str) -> dict[str, tuple[int, ...]]:
    "The names and shapes of a case."
    found = json.loads((HERE / f"{case}.keys.json").read_text())
    return {name: tuple(shape) for name, shape in found.items()}


def config_of(case: str) -> dict:
    return json.loads((HERE / f"{case}.config.json").read_text())


def release(case: str, folder: Path, but=(), more=None, config: dict | None = None) -> Path:
    """Write a case as its authors would publish it, with made-up weights.

    Args:
        but: beginnings of names to leave out
        more: further tensors
        config: another `config.json` than the case's
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = {k: s for k, s in keys_of(case).items() if not k.startswith(tuple(but))}
    made = {k: released_weight(k, s) for k, s in names.items()}
    save_file(made | (more or {}), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config or config_of(case)))
    return folder
