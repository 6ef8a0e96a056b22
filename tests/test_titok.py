"""TiTok as published: the numbers that its authors' code computes, and what cannot be opened.

No trained weights can be had here: they follow from their names (tests/parity/fill.py).
"""

from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from parity.fill import config_of, det, images, keys_of, release
from safetensors.torch import save_file

from softvq_lab.experiments.parameters import check_parameters
from softvq_lab.hub.models import is_outside, load_tokenizer
from softvq_lab.hub.titok import TiTok, layout_of, released_name

PARITY = Path(__file__).parent / "parity"
CASES = ("titok-s16-vq", "titok-s16-vq8k", "titok-s16-vae")
CODED = CASES[:2]


def error(ours, expected) -> float:
    expected = torch.as_tensor(expected).double()
    return ((torch.as_tensor(ours).double() - expected).norm() / expected.norm()).item()


def as_released(z):
    "(B, L, D) as (B, D, 1, L)."
    return z.mT[:, :, None]


def picture(y):
    "Ours in [-1, 1] as theirs, in [0, 1]."
    return (y + 1) / 2


@pytest.fixture(scope="module", params=CASES)
def opened(request, tmp_path_factory):
    "A case, its numbers, and our model of its folder."
    folder = release(request.param, tmp_path_factory.mktemp(request.param))
    numbers = dict(np.load(PARITY / f"{request.param}.npz"))
    with torch.no_grad():
        yield request.param, numbers, load_tokenizer(folder)


def same_picture(y, numbers, name, most=1e-4):
    assert error(picture(y)[..., ::4, ::4], numbers[f"{name}_strided"]) < most
    assert error(picture(y).mean(), numbers[f"{name}_mean"]) < 1e-4
    assert error(picture(y).std(), numbers[f"{name}_std"]) < 1e-4


def test_encoder_and_picture_are_the_authors(opened):
    case, numbers, t = opened
    x = images(2, 64)
    assert error(picture(x).double().sum(), numbers["x_sum"]) < 1e-6
    assert error(t.encoder(picture(x))[..., ::8], numbers["enc_every8"]) < 1e-5
    assert error(as_released(t.embed(x)), numbers["z"]) < 1e-5
    y, out = t(x)
    assert out.z.shape == (2, t.tokens, t.latent_dim) and y.shape == x.shape
    same_picture(y, numbers, "rec")
    if "z_q" in numbers:
        assert error(as_released(out.z), numbers["z_q"]) < 1e-5
        assert np.array_equal(out.indices, numbers["indices"][:, 0])


@pytest.mark.parametrize("opened", CODED, indirect=True)
def test_the_losses_of_the_codebook_are_the_authors(opened):
    case, numbers, t = opened
    losses = t.encode(images(2, 64)).losses
    assert error(losses["codebook"], numbers["codebook_loss"]) < 1e-5
    assert error(losses["commitment"], numbers["commitment_loss"]) < 1e-5
    assert error(sum(losses.values()), numbers["quantizer_loss"]) < 1e-5


@pytest.mark.parametrize("opened", CODED, indirect=True)
def test_any_indices_make_the_authors_picture(opened):
    case, numbers, t = opened
    codes = t.quantizer.codewords()[0][torch.from_numpy(numbers["made_indices"])]
    same_picture(t.decode(codes), numbers, "made_rec")


@pytest.mark.parametrize("opened", CASES[:1], indirect=True)
def test_the_vocabulary_of_the_two_stage_decoder_is_the_authors(opened):
    case, numbers, t = opened
    logits = t.decoder.logits(t.from_latent(t.encode(images(2, 64)).z))  # (B, N, K)
    codes = logits.softmax(-1) @ t.decoder.codes.weight
    grid = logits.mT.unflatten(2, (4, 4))
    assert error(grid[:, ::8], numbers["logits_every8"]) < 1e-5
    assert np.array_equal(grid.argmax(1), numbers["logits_argmax"])
    assert error(codes.mT.unflatten(2, (4, 4))[:, ::4], numbers["pixel_codes_every4"]) < 1e-5


@pytest.mark.parametrize("opened", CASES[2:], indirect=True)
def test_gaussian_latents_are_the_authors(opened):
    case, numbers, t = opened
    mean, logvar = t.embed(images(2, 64)).chunk(2, -1)
    assert error(as_released(mean), numbers["mean"]) < 1e-5
    assert error(as_released(logvar), numbers["logvar"]) < 1e-5
    assert torch.equal(t.encode(images(2, 64)).z, mean), "generators learn the means"
    noise = det(f"{case}noise", (2, 16, 1, 16))[:, :, 0].mT
    sample = mean + (logvar / 2).exp() * noise
    assert error(as_released(sample), numbers["sample"]) < 1e-5
    same_picture(t.decode(sample), numbers, "sample_rec")
    kl = 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(-1)
    assert error(kl, numbers["kl"]) < 1e-5


def test_a_folder_says_what_it_is(opened):
    case, numbers, t = opened
    assert (t.tokens, t.image_size) == (16, (64, 64)) and t.latent_stats is None
    assert t.config.quantizer == ("kl" if case == "titok-s16-vae" else "vq")
    assert len(t.fingerprint) == 16 and not t.training
    with pytest.raises(ValueError, match="takes 64x64 images"):
        t.encode(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match=f"decodes latents \\(B, 16, {t.latent_dim}\\)"):
        t.decode(torch.zeros(1, 15, t.latent_dim))


