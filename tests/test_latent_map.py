"""Maps of latents and the numbers behind them; figures as PNG within a time limit; thumbnails in a
real browser.
"""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from softvq_lab.evaluation.latent_map import (
    chance_purity,
    cknna,
    cknna_by_chance,
    codewords_of,
    neighbour_purity,
    posterior_entropy,
    teacher_features,
    token_maps,
    umap_2d,
)
from softvq_lab.explore.map_figure import hover_page, map_picture
from softvq_lab.plots import latent_map
from softvq_lab.quantizers.composed import Product, Residual
from softvq_lab.quantizers.continuous import AE, KL
from softvq_lab.quantizers.gmmvq import GMMVQ
from softvq_lab.quantizers.softvq import SoftVQ
from softvq_lab.quantizers.vq import VQ
from softvq_lab.training.align import ReferenceTeacher, TimmTeacher


def draw(n, d, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def test_wrong_inputs_are_refused():
    with pytest.raises(ValueError, match="at least 4"):
        umap_2d(draw(3, 5))
    with pytest.raises(ValueError, match="at least 2"):
        neighbour_purity(draw(1, 5), torch.zeros(1))
    with pytest.raises(ValueError, match="got 9 and 8"):
        cknna(draw(9, 2), draw(8, 2))
    with pytest.raises(ValueError, match="k=9 neighbours need at least 10 images, got 9"):
        cknna(draw(9, 2), draw(9, 2), k=9)


def cknna_by_loops(a, b, k):
    "The formula of arXiv 2405.07987, written as it stands."

    def unit(x):
        return [[v / math.sqrt(sum(w * w for w in row)) for v in row] for row in x.tolist()]

    def inner(x):
        return [[sum(p * q for p, q in zip(u, v)) for v in x] for u in x]

    def nearest(K, i):
        return sorted((j for j in range(len(K)) if j != i), key=lambda j: -K[i][j])[:k]

    def align(K, L):
        n, total = len(K), 0.0
        for i in range(n):
            for j in range(n):
                if i != j and j in nearest(K, i) and j in nearest(L, i):
                    total += (K[i][j] - sum(K[i]) / n) * (L[i][j] - sum(L[i]) / n)
        return total

    K, L = inner(unit(a.double())), inner(unit(b.double()))
    return align(K, L) / math.sqrt(align(K, K) * align(L, L))


@pytest.mark.parametrize("n,d,e,k", [(13, 4, 6, 3), (20, 9, 2, 10), (11, 3, 3, 10)])
def test_cknna_is_the_formula(n, d, e, k):
    a, b = draw(n, d), draw(n, e, 1)
    b[:, 0] += 2 * a[:, 0]
    assert cknna(a, b, k) == pytest.approx(cknna_by_loops(a, b, k), abs=1e-9)


def test_cknna_does_not_depend_on_turn_scale_order_and_who_comes_first():
    a, b = draw(50, 6), draw(50, 8, 1)
    b[:, :6] += a
    turn, order = (
        torch.linalg.qr(draw(6, 6, 2)).Q,
        torch.randperm(50, generator=torch.Generator().manual_seed(3)),
    )
    value = cknna(a, b)
    assert cknna(0.01 * a @ turn, b) == pytest.approx(value, abs=1e-5)  # turned in float32
    assert cknna(a[order], b[order]) == pytest.approx(value, abs=1e-9) and cknna(
        b, a
    ) == pytest.approx(value, abs=1e-9)
    assert cknna(a, a @ turn) == pytest.approx(1, abs=1e-5)
    assert abs(cknna_by_chance(a, b)) < value < 1


def test_cknna_of_equal_features_is_no_division_by_zero():
    assert cknna(torch.ones(12, 3), draw(12, 3)) == 0


def test_purity_in_blocks_is_purity():
    x, y = draw(2100, 3), torch.arange(2100) % 3  # more than two blocks
    x[:, 0] += y
    d = torch.cdist(x, x).fill_diagonal_(float("inf"))
    assert neighbour_purity(x, y, 7) == pytest.approx(
        (y[d.topk(7, largest=False).indices] == y[:, None]).float().mean().item(), abs=1e-3
    )
    assert chance_purity(torch.tensor([0, 0, 1, 1])) == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    "quantizer",
    [
        SoftVQ(6, 16, codebooks=2),
        GMMVQ(6, 16),
        VQ(6, 16, codebooks=2),
        SoftVQ(6, 16, similarity="l2"),
        VQ(6, 16, similarity="l2"),
        Product(2, 6, lambda d: SoftVQ(d, 16)),
        Residual(2, 6, lambda d: SoftVQ(d, 16)),
        AE(6),
        KL(6),
    ],
    ids=lambda q: f"{type(q).__name__}-{getattr(q, 'similarity', '')}",
)
def test_entropies_and_codewords_of_every_quantizer(quantizer):
    z_hat = draw(5 * 4, quantizer.input_dim or 6).view(5, 4, -1)
    found, words = posterior_entropy(quantizer, z_hat), codewords_of(quantizer)
    if isinstance(quantizer, (AE, KL)):
        assert found is None and words is None
    else:
        entropy, most = found
        assert (
            entropy.shape == (5, 4)
            and most == pytest.approx(math.log(16))
            and (entropy >= 0).all()
            and (entropy <= most + 1e-4).all()
        )
        assert (entropy == 0).all() == isinstance(quantizer, VQ)
        assert (words is None) == isinstance(quantizer, (Product, Residual)) and (
            words is None or words.shape[1:] == (16, 6)
        )
        assert words is None or not words.requires_grad  # they go into UMAP, which wants numbers


