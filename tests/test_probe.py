"""Linear probes: what they can and cannot read, where they are put, what their passports say."""

import pytest
import torch
from scipy.stats import binomtest

from softvq_lab.data.datasets import digits
from softvq_lab.data.images import ImageData, stack
from softvq_lab.evaluation import probe as probing
from softvq_lab.evaluation.passport import compare
from softvq_lab.evaluation.probe import (
    block_features,
    block_sites,
    default_probe,
    latent_sites,
    linear_probe,
    make_probe,
    pixel_sites,
    pool,
    probe_batch,
    probe_metrics,
    probe_table,
    probe_verdict,
    ridge_probe,
    shrink_to,
    streamed_ridge,
)
from softvq_lab.generators.model import make_generator
from softvq_lab.hub.models import load_pair, load_tokenizer
from softvq_lab.latents.stats import LatentStats, encode_dataset
from softvq_lab.settings.sections import GeneratorConfig, TokenizerConfig

PROBES = [linear_probe, ridge_probe]


@pytest.fixture(scope="module")
def data() -> ImageData:
    return digits(32)


def split(x, y, n):
    return (x[:n], y[:n]), (x[n:], y[n:])


def clusters(n=300, classes=7, width=12, spread=0.3, seed=0):
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % classes
    return torch.randn(classes, width, generator=g)[y] + spread * torch.randn(
        n, width, generator=g
    ), y


@pytest.mark.parametrize("probe", PROBES)
def test_what_a_line_parts_is_read_and_what_none_parts_is_not(probe):
    x, y = clusters()
    figures, right = probe(*split(x, y, 200))
    assert (
        figures["top1"] > 0.97
        and right.dtype == torch.bool
        and right.float().mean().item() == pytest.approx(figures["top1"])
    )
    z = torch.randn(800, 2, generator=torch.Generator().manual_seed(0))
    assert probe(*split(z, (z[:, 0] * z[:, 1] > 0).long(), 500))[0]["top1"] < 0.62
    assert probe(*split(torch.zeros(100, 5), torch.arange(100) % 4, 60))[0][
        "top1"
    ] == pytest.approx(0.25)  # nothing to read


@pytest.mark.parametrize("probe", PROBES)
def test_scale_and_offset_of_features_do_not_matter(probe):
    x, y = clusters(spread=0.8)
    a, b = probe(*split(x, y, 200))[1], probe(*split(1e3 * x + 50, y, 200))[1]
    assert (a == b).float().mean() > 0.97


def test_the_probe_is_a_norm_without_weights_and_a_linear_layer():
    probe = make_probe(12, 7)
    assert sum(p.numel() for p in probe.parameters()) == 12 * 7 + 7 and probe(
        torch.randn(3, 12)
    ).shape == (3, 7)


def test_a_seed_decides_everything_and_the_global_generator_stays():
    x, y = clusters(spread=1.5)
    before = torch.random.get_rng_state()
    a, b, c = (linear_probe(*split(x, y, 200), epochs=3, seed=s) for s in (0, 0, 1))
    assert (
        a[0] == b[0] and torch.equal(a[1], b[1]) and (a[0] != c[0] or not torch.equal(a[1], c[1]))
    )
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize(
    "x,y,says",
    [
        (torch.zeros(5, 3, 4), torch.zeros(5), "`pool` tokens first"),
        (torch.zeros(5, 3), torch.zeros(4), "labels"),
        (torch.full((5, 3), torch.nan), torch.zeros(5), "NaN"),
        (torch.zeros(1, 3), torch.zeros(1), "at least 2 images"),
    ],
)
def test_what_cannot_be_probed_is_refused(x, y, says):
    with pytest.raises(ValueError, match=says):
        linear_probe((x, y.long()), (x, y.long()))


def test_tokens_become_features():
    z = torch.randn(4, 5, 3)
    assert torch.equal(pool(z, "flat")[1], z[1].flatten()) and torch.allclose(
        pool(z, "mean")[1], z[1].mean(0)
    )
    with pytest.raises(ValueError, match="possible: flat, mean"):
        pool(z, "max")


