"""Figures and what they may be compared with: agreement with torch-fidelity, references, passports,
degenerate inputs.
"""

import io
import math
import pickle
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
import torch_fidelity
from torch.utils.data import Dataset, TensorDataset
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from softvq_lab.core import ConfigError, read_json, sha256
from softvq_lab.data.datasets import digits
from softvq_lab.data.images import ImageData, stack, to_pil, to_uint8
from softvq_lab.evaluation import extractors
from softvq_lab.evaluation.extractors import (
    INCEPTION,
    Extractor,
    ReferenceFeatures,
    extract,
    make_extractor,
)
from softvq_lab.evaluation.fidelity import (
    Moments,
    bootstrap,
    fidelity_metrics,
    frechet,
    frechet_distance,
    frechet_infinity,
    frechet_interval,
    inception_score,
    kid,
    precision_recall,
)
from softvq_lab.evaluation.image_metrics import (
    further_metrics,
    load_lpips,
    pairs,
    pixel_metrics,
    reconstruct_split,
    reconstruction_metrics,
    ssim,
    worst_and_best,
)
from softvq_lab.evaluation.passport import Measured, compare, passport
from softvq_lab.evaluation.proxy import Proxy, proxy_metrics, rank_correlation
from softvq_lab.evaluation.references import (
    make_reference,
    npz_images,
    npz_reference,
    save_reference,
)
from softvq_lab.evaluation.sampling import SampleFolder, pack_npz, sample_settings, sample_to_folder
from softvq_lab.evaluation.scores import (
    reconstruction_fidelity,
    sample_metrics,
    sampling_protocol,
    score_samples,
)
from softvq_lab.generators.model import make_generator
from softvq_lab.hub.models import load_pair, load_tokenizer
from softvq_lab.latents.stats import LatentStats
from softvq_lab.runs import comparable, list_runs, open_run, summary
from softvq_lab.settings.sections import GeneratorConfig, TokenizerConfig
from softvq_lab.tokenizer.model import Tokenizer


def cloud(n: int, width: int = 24, shift: float = 0.0, seed: int = 0) -> torch.Tensor:
    "Features (n, width) that are correlated and of unequal scale, as a network's are."
    g = torch.Generator().manual_seed(seed)
    mix = torch.randn(width, width, generator=torch.Generator().manual_seed(99)) * torch.logspace(
        0, -2, width
    )
    return torch.randn(n, width, generator=g) @ mix + shift


@pytest.fixture(scope="module")
def data() -> ImageData:
    return digits(32)


@pytest.fixture(scope="module")
def judge(data) -> Extractor:
    return make_extractor("reference", data)


@pytest.fixture(scope="module")
def drawn(trained, tmp_path_factory):
    "A folder of 60 samples of the tiny trained generator."
    folder = tmp_path_factory.mktemp("drawn") / "samples"
    sample_to_folder(*load_pair(trained / "generator"), folder, 60, steps=2, progress=False)
    return folder


# the four figures


@pytest.mark.parametrize("n,m,width", [(300, 200, 24), (40, 50, 5), (90, 70, 128), (2, 50, 5)])
def test_fid_is_torch_fidelitys_and_the_formula_in_float64(n, m, width):
    a, b = cloud(n, width), cloud(m, width, 0.3, seed=1)
    ours = frechet_distance(a, b)
    by_hand = fid_statistics_to_metric(
        *(fid_features_to_statistics(x.double()) for x in (a, b)), verbose=False
    )["frechet_inception_distance"]
    assert ours == pytest.approx(by_hand, rel=1e-4, abs=1e-6)
    if min(n, m) <= width:
        return  # scipy's root of a singular matrix is no judge
    (p, q), (s, t) = (
        [x.double().numpy().mean(0) for x in (a, b)],
        [np.cov(x.double().numpy(), rowvar=False) for x in (a, b)],
    )
    formula = ((p - q) ** 2).sum() + np.trace(s + t - 2 * np.real(scipy.linalg.sqrtm(s @ t)))
    assert ours == pytest.approx(formula, rel=1e-6)


def test_the_other_three_are_torch_fidelitys():
    a, b = cloud(260), cloud(210, shift=0.2, seed=1)
    theirs = kid_features_to_metric(
        a.double(), b.double(), kid_subset_size=210, kid_subsets=100, verbose=False
    )
    assert kid(a, b) == pytest.approx(
        {
            "kid": theirs["kernel_inception_distance_mean"],
            "kid_std": theirs["kernel_inception_distance_std"],
        },
        rel=1e-9,
    )
    theirs = isc_features_to_metric(a)
    assert inception_score(a) == pytest.approx(
        {"score": theirs["inception_score_mean"], "score_std": theirs["inception_score_std"]},
        rel=1e-9,
    )
    theirs = prc_features_to_metric(a, b, verbose=False)
    assert precision_recall(a, b) == pytest.approx(
        {k: theirs[k] for k in ("precision", "recall")}, abs=1e-9
    )


