"""MAETok as published: the numbers that its authors' code computes, and what cannot be opened.

No trained weights can be had here: they follow from their names (tests/parity/fill.py).
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from parity.fill import config_of, det, images, keys_of, release

from softvq_lab.experiments.parameters import check_parameters
from softvq_lab.hub.maetok import only_its_own
from softvq_lab.hub.models import load_tokenizer, save
from softvq_lab.hub.released import tokenizer_config
from softvq_lab.latents.stats import LatentStats
from softvq_lab.quantizers.continuous import AE
from softvq_lab.tokenizer.model import Tokenizer

PARITY = Path(__file__).parent / "parity"
CASES = ("maetok-s-32", "maetok-s-32-conv")


def error(ours, expected) -> float:
    expected = torch.as_tensor(expected).double()
    return ((torch.as_tensor(ours).double() - expected).norm() / expected.norm()).item()


@pytest.fixture(scope="module", params=CASES)
def opened(request, tmp_path_factory):
    folder = release(request.param, tmp_path_factory.mktemp(request.param))
    numbers = dict(np.load(PARITY / f"{request.param}.npz"))
    with torch.no_grad():
        yield request.param, numbers, load_tokenizer(folder)


def same_picture(y, numbers, name):
    assert error(y[..., ::8, ::8], numbers[f"{name}_strided"]) < 1e-5
    assert abs(y.mean() - numbers[f"{name}_mean"]) < 1e-6
    assert error(y.std(), numbers[f"{name}_std"]) < 1e-5


def test_latents_and_pictures_are_the_authors(opened):
    case, numbers, t = opened
    x = images(2, 128)
    assert error(x.double().sum(), numbers["x_sum"]) < 1e-6
    assert error(t.encoder(x)[..., ::8], numbers["h_every8"]) < 1e-5
    out = t.encode(x)
    assert error(out.z, numbers["z"]) < 1e-5 and not out.losses
    same_picture(t.decode(out.z), numbers, "rec")
    same_picture(t.decode(det(f"{case}z", (2, 32, 32))), numbers, "made_rec")


def test_the_first_blocks_are_the_authors(opened):
    "Ours has the latents before the patches, theirs behind them."
    case, numbers, t = opened
    for part, cls in (("encoder", 1), ("decoder", int(t.config.decoder_cls))):
        seen = []
        block = getattr(t, part).model.blocks[0]
        handle = block.register_forward_hook(lambda m, given, out: seen.append(out))
        t(images(2, 128))
        handle.remove()
        o, L = seen[0], t.tokens
        o = torch.cat([o[:, :cls], o[:, cls + L :], o[:, cls : cls + L]], 1)
        expected = numbers[f"{part[:3]}_block0_every4_every16"]
        assert error(o[:, ::4, ::16], expected) < 1e-5


def test_its_config_tells_how_it_is_built(opened):
    case, numbers, t = opened
    c = t.config
    conv = case.endswith("conv")
    assert type(t.quantizer) is AE and c.rope == "mixed" and not c.decoder_ape
    assert (c.pixel_head, c.decoder_cls) == (("upsample", False) if conv else ("linear", True))
    assert t.latent_stats == LatentStats((0.0,) * 32, (1.0,) * 32, 0)


def test_it_is_a_tokenizer_like_ours(opened, tmp_path):
    "Saved in our layout, opened again, and a start for training."
    case, numbers, t = opened
    save(t, tmp_path / "ours")
    x = images(1, 128)
    assert torch.equal(load_tokenizer(tmp_path / "ours").decode(t.encode(x).z), t(x)[0])
    config = check_parameters("train", {"start_from": str(tmp_path / "ours")})
    assert config.tokenizer == t.config


def test_the_published_size_has_the_published_names_and_shapes():
    keys, config = keys_of("maetok-b-128"), config_of("maetok-b-128")
    with torch.device("meta"):
        weights = {k: torch.empty(s) for k, s in keys.items()}
        t = Tokenizer(tokenizer_config(config, weights))
    inside, unread = only_its_own(config, weights, t.state_dict())
    assert inside.keys() == keys.keys() and unread == ()
    numel = sum(p.numel() for p in t.parameters())
    training = ("encoder.freqs_t_", "decoder.freqs_t_", "encoder.mask_token")
    assert numel == sum(w.numel() for k, w in weights.items() if not k.startswith(training))
    assert (t.tokens, t.latent_dim, t.image_size) == (128, 32, (256, 256))


# ---------------------------------------------------------------- what is refused, and what is told


def read_on_paper(**changes):
    "The settings of a case whose config is changed."
    with torch.device("meta"):
        weights = {k: torch.empty(s) for k, s in keys_of("maetok-s-32").items()}
    return tokenizer_config(config_of("maetok-s-32") | changes, weights)


@pytest.mark.parametrize(
    "changes,says",
    [
        (dict(rope_mixed=False), "rope_mixed=False with use_rope=True"),
        (dict(use_rope=False), "no positions at all"),
        (dict(use_ape=True, dec_cls_token=False), "dec_cls_token=False with use_ape=True"),
        (dict(to_pixel="siren"), "to_pixel='siren'"),
    ],
)
def test_what_the_released_code_fails_on_is_refused(changes, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        read_on_paper(**changes)


def test_another_head_and_another_network_are_refused_by_name():
    with pytest.raises(ValueError, match="to_pixel='identity'"):
        read_on_paper(to_pixel="identity")
    with pytest.raises(ValueError, match="enc_type='mamba'"):
        read_on_paper(enc_type="mamba")
    with pytest.raises(ValueError, match="patch_size is 16, not 8"):
        read_on_paper(to_pixel="conv", enc_patch_size=8, dec_patch_size=8)


def test_unknown_fields_are_skipped_and_unread_names_told(tmp_path):
    config = config_of("maetok-s-32") | {"aux_hog_decoder": True, "aux_dino_decoder": False}
    more = {"decoder_hog.to_pixel.bias": torch.zeros(3), "aux.weight": torch.zeros(2)}
    t = load_tokenizer(release("maetok-s-32", tmp_path, more=more, config=config))
    assert t.notes == ("left unread: aux.weight, decoder_hog.to_pixel.bias",)


@pytest.mark.parametrize(
    "absent",
    [
        "encoder.model.blocks.3.ls1.gamma",
        "decoder.model.pos_embed",
        "decoder.freqs",
        "encoder.freqs_t_x",
        "encoder.mask_token",
        "post_quant_conv.bias",
    ],
)
def test_a_missing_name_is_told_as_published(tmp_path, absent):
    keys, config = keys_of("maetok-s-32"), config_of("maetok-s-32")
    with torch.device("meta"):
        weights = {k: torch.empty(s) for k, s in keys.items()}
        own = Tokenizer(tokenizer_config(config, weights)).state_dict()
    left = {k: w for k, w in weights.items() if not k.startswith(absent)}
    with pytest.raises(ValueError, match=f"not a whole MAETok.*{re.escape(absent)}"):
        only_its_own(config, left, own)


def test_a_name_too_many_is_told(tmp_path):
    release("maetok-s-32", tmp_path, more={"encoder.extra.bias": torch.zeros(2)})
    with pytest.raises(ValueError, match="surplus: encoder.extra.bias"):
        load_tokenizer(tmp_path)


def test_a_maetok_without_masks_and_rotation_needs_none_of_their_names(tmp_path):
    changes = dict(use_rope=False, use_ape=True, enc_token_drop=0.0)
    config = config_of("maetok-s-32") | changes
    but = ("encoder.freqs", "decoder.freqs", "encoder.mask_token")
    t = load_tokenizer(release("maetok-s-32", tmp_path, but=but, config=config))
    assert t.config.decoder_ape and t.config.rope == "none" and not hasattr(t, "notes")
