"""The exported tokenizer: shapes, errors, properties, round trips."""

import pytest
import torch

from softvq_lab.hub.models import load_tokenizer, save
from softvq_lab.quantizers.base import check_quantizer
from softvq_lab.quantizers.softvq import SoftVQ, kl_term
from softvq_lab.settings.sections import TokenizerConfig
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.tokenizer.vit import ARCHITECTURES

SMALL = dict(image_size=24, latent_dim=5, codebook_size=13)


@pytest.mark.parametrize("tokens,codebooks", [(1, 1), (6, 3), (32, 4), (64, 2)])
def test_any_token_count(tokens, codebooks):
    t = Tokenizer(TokenizerConfig(tokens=tokens, codebooks=codebooks, **SMALL))
    x = torch.randn(2, 3, 24, 24)
    y, out = t(x)
    assert (
        y.shape == x.shape
        and out.z.shape == out.z_hat.shape == (2, tokens, 5)
        and out.indices.shape == (2, tokens)
    )
    assert t.quantizer.posterior(out.z_hat).shape == (2, tokens, 13)


@pytest.mark.parametrize(
    "bad,says",
    [
        (dict(tokens=48, codebooks=5), "possible codebooks"),
        (dict(image_size=30), "possible patch sizes"),
        (dict(tau=0), "tau"),
        (dict(quantizer="vqvq"), "softvq"),
        (dict(tokns=3), "tokns"),
        (dict(quantizer="vq", similarity="dot"), "vq has 'cosine' and 'l2'"),
        (dict(quantizer="fsq", codebook_size=300), r"possible: \[16, 64"),
        (dict(quantizer="lfq", codebook_size=300), "power of two"),
    ],
)
def test_impossible_configs_stop_before_any_work(bad, says):
    with pytest.raises(ValueError, match=says):
        TokenizerConfig(**bad)


@pytest.mark.parametrize("similarity", ["cosine", "l2"])
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("codebooks", [1, 2])
def test_softvq_keeps_the_contract(similarity, detach, codebooks):
    check_quantizer(SoftVQ(5, 11, codebooks, similarity, detach_logits=detach), tokens=6)