def test_from_images_to_figures_as_torch_fidelity_does_it(data, judge, tmp_path):
    "Two folders of PNGs through torch-fidelity's front door, with our network registered there."

    class Registered(FeatureExtractorBase):
        def __init__(self, name, features_list, **kw):
            super().__init__(name, features_list)
            self.net = judge.net

        def forward(self, x):
            both = dict(zip(self.get_provided_features_list(), self.net(x), strict=True))
            return tuple(both[k] for k in self.features_list)

        @staticmethod
        def get_provided_features_list():
            return "features", "logits"

        @staticmethod
        def get_default_feature_layer_for_metric(metric):
            return "logits" if metric == "isc" else "features"

        @staticmethod
        def can_be_compiled():
            return False

    (real, _), (x, y) = stack(data.train, 150), stack(data.heldout, 110)
    for name, images in (("real", real), ("some", x)):
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            to_pil(image).save(tmp_path / name / f"{i:03d}.png")
    register_feature_extractor("softvq-lab-test", Registered)
    try:
        theirs = torch_fidelity.calculate_metrics(
            input1=str(tmp_path / "some"),
            input2=str(tmp_path / "real"),
            cuda=False,
            isc=True,
            fid=True,
            kid=True,
            prc=True,
            kid_subset_size=110,
            feature_extractor="softvq-lab-test",
            cache=False,
            save_cpu_ram=True,
            verbose=False,
        )
    finally:
        del FEATURE_EXTRACTORS_REGISTRY["softvq-lab-test"]
    ours = sample_metrics(
        x, y, data, judge, make_reference(str(tmp_path / "real"), judge, size=32), draws=0
    ).figures
    names = {
        "frechet_inception_distance": "frechet",
        "inception_score_mean": "score",
        "kernel_inception_distance_mean": "kid",
        "precision": "precision",
        "recall": "recall",
    }
    assert {v: ours[f"reference_{v}"] for v in names.values()} == pytest.approx(
        {v: theirs[k] for k, v in names.items()}, rel=2e-4, abs=1e-4
    )


def test_a_shift_and_a_scale_have_the_distances_of_the_textbook():
    x = cloud(500, 6).double()
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-9) and frechet_distance(
        x, x + 2
    ) == pytest.approx(24)
    assert frechet_distance(x, 3 * (x - x.mean(0)) + x.mean(0)) == pytest.approx(
        4 * torch.cov(x.T).trace().item()
    )
    assert frechet_distance(x, cloud(400, 6, 1)) == pytest.approx(
        frechet_distance(cloud(400, 6, 1), x)
    )


# degenerate inputs


def test_one_image_is_refused_by_every_figure():
    one, many = cloud(1), cloud(50)
    for f in (
        lambda: frechet_distance(one, many),
        lambda: frechet_distance(many, one),
        lambda: kid(one, many),
        lambda: inception_score(one),
        lambda: fidelity_metrics(one, None, Moments.of(many), many),
    ):
        with pytest.raises(ValueError, match="at least 2"):
            f()
    with pytest.raises(ValueError, match="3 neighbours and need more images"):
        precision_recall(cloud(3), many)


def test_identical_images_give_finite_figures_and_a_note():
    same, real = cloud(1).repeat(60, 1), cloud(200, seed=1)
    figures, intervals, notes = fidelity_metrics(
        same, torch.zeros(60, 7), Moments.of(real), real, prefix="toy_", draws=5
    )
    assert (
        all(math.isfinite(v) for v in figures.values())
        and figures["toy_score"] == pytest.approx(1)
        and figures["toy_recall"] == 0
    )
    point = (same[0].double() - real.double().mean(0)).square().sum() + torch.cov(
        real.double().T
    ).trace()
    assert figures["toy_frechet"] == pytest.approx(point.item()) and any(
        "all 60 samples have the same features" in n for n in notes
    )
    assert intervals["toy_frechet"] == pytest.approx((figures["toy_frechet"],) * 2)


def test_fewer_samples_than_features_give_a_finite_figure_and_a_note():
    few, real = cloud(30, 100), cloud(80, 100, seed=1)
    figures, _, notes = fidelity_metrics(few, None, Moments.of(real), real, draws=3)
    assert all(math.isfinite(v) for v in figures.values()) and figures["fid"] > 0
    assert any(
        "30 samples in 100 dimensions have a covariance of rank 29" in n for n in notes
    ) and any("quote it from 10000 on" in n for n in notes)
    assert figures.keys() == {
        "fid",
        "kid",
        "kid_std",
        "precision",
        "recall",
    }  # by Inception they have the field's names


def test_enough_samples_carry_no_warning():
    x = cloud(10_000, 3)
    assert fidelity_metrics(x, None, Moments.of(x), None, draws=0)[2] == [
        "The reference has mean and covariance only: no KID, precision and recall."
    ]


def test_features_that_are_not_numbers_are_named(data):
    class Broken(ReferenceFeatures):
        def forward(self, x):
            return (
                torch.full((len(x), 4), math.nan).where(torch.arange(len(x))[:, None] == 2, 0.0),
            )

    broken = Extractor("broken", Broken(make_extractor("reference", data).net.net), "broken")
    with pytest.raises(ValueError, match=r"features of images \[2\] are not finite"):
        extract(broken, data.heldout.tensors[0][:5])
    with pytest.raises(ValueError, match="no images"):
        extract(broken, torch.zeros(0, 3, 32, 32))


@pytest.mark.parametrize("n, m, width", [(6, 9, 20), (30, 9, 20), (9, 30, 20), (25, 30, 20)])
def test_few_images_have_the_distance_of_their_whole_covariances(n, m, width):
    "Whichever side has fewer images than features, and with the root given or not."
    g = torch.Generator().manual_seed(n)
    a = torch.randn(n, width, generator=g).double()
    b = 2 * torch.randn(m, width, generator=g).double() + 0.5
    x, y = Moments.of(a), Moments.of(b)
    assert (x.rows is None, y.rows is None) == (n >= width, m >= width)
    products = torch.linalg.eigvals(torch.cov(a.T) @ torch.cov(b.T)).real.clamp_min(0)
    spread = torch.cov(a.T).trace() + torch.cov(b.T).trace() - 2 * products.sqrt().sum()
    expected = (a.mean(0) - b.mean(0)).square().sum() + spread
    known = [replace(side, rows=None) for side in (x, y)]
    for one, other in [(x, y), (y, x), known]:
        assert frechet(one, other) == pytest.approx(expected.item(), rel=1e-5)


