"""Released SiT and DiT: the numbers that the authors' code computes, and the family of their
configs.

No trained weights can be had here: weights follow from their names (tests/parity/fill.py), on both
sides. The positions are the released model's own.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from parity.fill import det, weight
from safetensors.torch import save_file

from softvq_lab.generators.base import Guidance
from softvq_lab.generators.diffusion import Diffusion
from softvq_lab.generators.dit import DiT
from softvq_lab.generators.model import make_generator
from softvq_lab.generators.sit import SiT
from softvq_lab.generators.transformer import make_transformer
from softvq_lab.hub.models import load_generator, save
from softvq_lab.latents.stats import LatentStats
from softvq_lab.settings.sections import GeneratorConfig

PARITY = Path(__file__).parent / "parity"
SIT, DIT = "sit-mini-64", "dit-mini-64"
SHAPE = (2, 64, 32)


def read(name: str):
    return json.loads((PARITY / name).read_text())


def error(ours, expected) -> float:
    expected = torch.as_tensor(expected).double()
    return ((torch.as_tensor(ours).double() - expected).norm() / expected.norm()).item()


def folder_of(path: Path, names: dict, info: dict, **extra) -> Path:
    "A made-up released folder."
    path.mkdir(exist_ok=True)
    save_file(
        {k: weight(k, tuple(s)) for k, s in names.items()} | extra, path / "model.safetensors"
    )
    (path / "config.json").write_text(json.dumps(info))
    return path


@pytest.fixture(scope="module")
def positions() -> torch.Tensor:
    return torch.from_numpy(np.load(PARITY / f"{SIT}.npz")["pos_embed"])


@pytest.fixture(scope="module")
def released(tmp_path_factory, positions) -> dict:
    folder = tmp_path_factory.mktemp("released")
    return {
        case: load_generator(
            folder_of(
                folder / case,
                read(f"{case}.keys.json"),
                read(f"{case}.config.json"),
                pos_embed=positions,
            )
        )
        for case in (SIT, DIT)
    }


def on(g, **attributes):
    "The same weights with another path or schedule, which a released config does not tell."
    other = make_generator(
        GeneratorConfig(
            **{k: getattr(g.config, k) for k in ("generator", "width", "depth", "heads")},
            **attributes,
        ),
        g.tokens,
        g.latent_dim,
        g.num_classes,
        LatentStats.given(0.0, 1.0, g.latent_dim),
        "",
    )
    other.load_state_dict(g.state_dict())
    return other.eval()


class TokenizerOf:
    "What a generator asks its tokenizer for."

    def __init__(self, g, mean=0.0, std=1.0):
        self.tokens, self.latent_dim, self.fingerprint = g.tokens, g.latent_dim, "any"
        self.latent_stats = LatentStats.given(mean, std, g.latent_dim)


def noises(case: str):
    "The fixtures' draws: the start, then what is added on the way."
    draws = (det(f"{case}{n}", SHAPE) for n in ["z", *(f"noise{k}" for k in range(1, 20))])
    return lambda *shape: next(draws)


def drawn(g, case: str, sampler: str, steps: int, guidance: Guidance, **options) -> torch.Tensor:
    with torch.no_grad():
        return g.draw(
            torch.from_numpy(np.load(PARITY / f"{case}.npz")["y"]),
            noises(case),
            sampler,
            steps,
            guidance,
            **options,
        )


def test_sit_says_what_the_released_model_says(released):
    g, f = released[SIT], np.load(PARITY / f"{SIT}.npz")
    assert type(g) is SiT and (g.tokens, g.latent_dim, g.null_class) == (64, 32, 1000)
    with torch.no_grad():
        v = g.net(*(torch.from_numpy(f[k]) for k in "xty"))
    assert error(v, f["v"]) < 1e-4
    assert error(make_transformer(g.config, 64, 32, 1000).pos_embed, f["pos_embed"]) < 1e-4


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_sit_samples_and_learns_as_released(released, path):
    g, f, guidance = (
        on(released[SIT], interpolant=path),
        np.load(PARITY / f"{SIT}.npz"),
        Guidance(1.75, 0.0, 0.7),
    )
    assert error(drawn(g, SIT, "euler", 8, guidance), f[f"ode_{path}"]) < 1e-4
    assert error(drawn(g, SIT, "heun", 6, guidance), f[f"heun_{path}"]) < 1e-4
    assert (
        error(drawn(g, SIT, "sde", 8, guidance, diffusion="2t", last_step=0.04), f[f"sde_{path}"])
        < 1e-4
    )
    x, y = torch.from_numpy(f["x"]), torch.from_numpy(f["y"])
    with torch.no_grad():
        loss = g.loss_at(x, det(f"{SIT}eps", SHAPE), torch.tensor([0.2, 0.8]), y)
    assert error(loss, f[f"loss_{path}"]) < 1e-4


def test_dit_says_what_the_released_model_says(released):
    g, f = released[DIT], np.load(PARITY / f"{DIT}.npz")
    assert type(g) is DiT and (g.tokens, g.latent_dim, g.null_class) == (64, 32, 1000)
    with torch.no_grad():
        assert error(g.net(*(torch.from_numpy(f[k]) for k in "xty")), f["out"]) < 1e-4


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_dit_samples_and_learns_as_released(released, schedule):
    g, f = on(released[DIT], noise_schedule=schedule), np.load(PARITY / f"{DIT}.npz")
    x, t, y = (torch.from_numpy(f[k]) for k in "xty")
    noise = det(f"{DIT}eps", SHAPE)
    assert error(g.diffusion.q_sample(x, t, noise), f[f"q_{schedule}"]) < 1e-4
    with torch.no_grad():
        parts = g.losses_at(x, noise, t, y)
    assert (
        error(parts["mse"], f[f"mse_{schedule}"]) < 1e-4
        and error(parts["vb"], f[f"vb_{schedule}"]) < 1e-4
        and error(sum(parts.values()), f[f"loss_{schedule}"]) < 1e-4
    )
    for sampler in ("ddpm", "ddim"):
        assert error(drawn(g, DIT, sampler, 10, Guidance(1.0)), f[f"{sampler}_{schedule}"]) < 1e-4
    assert error(drawn(g, DIT, "ddim", 10, Guidance(1.35)), f[f"ddim_cfg_{schedule}"]) < 1e-4


def test_no_array_of_the_fixtures_is_left_out():
    paths, schedules = ("linear", "cosine"), ("cosine", "linear")
    assert set(np.load(PARITY / f"{SIT}.npz").files) == {"x", "t", "y", "v", "pos_embed"} | {
        f"{k}_{p}" for k in ("ode", "heun", "sde", "loss") for p in paths
    }
    assert set(np.load(PARITY / f"{DIT}.npz").files) == {"x", "t", "y", "out"} | {
        f"{k}_{s}"
        for k in ("q", "mse", "vb", "loss", "ddpm", "ddim", "ddim_cfg")
        for s in schedules
    }


def names_of(kind: str, info: dict) -> dict:
    "Names and shapes of a released model, written down from the published architecture."
    C, p, D = info["hidden_size"], info["patch_size"], info["in_channels"]
    hidden, out = int(C * info["mlp_ratio"]), D * (2 if kind == "dit" else 1)

    def line(at, i, o):
        return {f"{at}.weight": (o, i), f"{at}.bias": (o,)}

    names = (
        line("x_embedder", D, C)
        if info["vae_1d"]
        else {"x_embedder.proj.weight": (C, D, p, p), "x_embedder.proj.bias": (C,)}
    )
    names |= (
        line("t_embedder.mlp.0", 256, C)
        | line("t_embedder.mlp.2", C, C)
        | {
            "y_embedder.embedding_table.weight": (
                info["num_classes"] + (info["class_dropout_prob"] > 0),
                C,
            )
        }
    )
    for i in range(info["depth"]):
        at = f"blocks.{i}"
        names |= (
            line(f"{at}.attn.qkv", C, 3 * C)
            | line(f"{at}.attn.proj", C, C)
            | line(f"{at}.mlp.fc1", C, hidden)
            | line(f"{at}.mlp.fc2", hidden, C)
            | line(f"{at}.adaLN_modulation.1", C, 6 * C)
        )
        if info.get("qk_norm"):
            names |= {
                f"{at}.attn.{n}_norm.{w}": (C // info["num_heads"],)
                for n in "qk"
                for w in ("weight", "bias")
            }
    names |= line("final_layer.linear", C, p * p * out) | line(
        "final_layer.adaLN_modulation.1", C, 2 * C
    )
    if info.get("z_dims", [0]) != [0]:
        names |= {"projectors.0.0.weight": (16, C), "projectors.0.0.bias": (16,)}
    return names


SMALL_GRID = dict(hidden_size=32, depth=1, num_heads=2, vae_1d=False)


@pytest.mark.parametrize("case", [SIT, DIT])
def test_the_written_down_names_are_the_released_ones(case):
    assert names_of(case[:3], read(f"{case}.config.json")) == {
        k: tuple(s) for k, s in read(f"{case}.keys.json").items() if k != "pos_embed"
    }


@pytest.mark.parametrize(
    "changes",
    [
        dict(hidden_size=32, depth=2, num_heads=2, input_size=32),
        dict(hidden_size=48, depth=1, num_heads=3, in_channels=16, input_size=128, num_classes=10),
        dict(hidden_size=32, depth=2, num_heads=4, mlp_ratio=2.0, class_dropout_prob=0.0),
        dict(in_channels=4, input_size=8, patch_size=2, **SMALL_GRID),
        dict(in_channels=3, input_size=4, patch_size=1, **SMALL_GRID),
    ],
    ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items())[:70],
)
@pytest.mark.parametrize("case", [SIT, DIT])
def test_folders_of_other_sizes_load(tmp_path, case, changes):
    kind = case[:3]
    info = (
        read(f"{case}.config.json")
        | changes
        | (
            dict(decoder_hidden_size=changes["hidden_size"], qk_norm=True, z_dims=[768])
            if kind == "sit"
            else {}
        )
    )
    g = load_generator(folder_of(tmp_path / "r", names_of(kind, info), info))
    tokens = info["input_size"] ** (1 if info["vae_1d"] else 2)
    assert (g.config.generator, g.tokens, g.latent_dim, g.num_classes, len(g.net.blocks)) == (
        kind,
        tokens,
        info["in_channels"],
        info["num_classes"],
        info["depth"],
    )
    y = torch.tensor([0, info["num_classes"] - 1])
    g.pair_with(TokenizerOf(g))
    z = g.sample(y, steps=2)
    assert z.shape == (2, tokens, info["in_channels"]) and z.isfinite().all()
    assert (g.guidance.scale == 1) == (info["class_dropout_prob"] == 0)
    save(g, tmp_path / "ours")
    assert torch.equal(load_generator(tmp_path / "ours").sample(y, steps=2), z)


def test_patches_of_a_released_grid_are_a_convolution(tmp_path):
    """Against torch's own convolution, with the image of latents laid out as DiT has it: channels
    first.
    """
    info = read(f"{SIT}.config.json") | SMALL_GRID
    info |= dict(decoder_hidden_size=32, in_channels=3, input_size=6, patch_size=2)
    names = names_of("sit", info)
    g = load_generator(folder_of(tmp_path, names, info))
    image, seen = torch.randn(2, 3, 6, 6), []
    g.net.x_embedder.register_forward_hook(lambda m, args, out: seen.append(out))
    g.net(image.flatten(2).mT, torch.rand(2), torch.tensor([1, 2]))
    w, b = (
        weight(f"x_embedder.proj.{k}", names[f"x_embedder.proj.{k}"]) for k in ("weight", "bias")
    )
    torch.testing.assert_close(
        seen[0], torch.nn.functional.conv2d(image, w, b, stride=2).flatten(2).mT
    )


def test_what_a_released_generator_draws_is_scaled_by_what_its_tokenizer_states(tmp_path):
    info = read(f"{SIT}.config.json")
    names, y = read(f"{SIT}.keys.json"), torch.tensor([3, 999])
    mean, std = [i / 100 for i in range(32)], [0.07 + i / 50 for i in range(32)]
    drawn = {}
    for name, stats in {"plain": (0.0, 1.0), "scaled": (mean, std)}.items():
        g = load_generator(folder_of(tmp_path, names, info))
        g.check_tokenizer(TokenizerOf(g, *stats))
        drawn[name] = g.sample(y, steps=2)
    expected = drawn["plain"] * torch.tensor(std) + torch.tensor(mean)
    torch.testing.assert_close(drawn["scaled"], expected)


def test_a_released_generator_alone_draws_normalised_latents_and_samples_none(tmp_path):
    names, info = read(f"{SIT}.keys.json"), read(f"{SIT}.config.json")
    g, y = load_generator(folder_of(tmp_path, names, info)), torch.tensor([1])

    def noise(*shape):
        return det("z", (1, *shape))

    assert g.draw(y, noise, "euler", 1, Guidance(1.0)).shape == (1, 64, 32)
    for f in (lambda: g.sample(y), lambda: g.loss(torch.zeros(1, 64, 32), y)):
        with pytest.raises(ValueError, match="does not know the statistics of its latents yet"):
            f()


def test_a_released_generator_is_bound_to_one_tokenizer_of_its_shape(tmp_path):
    g = load_generator(folder_of(tmp_path, read(f"{SIT}.keys.json"), read(f"{SIT}.config.json")))
    tokenizer = TokenizerOf(g)
    tokenizer.tokens = 32
    with pytest.raises(
        ValueError, match="draws 64 tokens of width 32, and this tokenizer has 32 of width 32"
    ):
        g.check_tokenizer(tokenizer)
    g.check_tokenizer(TokenizerOf(g, 0.5, 2.0))
    swapped = TokenizerOf(g, 0.1, 3.0)
    swapped.fingerprint = "another"
    with pytest.raises(ValueError, match="trained on latents of tokenizer any, not of another"):
        g.check_tokenizer(swapped)
    assert g.stats.std == (2.0,) * 32


def saved_as_before(g, folder):
    "A released generator that an earlier version saved by itself: it wrote mean 0 and deviation 1."
    save(g, folder)
    info = json.loads((folder / "config.json").read_text())
    info["latent_stats"] = {"mean": [0.0] * 32, "std": [1.0] * 32, "count": 0}
    (folder / "config.json").write_text(json.dumps(info))


@pytest.mark.parametrize("store", [save, saved_as_before], ids=["now", "earlier"])
def test_a_released_generator_saved_by_itself_still_has_no_statistics(tmp_path, store):
    g = load_generator(
        folder_of(tmp_path / "r", read(f"{SIT}.keys.json"), read(f"{SIT}.config.json"))
    )
    store(g, tmp_path / "s")
    again = load_generator(tmp_path / "s")
    assert again.known_stats is None
    again.pair_with(TokenizerOf(again, 0.25, 0.5))
    save(again, tmp_path / "bound")
    bound = load_generator(tmp_path / "bound")
    assert (bound.stats.mean[0], bound.stats.std[31]) == (0.25, 0.5)
    assert bound.tokenizer_fingerprint == "any"


@pytest.mark.parametrize(
    "case,changes,asked,setting",
    [
        (DIT, {}, {}, "cosine"),
        (DIT, {}, dict(noise_schedule="linear"), "linear"),
        (DIT, dict(noise_schedule="linear"), {}, "linear"),
        (DIT, dict(noise_schedule="cosine"), dict(noise_schedule="cosine"), "cosine"),
        (SIT, {}, {}, "linear"),
        (SIT, {}, dict(interpolant="cosine"), "cosine"),
        (SIT, dict(path_type=None), dict(interpolant="cosine"), "cosine"),
        (SIT, dict(path_type="cosine"), {}, "cosine"),
        (SIT, dict(path_type="linear"), dict(interpolant="linear"), "linear"),
    ],
)
def test_path_and_schedule_are_the_configs_else_those_asked_for_else_noted(
    tmp_path, case, changes, asked, setting
):
    info = read(f"{case}.config.json") | changes
    g = load_generator(folder_of(tmp_path, read(f"{case}.keys.json"), info), **asked)
    found = g.diffusion.schedule if case == DIT else g.config.interpolant
    assert found == setting
    said = any(v not in ("edm", None) for v in changes.values())
    assert bool(g.notes) == (not said and not asked)
    assert all(repr(setting) in note for note in g.notes)


@pytest.mark.parametrize(
    "case,changes,asked,says",
    [
        (SIT, dict(path_type="cosine"), dict(interpolant="linear"), "config.json says 'cosine'"),
        (DIT, dict(noise_schedule="linear"), dict(noise_schedule="cosine"), "says 'linear'"),
        (SIT, {}, dict(noise_schedule="cosine"), "interpolant is for sit"),
        (DIT, {}, dict(interpolant="cosine"), "noise_schedule for dit"),
        (DIT, {}, dict(noise_schedule="cosin"), "noise_schedule='cosin'"),
        (SIT, {}, dict(interpolant="edm"), "interpolant='edm'"),
        (DIT, dict(noise_schedule="squaredcos"), {}, "noise_schedule='squaredcos'"),
    ],
)
def test_another_process_than_a_released_model_can_have_is_refused(
    tmp_path, case, changes, asked, says
):
    info = read(f"{case}.config.json") | changes
    folder_of(tmp_path, read(f"{case}.keys.json"), info)
    with pytest.raises(ValueError, match=says):
        load_generator(tmp_path, **asked)


def test_a_saved_generator_keeps_its_process(tmp_path):
    info = read(f"{DIT}.config.json")
    g = load_generator(folder_of(tmp_path / "r", read(f"{DIT}.keys.json"), info))
    save(g, tmp_path / "s")
    assert load_generator(tmp_path / "s", noise_schedule="cosine").diffusion.schedule == "cosine"
    with pytest.raises(ValueError, match="was trained with noise_schedule='cosine'"):
        load_generator(tmp_path / "s", noise_schedule="linear")


@pytest.mark.parametrize(
    "case,changes,says",
    [
        (SIT, dict(path_type="vp"), "path_type='vp'"),
        (SIT, dict(patch_size=2), "patch_size=2"),
        (SIT, dict(decoder_hidden_size=96), "decoder_hidden_size=96"),
        (SIT, dict(use_rope=True), "use_rope=True"),
        (DIT, dict(learn_sigma=False), "learn_sigma=False"),
        (DIT, dict(vae_1d=False, patch_size=8), "patch_size=8"),
        (DIT, dict(num_heads=5), "heads=5"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused_by_name(tmp_path, case, changes, says):
    with pytest.raises(ValueError, match=says):
        load_generator(folder_of(tmp_path, {"x": (1,)}, read(f"{case}.config.json") | changes))


def test_a_folder_that_is_not_whole_says_so(tmp_path):
    info, names = read(f"{SIT}.config.json"), read(f"{SIT}.keys.json")
    folder_of(
        tmp_path,
        {k: s for k, s in names.items() if k != "x_embedder.bias"},
        info,
        surplus=torch.zeros(2),
    )
    with pytest.raises(ValueError, match="missing: net.x_embedder.bias") as e:
        load_generator(tmp_path)
    assert "surplus: net.surplus" in str(e.value)
    folder_of(tmp_path, names, {k: v for k, v in info.items() if k != "num_classes"})
    with pytest.raises(ValueError, match="'num_classes' is missing"):
        load_generator(tmp_path)


@pytest.mark.parametrize("size,millions", [("S", 33), ("B", 130), ("L", 458), ("XL", 675)])
@pytest.mark.parametrize("tokens,grid", [(64, {}), (1024, dict(latent_rows=32, latent_patch=2))])
def test_parameter_counts_are_the_papers(size, millions, tokens, grid):
    with torch.device("meta"):
        net = make_transformer(
            GeneratorConfig(size=size, **grid), tokens, 32 if tokens == 64 else 4, 1000
        )
    assert abs(sum(p.numel() for p in net.parameters()) / 1e6 / millions - 1) < 0.01


def test_the_likelihood_at_the_first_timestep_is_that_of_bins():
    """vb at t = 0 against the normal's distribution function, which the released approximation
    follows.
    """
    d, x = Diffusion("linear"), torch.tensor([[-1.0, -0.3, 0.0, 0.4, 1.0]])
    noise, out = torch.randn(1, 5), torch.zeros(1, 10)
    t = torch.zeros(1, dtype=torch.long)
    x_t = d.q_sample(x, t, noise)
    p = torch.distributions.Normal(
        *(lambda b: (b.mean.double(), (0.5 * b.log_variance).double().exp()))(d.back(out, x_t, t))
    )
    upper, lower = p.cdf(x.double() + 1 / 255), p.cdf(x.double() - 1 / 255)
    mass = torch.where(x < -0.999, upper, torch.where(x > 0.999, 1 - lower, upper - lower))
    assert abs(d.losses(out, x, x_t, t, noise)["vb"].item() - (-mass.log2()).mean().item()) < 0.02