@pytest.mark.parametrize(
    "size,values", [((32, 32), 256), ((32, 32), 8), ((24, 48), 100), ((32, 32), 10**6)]
)
def test_pixels_are_shrunk_to_no_more_than_the_values_asked_for(size, values):
    x = torch.rand(2, 3, *size)
    colour, grey = shrink_to(x, values), shrink_to(x[:, :1].expand(-1, 3, -1, -1), values)
    assert values / 4 < colour.shape[1] <= values or colour.shape[1] == x[0].numel()
    assert colour.shape[1] <= values and grey.shape[1] <= min(values, x[0, 0].numel())
    torch.testing.assert_close(shrink_to(x, 3), x.mean((2, 3)))
    with pytest.raises(ValueError, match="fewer than the 3 channels"):
        shrink_to(x, 2)


def test_latents_of_any_tokenizer_and_pixels_of_its_images(trained, data):
    t = load_tokenizer(trained / "tokenizer")
    sites = latent_sites(t, data)
    z, z_hat, y = encode_dataset(t, data.heldout)
    assert sites.keys() == {"z flat", "z mean", "z_hat flat", "z_hat mean"}
    assert (
        torch.equal(sites["z flat"][1][0], z.flatten(1))
        and torch.equal(sites["z_hat mean"][1][0], z_hat.mean(1))
        and torch.equal(sites["z mean"][1][1], y)
    )
    assert len(sites["z flat"][0][0]) == len(data.train)
    (x, _), (hx, hy) = pixel_sites(data, {"pixels": 64})["pixels"]
    assert x.shape == (1437, 64) and torch.equal(hy, y)
    torch.testing.assert_close(
        hx, torch.nn.functional.avg_pool2d(stack(data.heldout)[0][:, :1], 4).flatten(1)
    )


def test_site_and_shape_stand_in_the_passport(trained, data):
    t = load_tokenizer(trained / "tokenizer")
    found = probe_metrics(
        latent_sites(t, data) | pixel_sites(data, {"pixels": t.tokens * t.latent_dim}),
        data,
        "ridge",
    )
    assert (
        found["z mean"].passport["shape"] == [t.latent_dim]
        and found["z flat"].passport["shape"] == [t.tokens * t.latent_dim]
        and found["z_hat flat"].passport["site"] == "z_hat flat"
    )
    with pytest.raises(ValueError, match="site: ") as e:
        compare(found["z mean"], found["z flat"])
    assert "shape: " in str(e.value) and compare(
        found["z mean"], found["z flat"], ignore=("site", "shape")
    )
    lamb = probe_metrics(pixel_sites(data, {"pixels": 16}), data, epochs=1)["pixels"]
    assert (
        (lamb.passport["epochs"], lamb.passport["lr"]) == (1, 0.003)
        and "LAMB" in lamb.passport["evaluator"]
        and "top5" in lamb.figures
    )
    with pytest.raises(ValueError, match="possible: 'lamb'"):
        probe_metrics({}, data, "adam")
    low, high = lamb.intervals["top1"]
    assert low < lamb.figures["top1"] < high and probe_table(found).count("\n") == 5


@pytest.mark.parametrize(
    "images,size",
    [(1_281_167, 16_384), (10**8, 16_384), (60_000, 512), (1437, 32), (100, 32), (20, 20)],
)
def test_a_probe_takes_the_papers_batches_of_imagenet_and_smaller_ones_of_fewer_images(
    images, size
):
    assert probe_batch(images) == size and probe_batch(images, 7) == 7
    assert probe_batch(images, 10**9) == images


def test_the_batch_size_is_a_parameter_and_stands_in_the_passport(data):
    few = ImageData(
        torch.utils.data.Subset(data.train, range(90)),
        torch.utils.data.Subset(data.heldout, range(40)),
        data.class_names,
        data.source,
    )
    site = pixel_sites(few, {"pixels": 16})

    def shown(**kw):
        return probe_metrics(site, few, epochs=1, **kw)["pixels"].passport["batch_size"]

    assert [shown(), shown(batch_size=45), shown(batch_size=1000)] == [32, 45, 90]
    with pytest.raises(ValueError, match="batch_size: "):
        compare(*(probe_metrics(site, few, epochs=1, batch_size=b)["pixels"] for b in (45, 9)))


@pytest.fixture
def on_disk(monkeypatch):
    "Nothing is held in memory: features lie in a file."
    monkeypatch.setattr(probing, "HELD", 100)