# how sure


def test_the_line_to_infinity_takes_the_bias_out():
    real = Moments(torch.zeros(20).double(), torch.eye(20).double())
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 20, generator=g)
    assert abs(frechet_infinity(x[:600], real)) < 0.25 * frechet(real, Moments.of(x[:600]))
    shifted = frechet_infinity(x + 1, real)
    assert shifted == pytest.approx(20, rel=0.05) and shifted == frechet_infinity(
        x + 1, real, seed=0
    ) != frechet_infinity(x + 1, real, seed=1)
    with pytest.raises(ValueError, match="at least 40"):
        frechet_infinity(x[:39], real)


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    "The mean of 60 normal draws is known; at 95% 40 intervals miss it about twice."
    covered = 0
    for s in range(40):
        x = torch.randn(60, generator=torch.Generator().manual_seed(s))
        low, high = bootstrap(lambda i: x[i].mean().item(), 60, draws=200, seed=s)
        covered += low < 0 < high
    assert 33 <= covered <= 40


def test_reconstructions_are_resampled_with_their_originals():
    real = cloud(200)
    near = real + 0.05 * cloud(200, seed=5)
    apart, together = frechet_interval(near, Moments.of(real)), frechet_interval(near, real)
    assert together[1] < 0.2 * apart[1] and abs(frechet_infinity(near, real)) < 0.2 * abs(
        frechet_infinity(near, Moments.of(real))
    )
    notes = fidelity_metrics(near, None, Moments.of(real), real, paired=True, draws=0)
    assert "kid" not in notes[0] and any("not independent of its original" in n for n in notes[2])


# extractors


def test_a_pickle_of_another_hash_is_not_opened(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    path = tmp_path / INCEPTION
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ConfigError, match="was not opened"):
        make_extractor("inception", weights=str(tmp_path))
    assert not (tmp_path / "exploded").exists()