def test_softvq_is_the_equations_written_as_loops():
    B, G, L, D, K, tau, kl_tau = 2, 3, 6, 4, 7, 0.1, 0.02
    torch.manual_seed(0)
    v = SoftVQ(D, K, G, tau=tau, kl_tau=kl_tau, kl_weight=1.0).double()
    v.codebook.data.normal_()
    z_hat = torch.randn(B, L, D)

    def unit(u):
        return u.double() / u.double().norm()

    z, entropies, mean = (
        torch.zeros(B, L, D, dtype=torch.float64),
        [],
        torch.zeros(K, dtype=torch.float64),
    )
    for b in range(B):
        for l in range(L):
            C = torch.stack([unit(c) for c in v.codebook[l // (L // G)]])
            sim = torch.stack([unit(z_hat[b, l]) @ c for c in C])
            z[b, l] = (sim / tau).exp() / (sim / tau).exp().sum() @ C
            q = (sim / kl_tau).exp() / (sim / kl_tau).exp().sum()
            entropies.append(-(q * q.log()).sum())
            mean += q / (B * L)
    out = v(z_hat)
    torch.testing.assert_close(out.z.double(), z, rtol=1e-4, atol=1e-5)
    expected = torch.stack(entropies).mean() + (mean * (mean + 1e-6).log()).sum()
    torch.testing.assert_close(out.losses["kl"].double(), expected, rtol=1e-4, atol=1e-5)


def test_latents_stay_within_the_hull_of_the_codewords():
    v = SoftVQ(6, 20)
    assert (
        v(100 * torch.randn(4, 8, 6)).z.norm(dim=-1).max() <= 1 + 1e-5
    )  # convex sums of unit vectors


def test_kl_term_rewards_use_and_decision():
    decided, alike, undecided = (
        1e3 * torch.eye(8),
        1e3 * torch.eye(8)[:1].repeat(8, 1),
        torch.zeros(8, 8),
    )
    assert (
        kl_term(decided, 1.0) < kl_term(undecided, 1.0) - 1
        and kl_term(decided, 1.0) < kl_term(alike, 1.0) - 1
    )


@pytest.mark.parametrize(
    "config",
    [
        dict(quantizer="vq"),
        dict(quantizer="gmmvq", tau=0.001),
        dict(groups=2, tau=0.001),
        dict(residual=2, similarity="l2"),
        dict(quantizer="kl"),
    ],
    ids=str,
)
def test_bfloat16_gives_no_nan_in_any_quantizer(config):
    from softvq_lab.tokenizer.model import make_quantizer

    v = make_quantizer(TokenizerConfig(latent_dim=4, codebook_size=512, **config))
    D = v.input_dim or 4
    z_hat = (
        torch.cat([torch.zeros(1, 3, D), torch.full((1, 3, D), 7.0), torch.randn(1, 3, D)])
        .bfloat16()
        .requires_grad_()
    )
    with torch.autocast("cpu", torch.bfloat16):
        out = v(z_hat)
    (out.z.float().sum() + sum(out.losses.values())).backward()
    assert (
        out.z.dtype == torch.bfloat16
        and out.z.isfinite().all()
        and z_hat.grad.isfinite().all()
        and all(l.isfinite() for l in out.losses.values())
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_gives_no_nan(dtype):
    v = SoftVQ(4, 16_384, tau=0.001)
    z_hat = (
        torch.cat([torch.zeros(1, 3, 4), torch.full((1, 3, 4), 7.0), torch.randn(1, 3, 4)])
        .to(dtype)
        .requires_grad_()
    )
    with torch.autocast("cpu", torch.bfloat16):
        out = v(z_hat)
    (out.z.float().sum() + out.losses["kl"]).backward()
    assert (
        out.z.dtype == dtype and out.z.isfinite().all() and not z_hat.grad.isnan().any()
    )  # infinity in float16 is the loss scaler's business


def test_save_and_load_give_the_same_bits(tmp_path):
    t = Tokenizer(TokenizerConfig(tokens=4, **SMALL)).eval()
    save(t, tmp_path)
    u, x = load_tokenizer(tmp_path), torch.randn(2, 3, 24, 24)
    assert torch.equal(u(x)[0], t(x)[0]) and u.fingerprint == t.fingerprint


def test_a_foreign_weight_file_is_refused_with_a_list(tmp_path):
    save(Tokenizer(TokenizerConfig(tokens=4, **SMALL)), tmp_path / "a")
    save(Tokenizer(TokenizerConfig(tokens=6, **SMALL)), tmp_path / "b")
    (tmp_path / "b" / "model.safetensors").replace(tmp_path / "a" / "model.safetensors")
    with pytest.raises(
        ValueError,
        match=(
            r"shape of encoder.latent_tokens: \(1, 6, 96\) in the "
            r"file, \(1, 4, 96\) in the model"
        ),
    ):
        load_tokenizer(tmp_path / "a")


def test_the_encoder_starts_from_a_local_file(tmp_path, monkeypatch):
    "A made-up DINOv2 file: patch 14 at 518 pixels on disk, patch 16 at 64 pixels in the tokenizer."
    import timm
    from safetensors.torch import save_file

    from softvq_lab.tokenizer.model import start_encoder

    name = "vit_small_patch14_dinov2.lvd142m"
    torch.manual_seed(1)
    made = timm.create_model(name, pretrained=False, num_classes=0).state_dict()
    save_file(made, tmp_path / f"{name}.safetensors")
    c = dict(
        preset="S",
        image_size=64,
        patch_size=16,
        tokens=4,
        encoder_init="dinov2",
        encoder_tuning="frozen",
    )
    with pytest.raises(ValueError, match="not found"):
        start_encoder(Tokenizer(TokenizerConfig(**c)))
    monkeypatch.setenv("SOFTVQ_LAB_WEIGHTS", str(tmp_path))
    t = Tokenizer(TokenizerConfig(**c))
    start_encoder(t)
    own = t.encoder.model.state_dict()
    assert (
        torch.equal(own["blocks.3.attn.qkv.weight"], made["blocks.3.attn.qkv.weight"])
        and own["pos_embed"].shape == (1, 17, 384)
        and own["patch_embed.proj.weight"].shape == (384, 3, 16, 16)
    )
    t(torch.randn(1, 3, 64, 64))[0].sum().backward()
    assert (
        all(p.grad is None for p in t.encoder.model.parameters())
        and t.encoder.latent_tokens.grad is not None
    )


def test_the_convolutional_baseline_keeps_the_contract(tmp_path):
    t = Tokenizer(
        TokenizerConfig(
            preset="cnn-tiny", image_size=32, patch_size=8, tokens=16, latent_dim=4, quantizer="vq"
        )
    ).eval()
    save(t, tmp_path)
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(load_tokenizer(tmp_path)(x)[0], t(x)[0]) and t.encode(x).z.shape == (
        2,
        16,
        4,
    )
    with pytest.raises(ValueError, match="one token for each of 16 grid places"):
        TokenizerConfig(preset="cnn-tiny", tokens=32)


def test_nested_tokens_are_fewer_tokens_of_the_same_latent():
    t = Tokenizer(TokenizerConfig(tokens=6, keep="uniform", **SMALL)).eval()
    z = t.encode(torch.randn(2, 3, 24, 24)).z
    assert [t.decode(z[:, :k]).shape for k in (1, 6)] == [(2, 3, 24, 24)] * 2
    with pytest.raises(ValueError, match="or fewer tokens"):
        t.decode(z[:, :0])


@pytest.mark.parametrize("init,tuning", [("clip", "full"), ("eva02", "frozen"), ("eva02", "lora")])
def test_other_encoders_and_tunings(init, tuning, tmp_path, monkeypatch):
    for arch, smaller in (
        ("clip", "vit_tiny_patch16_224"),
        ("eva02", "eva02_tiny_patch14_224"),
        ("base", "vit_tiny_patch16_224"),
    ):
        monkeypatch.setitem(ARCHITECTURES, arch, smaller)  # of the same classes
    c = TokenizerConfig(
        preset="B",
        image_size=64,
        patch_size=16,
        tokens=4,
        latent_dim=5,
        codebook_size=13,
        encoder_init=init,
        encoder_tuning=tuning,
    )
    t = Tokenizer(c)
    t(torch.randn(1, 3, 64, 64))[0].sum().backward()
    learns = {
        n
        for n, p in t.encoder.model.named_parameters()
        if p.grad is not None and p.grad.abs().sum() > 0
    }
    if tuning == "full":
        assert "blocks.0.norm1.weight" in learns
    else:
        assert bool(learns) == (tuning == "lora") and all("lora_" in n for n in learns)
    assert t.encoder.latent_tokens.grad.abs().sum() > 0
    save(t.eval(), tmp_path)  # a tuned encoder is loaded without its pretrained file
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(load_tokenizer(tmp_path)(x)[0], t(x)[0])


@pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderDC"])
def test_autoencoders_of_diffusers_stand_behind_the_same_contract(tmp_path, kind):
    import diffusers

    from softvq_lab.tokenizer.external import ExternalTokenizer

    small = {
        "AutoencoderKL": dict(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            latent_channels=8,
            scaling_factor=0.5,
            shift_factor=0.1,
        ),
        "AutoencoderDC": dict(
            latent_channels=8,
            attention_head_dim=8,
            encoder_block_out_channels=(16, 32),
            decoder_block_out_channels=(16, 32),
            encoder_layers_per_block=(1, 1),
            decoder_layers_per_block=(1, 1),
            encoder_qkv_multiscales=((), ()),
            decoder_qkv_multiscales=((), ()),
            scaling_factor=0.5,
        ),
    }[kind]
    theirs = getattr(diffusers, kind)(**small).eval()
    theirs.save_pretrained(tmp_path)
    t, x = ExternalTokenizer(tmp_path, 32), torch.rand(2, 3, 32, 32) * 2 - 1
    y, out = t(x)
    assert out.z.shape == (2, t.tokens, t.latent_dim) == (2, 256, 8) and y.shape == x.shape
    with torch.no_grad():
        expected = theirs.decode(
            theirs.encode(x).latent_dist.mode()
            if kind == "AutoencoderKL"
            else theirs.encode(x).latent
        ).sample
    assert torch.allclose(y, expected, atol=1e-5)


def test_only_a_loadable_folder_is_published(tmp_path, monkeypatch):
    "The hub itself cannot be had here: a stand-in records what would be sent."
    from softvq_lab.hub import models

    sent = []

    class Recorder:
        def create_repo(self, repo_id, **kw):
            sent.append(("create", repo_id, kw["private"]))

        def upload_folder(self, **kw):
            sent.append(("upload", kw["repo_id"], kw["allow_patterns"]))
            return "address"

    monkeypatch.setattr(models, "HfApi", Recorder)
    save(Tokenizer(TokenizerConfig(**SMALL)), tmp_path / "t")
    assert models.push(tmp_path / "t", "me/t") == "address"
    assert sent == [
        ("create", "me/t", True),
        ("upload", "me/t", ["config.json", "model.safetensors", "README.md", "sampling.json"]),
    ]
    (tmp_path / "t" / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(ValueError):
        models.push(tmp_path / "t", "me/t")
    assert len(sent) == 2


def test_encoder_and_decoder_have_the_size_that_was_asked_for():
    size = dict(enc_width=48, enc_depth=1, enc_heads=3, dec_width=60, dec_depth=3, dec_heads=5)
    c = TokenizerConfig(image_size=16, patch_size=4, tokens=6, codebook_size=8, **size)
    t = Tokenizer(c).eval()
    for end, trunk in (("enc", t.encoder.model), ("dec", t.decoder.model)):
        found = (trunk.embed_dim, len(trunk.blocks), trunk.blocks[0].attn.num_heads)
        assert (
            found
            == c.size_of(end)
            == tuple(size[f"{end}_{n}"] for n in ("width", "depth", "heads"))
        )
    assert t.decode(t.encode(torch.zeros(2, 3, 16, 16)).z).shape == (2, 3, 16, 16)
    assert TokenizerConfig(preset="XS", dec_depth=2).size_of("dec") == (192, 2, 6)


@pytest.mark.parametrize("preset", ["tiny", "XS", "S"])
def test_the_table_of_sizes_is_what_is_built(preset):
    with torch.device("meta"):
        t = Tokenizer(TokenizerConfig(preset=preset))
    for end, trunk in (("enc", t.encoder.model), ("dec", t.decoder.model)):
        found = (trunk.embed_dim, len(trunk.blocks), trunk.blocks[0].attn.num_heads)
        assert found == TokenizerConfig(preset=preset).size_of(end)


def test_the_preset_between_has_two_to_ten_million_parameters():
    c = TokenizerConfig(preset="XS", image_size=64, tokens=64, latent_dim=16, codebook_size=1024)
    assert 2e6 < sum(p.numel() for p in Tokenizer(c).parameters()) < 10e6


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (dict(enc_width=100, enc_heads=3), "enc_width=100 cannot be split over enc_heads=3"),
        (dict(preset="cnn-tiny", tokens=16, enc_width=3), "are for ViT presets"),
        (dict(preset="S", encoder_init="dinov2", enc_depth=3), "Leave out one of both"),
        (dict(dec_width=72, dec_heads=12, rope="axial"), "heads of a multiple of 4 channels"),
    ],
)
def test_sizes_that_cannot_be_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        TokenizerConfig(**settings)
