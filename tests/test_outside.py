"""Tokenizers that were not trained here: each reconstructs, is measured and mapped, and every
generator learns its latents.

Weights are made up. That TiTok's and MAETok's numbers are their authors' is tested elsewhere.
"""

import json
from pathlib import Path

import diffusers
import pytest
import torch
from outside import papermill
from parity.fill import release
from safetensors.torch import save_file
from torch.utils.data import Subset

from softvq_lab.core import ConfigError
from softvq_lab.evaluation import latent_map
from softvq_lab.evaluation.image_metrics import reconstruct_split
from softvq_lab.experiments.parameters import check_parameters
from softvq_lab.explore.session import load_any, load_run, open_external, reconstruct
from softvq_lab.hub.models import fingerprint_of, is_outside, load_pair, load_tokenizer
from softvq_lab.hub.titok import Layout, TiTok, released_name
from softvq_lab.latents.stats import encode_dataset, stats_of
from softvq_lab.runs import Run, figures
from softvq_lab.settings.sections import OutsideConfig
from softvq_lab.tokenizer import external
from softvq_lab.train import images_of, prepare, train_here

LEVELS = dict(
    block_out_channels=(32,) * 3,
    down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
)
DC = dict(
    latent_channels=8,
    attention_head_dim=8,
    encoder_layers_per_block=(1,) * 3,
    decoder_layers_per_block=(1,) * 3,
    encoder_block_out_channels=(16,) * 3,
    decoder_block_out_channels=(16,) * 3,
    encoder_qkv_multiscales=((),) * 3,
    decoder_qkv_multiscales=((),) * 3,
    scaling_factor=0.5,
)
RAE = dict(
    encoder_hidden_size=64,
    encoder_patch_size=8,
    encoder_num_hidden_layers=1,
    decoder_hidden_size=64,
    decoder_num_hidden_layers=1,
    decoder_num_attention_heads=2,
    decoder_intermediate_size=64,
    patch_size=8,
    encoder_input_size=32,
    latents_mean=[[[0.1]]] * 64,
    latents_std=[[[2.0]]] * 64,
)
FLAT_RAE = dict(
    reshape_to_2d=False, encoder_type="mae", latents_mean=[0.1] * 64, latents_std=[2.0] * 64
)
TINY = dict(
    encoder_block_out_channels=(16,) * 3,
    decoder_block_out_channels=(16,) * 3,
    num_encoder_blocks=(1,) * 3,
    num_decoder_blocks=(1,) * 3,
)
OF_DIFFUSERS = {  # name -> class, arguments
    "kl": ("AutoencoderKL", LEVELS | dict(scaling_factor=0.5, shift_factor=0.1)),
    "dc": ("AutoencoderDC", DC),
    "vq": ("VQModel", LEVELS | dict(latent_channels=8, vq_embed_dim=4, num_vq_embeddings=32)),
    "movq": ("VQModel", LEVELS | dict(norm_type="spatial", lookup_from_codebook=True)),
    "tiny": ("AutoencoderTiny", TINY),
    "rae": ("AutoencoderRAE", RAE),
    "rae-flat": ("AutoencoderRAE", RAE | FLAT_RAE),
}
SMALL = dict(patch_size=16, grid=2, tokens=5, encoder=(64, 1), decoder=(64, 1), latent_dim=6)
TITOKS = {
    "titok-vq": Layout(**SMALL, two_stage=True, codebook_size=32, vocabulary=16),
    "titok-vq8k": Layout(**SMALL, two_stage=False, codebook_size=32, unit_codes=False),
    "titok-vae": Layout(**SMALL, two_stage=False, codebook_size=0, unit_codes=False),
}
FLAT = ("latent_tokens", "quantize.embedding.weight")


def write_titok(layout: Layout, folder: Path):
    "A TiTok far smaller than any that is published, under the published names."
    state = {released_name(k): v for k, v in TiTok(layout).state_dict().items()}
    flat = {k for k in state if k in FLAT or k.endswith("positional_embedding")}
    save_file(
        {k: (v[0] if k in flat else v).contiguous() for k, v in state.items()},
        folder / "model.safetensors",
    )
    (folder / "config.json").write_text(json.dumps({"model": {"vq_model": {"extra": 1}}}))


def write(name: str, folder: Path) -> Path:
    "The made-up folder of a kind."
    torch.manual_seed(0)
    folder.mkdir(parents=True)
    if name == "maetok":
        return release("maetok-s-32", folder)
    if name in TITOKS:
        write_titok(TITOKS[name], folder)
    else:
        kind, arguments = OF_DIFFUSERS[name]
        getattr(diffusers, kind)(**arguments).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    "name -> its folder, written when it is wanted first."
    root, there = tmp_path_factory.mktemp("outside"), {}

    def get(name: str) -> Path:
        there[name] = there.get(name) or write(name, root / name)
        return there[name]

    return get


def size_of(name: str) -> int:
    return 16 if name in OF_DIFFUSERS and not name.startswith("rae") else 0