def test_without_weights_it_says_where_they_were_looked_for(monkeypatch, tmp_path):
    monkeypatch.setenv("SOFTVQ_LAB_WEIGHTS", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    with pytest.raises(ConfigError) as e:
        make_extractor("inception")
    assert (
        str(tmp_path / INCEPTION) in str(e.value)
        and str(tmp_path / "hub" / "checkpoints" / INCEPTION) in str(e.value)
        and "torch-fidelity" in str(e.value)
    )
    with pytest.raises(ConfigError, match="vit_base_patch14_dinov2.*not found"):
        make_extractor("dinov2")
    assert (
        load_lpips()[0] is None
        and "left out" in load_lpips()[1]
        and str(tmp_path) in load_lpips()[1]
    )
    with pytest.raises(ValueError, match="Did you mean 'reference'"):
        make_extractor("referenze")
    with pytest.raises(ValueError, match="timm has no model"):
        make_extractor("timm:resnet99")


@pytest.fixture(scope="module")
def inception(tmp_path_factory):
    """The network with random weights in a file, taken for the pretrained one (which cannot be had
    here).
    """
    path = tmp_path_factory.mktemp("inception") / INCEPTION
    torch.save({}, path)
    patch = pytest.MonkeyPatch()
    with patch.context() as p:
        p.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        net = FeatureExtractorInceptionV3(
            "inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path)
        )
    torch.save(net.state_dict(), path)
    patch.setattr(extractors, "INCEPTION_SHA256", sha256(path))
    yield make_extractor("inception", weights=str(path.parent))
    patch.undo()


def test_inception_is_torch_fidelitys_network_on_8_bit_images(inception):
    x = stack(digits(32).heldout, 6)[0]
    f, logits = extract(inception, x, batch_size=4)
    assert f.shape == (6, 2048) and logits.shape == (6, 1008) and inception.prefix == ""
    torch.testing.assert_close(f, inception.net(to_uint8(x))[0], rtol=1e-4, atol=1e-5)
    assert "torch-fidelity" in inception.name and extractors.INCEPTION_SHA256[:8] in inception.name


def test_adms_moments_count_for_inception_and_its_images_for_the_rest(
    inception, judge, data, tmp_path
):
    x = to_uint8(stack(data.heldout, 5)[0]).permute(0, 2, 3, 1).numpy()
    g = np.random.default_rng(0)
    root = g.normal(size=(2048, 30)).astype(np.float32)
    np.savez(
        tmp_path / "adm.npz",
        arr_0=x,
        mu=g.normal(size=2048),
        sigma=(root @ root.T).astype(np.float64),
    )
    r = npz_reference(tmp_path / "adm.npz", inception)
    assert (
        r.moments.mean.shape == (2048,)
        and r.features.shape == (5, 2048)
        and r.name.startswith("images of adm.npz (")
        and "its mu and sigma" in r.name
    )
    torch.testing.assert_close(r.moments.cov, torch.from_numpy(root @ root.T).double())
    other = npz_reference(tmp_path / "adm.npz", judge)
    assert other.moments.mean.shape == (64,) and "mu" not in other.name
    np.savez(tmp_path / "moments.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    only = npz_reference(tmp_path / "moments.npz", inception)
    assert only.features is None and only.moments.count is None
    with pytest.raises(ValueError, match="of Inception features only"):
        npz_reference(tmp_path / "moments.npz", judge)


def test_a_timm_model_from_a_file(tmp_path, data):
    import timm
    from safetensors.torch import save_file

    torch.manual_seed(1)
    net = timm.create_model("resnet10t", num_classes=1000).eval()
    save_file(net.state_dict(), tmp_path / "resnet10t.safetensors")
    e, x = (
        make_extractor("timm:resnet10t", weights=str(tmp_path)),
        stack(data.heldout, 3)[0],
    )
    f, logits = extract(e, x)
    about = timm.data.resolve_model_data_config(net)
    view = torch.nn.functional.interpolate(
        to_uint8(x).float() / 255, about["input_size"][1:], mode="bicubic", antialias=True
    ).clamp(0, 1)
    net.reset_classifier(0)
    with torch.no_grad():
        expected = net(
            (view - torch.tensor(about["mean"]).view(3, 1, 1))
            / torch.tensor(about["std"]).view(3, 1, 1)
        )
    torch.testing.assert_close(f, expected, rtol=1e-4, atol=1e-4)
    assert (
        logits is None
        and e.prefix == "resnet10t_"
        and sha256(tmp_path / "resnet10t.safetensors")[:8] in e.name
    )


# references


def test_a_folder_a_data_set_and_a_packed_file_are_the_same_reference(judge, drawn, data, tmp_path):
    samples = SampleFolder(drawn)
    whole = ImageData(samples, data.heldout, data.class_names, "samples")
    split, folder, packed = (
        make_reference("train", judge, whole),
        make_reference(str(drawn), judge, size=32),
        make_reference(str(pack_npz(drawn, tmp_path / "s.npz")), judge),
    )
    for r in (folder, packed):
        torch.testing.assert_close(r.features, split.features, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(r.moments.cov, split.moments.cov, rtol=1e-3, atol=1e-4)
    assert (
        len({split.name, folder.name, packed.name}) == 3
        and "60 images" in folder.name
        and "centre crop at 32px" in folder.name
        and sha256(tmp_path / "s.npz")[:8] in packed.name
    )
    assert [len(b) for b in npz_images(tmp_path / "s.npz", 25)] == [25, 25, 10]


def test_a_saved_reference_is_that_reference_and_no_other_networks(judge, data, tmp_path):
    r = make_reference("heldout", judge, data)
    save_reference(tmp_path / "r.npz", r)
    back = make_reference(str(tmp_path / "r.npz"), judge)
    assert (
        torch.equal(back.features, r.features)
        and torch.equal(back.moments.cov, r.moments.cov)
        and (back.name, back.moments.count) == (r.name, 360)
    )
    with pytest.raises(ValueError, match="of another network"):
        make_reference(str(tmp_path / "r.npz"), make_extractor("reference", data, seed=0))
    with pytest.raises(ValueError, match="the reference is made of features of"):
        sample_metrics(
            torch.zeros(4, 3, 32, 32),
            torch.zeros(4),
            data,
            make_extractor("reference", data, seed=0),
            r,
        )


@pytest.mark.parametrize(
    "content,says",
    [
        (dict(arr_0=np.zeros((2, 8, 8, 3), np.float32)), "8-bit images"),
        (dict(arr_0=np.zeros((2, 3, 8, 8), np.uint8)), "8-bit images"),
        (dict(x=np.zeros(3)), "holds x; needed"),
        (dict(arr_0=np.array([{}])), "Python objects"),
        (dict(arr_0=np.zeros((2, 8, 9), np.uint8)), "Grey images need three channels"),
        (dict(arr_0=np.zeros((2, 8, 9, 1), np.uint8)), "Grey images need three channels"),
        (dict(arr_0=np.zeros((2, 8, 9, 4), np.uint8)), "Leave out the alpha channel"),
        (dict(arr_0=np.zeros((2, 3, 8, 9), np.uint8)), r"another order: x.transpose\(0, 2, 3, 1\)"),
        (dict(arr_0=np.zeros((2, 8, 9, 3))), "Scale it: .*255"),
        (dict(arr_0=np.zeros((2, 8, 9, 3), np.int64)), r"x.astype\(np.uint8\)"),
        (dict(arr_0=np.zeros((0, 8, 9, 3), np.uint8)), "Write the images into it"),
        (dict(mu=np.zeros(3)), "mu without sigma"),
    ],
)
def test_files_that_are_no_reference_are_refused(content, says, judge, tmp_path):
    np.savez(tmp_path / "bad.npz", allow_pickle=True, **content)
    with pytest.raises(ValueError, match=f"bad.npz.*{says}"):
        npz_reference(tmp_path / "bad.npz", judge)


class MeanColour:
    "Stands where Inception would: the reference of its moments needs the kind alone."

    kind, name = "inception", "mean colour"

    def __call__(self, x):
        return x.float().mean((2, 3)), None


PIXELS = np.random.default_rng(0).integers(0, 255, (11, 8, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "content",
    [
        dict(mu=np.arange(3, dtype=">f8"), sigma=np.eye(3, dtype=">f4")),
        dict(mu=np.arange(3, dtype=np.longdouble), sigma=np.asfortranarray(np.eye(3))),
        dict(mu=np.arange(3, dtype=np.float16), sigma=np.eye(3, dtype=int)),
    ],
)
def test_numbers_written_in_another_way_are_the_same_numbers(content, tmp_path):
    np.savez(tmp_path / "r.npz", **content)
    m = npz_reference(tmp_path / "r.npz", MeanColour()).moments
    assert m.mean.tolist() == [0, 1, 2] and torch.equal(m.cov, torch.eye(3).double())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("order", [np.ascontiguousarray, np.asfortranarray])
def test_images_in_either_order_and_packed_or_not_are_the_same_images(save, order, tmp_path):
    save(tmp_path / "r.npz", order(PIXELS))
    batches = list(npz_images(tmp_path / "r.npz", batch_size=4))
    assert [len(b) for b in batches] == [4, 4, 3]
    assert np.array_equal(torch.cat(batches).permute(0, 2, 3, 1).numpy(), PIXELS)


@pytest.mark.parametrize(
    "mu,sigma,says",
    [
        (np.array([np.zeros(3), None], dtype=object), np.eye(3), "mu holds Python objects"),
        (np.array([1, np.nan, 0]), np.eye(3), "mu holds 1 values of 3 that are no numbers"),
        (np.zeros(3), np.full((3, 3), np.inf), "sigma holds 9 values of 9"),
        (np.zeros(3), np.triu(np.ones((3, 3))), "sigma is no covariance"),
        (np.zeros(3), -np.eye(3), "sigma is no covariance"),
        (np.zeros(3), np.eye(4), "no mean and covariance"),
        (np.zeros((1, 3)), np.eye(3), "mu must hold real numbers with 1 axes"),
        (np.zeros(3, complex), np.eye(3), "mu must hold real numbers"),
        (np.array(["a", "b"]), np.eye(2), "mu must hold real numbers"),
        (np.zeros(0), np.zeros((0, 0)), "mu must hold real numbers"),
    ],
)
def test_moments_that_are_none_are_refused_by_name(mu, sigma, says, tmp_path):
    np.savez(tmp_path / "odd.npz", mu=mu, sigma=sigma, allow_pickle=True)
    with pytest.raises(ValueError, match=f"odd.npz.*{says}"):
        npz_reference(tmp_path / "odd.npz", MeanColour())


@pytest.mark.parametrize("shape", [(10**12, 8, 9, 3), (2**62, 2**62, 9, 3), (-1, 8, 9, 3)])
def test_a_shape_that_is_only_claimed_takes_no_memory(shape, tmp_path):
    header = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(claim := io.BytesIO(), header)
    with zipfile.ZipFile(tmp_path / "big.npz", "w") as z:
        z.writestr("arr_0.npy", claim.getvalue() + b"abc")
    with pytest.raises(ValueError, match="big.npz: arr_0 is damaged"):
        npz_reference(tmp_path / "big.npz", MeanColour())


@pytest.mark.parametrize(
    "content,says",
    [
        (b"", "it is empty"),
        (b"<html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"\x80\x04\x95\0\0\0\0\0\0\0\0.", "a pickle"),
        (b"\x93NUMPY\x01\0", "a single NumPy array"),
        (b"words", "cut off or of another kind"),
    ],
)
def test_a_file_that_is_no_npz_is_named_as_what_it_is(content, says, tmp_path):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match=f"x.npz is not an .npz file.*{says}"):
        npz_reference(tmp_path / "x.npz", MeanColour())
    with pytest.raises(ValueError, match="is a folder. Name a file in it, which holds x.npz"):
        npz_reference(tmp_path, MeanColour())


@pytest.mark.parametrize("at", [0.4, 0.6, 0.98])
def test_a_damaged_npz_is_refused_by_name(at, tmp_path):
    np.savez_compressed(tmp_path / "whole.npz", PIXELS)
    data = (tmp_path / "whole.npz").read_bytes()
    i = int(len(data) * at)
    (tmp_path / "cut.npz").write_bytes(data[:i])
    (tmp_path / "odd.npz").write_bytes(data[: i - 40] + bytes(40) + data[i:])
    for name in ("cut.npz", "odd.npz"):
        with pytest.raises(ValueError, match=name):
            npz_reference(tmp_path / name, MeanColour())


METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]


def zipped(path, method) -> bytes:
    "`PIXELS` as `arr_0` of an `.npz`, packed by a method."
    np.save(array := io.BytesIO(), PIXELS)
    with zipfile.ZipFile(path, "w", method) as z:
        z.writestr("arr_0.npy", array.getvalue())
    return path.read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_arrays_packed_in_any_way_are_read_and_named_when_they_are_damaged(method, tmp_path):
    path = tmp_path / "real.npz"
    whole = zipped(path, method)
    assert np.array_equal(torch.cat([*npz_images(path, 5)]).permute(0, 2, 3, 1).numpy(), PIXELS)
    for at in range(30, len(whole), len(whole) // 20):
        path.write_bytes(whole[:at] + bytes(b ^ 0xA5 for b in whole[at : at + 8]) + whole[at + 8 :])
        with pytest.raises(ValueError, match="real.npz") as e:
            npz_reference(path, MeanColour())
        assert "\n" not in str(e.value) and len(str(e.value)) < 500


@pytest.mark.parametrize(
    "local,central,value,says",
    [
        (6, 8, 1, "encrypted, password required"),
        (6, 8, 64, "strong encryption"),
        (8, 10, 97, "compression method is not supported"),
        (8, 10, 9, "compression method is not supported"),
        (4, 6, 99, "zip file version"),
    ],
)
def test_a_zip_of_another_kind_is_refused_by_name(local, central, value, says, tmp_path):
    path = tmp_path / "strange.npz"
    data = bytearray(zipped(path, zipfile.ZIP_STORED))
    for at in (local, data.rindex(b"PK\x01\x02") + central):
        data[at] = value
    path.write_bytes(data)
    with pytest.raises(ValueError, match=f"strange.npz is damaged or packed in a way .*{says}"):
        npz_reference(path, MeanColour())


def test_a_fault_of_the_network_or_of_the_disk_is_no_fault_of_the_file(tmp_path):
    class Broken(MeanColour):
        def __call__(self, x):
            raise RuntimeError("out of memory")

    zipped(tmp_path / "good.npz", zipfile.ZIP_DEFLATED)
    with pytest.raises(RuntimeError, match="^out of memory"):
        npz_reference(tmp_path / "good.npz", Broken())
    with pytest.raises(FileNotFoundError):
        list(npz_images(tmp_path / "gone.npz"))


def test_half_a_saved_reference_is_refused_by_name(tmp_path):
    whole = dict(mu=np.zeros(3), sigma=np.eye(3), extractor=np.array("mean colour"))
    np.savez(tmp_path / "half.npz", **whole)
    with pytest.raises(ValueError, match="half.npz .*it lacks count, name"):
        npz_reference(tmp_path / "half.npz", MeanColour())
    whole |= dict(count=np.array(5), name=np.array("x"), features=np.zeros((5, 4)))
    np.savez(tmp_path / "half.npz", **whole)
    with pytest.raises(ValueError, match=r"half.npz: features \(5, 4\) do not fit mu"):
        npz_reference(tmp_path / "half.npz", MeanColour())


def test_a_cut_off_file_and_a_wrong_name_are_refused(judge, data, tmp_path):
    (tmp_path / "not.npz").write_bytes(b"PK nothing")
    with pytest.raises(ValueError, match="not an .npz"):
        make_reference(str(tmp_path / "not.npz"), judge)
    with pytest.raises(ValueError, match="neither 'train' nor 'heldout'"):
        make_reference("trian", judge, data)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no images"):
        make_reference(str(tmp_path / "empty"), judge, size=32)


class Counted(Dataset):
    "Images of one colour that counts how many are alive at once."

    def __init__(self, n):
        self.n, self.labels = n, np.zeros(n)

    def __len__(self):
        return self.n

    def __getitem__(self, i):
        if not 0 <= i < self.n:
            raise IndexError(i)
        return torch.full((3, 32, 32), i / self.n * 2 - 1), 0


def test_images_are_passed_through_a_batch_at_a_time(judge):
    sizes = []
    handle = judge.net.register_forward_pre_hook(lambda net, given: sizes.append(len(given[0])))
    try:
        f, _ = extract(judge, Counted(130), batch_size=32)
    finally:
        handle.remove()
    assert f.shape == (130, 64) and sizes == [32, 32, 32, 32, 2]


# reconstructions


def test_per_image_figures_and_their_order(trained, data):
    t = load_tokenizer(trained / "tokenizer")
    r = reconstruct_split(t, data, batch_size=100)
    x, y = r["original"], r["reconstruction"]
    torch.testing.assert_close(r["l1"], (x - y).abs().mean((1, 2, 3)))
    torch.testing.assert_close(
        r["psnr"], 10 * torch.log10(4 / (x - y).square().mean((1, 2, 3))), rtol=1e-4, atol=1e-3
    )
    worst, best = worst_and_best(r, 5)
    assert (
        r["psnr"][worst].tolist() == sorted(r["psnr"].tolist())[:5]
        and r["psnr"][best].tolist() == sorted(r["psnr"].tolist())[:-6:-1]
    )
    assert worst_and_best(r, 1, "l1")[0] == [r["l1"].argmax().item()]
    torch.testing.assert_close(
        pairs(t, data.heldout, worst), torch.cat([x[worst], y[worst]]), rtol=1e-4, atol=1e-4
    )
    m = reconstruction_metrics(r, data, "LPIPS is left out.")
    assert (
        m.figures["l1"] == pytest.approx(r["l1"].mean().item())
        and m.notes == ["LPIPS is left out."]
        and "lpips" not in m.figures
        and "LPIPS" not in m.passport["evaluator"]
    )


def ssim_by_formula(x: torch.Tensor, y: torch.Tensor) -> list[float]:
    "Wang et al. 2004, equation 13, in float64: window by window, on intensities from 0 to 1."
    g = torch.exp(-torch.arange(-5, 6).double().square() / (2 * 1.5**2))
    window = torch.outer(g, g) / g.sum().square()

    def windows(v):
        return (v.double().add(1) / 2).unfold(2, 11, 1).unfold(3, 11, 1)

    def mean(v):
        return (v * window).sum((-1, -2))

    x, y = windows(x), windows(y)
    mx, my = mean(x), mean(y)
    vx, vy = (mean((v - m[..., None, None]).square()) for v, m in ((x, mx), (y, my)))
    both = mean((x - mx[..., None, None]) * (y - my[..., None, None]))
    light = (2 * mx * my + 0.01**2) / (mx.square() + my.square() + 0.01**2)
    return (light * (2 * both + 0.03**2) / (vx + vy + 0.03**2)).mean((1, 2, 3)).tolist()


@pytest.mark.parametrize("size", [(11, 11), (11, 37), (32, 32), (48, 20)], ids=str)
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize(
    "contrast,noise,shift", [(1.0, 0.4, 0.0), (0.3, 0.05, 0.25), (0.02, 0.01, -0.6)]
)
def test_ssim_is_the_formula_of_its_authors(size, count, contrast, noise, shift):
    g = torch.Generator().manual_seed(size[1])
    x = (shift + contrast * (2 * torch.rand(count, 3, *size, generator=g) - 1)).clamp(-1, 1)
    for y in (
        (x + noise * torch.randn(x.shape, generator=g)).clamp(-1, 1),
        (x + 0.1).clamp(-1, 1),
        x.flip(2),
        x,
    ):
        assert ssim(x, y).tolist() == pytest.approx(ssim_by_formula(x, y), abs=1e-3)


def test_ssim_sees_brightness_as_intensities_from_black():
    "A flat grey against a brighter one: the first factor of the formula alone."
    for dark, bright in ((-1.0, 1.0), (-0.4, 0.0), (0.0, 0.6)):
        a, b = (dark + 1) / 2, (bright + 1) / 2

        def flat(v):
            return torch.full((2, 3, 12, 19), v)

        expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
        assert ssim(flat(dark), flat(bright)).tolist() == pytest.approx([expected] * 2, abs=1e-3)


@pytest.mark.parametrize("size", [(10, 10), (8, 40), (40, 4)])
def test_images_smaller_than_its_window_have_no_ssim(size):
    x = torch.zeros(2, 3, *size)
    with pytest.raises(ValueError, match=f"at least 11 x 11 pixels, got {size[0]} x {size[1]}"):
        ssim(x, x)
    assert list(pixel_metrics(x, x)) == ["psnr"]


def test_a_tokenizer_of_small_images_is_measured_without_ssim(tmp_path):
    from softvq_lab.explore.session import in_words
    from softvq_lab.explore.token_counts import rate_distortion_figure

    data = digits(8)
    t = Tokenizer(TokenizerConfig(image_size=8, patch_size=4, tokens=3)).eval()
    m = reconstruction_metrics(reconstruct_split(t, data, hold=False), data)
    assert "ssim" not in m.figures and "SSIM" not in m.passport["evaluator"]
    assert m.notes == ["SSIM is left out: images are smaller than its window of 11 pixels."]
    assert in_words(m.figures) == f"PSNR {m.figures['psnr']:.1f} dB"
    row = dict(name="a", run="a", kept=False, tokens=3, numbers=9, psnr=20.0, ssim=None)
    row |= dict(images=4, source="measured now", passport=m.passport)
    assert "SSIM" not in rate_distortion_figure([row]).data[0].text[0]
    assert len(rate_distortion_figure([row], "ssim").data) == 0


def test_the_passport_says_how_ssim_was_taken_and_parts_it_from_the_old_one(trained, data):
    r = reconstruct_split(load_tokenizer(trained / "tokenizer"), data, hold=False)
    new = reconstruction_metrics(r, data)
    assert (
        "on [0, 1] (data range 1, Gaussian window 11 of sigma 1.5, borders cut)"
        in (new.passport["evaluator"])
    )
    old = (
        "PSNR of the clipped image; SSIM by torchmetrics 1.9.0 (Gaussian window 11); L1 in [-1, 1]"
    )
    with pytest.raises(ValueError, match="evaluator"):
        compare(new, Measured(new.figures, new.passport | {"evaluator": old}))


def test_the_worst_images_are_worst_by_any_metric_that_has_a_direction(trained, data):
    r = reconstruct_split(load_tokenizer(trained / "tokenizer"), data, hold=False)
    assert worst_and_best(r, 1, "ssim") == (
        [r["ssim"].argmin().item()],
        [r["ssim"].argmax().item()],
    )
    with pytest.raises(ValueError, match="Nothing is ranked by sharpness"):
        worst_and_best(r | {"sharpness": r["psnr"]}, 1, "sharpness")


def test_lpips_is_measured_where_its_network_is(trained, data):
    "Any module of two images will do here; VGG cannot be had."

    class Stand(torch.nn.Module):
        def forward(self, x, y):
            return (x - y).square().mean((1, 2, 3))

    r = reconstruct_split(load_tokenizer(trained / "tokenizer"), data, lpips=Stand(), hold=False)
    (m,) = further_metrics(r, data, "LPIPS (VGG), 12345678").values()
    assert "original" not in r and not m.notes
    assert m.figures == {"lpips": pytest.approx(r["lpips"].mean().item())}
    assert "12345678" in m.passport["evaluator"]
    pixels = reconstruction_metrics(r, data, "LPIPS (VGG), 12345678")
    assert "LPIPS" not in str(pixels) and "lpips" not in pixels.figures


def test_rfid_is_against_the_same_crops(trained, data, judge):
    r = reconstruct_split(load_tokenizer(trained / "tokenizer"), data, extractor=judge)
    m = reconstruction_fidelity(r, data, judge, draws=10)
    real, f = (extract(judge, r[k])[0] for k in ("original", "reconstruction"))
    assert (
        m.figures["r_reference_frechet"] == pytest.approx(frechet_distance(real, f), rel=1e-3)
        and "the same crops" in m.passport["reference"]
    )
    low, high = m.intervals["r_reference_frechet"]
    assert low < m.figures["r_reference_frechet"] < high and "r_reference_kid" not in m.figures
    with pytest.raises(ValueError, match="extractor=..."):
        reconstruction_fidelity({}, data, judge)


# passports


def test_figures_of_different_protocols_cannot_be_compared(drawn, data, judge):
    a, fewer, other = (
        score_samples(drawn, data, judge, draws=0),
        score_samples(drawn, data, judge, count=50, draws=0),
        score_samples(drawn, data, judge, make_reference("heldout", judge, data), draws=0),
    )
    assert (
        compare(a, score_samples(drawn, data, judge, draws=0))["reference_frechet"][0]
        == a.figures["reference_frechet"]
    )
    with pytest.raises(ValueError, match="count: 60 and 50") as e:
        compare(a, fewer)
    assert "steps" not in str(e.value)
    with pytest.raises(ValueError, match="reference: .*training split.*held-out split"):
        compare(a, other)
    assert compare(a, other, ignore=("reference", "evaluator"))["reference_frechet"] == (
        a.figures["reference_frechet"],
        other.figures["reference_frechet"],
    )
    with pytest.raises(ValueError, match="no such entry"):
        compare(a, a, ignore=("sampelr",))
    with pytest.raises(ValueError, match="no metric in common"):
        compare(Measured({"x": 1.0}, a.passport), Measured({"y": 1.0}, a.passport))


def test_a_passport_says_how_samples_were_drawn_and_travels_as_json(drawn, data, judge, tmp_path):
    m = score_samples(drawn, data, judge, draws=3)
    assert (
        {k: m.passport[k] for k in ("sampler", "steps", "count", "seed")}
        == {"sampler": "heun", "steps": 2, "count": 60, "seed": 0}
        and "weights" in m.passport["evaluator"]
        and "torch-fidelity" in m.passport["evaluator"]
    )
    stored = read_json(m.write(tmp_path, "samples", {"generator": "x"}))
    assert (
        stored["figures"] == m.figures
        and stored["passport"] == m.passport
        and stored["notes"] == m.notes
        and stored["intervals"]["reference_frechet"] == list(m.intervals["reference_frechet"])
    )
    assert compare(tmp_path / "samples.json", m)


def test_mar_says_how_many_steps_it_really_does():
    t = Tokenizer(TokenizerConfig(tokens=4)).eval()
    g = make_generator(
        GeneratorConfig(generator="mar", width=32, depth=1, heads=2),
        4,
        t.latent_dim,
        10,
        LatentStats((0.0,) * t.latent_dim, (1.0,) * t.latent_dim, 9),
        t.fingerprint,
    ).eval()
    assert (
        sampling_protocol(sample_settings(g, t))["steps"] == 4
        and sampling_protocol(sample_settings(g, t, steps=3))["steps"] == 3
    )
    seen = []
    g.sample(torch.tensor([1]), on_step=lambda i, z: seen.append(i))
    assert len(seen) == 4


def test_tables_of_runs_part_by_passport(tmp_path):
    for name, count, seed in (("a", 500, 0), ("b", 500, 0), ("c", 50, 0)):
        run = open_run(tmp_path / name, "generator", {})
        Measured({"fid": count / 100}, passport("Inception", "train", count, seed=seed)).write(
            run.path / "evaluation", "samples", {}
        )
    assert {
        p["count"]: {r.name for r, _ in rows} for _, p, rows in comparable(list_runs(tmp_path))
    } == {500: {"a", "b"}, 50: {"c"}}
    assert "not to be compared with the above, for they differ in count" in summary(tmp_path)


# the proxy


def test_the_proxy_is_reproducible_and_names_its_budget(trained, data, judge):
    budget = Proxy(width=32, depth=1, heads=2, steps=3, batch_size=8, samples=20, sample_steps=2)
    t = load_tokenizer(trained / "tokenizer")
    small = ImageData(
        TensorDataset(*stack(data.train, 60)),
        TensorDataset(*stack(data.heldout, 40)),
        data.class_names,
        data.source,
    )
    a, b = (proxy_metrics(t, small, judge, budget=budget) for _ in range(2))
    assert (
        a.figures == b.figures
        and a.figures["proxy_reference_frechet"] > 0
        and a.passport["proxy"]["steps"] == 3
    )
    with pytest.raises(ValueError, match="proxy: "):
        compare(a, Measured(a.figures, {k: v for k, v in a.passport.items() if k != "proxy"}))


def test_rank_agreement_is_scipys_and_says_how_uncertain_it_is():
    full = list(np.random.default_rng(0).permutation(12).astype(float))
    exact, reverse = (
        rank_correlation(full, [v**3 for v in full], draws=200),
        rank_correlation(full, [-v for v in full], draws=200),
    )
    assert (exact.spearman, exact.kendall_interval) == (
        pytest.approx(1),
        pytest.approx((1, 1)),
    ) and reverse.kendall == pytest.approx(-1)
    noisy = [v + 4 * e for v, e in zip(full, np.random.default_rng(1).normal(size=12))]
    few, many = (
        rank_correlation(noisy[:5], full[:5], draws=300),
        rank_correlation(noisy * 4, full * 4, draws=300),
    )
    assert (
        np.ptp(few.spearman_interval) > np.ptp(many.spearman_interval) and few.chance > many.chance
    )
    for a, b, says in [
        ([1, 2, 3], [1, 2, 3], "at least 4"),
        ([1] * 5, range(5), "no order"),
        (range(5), range(4), "one proxy and one full"),
        ([1, 2, 3, math.nan], range(4), "not finite"),
    ]:
        with pytest.raises(ValueError, match=says):
            rank_correlation(list(a), list(b))