@pytest.mark.parametrize(
    "case,size",
    [
        ("titok-l32-imagenet", (256, 32, 12, (1024, 24), (1024, 24), 4096)),
        ("titok-bl64-vae-c16", (256, 64, 16, (768, 12), (1024, 24), 0)),
    ],
)
def test_the_published_sizes_have_the_published_names_and_shapes(case, size):
    keys = keys_of(case)
    with torch.device("meta"):
        t = TiTok(layout_of(config_of(case), {k: torch.empty(s) for k, s in keys.items()}))
    ours = {released_name(k): tuple(n for n in v.shape if n > 1) for k, v in t.state_dict().items()}
    assert ours == {k: tuple(n for n in s if n > 1) for k, s in keys.items()}
    found = t.layout
    sizes = (found.tokens, found.latent_dim, found.encoder, found.decoder, found.codebook_size)
    assert (found.image_size, *sizes) == size


# ---------------------------------------------------------------- what is refused


def few(case: str, **changes) -> tuple[dict, dict]:
    "The config and, without memory, the tensors of a case."
    config = deepcopy(config_of(case))
    config["model"]["vq_model"] |= changes
    with torch.device("meta"):
        return config, {k: torch.empty(s) for k, s in keys_of(case).items()}


def test_a_text_aware_titok_is_refused_by_name():
    config, weights = few("titok-s16-vae")
    weights["decoder.text_guidance_proj.weight"] = torch.empty(0)
    with pytest.raises(ValueError, match="tatitok.*decoder.text_guidance_proj.weight"):
        layout_of(config, weights)


def test_a_first_stage_makes_no_picture():
    config, weights = few("titok-s16-vq", finetune_decoder=False)
    weights = {k: w for k, w in weights.items() if not k.startswith("pixel_")}
    with pytest.raises(ValueError, match="first-stage TiTok.*MaskGIT-VQGAN"):
        layout_of(config, weights)


@pytest.mark.parametrize(
    "case,changes,says",
    [
        ("titok-s16-vq", dict(token_size=16), "token_size=16, found 12"),
        ("titok-s16-vq", dict(num_latent_tokens=32), "num_latent_tokens=32, found 16"),
        ("titok-s16-vq", dict(is_legacy=False), "is_legacy=False, found True"),
        ("titok-s16-vq8k", dict(is_legacy=True), "is_legacy=True, found False"),
        ("titok-s16-vq8k", dict(quantize_mode="vae"), "quantize_mode='vae', found 'vq'"),
        ("titok-s16-vae", dict(vit_dec_model_size="large"), "vit_dec_model_size=1024, found 512"),
        ("titok-s16-vae", dict(vit_enc_patch_size=32), "vit_enc_patch_size=32, found 16"),
    ],
)
def test_a_config_of_other_weights_is_refused(case, changes, says):
    with pytest.raises(ValueError, match=says):
        layout_of(*few(case, **changes))


@pytest.mark.slow
def test_what_is_missing_is_named_as_published_and_what_is_unknown_is_told(tmp_path):
    config = config_of("titok-s16-vae")
    config["model"]["vq_model"]["from_a_later_version"] = 3
    config["losses"] = {"unknown": True}
    more = {"ema_model.step": torch.zeros(1)}
    release("titok-s16-vae", tmp_path, more=more, config=config)
    assert load_tokenizer(tmp_path).notes == ("left unread: ema_model.step",)
    for absent in ("encoder.transformer.3.ln_1.bias", "latent_tokens", "decoder.conv_out.bias"):
        release("titok-s16-vae", tmp_path, but=[absent])
        with pytest.raises(ValueError, match=f"not a whole TiTok: '?{absent}'? is missing"):
            load_tokenizer(tmp_path)
    release("titok-s16-vae", tmp_path, more={"decoder.another.weight": torch.zeros(1)})
    with pytest.raises(ValueError, match="decoder.another.weight is surplus"):
        load_tokenizer(tmp_path)


def test_nothing_is_unpickled(tmp_path):
    release("titok-s16-vae", tmp_path, but=[""])  # its config alone
    (tmp_path / "model.safetensors").unlink()
    torch.save({"latent_tokens": torch.zeros(1)}, tmp_path / "tokenizer_titok_l32.bin")
    with pytest.raises(ValueError, match="has no model.safetensors.*tokenizer_titok_l32.bin"):
        load_tokenizer(tmp_path)


def test_it_is_measured_here_and_not_trained_further(tmp_path):
    release("titok-s16-vae", tmp_path)
    assert is_outside(tmp_path)
    with pytest.raises(ValueError, match="is for images of 64 x 64 pixels, not image_size=32"):
        load_tokenizer(tmp_path, image_size=32)
    with pytest.raises(ValueError, match="is a TiTok, which is measured here"):
        check_parameters("train", {"start_from": str(tmp_path)})


def test_half_precision_becomes_float32(tmp_path):
    case = release("titok-s16-vae", tmp_path)
    t = load_tokenizer(case)
    half = {released_name(k): v.half() for k, v in t.state_dict().items()}
    shaped = {k: v.reshape(keys_of("titok-s16-vae")[k]) for k, v in half.items()}
    save_file(shaped, tmp_path / "model.safetensors")
    again = load_tokenizer(tmp_path)
    assert next(again.parameters()).dtype == torch.float32 and again.fingerprint != t.fingerprint