def test_features_in_a_file_are_those_in_memory(trained, data, tmp_path, monkeypatch):
    t = load_tokenizer(trained / "tokenizer")
    few = ImageData(
        torch.utils.data.Subset(data.train, range(0, 1000, 9)),
        torch.utils.data.Subset(data.heldout, range(50)),
        data.class_names,
        data.source,
    )

    def sites():
        return latent_sites(t, few, scratch=tmp_path, batch_size=17) | pixel_sites(
            few, {"pixels": 30, "fewer": 9}, tmp_path
        )

    held = sites()
    monkeypatch.setattr(probing, "HELD", 100)
    filed = sites()
    assert not list(tmp_path.iterdir()), "the file has no name and goes with its last reader"
    for name, ((x, y), (hx, hy)) in filed.items():
        (a, b), (ha, hb) = held[name]
        assert (
            torch.equal(x, a) and torch.equal(hx, ha) and torch.equal(y, b) and torch.equal(hy, hb)
        )
    (z, _, y), (figures, right) = encode_dataset(t, few.train), linear_probe(*filed["z mean"], 2)
    torch.testing.assert_close(filed["z flat"][0][0], z.flatten(1))
    again = linear_probe(*held["z mean"], 2)
    assert figures == again[0] and torch.equal(right, again[1])


def test_a_disk_without_room_is_said_before_anything_is_encoded(on_disk, monkeypatch, tmp_path):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(probing.os, "posix_fallocate", full)
    with pytest.raises(ValueError, match="take 4.0 GB in .*No space left on device.*probe=none"):
        probing.feature_rows(10**6, 1000, tmp_path)


