"""Statistics of latents: what files may state, one mean and deviation for all channels, and whose
are taken in training.
"""

import contextlib
import dataclasses
import json
import math

import pytest
import torch

from softvq_lab.data.datasets import digits
from softvq_lab.generators.model import make_generator
from softvq_lab.hub.models import load_generator, load_tokenizer, save
from softvq_lab.latents.cache import cache_latents, open_cache
from softvq_lab.latents.stats import LatentStats, combine, measure_latents, moments, stats_of
from softvq_lab.runs import open_run
from softvq_lab.settings.sections import GeneratorConfig, TokenizerConfig
from softvq_lab.tokenizer.external import ExternalTokenizer
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.training.generator_task import GeneratorTask, load_latents

D = 3
GOOD = {"mean": [0.5, -1.0, 0.0], "std": [1.0, 0.25, 3], "count": 40}
PUBLISHED = LatentStats.given(0.01, 0.25, D)


def small_tokenizer(latent_stats=None) -> Tokenizer:
    torch.manual_seed(0)
    config = TokenizerConfig(image_size=16, tokens=4, latent_dim=D, codebook_size=8)
    t = Tokenizer(config).eval()
    t.latent_stats = latent_stats
    return t


# ---------------------------------------------------------------- what files may state


def rewrite(path, key: str, value):
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))