def test_equal_weights_have_the_entropy_log_k():
    assert posterior_entropy(SoftVQ(6, 16, tau=100.0), draw(8, 6).view(2, 4, 6))[
        0
    ].mean() == pytest.approx(math.log(16), abs=1e-3)


@pytest.mark.slow
def test_maps_are_reproducible_and_hold_codewords():
    tokens, words = draw(60, 5), draw(9, 5, 1)
    (one, at), (two, _) = (
        token_maps({"z": tokens}, words, seed=3),
        token_maps({"z": tokens}, words, seed=3),
    )
    assert (
        one["z"].shape == (60, 2) and at["z"].shape == (9, 2) and np.array_equal(one["z"], two["z"])
    )
    assert not np.array_equal(one["z"], token_maps({"z": tokens}, words, seed=4)[0]["z"])


def test_a_teacher_gives_one_feature_an_image():
    from softvq_lab.pretrained.reference import ReferenceNet

    split = torch.utils.data.TensorDataset(torch.rand(5, 3, 32, 32), torch.zeros(5))
    assert teacher_features(ReferenceTeacher(ReferenceNet(3)), split, 2).shape == (5, 64)
    teacher = TimmTeacher("vit_tiny_patch16_224", 32, 8)
    features = teacher_features(teacher, split, 2)
    assert features.shape == (5, 192) and torch.allclose(
        features[3], teacher(split[3][0][None])[0].mean(0), atol=1e-5
    )


def test_the_picture_shows_every_class():
    labels = ["cat", "dog", "eel"] * 10
    picture = map_picture(
        {"z_hat": np.random.default_rng(0).normal(size=(30, 2)), "z": np.zeros((30, 2))},
        labels,
        codewords={"z_hat": np.zeros((2, 2)), "z": np.ones((2, 2))},
        side=120,
    )
    assert picture.height == 150 and picture.width > 2 * 120
    colours = {c for _, c in picture.getcolors(100_000)}
    assert {(0x1F, 0x77, 0xB4), (0xFF, 0x7F, 0x0E), (0x2C, 0xA0, 0x2C), (0, 0, 0)} <= colours


@pytest.mark.slow
def test_the_thumbnail_of_the_point_under_the_pointer_appears(tmp_path, chromium):
    from playwright.sync_api import sync_playwright

    xy = np.array([[0.0, 0.0], [1.0, 1.0], [2.0, 0.0], [3.0, 1.0]])
    fig = latent_map(
        {"z": xy}, ["a", "b", "a", "b"], [f"image {i}" for i in range(4)], pictures=[3, 2, 1, 0]
    )
    page_path = hover_page(
        tmp_path / "map.html",
        "map",
        {"Images": fig},
        [Image.new("RGB", (8, 8), c) for c in ("red", "green", "blue", "white")],
    )
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        try:
            page, asked = browser.new_page(), []
            page.on("request", lambda r: asked.append(r.url))
            page.goto(f"file://{page_path}")
            page.wait_for_selector(".js-plotly-plot .plot-container")
            assert not page.locator(".thumbnail").is_visible()
            # of image 1, whose picture is number 2
            place = page.evaluate("""() => {
                const f = document.getElementById('map0');
                const {xaxis: x, yaxis: y} = f._fullLayout, r = f.getBoundingClientRect();
                return [r.left + x._offset + x.d2p(1), r.top + y._offset + y.d2p(1)];
            }""")
            page.mouse.move(place[0] - 40, place[1] - 40)
            for _ in range(50):  # plotly looks at the pointer once a frame
                page.mouse.move(*place)
                page.wait_for_timeout(100)
                if page.locator(".thumbnail").is_visible():
                    break
                page.mouse.move(place[0] - 3, place[1])
            assert (
                page.locator(".thumbnail").is_visible()
                and page.locator(".thumbnail").get_attribute("data-picture") == "2"
            )
            assert not [
                u for u in asked if u.startswith("http")
            ]  # needs no network: plotly.js is inside
        finally:
            browser.close()