@pytest.mark.parametrize("n,width,classes", [(300, 12, 7), (90, 5, 2), (400, 60, 10), (80, 50, 3)])
def test_ridge_from_normal_equations_is_scikit_learns(n, width, classes, monkeypatch):
    x, y = clusters(n, classes, width, spread=2.5)
    y = 3 * y + 1  # labels need not be 0, 1, 2
    x[:, 0] = 4.0  # a constant feature
    x[:, 1:] *= torch.logspace(-3, 3, width - 1)
    train, held = split(x, y, 2 * n // 3)
    whole = ridge_probe(train, held)
    monkeypatch.setattr(probing, "HELD", 100)
    monkeypatch.setattr(probing, "_blocks", lambda x: x.split(37))
    parts = ridge_probe(train, held)
    assert torch.equal(parts[1], whole[1]) and parts[0] == pytest.approx(whole[0])
    assert set(streamed_ridge(*train)(held[0]).tolist()) <= set(y.tolist())


def test_a_passport_says_which_ridge_it_was(data, on_disk):
    m = probe_metrics(pixel_sites(data, {"pixels": 9}), data, "ridge")["pixels"]
    assert "normal equations in float64" in m.passport["evaluator"]


def test_grey_is_decided_over_all_images(data):
    "One coloured image among the held-out ones, and all keep their three channels."
    grey = pixel_sites(data, {"pixels": 12})["pixels"]
    coloured = torch.zeros(1, 3, 32, 32)
    coloured[:, 1] = 1.0
    mixed = ImageData(
        data.train,
        torch.utils.data.ConcatDataset(
            [data.heldout, torch.utils.data.TensorDataset(coloured, torch.tensor([3]))]
        ),
        data.class_names,
        data.source,
    )
    (x, _), (hx, _) = pixel_sites(mixed, {"pixels": 12})["pixels"]
    assert len(hx) == len(grey[1][0]) + 1
    torch.testing.assert_close(x[:, :4], x[:, 4:8])  # the colours of a grey image, side by side
    assert x.shape[1] == grey[0][0].shape[1] == 12 and not torch.allclose(x, grey[0][0])


class Images(torch.utils.data.Dataset):
    "So many images of a size, of which the first alone is ever made."

    def __init__(self, count: int, size: tuple[int, int]):
        self.count, self.size = count, size

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        assert i == 0
        return torch.zeros(3, *self.size), 0


@pytest.mark.parametrize(
    "train,held,size,method",
    [
        (1437, 360, (32, 32), "lamb"),
        (3000, 600, (128, 136), "lamb"),
        (1_281_167, 50_000, (256, 256), "none"),
        (7000, 1000, (256, 256), "none"),
        (200_000, 1, (32, 64), "none"),
    ],
)
def test_where_a_probe_takes_hours_it_is_made_only_for_who_asks(train, held, size, method):
    images = ImageData(Images(train, size), Images(held, size), ["a"], "images")
    chosen, says = default_probe(images)
    assert chosen == method and bool(says) == (method == "none")
    if says:
        assert (
            f"{train + held:,} images of {size[0]} x {size[1]}" in says and "-p probe ridge" in says
        )


def test_the_verdict_says_when_latents_do_not_win(data):
    "By McNemar's test: 30 against 2 is a win, 5 against 3 is none."
    from softvq_lab.evaluation.probe import Probed

    def make(right):
        return Probed({"top1": right.float().mean().item()}, {}, right=right)

    base = torch.ones(100, dtype=torch.bool)

    def lacking(*numbers):
        return make(base.index_fill(0, torch.tensor(numbers), False))

    found = {
        "a": lacking(0, 1),
        "b": lacking(*range(2, 32)),
        "c": lacking(2, 3, 4, 5, 6),
        "d": lacking(7, 8, 9),
    }
    assert probe_verdict(found, "a", "b").startswith(
        "a beats b (only the first gets 30 images right, only the second 2"
    ) and "it is worse" in probe_verdict(found, "b", "a")
    assert "cannot be told apart" in probe_verdict(
        found, "c", "d"
    ) and f"p = {binomtest(3, 8).pvalue:.2g}" in probe_verdict(found, "c", "d")
    assert "p = 1" in probe_verdict(found, "a", "a")


def make(kind="sit", **kw):
    torch.manual_seed(0)
    g = make_generator(
        GeneratorConfig(generator=kind, width=32, depth=2, heads=2, **kw),
        5,
        3,
        7,
        LatentStats((1.0, -2.0, 0.0), (2.0, 0.5, 1.0), 100),
        "",
    ).eval()
    for p in g.parameters():
        torch.nn.init.normal_(p, std=0.1)
    return g


@pytest.mark.parametrize("kind", ["sit", "dit"])
def test_a_block_is_what_the_network_computes_there_without_the_class(kind):
    g, z = make(kind), torch.randn(9, 5, 3)
    first, last = (
        block_features(g, z, 1, 0.3, batch_size=4),
        block_features(g, z, 2, 0.3, batch_size=4),
    )
    assert (
        first.shape == last.shape == (9, 5, 32)
        and torch.equal(last, block_features(g, z, 2, 0.3, batch_size=4))
        and not torch.allclose(first, last)
    )
    seen = []
    handle = g.net.register_forward_pre_hook(lambda net, given: seen.append(given))
    block_features(g, z[:3], 2, 0.0, seed=4)
    handle.remove()
    x, t, y = seen[0]
    assert (y == 7).all() and (t == 0).all() and not g.net.blocks[1]._forward_hooks
    torch.testing.assert_close(
        x, g.stats.normalize(z[:3]), rtol=0, atol=0.08
    )  # t = 0: (nearly) no noise
    assert not torch.allclose(
        block_features(g, z, 1, 1.0, seed=0), block_features(g, z, 1, 1.0, seed=1)
    )


@pytest.mark.parametrize(
    "kind,kw,block,t,says",
    [
        ("sit", {}, 3, 0.5, "blocks 1..2"),
        ("sit", {}, 0, 0.5, "blocks 1..2"),
        ("dit", {}, 1, 1.5, "lie in"),
        ("sit", dict(class_dropout=0.0), 1, 0.5, "no null class"),
        ("mar", {}, 1, 0.5, "sit and dit, not in MAR"),
    ],
)
def test_blocks_that_cannot_be_probed_are_refused(kind, kw, block, t, says):
    with pytest.raises(ValueError, match=says):
        block_features(make(kind, **kw), torch.randn(2, 5, 3), block, t)


def test_sites_of_a_generator(trained, data):
    few = ImageData(
        torch.utils.data.Subset(data.train, range(30)),
        torch.utils.data.Subset(data.heldout, range(12)),
        data.class_names,
        data.source,
    )
    g, t = load_pair(trained / "generator")
    sites = block_sites(g, t, few, [1, 3], [0.1, 0.5])
    assert list(sites) == [
        "block 1, t 0.1, mean",
        "block 1, t 0.5, mean",
        "block 3, t 0.1, mean",
        "block 3, t 0.5, mean",
    ] and sites["block 1, t 0.1, mean"][0][0].shape == (30, g.net.width)
    with pytest.raises(ValueError, match="trained on latents of tokenizer"):
        from softvq_lab.tokenizer.model import Tokenizer

        block_sites(g, Tokenizer(TokenizerConfig(tokens=8)), few, [1], [0.1])
