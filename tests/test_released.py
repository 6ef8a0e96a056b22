"""Released checkpoints: the numbers that the authors' code computes, and the family of their
configs.

No trained weights can be had here: weights follow from their names (tests/parity/fill.py), on both
sides.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from einops import rearrange
from parity.fill import images, weight
from safetensors.torch import save_file
from torch.utils.data import TensorDataset

from softvq_lab.data.datasets import digits
from softvq_lab.evaluation.sampling import read_samples
from softvq_lab.hub.models import load_pair, load_tokenizer, save
from softvq_lab.hub.released import LEFT_OUT, load_released_aligner
from softvq_lab.latents.stats import LatentStats, measure_latents
from softvq_lab.quantizers.continuous import AE, KL
from softvq_lab.quantizers.softvq import SoftVQ
from softvq_lab.quantizers.vq import VQ
from softvq_lab.runs import open_run
from softvq_lab.sample import main as sample_main
from softvq_lab.settings.sections import TokenizerConfig
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.training.tokenizer_task import TokenizerTask

PARITY = Path(__file__).parent / "parity"
CONFIG = json.loads((PARITY / "softvq-s-64.config.json").read_text())
KEYS = {k: tuple(s) for k, s in json.loads((PARITY / "softvq-s-64.keys.json").read_text()).items()}


def error(ours, expected) -> float:
    expected = torch.as_tensor(expected).double()
    return ((torch.as_tensor(ours).double() - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    folder = tmp_path_factory.mktemp("softvq-s-64")
    save_file({k: weight(k, s) for k, s in KEYS.items()}, folder / "model.safetensors")
    shutil.copy(PARITY / "softvq-s-64.config.json", folder / "config.json")
    return folder


def test_softvq_s_64_computes_what_the_released_model_computes(released):
    expected = np.load(PARITY / "softvq-s-64.npz")
    t, align, x = load_tokenizer(released), load_released_aligner(released), images(2, 256)
    assert abs(x.double().sum().item() / expected["x_sum"].item() - 1) < 1e-5
    with torch.no_grad():
        h = t.embed(x)
        out = t.quantizer(h)
        y = t.decode(out.z)
    assert error(h, expected["h"]) < 1e-4 and error(out.z, expected["z"]) < 1e-4
    assert error(y[..., ::8, ::8], expected["rec_strided"]) < 1e-4
    assert (
        abs(y.mean().item() - expected["rec_mean"].item()) < 1e-5
        and error(y.std(), expected["rec_std"].item()) < 1e-4
    )
    by_codebook = rearrange(out.indices, "b (g l) -> g b l", g=4)
    assert torch.equal(
        by_codebook.reshape(2, 4, 16), torch.from_numpy(expected["indices"])
    )  # the released tensor is this one, read along the wrong axes

    y, out = t.train()(x)
    aligned = align.train()(out.z, x)
    assert (
        error(out.losses["kl"].detach(), expected["entropy_loss"]) < 1e-4
        and error(aligned.detach(), expected["align_loss"]) < 1e-4
    )
    ((y - x).square().mean() + out.losses["kl"] + aligned).backward()
    assert error(t.quantizer.codebook.grad.norm(), expected["grad_embedding_norm"]) < 1e-4
    assert error(t.to_latent.weight.grad.norm(), expected["grad_quant_conv_norm"]) < 1e-4
    assert error(t.encoder.latent_tokens.grad[0, :4, :8], expected["grad_latent_tokens"]) < 1e-4
    assert (
        all(p.grad is None for p in align.teacher.held[0].parameters())
        and align.projector[0].weight.grad.abs().sum() > 0
    )


def folder_of(path, quantizer="softvq", **changes):
    "A made-up released folder: the names and shapes of a config of the family."
    info = {**CONFIG, **changes}
    dim, tokens, (enc, dec) = (
        info["codebook_embed_dim"],
        info["num_latent_tokens"],
        (384 if "small" in info[k] else 768 for k in ("encoder_model", "decoder_model")),
    )
    ours = {
        "softvq": dict(
            quantizer="softvq", codebooks=info["num_codebooks"], codebook_size=info["codebook_size"]
        ),
        "vq": dict(quantizer="vq", codebook_size=info["codebook_size"]),
    }.get(quantizer, dict(quantizer=quantizer))
    preset = {(384, 384): "S", (768, 768): "B"}[enc, dec]
    with torch.device("meta"):
        t = Tokenizer(
            TokenizerConfig(
                image_size=info["image_size"],
                patch_size=info["enc_patch_size"],
                preset=preset,
                tokens=tokens,
                latent_dim=dim,
                decoder_cls=info["dec_cls_token"],
                **ours,
            )
        )
    names = {}
    for k, v in t.state_dict().items():
        for a, b in (
            ("to_latent.", "quant_conv."),
            ("from_latent.", "post_quant_conv."),
            ("decoder.to_pixel.", "decoder.to_pixel.model."),
        ):
            k = b + k.removeprefix(a) if k.startswith(a) else k
        if k == "quantizer.codebook":
            k, v = (
                ("quantize.embedding", v)
                if quantizer == "softvq"
                else ("quantize.embedding.weight", v[0])
            )
        names[k] = tuple(v.shape)
    if quantizer in ("softvq", "vq"):
        names["quantize.codebook_used"] = (65536,)
    if info["use_rope"] and info["rope_mixed"]:
        for part, width in (("encoder", enc), ("decoder", dec)):
            names |= {
                f"{part}.freqs": (2, 12, width // 2),
                f"{part}.freqs_t_x": (256,),
                f"{part}.freqs_t_y": (256,),
            }
    save_file({k: weight(k, s) for k, s in names.items()}, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps(info))
    return names


BASE = dict(
    encoder_model="vit_base_patch14_dinov2.lvd142m", decoder_model="vit_base_patch14_dinov2.lvd142m"
)


@pytest.mark.slow
@pytest.mark.parametrize(
    "quantizer,changes,kind",
    [
        ("softvq", dict(num_latent_tokens=32, repa=False), SoftVQ),
        ("softvq", dict(num_codebooks=1, codebook_l2_norm=False, codebook_size=512), SoftVQ),
        ("softvq", dict(image_size=512, repa=False), SoftVQ),
        ("softvq", dict(dec_cls_token=False, tau=0.1), SoftVQ),
        ("softvq", dict(**BASE, codebook_size=256), SoftVQ),
        ("softvq", dict(use_rope=True, rope_mixed=True, use_ape=False), SoftVQ),
        ("softvq", dict(use_rope=True, rope_mixed=False), SoftVQ),
        ("vq", dict(codebook_size=1024, codebook_embed_dim=8), VQ),
        ("vq", dict(codebook_size=1024, codebook_l2_norm=False), VQ),
        ("kl", dict(codebook_embed_dim=16), KL),
        ("ae", dict(num_latent_tokens=128), AE),
    ],
    ids=lambda v: "-".join(map(str, v.values()))[:40] if isinstance(v, dict) else None,
)
def test_the_family_of_released_configs_loads(tmp_path, quantizer, changes, kind):
    folder_of(tmp_path, quantizer, **changes)
    t = load_tokenizer(tmp_path)
    info = {**CONFIG, **changes}
    assert (
        type(t.quantizer) is kind
        and t.tokens == info["num_latent_tokens"]
        and t.latent_dim == info["codebook_embed_dim"]
    )
    with torch.no_grad():
        y, out = t(images(1, info["image_size"]))
    assert (
        y.shape == (1, 3, info["image_size"], info["image_size"])
        and y.isfinite().all()
        and out.z.shape == (1, t.tokens, t.latent_dim)
    )


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["softvq", "vq", "kl"])
def test_a_released_cnn_loads(tmp_path, quantizer):
    """Names and shapes written down from the published architecture (LlamaGen's VQ-16), not from
    our own.
    """

    def res(at, i, o):
        return {
            f"{at}.norm1.weight": (i,),
            f"{at}.norm1.bias": (i,),
            f"{at}.conv1.weight": (o, i, 3, 3),
            f"{at}.conv1.bias": (o,),
            f"{at}.norm2.weight": (o,),
            f"{at}.norm2.bias": (o,),
            f"{at}.conv2.weight": (o, o, 3, 3),
            f"{at}.conv2.bias": (o,),
        } | (
            {f"{at}.nin_shortcut.weight": (o, i, 1, 1), f"{at}.nin_shortcut.bias": (o,)}
            if i != o
            else {}
        )

    def attn(at, c):
        return {f"{at}.norm.weight": (c,), f"{at}.norm.bias": (c,)} | {
            f"{at}.{n}.{k}": (c, c, 1, 1) if k == "weight" else (c,)
            for n in ("q", "k", "v", "proj_out")
            for k in ("weight", "bias")
        }

    def conv(at, i, o, k=3):
        return {f"{at}.weight": (o, i, k, k), f"{at}.bias": (o,)}

    def norm(at, c):
        return {f"{at}.weight": (c,), f"{at}.bias": (c,)}

    width, names = [128, 128, 256, 256, 512], conv("encoder.conv_in", 3, 128)
    for i, (a, b) in enumerate(zip([128, *width], width)):
        for j in range(2):
            names |= res(f"encoder.conv_blocks.{i}.res.{j}", a if j == 0 else b, b) | (
                attn(f"encoder.conv_blocks.{i}.attn.{j}", b) if i == 4 else {}
            )
        if i < 4:
            names |= conv(f"encoder.conv_blocks.{i}.downsample.conv", b, b)
    for i, (a, b) in enumerate(zip([512, *width[::-1]], width[::-1])):
        for j in range(3):
            names |= res(f"decoder.conv_blocks.{i}.res.{j}", a if j == 0 else b, b) | (
                attn(f"decoder.conv_blocks.{i}.attn.{j}", b) if i == 0 else {}
            )
        if i < 4:
            names |= conv(f"decoder.conv_blocks.{i}.upsample.conv", b, b)
    for part in ("encoder", "decoder"):
        names |= (
            res(f"{part}.mid.0", 512, 512)
            | attn(f"{part}.mid.1", 512)
            | res(f"{part}.mid.2", 512, 512)
        )
    names |= (
        norm("encoder.norm_out", 512)
        | conv("encoder.conv_out", 512, 256)
        | conv("decoder.conv_in", 256, 512)
        | norm("decoder.norm_out", 128)
        | conv("decoder.conv_out", 128, 3)
    )
    names |= conv("quant_conv", 256, 16 if quantizer == "kl" else 8, 1) | conv(
        "post_quant_conv", 8, 256, 1
    )
    if quantizer == "softvq":
        names["quantize.embedding"] = (4, 64, 8)
    if quantizer == "vq":
        names["quantize.embedding.weight"] = (64, 8)
    save_file({k: weight(k, s) for k, s in names.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                **CONFIG,
                "enc_type": "cnn",
                "dec_type": "cnn",
                "image_size": 64,
                "codebook_embed_dim": 8,
            }
        )
    )
    t = load_tokenizer(tmp_path)
    with torch.no_grad():
        y, out = t(images(1, 64))
    assert y.shape == (1, 3, 64, 64) and out.z.shape == (1, 16, 8) and y.isfinite().all()


def test_positions_of_256_pixels_are_resampled_for_512(tmp_path):
    names = folder_of(tmp_path, "softvq", image_size=512)
    assert names["encoder.model.pos_embed"] == (1, 1025, 384)
    names |= {k: (1, 257, 384) for k in ("encoder.model.pos_embed", "decoder.model.pos_embed")}
    save_file({k: weight(k, s) for k, s in names.items()}, tmp_path / "model.safetensors")
    assert load_tokenizer(tmp_path).encoder.model.pos_embed.shape == (1, 1025, 384)


def test_what_cannot_be_loaded_is_said(tmp_path, released):
    names = folder_of(tmp_path, "softvq")
    weights = {k: weight(k, s) for k, s in names.items()}
    save_file(
        {k: v for k, v in weights.items() if k != "quant_conv.bias"}
        | {"extra.weight": torch.zeros(2)},
        tmp_path / "model.safetensors",
    )
    with pytest.raises(ValueError, match=r"missing: to_latent.bias") as e:
        load_tokenizer(tmp_path)
    assert "surplus: extra.weight" in str(e.value)
    (tmp_path / "config.json").write_text(json.dumps({**CONFIG, "enc_type": "mamba"}))
    with pytest.raises(ValueError, match="enc_type='mamba'"):
        load_tokenizer(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"PK no safetensors")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("preset,millions", [("S", 45), ("B", 173), ("BL", 391), ("L", 608)])
def test_parameter_counts_are_the_papers(preset, millions):
    with torch.device("meta"):
        t = Tokenizer(
            TokenizerConfig(
                preset=preset,
                image_size=256,
                patch_size=16,
                tokens=64,
                latent_dim=32,
                codebook_size=8192,
                codebooks=4,
            )
        )
    assert abs(sum(p.numel() for p in t.parameters()) / 1e6 / millions - 1) < 0.01


@pytest.mark.parametrize("kind", ["axial", "mixed"])
def test_rotary_positions_are_the_published_ones(kind):
    """Against the formula of RoPE-ViT (Heo et al. 2024), which the released code uses.

    Adjacent channels are a complex number, turned by x and y of the patch.
    """
    from timm.layers import apply_rot_embed_cat

    from softvq_lab.tokenizer.vit import add_rope, make_trunk

    trunk = add_rope(make_trunk("tiny", 32, 8), kind, theta=100.0)
    N, heads, d = 16, 4, 24
    x, y = (torch.arange(N) % 4).float(), (torch.arange(N) // 4).float()
    if kind == "axial":
        f = 100.0 ** (-torch.arange(0, d, 4).float() / d)
        angle = torch.cat([torch.outer(x, f), torch.outer(y, f)], 1)
    else:
        fx, fy = trunk.rope.freqs[:, 1]  # of the second block, (heads, d/2)
        angle = torch.einsum("n,hd->hnd", x, fx) + torch.einsum("n,hd->hnd", y, fy)
    q = torch.randn(2, heads, N, d)
    turned = torch.view_as_real(
        torch.view_as_complex(q.unflatten(-1, (-1, 2))) * torch.polar(torch.ones_like(angle), angle)
    ).flatten(-2)
    table = trunk.rope.get_embed()
    assert (
        error(
            apply_rot_embed_cat(q, table[1] if kind == "mixed" else table).detach(), turned.detach()
        )
        < 1e-5
    )


def test_only_training_state_is_left_out(released):
    assert {k.split(".")[0] for k in KEYS if k.startswith(LEFT_OUT)} == {
        "quantize",
        "repa_model",
        "projection",
    }
    assert [k for k in KEYS if k.startswith("quantize") and not k.startswith(LEFT_OUT)] == [
        "quantize.embedding"
    ]


# ---------------------------------------------------------------- pairs

GENERATORS = ("sit-mini-64", "dit-mini-64", "mar-mini-64")
FEW = dict(codebook_size=32, repa=False, image_size=64)  # what is tested are the statistics


def config_of(**changes) -> dict:
    "A released tokenizer's config; `...` leaves an entry out."
    return {k: v for k, v in {**CONFIG, **FEW, **changes}.items() if v is not ...}


def generator_of(path, case: str):
    "A released generator: names and config of a parity case, weights from the names."
    path.mkdir()
    keys = json.loads((PARITY / f"{case}.keys.json").read_text())
    save_file({k: weight(k, tuple(s)) for k, s in keys.items()}, path / "model.safetensors")
    shutil.copy(PARITY / f"{case}.config.json", path / "config.json")
    return path


@pytest.fixture(scope="module")
def generators(tmp_path_factory):
    root = tmp_path_factory.mktemp("generators")
    return {case: generator_of(root / case, case) for case in GENERATORS}


def tokenizer_of(path, quantizer="softvq", **changes):
    path.mkdir(exist_ok=True)
    folder_of(path, quantizer, **FEW)
    (path / "config.json").write_text(json.dumps(config_of(**changes)))
    return path


@pytest.fixture(scope="module")
def softvq(tmp_path_factory):
    "Its config is written anew by each test: the weights stay."
    return tokenizer_of(tmp_path_factory.mktemp("softvq"))


def restate(folder, **changes):
    (folder / "config.json").write_text(json.dumps(config_of(**changes)))
    return folder


LISTS = dict(vq_mean=[i / 50 for i in range(32)], vq_std=[0.05 + i / 20 for i in range(32)])


@pytest.mark.slow
@pytest.mark.parametrize("case", GENERATORS)
@pytest.mark.parametrize(
    "stated", [dict(vq_mean=0.0009714666, vq_std=0.07259091), LISTS, dict(vq_mean=-1, vq_std=3)]
)
def test_a_pair_decodes_what_is_drawn_times_std_plus_mean(generators, softvq, case, stated):
    y = torch.tensor([7, 999])

    def draw(**s):
        return load_pair(generators[case], restate(softvq, **s))[0].sample(y, steps=1)

    plain, scaled = draw(vq_mean=0.0, vq_std=1.0), draw(**stated)
    mean, std = (torch.tensor(stated[k], dtype=torch.float32) for k in ("vq_mean", "vq_std"))
    torch.testing.assert_close(scaled, plain * std + mean, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("quantizer", ["softvq", "vq", "kl", "ae"])
def test_every_kind_of_released_tokenizer_states_its_statistics(tmp_path, quantizer):
    folder = tokenizer_of(tmp_path / quantizer, quantizer, vq_mean=0.25, vq_std=[0.5] * 32)
    t = load_tokenizer(folder)
    assert t.latent_stats == LatentStats((0.25,) * 32, (0.5,) * 32, 0)
    save(t, tmp_path / "ours")
    assert load_tokenizer(tmp_path / "ours").latent_stats == t.latent_stats


@pytest.mark.slow
@pytest.mark.parametrize("absent", [..., None], ids=["left out", "null"])
@pytest.mark.parametrize("case", GENERATORS)
def test_a_pair_whose_statistics_nobody_knows_is_refused_and_can_be_given_them(
    generators, softvq, case, absent
):
    restate(softvq, vq_mean=absent, vq_std=absent)
    t = load_tokenizer(softvq)
    assert t.latent_stats is None
    with pytest.raises(ValueError, match="nobody knows the statistics") as e:
        load_pair(generators[case], softvq)
    assert "measure_latents" in str(e.value) and "stats=stats" in str(e.value)
    split = TensorDataset(images(2, 64), torch.zeros(2))
    measured = measure_latents(t, split, scale="scalar")
    for given in (measured, (measured.mean[0], measured.std[0])):
        g, _ = load_pair(generators[case], softvq, stats=given)
        assert g.stats.std == measured.std and g.tokenizer_fingerprint == t.fingerprint


@pytest.mark.slow
@pytest.mark.parametrize(
    "stated,says",
    [
        (dict(vq_std=...), "vq_mean=0.0 and no vq_std"),
        (dict(vq_mean=...), "vq_std=1.0 and no vq_mean"),
        (dict(vq_mean=None), "vq_std=1.0 and no vq_mean"),
        (dict(vq_std=0.0), "standard deviation of 0.0"),
        (dict(vq_std=-0.07), "standard deviation of -0.07"),
        (dict(vq_std=float("nan")), "standard deviation of nan"),
        (dict(vq_std=float("inf")), "standard deviation of inf"),
        (dict(vq_mean=float("-inf")), "mean of -inf"),
        (dict(vq_std="0.07"), "'0.07' is no number"),
        (dict(vq_mean="zero"), "'zero' is no number"),
        (dict(vq_std=True), "True is no number"),
        (dict(vq_std=[1.0] * 31), "31 standard deviations"),
        (dict(vq_mean=[0.0]), "1 means"),
        (dict(vq_mean=[]), "0 means"),
        (dict(vq_std=[1.0] * 31 + ["1"]), "'1' is no number"),
        (dict(vq_std={"all": 1.0}), "is no number"),
        (dict(vq_mean=[[0.0] * 32], vq_std=[[1.0] * 32]), "1 means"),
    ],
    ids=lambda v: str(v)[:40],
)
def test_impossible_statistics_of_a_released_tokenizer_are_refused(softvq, stated, says):
    restate(softvq, **stated)
    with pytest.raises(ValueError) as e:
        load_tokenizer(softvq)
    assert says in str(e.value) and "config.json" in str(e.value)


@pytest.mark.parametrize(
    "stats,says",
    [
        ((0.0, 0.0), "standard deviation of 0.0"),
        ((0.0, [1.0] * 5), "5 standard deviations"),
        (0.07, "no LatentStats"),
        ((0.0, 1.0, 2.0), "no LatentStats"),
        (LatentStats((0.0,) * 5, (1.0,) * 5, 9), "of 5 channels"),
    ],
)
def test_impossible_statistics_that_are_given_are_refused(generators, softvq, stats, says):
    restate(softvq)
    with pytest.raises(ValueError, match=says):
        load_pair(generators["sit-mini-64"], softvq, stats=stats)


def test_given_statistics_come_before_the_stated_ones(generators, softvq):
    restate(softvq, vq_mean=0.0, vq_std=1.0)
    row = torch.full((32,), 2.0)
    for stats in ((0.5, 2.0), (torch.tensor(0.5), row), (np.float32(0.5), row.numpy())):
        given = load_pair(generators["sit-mini-64"], softvq, stats=stats)[0].stats
        assert (given.mean, given.std) == ((0.5,) * 32, (2.0,) * 32)


def test_a_released_generator_whose_tokenizer_is_not_named_says_so(generators):
    with pytest.raises(ValueError, match="does not say on which tokenizer"):
        load_pair(generators["sit-mini-64"])


@pytest.mark.slow
def test_samples_on_the_command_line_are_of_the_scaled_latents(generators, softvq, tmp_path):
    restate(softvq, vq_mean=0.001, vq_std=0.07)
    case, out = generators["dit-mini-64"], tmp_path / "out"
    command = [str(case), "--tokenizer", str(softvq), "--count", "2", "--sampler", "ddim"]
    how = ["--steps", "2", "--guidance", "1", "--classes", "3,8", "--out"]
    assert sample_main([*command, *how, str(out)]) == 0
    g, t = load_pair(case, softvq)
    with torch.no_grad():
        z = g.sample(torch.tensor([3, 8]), "ddim", 2, guidance=1.0)
        expected = t.decode(z).clamp(-1, 1)
    x, y = read_samples(out)
    assert y.tolist() == [3, 8] and (x - expected).abs().max() < 0.01
    restate(softvq, vq_mean=0.001, vq_std=0.08)  # other statistics, other samples
    assert sample_main([*command, *how, str(out)]) == 2


@pytest.mark.slow
def test_the_command_line_takes_statistics_schedule_and_path(generators, softvq, tmp_path, capsys):
    restate(softvq, vq_mean=..., vq_std=...)
    unknown = [str(generators["sit-mini-64"]), "--tokenizer", str(softvq), "--count", "1"]
    short = ["--sampler", "sde", "--steps", "2", "--guidance", "1", "--out"]
    assert sample_main([*unknown, *short, str(tmp_path / "a")]) == 2
    assert "nobody knows the statistics" in capsys.readouterr().err
    given = [*unknown, "--stats", "0.001", "0.07"]
    assert sample_main([*given, *short, str(tmp_path / "b")]) == 0
    assert "assumed is 'linear'" in capsys.readouterr().out
    assert sample_main([*given, "--interpolant", "cosine", *short, str(tmp_path / "c")]) == 0
    assert "assumed" not in capsys.readouterr().out
    (a, _), (b, _) = (read_samples(tmp_path / n) for n in "bc")
    assert not torch.equal(a, b)
    assert sample_main([*given, "--noise-schedule", "cosine", *short, str(tmp_path / "d")]) == 2


def test_training_only_the_decoder_keeps_the_published_statistics(tmp_path):
    c = TokenizerConfig(image_size=16, tokens=4, latent_dim=3, codebook_size=8)
    published, run = LatentStats.given(0.0, 0.25, 3), open_run(tmp_path / "r", "tokenizer", {})
    start = Tokenizer(c)
    start.latent_stats = published
    for train_only, kept in [("decoder", True), ("all", False)]:
        task = TokenizerTask(c, digits(16), run, start=start, train_only=train_only)
        task.describe(task.model, last=True)
        assert (task.model.latent_stats == published) is kept