SMALL_ONES = [*OF_DIFFUSERS, *TITOKS]
ALL = [*SMALL_ONES, "maetok"]


def shapes(size: int = 0) -> OutsideConfig:
    return OutsideConfig(dataset="shapes", data_size=40, image_size=size)


@pytest.mark.parametrize("name", OF_DIFFUSERS)
def test_a_reconstruction_is_that_of_diffusers(folders, name):
    kind, _ = OF_DIFFUSERS[name]
    theirs = getattr(diffusers, kind).from_pretrained(folders(name)).eval()
    t, x = load_tokenizer(folders(name), 32), torch.rand(2, 3, 32, 32) * 2 - 1
    with torch.no_grad():
        if name.startswith("rae"):  # in [0, 1]
            expected = 2 * theirs((x + 1) / 2).sample - 1
        elif name == "tiny":  # its forward rounds latents to bytes
            expected = theirs.decode(theirs.encode(x).latents).sample
        elif name == "movq":
            h = theirs.quantize(theirs.encode(x).latents)[0]
            expected = theirs.decoder(theirs.post_quant_conv(h), h)
        else:
            expected = theirs(x).sample
    y, out = t(x)
    assert (y - expected).abs().max() < 1e-4
    assert out.z.shape == out.z_hat.shape == (2, t.tokens, t.latent_dim)
    assert torch.equal(t.quantizer(t.embed(x)).z, out.z)


@pytest.mark.parametrize("name", ALL)
def test_each_is_reconstructed_measured_and_mapped(folders, name):
    assert is_outside(folders(name)) and len(fingerprint_of(folders(name))) == 16
    loaded = open_external(folders(name), shapes(), size_of(name))
    t, x = loaded.tokenizer, loaded.images.heldout[0][0]
    r = reconstruct(loaded, x)
    assert r["decoded"].shape == x.shape and r["figures"]["psnr"] > 0
    few = Subset(loaded.images.heldout, range(6))
    measured = reconstruct_split(t, type("Few", (), {"heldout": few}))
    has_codes = name in ("vq", "movq", "titok-vq", "titok-vq8k")
    assert len(measured["psnr"]) == 6 and ("usage" in measured["stats"]) == has_codes
    z, z_hat, _ = encode_dataset(t, few)
    assert z.shape == z_hat.shape == (6, t.tokens, t.latent_dim)
    assert len(latent_map.image_metrics(t, few, z)["psnr"]) == 6
    assert (latent_map.codewords_of(t.quantizer) is not None) == has_codes
    assert (latent_map.posterior_entropy(t.quantizer, z_hat) is not None) == has_codes
    assert t.config.image_shape == t.image_size


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


FAST = ("kl", "vq", "titok-vq")  # each of the others has a fast test of one generator
LEARNS = [
    (name, g) if name in FAST or g == "sit" else slow(name, g)
    for name in SMALL_ONES
    for g in ("sit", "dit", "mar")
]


@pytest.mark.slow
@pytest.mark.parametrize("name,generator", LEARNS)
def test_every_generator_learns_the_latents_of_each(folders, tmp_path, name, generator):
    given = dict(generator=generator, steps=2, warmup_steps=0, batch_size=4)
    given |= dict(dataset="shapes", data_size=40, image_size=size_of(name), eval_every=2)
    config = check_parameters("train_generator", given | {"tokenizer_run": str(folders(name))})
    t = load_tokenizer(folders(name), size_of(name))
    images = images_of(config, t)
    run = prepare(config, tmp_path / "g", images)
    train_here(run, images)
    assert run.status["state"] == "done" and len(list((run.path / "samples").glob("*"))) == 1
    g, again = load_pair(run.path)  # by the number of its tokens it knows the image size
    assert (again.image_size, again.fingerprint) == (t.image_size, g.tokenizer_fingerprint)
    assert g.stats.count == t.tokens * len(images.train) and stats_of(again) is not g.stats
    z = g.sample(torch.tensor([0, 1]), steps=2)
    assert again.decode(z).shape == (2, 3, *t.image_size)
    loaded = load_run(run.path)
    assert not loaded.missing and loaded.images.source == images.source


# ---------------------------------------------------------------- what is refused


def test_a_tokenizer_from_outside_needs_images_and_a_run_has_its_own(folders, trained):
    def read(**given):
        config = check_parameters("train_generator", given)
        return images_of(config, load_tokenizer(config.tokenizer_run, config.outside.image_size))

    with pytest.raises(ConfigError, match="does not say on which images.*dataset="):
        read(tokenizer_run=str(folders("titok-vae")))
    with pytest.raises(ConfigError, match="names no images. Say which"):
        open_external(folders("titok-vae"), OutsideConfig())
    with pytest.raises(ConfigError, match="knows its images. Leave dataset out"):
        read(tokenizer_run=str(trained / "tokenizer"), dataset="shapes")
    refused = [
        ({"run": str(folders("titok-vae"))}, "names no images. Say which"),
        (
            {"run": str(trained / "tokenizer"), "dataset": "digits"},
            "knows its images. Leave dataset",
        ),
    ]
    for workflow in ("evaluate", "latent_map"):
        for given, match in refused:
            config = check_parameters(workflow, given)
            with pytest.raises(ConfigError, match=match):
                load_any(config.run, config.outside)
    with pytest.raises(ValueError, match="not image_size=64"):
        read(tokenizer_run=str(trained / "tokenizer"), image_size=64)
    with pytest.raises(ConfigError, match="data_path is only for"):
        check_parameters("train_generator", {"data_path": "x"})