@contextlib.contextmanager
def rewritten(folder, value):
    "Within it the file of `folder` has `value` under its key; gives what opens the folder."
    path, key, open_it = folder
    before = path.read_text()
    rewrite(path, key, value)
    try:
        yield open_it
    finally:
        path.write_text(before)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A tokenizer, a generator and a latent cache on the disk, with the file and the key that hold
    their statistics.
    """
    root = tmp_path_factory.mktemp("statistics")
    t = small_tokenizer(LatentStats.read(GOOD))
    save(t, root / "tokenizer")
    save(
        make_generator(GeneratorConfig(), 4, D, 10, LatentStats.read(GOOD), t.fingerprint).eval(),
        root / "generator",
    )
    cache_latents(t, digits(16), root / "cache", progress=False)

    def opened():
        return open_cache(root / "cache", t.fingerprint, verify=False)

    return {
        "tokenizer": (
            root / "tokenizer/config.json",
            "latent_stats",
            lambda: load_tokenizer(root / "tokenizer"),
        ),
        "generator": (
            root / "generator/config.json",
            "latent_stats",
            lambda: load_generator(root / "generator"),
        ),
        "cache": (root / "cache/cache.json", "stats", opened),
    }


BAD = {
    "too few": (dict(mean=[0.0], std=[1.0]), "1 means and 1 standard deviations"),
    "of another length each": (dict(mean=[0.0] * 4), "4 means and 3 standard deviations"),
    "millions": (dict(mean=[0.0] * 10**5, std=[1.0] * 10**5), "100000 means"),
    "not a number": (dict(mean=[0.0, float("nan"), 0.0]), "a mean of nan"),
    "infinite": (dict(std=[1.0, float("inf"), 1.0]), "a standard deviation of inf"),
    "zero": (dict(std=[1.0, 0, 1.0]), "a standard deviation of 0"),
    "negative": (dict(std=[1.0, 1.0, -0.5]), "a standard deviation of -0.5"),
    "text": (dict(std=[1.0, "0.07", 1.0]), "'0.07' is no number"),
    "truth": (dict(std=[1.0, True, 1.0]), "True is no number"),
    "nothing": (dict(mean=[None, 0.0, 0.0]), "None is no number"),
    "nested": (dict(mean=[[0.0], 0.0, 0.0]), "is no number"),
    "a single number": (dict(mean=0.0, std=1.0), "0 means and 0 standard deviations"),
    "beyond float32": (dict(std=[1e-60, 1.0, 1.0]), "a standard deviation of 1e-60"),
    "beyond float64": (dict(mean=[10**400, 0.0, 0.0]), "a mean of 10000"),
    "a negative count": (dict(count=-1), "count=-1"),
    "a broken count": (dict(count=0.5), "count=0.5"),
    "no count": ({"count": ...}, "without mean, std and count"),
}


@pytest.mark.parametrize("kind", ["tokenizer", "generator", "cache"])
@pytest.mark.parametrize("change,says", BAD.values(), ids=BAD)
def test_impossible_statistics_are_refused_with_the_files_name(folders, kind, change, says):
    path, _, open_it = folders[kind]
    wrong = {k: v for k, v in {**GOOD, **change}.items() if v is not ...}
    with rewritten(folders[kind], wrong), pytest.raises(ValueError) as e:
        open_it()
    told = str(e.value)
    assert says in told and path.name in told and str(path.parent) in told and len(told) < 400
    open_it()


@pytest.mark.parametrize("value", [[], "mean 0, std 1", 7, {}, [0.0, 1.0]], ids=str)
@pytest.mark.parametrize("kind", ["tokenizer", "generator", "cache"])
def test_what_is_no_statistics_at_all_is_refused(folders, kind, value):
    with rewritten(folders[kind], value) as open_it:
        with pytest.raises(ValueError, match="without mean, std and count"):
            open_it()


def test_a_generator_that_was_trained_here_has_statistics(folders):
    with rewritten(folders["generator"], None) as open_it:
        with pytest.raises(ValueError, match="has no latent_stats"):
            open_it()


def test_a_tokenizer_that_was_not_measured_yet_opens(folders):
    with rewritten(folders["tokenizer"], None) as open_it:
        assert open_it().latent_stats is None


# ---------------------------------------------------------------- one for all channels


def latents(n: int = 31) -> torch.Tensor:
    g = torch.Generator().manual_seed(3)
    z = torch.randn(n, 5, D, generator=g)
    return z * torch.tensor([0.1, 2.0, 0.7]) + torch.tensor([4.0, -1, 0.3])


def test_scalar_statistics_are_those_of_all_numbers_together():
    z = latents()
    s = LatentStats.measure(z, "scalar")
    assert s.mean == pytest.approx([z.double().mean().item()] * D, rel=1e-12)
    assert s.std == pytest.approx([z.double().std().item()] * D, rel=1e-12)
    parts = combine([moments(p) for p in z.split([1, 7, 23])])
    assert parts.scaled("scalar").std == pytest.approx(s.std, rel=1e-12)
    assert s.normalize(z).std().item() == pytest.approx(1, rel=1e-5)


def test_a_constant_channel_has_no_spread_of_its_own_in_scalar_statistics():
    z = latents()
    z[..., 1] = 7.0
    s = LatentStats.measure(z, "scalar")
    assert s.std == pytest.approx([z.double().std().item()] * D, rel=1e-12)


def test_statistics_given_by_somebody_can_be_pooled_too():
    s = LatentStats.given([1.0, -1.0], [0.5, 0.5], 2).scaled("scalar")
    assert s.mean == (0.0, 0.0) and s.std == pytest.approx([math.sqrt(0.25 + 1)] * 2)


def test_an_unknown_scale_is_refused():
    with pytest.raises(ValueError, match="Possible: channel, scalar"):
        LatentStats.measure(latents(), "token")


# ---------------------------------------------------------------- of a diffusers autoencoder


def test_a_published_scaling_factor_stands_for_statistics_and_without_one_nobody_knows(tmp_path):
    import diffusers

    diffusers.AutoencoderKL(
        block_out_channels=(32,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        latent_channels=D,
    ).save_pretrained(tmp_path)
    t = ExternalTokenizer(tmp_path, 8)
    assert stats_of(t) == LatentStats.given(0.0, 1.0, D) and t.latent_stats is None
    g = make_generator(GeneratorConfig(), t.tokens, D, 10, None, "")
    g.pair_with(t)
    assert g.stats == stats_of(t) and g.tokenizer_fingerprint == t.fingerprint
    rewrite(tmp_path / "config.json", "scaling_factor", None)
    without = ExternalTokenizer(tmp_path, 8)
    assert stats_of(without) is None
    alone = make_generator(GeneratorConfig(), t.tokens, D, 10, None, "")
    with pytest.raises(ValueError, match="nobody knows the statistics"):
        alone.pair_with(without)


# ---------------------------------------------------------------- whose are taken in training


@pytest.mark.parametrize("where", ["memory", "fly", "cache"])
@pytest.mark.parametrize("scale", ["channel", "scalar"])
def test_training_takes_what_a_released_tokenizer_states(tmp_path, where, scale):
    t = small_tokenizer(PUBLISHED)
    place = str(tmp_path / "c") if where == "cache" else where
    assert load_latents(t, digits(16), place, False, 0, scale=scale)[1] == PUBLISHED


@pytest.mark.parametrize("where", ["memory", "fly", "cache"])
def test_measured_statistics_are_of_channels_or_of_all(tmp_path, where):
    t, images = small_tokenizer(), digits(16)
    place = str(tmp_path / "c") if where == "cache" else where
    each = load_latents(t, images, place, False, 0)[1]
    one = load_latents(t, images, place, False, 0, scale="scalar")[1]
    assert len(set(each.std)) == D and len(set(one.std)) == 1
    assert one.std == pytest.approx(each.scaled("scalar").std, rel=1e-9)
    assert one.std == pytest.approx(measure_latents(t, images.train, scale="scalar").std, rel=1e-6)


def test_a_generator_is_trained_on_scalar_statistics_and_says_so(tmp_path):
    config = GeneratorConfig(latent_scale="scalar")
    run = open_run(tmp_path / "r", "generator", dataclasses.asdict(config))
    task = GeneratorTask(config, small_tokenizer(), digits(16), run)
    save(task.model, tmp_path / "g")
    again = load_generator(tmp_path / "g")
    assert again.config.latent_scale == "scalar" and len(set(again.stats.mean)) == 1