@pytest.mark.parametrize(
    "name,size,says",
    [
        ("kl", 33, "not a multiple of 4.*nearest is 32"),
        ("dc", 30, "not a multiple of 4.*nearest is 32"),
        ("dc", 0, "takes images of many sizes. Say which: image_size"),
        ("rae", 64, "makes images of 32 pixels only, not image_size=64"),
        ("titok-vae", 64, "for images of 32 x 32 pixels, not image_size=64"),
    ],
)
def test_an_image_size_that_cannot_be_is_refused(folders, name, size, says):
    with pytest.raises(ValueError, match=says):
        load_tokenizer(folders(name), size)


def test_a_size_that_nobody_gives_is_the_models_own(folders):
    assert load_tokenizer(folders("kl")).image_size == (32, 32), "its sample_size"
    assert load_tokenizer(folders("rae")).image_size == (32, 32)
    assert load_tokenizer(folders("dc"), tokens=64).image_size == (32, 32)


def test_an_image_of_another_size_is_refused(folders):
    with pytest.raises(ValueError, match=r"takes 32x32 images, got \(1, 3, 16, 16\)"):
        load_tokenizer(folders("kl"), 32).encode(torch.zeros(1, 3, 16, 16))


def test_weights_that_are_not_whole_are_refused(folders, tmp_path):
    folder = write("kl", tmp_path / "kl")
    file = folder / "diffusion_pytorch_model.safetensors"
    state = diffusers.AutoencoderKL.from_pretrained(folder).state_dict()
    save_file({k: v for k, v in state.items() if k != "quant_conv.bias"}, file)
    with pytest.raises(ValueError, match="1 tensors are missing, such as quant_conv.bias"):
        load_tokenizer(folder)


def test_a_class_that_is_not_known_or_not_installed_is_refused_by_name(tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderOfTomorrow"}))
    with pytest.raises(ValueError, match="AutoencoderKL or .* VQModel.*'AutoencoderOfTomorrow'"):
        load_tokenizer(tmp_path)
    monkeypatch.setattr(external, "KINDS", (*external.KINDS, "AutoencoderOfTomorrow"))
    with pytest.raises(ValueError, match=r"AutoencoderOfTomorrow, which diffusers [\d.]+ does not"):
        load_tokenizer(tmp_path)


# ---------------------------------------------------------------- the real notebooks


# the published layouts themselves, at the least size that is published
WHOLE = ("titok-s16-vq", "titok-s16-vae", "maetok")
OTHERS = (*WHOLE, "rae", "vq", "kl", "dc", "tiny")
KINDS = [slow("titok-vq"), *map(slow, OTHERS)]


@pytest.mark.parametrize("name", KINDS)
def test_each_goes_through_the_notebooks(root, tmp_path, name):
    folder = tmp_path / "outside"
    release(name, folder) if name.startswith("titok-s16") else write(name, folder)
    data = dict(dataset="shapes", data_size=40, image_size=size_of(name))
    few = dict(probe="ridge", confidence=3)
    done = papermill(root, tmp_path, "evaluate", "runs/e.ipynb", run="outside", **data, **few)
    assert done.returncode == 0, done.stderr[-3000:]
    assert {"reconstruction", "probe-ridge-z-flat"} <= figures(Run(folder)).keys()

    train = dict(steps=4, warmup_steps=1, batch_size=8, eval_every=4, checkpoint_every=4)
    train |= data | dict(generator=("sit", "dit", "mar")[sum(map(ord, name)) % 3])
    g = dict(tokenizer_run="outside", **train)
    done = papermill(root, tmp_path, "train_generator", "runs/g.ipynb", **g)
    assert done.returncode == 0, done.stderr[-3000:]
    assert Run(tmp_path / "runs" / "g").status["state"] == "done"

    few |= dict(run="runs/g", samples=20, sample_steps=2, tokenizer_metrics=False)
    done = papermill(root, tmp_path, "evaluate", "runs/g/evaluate.ipynb", **few)
    assert done.returncode == 0, done.stderr[-3000:]
    (measured,) = [
        f for n, f in figures(Run(tmp_path / "runs" / "g")).items() if n[:7] == "samples"
    ]
    assert measured["passport"]["count"] == 20

    few = dict(run="outside", images=40, points=50, **data)
    done = papermill(root, tmp_path, "latent_map", "runs/m.ipynb", **few)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(json.loads((folder / "evaluation" / "latent_map.json").read_text())["points"]) == 40
