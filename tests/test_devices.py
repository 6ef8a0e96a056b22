"""Everything computes where its inputs are, and no forward pass of training or sampling waits for
the GPU: run on tensors that say they are on one (`fake_cuda`), entry by entry of the registries.
"""

import os

import pytest
import torch
from fake_cuda import WAITS, CopyToCPU, fake_cuda, on_cuda
from torch import nn
from torch._subclasses.fake_tensor import FakeTensor

from softvq_lab.core import (
    ASKED_DEVICE,
    ConfigError,
    best_device,
    check_gpus,
    convolve_in_float32,
    device_asked,
    gpus,
)
from softvq_lab.data.datasets import digits
from softvq_lab.evaluation.image_metrics import pixel_metrics, reconstruct_split
from softvq_lab.generators.model import make_generator
from softvq_lab.latents.stats import LatentStats
from softvq_lab.pretrained.reference import ReferenceNet
from softvq_lab.registry import registered
from softvq_lab.runs import Run
from softvq_lab.sample import main as sample
from softvq_lab.settings.parse import parse
from softvq_lab.settings.sections import (
    EngineConfig,
    GeneratorConfig,
    LossConfig,
    RepaConfig,
    TokenizerConfig,
)
from softvq_lab.settings.workflows import TrainConfig
from softvq_lab.tokenizer.model import Tokenizer, make_quantizer
from softvq_lab.train import launch, prepare
from softvq_lab.training.adversarial import Adversary
from softvq_lab.training.align import Aligner, ReferenceTeacher, TimmTeacher
from softvq_lab.training.augment import DiffAug
from softvq_lab.training.discriminators import make_discriminator
from softvq_lab.training.generator_task import GeneratorTask
from softvq_lab.training.loop import FiniteCheck, make_accelerator
from softvq_lab.training.losses import Perceptual, make_perceptual, psnr
from softvq_lab.training.tokenizer_task import TokenizerTask

# autocast on a machine without a GPU, and a read of the gradient of what is no leaf
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*CUDA is not available"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
]
TINY = dict(preset="tiny", image_size=32, patch_size=8, tokens=8, latent_dim=4, codebook_size=64)
SHAPE = (4, 3, 32, 32)


def there(*values):
    "All of them are on the GPU."
    for v in values:
        assert isinstance(v, FakeTensor) and v.device.type == "cuda", v
    return values


# ---- the fake itself
@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: x + torch.ones(3),
        lambda x: torch.cat([x[0], torch.ones(1)]),
        lambda x: nn.Linear(3, 2)(x),
    ],
)
def test_two_devices_in_one_operation_are_refused(wrong):
    with fake_cuda(), pytest.raises(Exception, match="[Dd]evice"):
        wrong(on_cuda(5, 3))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x.sum().item(),
        lambda x: x.tolist(),
        lambda x: bool(x.sum() > 0),
        lambda x: x[x > 0],
        lambda x: x.cpu(),
        lambda x: x.to("cpu", torch.float64),
        lambda x: torch.empty(5, 3).copy_(x),
    ],
)
def test_looks_at_a_value_are_waits(wait):
    with fake_cuda(), pytest.raises(WAITS):
        wait(on_cuda(5, 3))


def test_what_is_on_the_cpu_may_be_read_and_put_onto_the_gpu():
    with fake_cuda(m := nn.Linear(3, 2)):
        there(m(on_cuda(5, 3)), torch.arange(3).to("cuda"), torch.tensor([1.0], device="cuda"))
        assert torch.linspace(0, 1, 3).tolist() == [0, 0.5, 1]
        there(on_cuda(3) * torch.tensor(2.0))  # a number may come from anywhere


# ---- quantizers and tokenizers
READS = {"rotation": "vector-quantize-pytorch asks whether latents are zero"}


@pytest.mark.parametrize("parts", [{}, {"groups": 2}, {"residual": 2}, {"codebooks": 2}], ids=str)
@pytest.mark.parametrize("name", registered("quantizer"))
def test_a_quantizer(name, parts):
    try:
        config = TokenizerConfig(**TINY, quantizer=name, **parts)
    except ValueError as e:
        pytest.skip(f"there is no such composition: {e}")
    q = make_quantizer(config)
    with fake_cuda(q):
        z_hat = on_cuda(4, 8, q.input_dim or 4).requires_grad_()
        for mode in (True, False):
            if name in READS:
                with pytest.raises(WAITS):
                    q.train(mode)(z_hat)
                return
            out = q.train(mode)(z_hat)
            there(out.z, *out.losses.values(), *out.stats.values())
            if out.indices is not None:
                there(out.indices)
        if (weights := q.posterior(z_hat)) is not None:
            there(weights)


TOKENIZERS = {
    "ViT": {},
    "rotary, mixed": {"rope": "mixed"},
    "rotary, axial": {"rope": "axial"},
    "hidden patches": {"mask_patches": 0.5},
    "noise": {"latent_noise": 0.1},
    "any number of tokens": {"keep": "uniform"},
    "convolution at the seams": {"pixel_head": "conv"},
    "learned temperature": {"learn_tau": True},
    "convolutional": {"preset": "cnn-tiny", "tokens": 16},
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_tokenizer(name):
    m = Tokenizer(TokenizerConfig(**(TINY | TOKENIZERS[name])))
    with fake_cuda(m):
        for mode in (True, False):
            y, out = m.train(mode)(on_cuda(*SHAPE))
            there(y, out.z, *out.losses.values(), *out.stats.values())
        there(m.decode(on_cuda(4, m.tokens, 4)))


# ---- losses, judges, metrics
@pytest.mark.parametrize("name", registered("loss"))
def test_a_distance_of_pixels(name):
    with fake_cuda():
        there(registered("loss")[name](on_cuda(*SHAPE), on_cuda(*SHAPE)))


def test_metrics_of_images():
    with fake_cuda():
        there(*pixel_metrics(on_cuda(*SHAPE), on_cuda(*SHAPE)).values())
        there(psnr(on_cuda(*SHAPE), on_cuda(*SHAPE)))


@pytest.mark.parametrize("name", registered("metric"))
def test_a_metric_of_a_plug_in(name):
    with fake_cuda():
        there(registered("metric")[name](on_cuda(*SHAPE), on_cuda(*SHAPE)))


JUDGES = {
    "reference distance": lambda net: make_perceptual("reference", net=net),
    "distance in a network of timm": lambda net: make_perceptual("timm:resnet18"),
    "alignment": lambda net: Aligner(ReferenceTeacher(net), 4),
    "alignment with a ViT": lambda net: Aligner(TimmTeacher("vit_tiny_patch16_224", 32, 8), 4),
}


@pytest.mark.parametrize("name", JUDGES)
def test_a_judge(name):
    judge = JUDGES[name](ReferenceNet(10).eval())
    with fake_cuda(judge):
        first = on_cuda(4, 8, 4) if "alignment" in name else on_cuda(*SHAPE)
        there(judge(first, on_cuda(*SHAPE)))


@pytest.mark.parametrize("size", [32, 256], ids="{} pixels".format)
@pytest.mark.parametrize("name", registered("discriminator"))
def test_a_discriminator_in_both_turns(name, size):
    net = make_discriminator(name, size, net=ReferenceNet(10).eval())
    adversary = Adversary(net, DiffAug(1.0))
    with fake_cuda(adversary):
        real, fake = on_cuda(4, 3, size, size), on_cuda(4, 3, size, size)
        there(adversary.generator_loss(fake), *adversary([real, fake]).values())


# ---- generators and samplers
STATS = LatentStats((0.0,) * 4, (1.0,) * 4, 100)


def generator(kind: str, **more):
    return make_generator(GeneratorConfig(generator=kind, **more), 8, 4, 10, STATS, "")


@pytest.mark.parametrize(
    "kind, more",
    [(k, {}) for k in registered("generator")]
    + [("sit", {"prediction": "data"}), ("sit", {"time_sampling": "lognormal"})],
    ids=str,
)
def test_a_generators_loss(kind, more):
    g = generator(kind, **more).train()
    with fake_cuda(g):
        there(g.loss(on_cuda(4, 8, 4), on_cuda(4, dtype=torch.long)))


SOLVES = {"dopri5": "its steps follow from the error that it measures"}


@pytest.mark.parametrize("guidance, noise", [(1.0, "cpu"), (2.0, "cpu"), (2.0, "device")])
@pytest.mark.parametrize(
    "kind, sampler", [(k, s) for k in registered("generator") for s in generator(k).samplers]
)
def test_a_sampler(kind, sampler, guidance, noise):
    g = generator(kind).eval()

    def draw():
        y = torch.arange(4)  # classes are checked where they are made
        return g.sample(y, sampler=sampler, steps=3, guidance=guidance, noise=noise)

    with fake_cuda(g):
        if sampler in SOLVES:
            with pytest.raises(WAITS):
                draw()
        else:
            there(draw())


# ---- the forward pass of a whole step
LOSSES = {
    "pixels": LossConfig(),
    "all": LossConfig(
        percep="reference", percep_warmup=5, adv="reference", adv_start=0, align="reference"
    ),
}


@pytest.mark.parametrize("name", LOSSES)
def test_the_tokenizers_objective(name, tmp_path):
    task = TokenizerTask(TokenizerConfig(**TINY), digits(32), Run(tmp_path), loss=LOSSES[name])
    with fake_cuda(task, *task.opponent):
        batch = [on_cuda(*SHAPE), on_cuda(4, dtype=torch.long)]
        losses = task.train()(batch)
        there(*losses.values())
        check = FiniteCheck(torch.device("cuda"), scaled=False)
        check(1, losses["loss"], losses["rec"], [])
        there(check.bad)
        if (given := task.oppose(batch)) is not None:
            there(*task.opponent[0](given).values())


@pytest.mark.parametrize("where", ["memory", "fly"])
def test_the_generators_objective(where, tmp_path):
    tokenizer = Tokenizer(TokenizerConfig(**TINY))
    repa = RepaConfig(align="reference" if where == "fly" else "none")
    task = GeneratorTask(
        GeneratorConfig(), tokenizer, digits(32), Run(tmp_path), 0, where, repa=repa
    )
    with fake_cuda(task, tokenizer):
        z = on_cuda(*SHAPE) if where == "fly" else on_cuda(4, 8, 4)
        there(*task.train()([z, on_cuda(4, dtype=torch.long)]).values())


def test_a_copy_says_what_was_copied():
    with fake_cuda(), pytest.raises(CopyToCPU, match=r"\(5, 3\)"):
        on_cuda(5, 3).cpu()


# ---- which device, and how many
@pytest.fixture
def one_gpu(monkeypatch):
    "A machine that says it has a GPU; nothing is computed there."
    monkeypatch.delenv(ASKED_DEVICE, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


def test_the_best_device_is_a_gpu_unless_the_cpu_is_asked_for(one_gpu, monkeypatch):
    assert best_device().type == "cuda" and gpus() == 1
    assert best_device("cpu").type == "cpu"
    with device_asked("cpu"):
        assert best_device().type == "cpu" and gpus() == 0
        with device_asked("auto"):
            assert best_device().type == "cpu"
        assert os.environ[ASKED_DEVICE] == "cpu"  # for processes that are started
    assert ASKED_DEVICE not in os.environ and best_device().type == "cuda"
    monkeypatch.setenv(ASKED_DEVICE, "cpu")
    assert best_device().type == "cpu" and best_device("cuda").type == "cuda"
    monkeypatch.setenv(ASKED_DEVICE, "gpu")
    with pytest.raises(ConfigError, match="device='gpu'. Possible: auto, cpu, cuda"):
        best_device()


def test_a_gpu_that_is_not_there_is_said_at_once(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="torch finds no GPU here"):
        best_device("cuda")


def test_convolutions_are_in_float32_unless_a_training_takes_tf32(one_gpu, monkeypatch):
    flags = torch.backends.cudnn
    monkeypatch.setattr(flags, "allow_tf32", True)  # torch's default
    convolve_in_float32.cache_clear()
    best_device()
    assert not flags.allow_tf32
    flags.allow_tf32 = True  # by somebody who wants it
    best_device()
    assert flags.allow_tf32, "it is set once"


def test_more_processes_than_gpus_are_refused_in_words(one_gpu, monkeypatch, tmp_path):
    check_gpus(1)
    with pytest.raises(ConfigError, match="2 processes on a machine with 1 GPU: .*device=cpu"):
        check_gpus(2)
    with device_asked("cpu"):
        check_gpus(2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")  # as torchrun sets it
    with pytest.raises(ConfigError, match="2 processes on a machine with 1 GPU"):
        make_accelerator(Run(tmp_path), EngineConfig(tracker="none"))


def for_two(folder, device: str) -> Run:
    few = dict(tokens=8, steps=4, warmup_steps=1, eval_every=4, checkpoint_every=4)
    config = parse(TrainConfig, dict(**few, tracker="none", processes=2, device=device))
    return prepare(config, folder, digits(32))


@pytest.mark.slow
def test_two_processes_train_on_the_cpu_where_that_is_asked_for(one_gpu, tmp_path):
    "On a machine with one GPU."
    refused = for_two(tmp_path / "a", device="auto")
    with pytest.raises(ConfigError, match="2 processes on a machine with 1 GPU"):
        launch(refused)
    run = for_two(tmp_path / "b", device="cpu")
    launch(run)
    assert run.status["state"] == "done" and run.status["step"] == 4


@pytest.mark.slow
def test_two_processes_sample_on_the_cpu_where_that_is_asked_for(
    one_gpu, trained, tmp_path, capsys
):
    ask = [str(trained / "generator"), *"--samples 5 --steps 2 --processes 2 --out".split()]
    assert sample([*ask, str(tmp_path / "a")]) == 2
    assert "2 processes on a machine with 1 GPU" in capsys.readouterr().err
    assert sample([*ask, str(tmp_path / "b"), "--device", "cpu"]) == 0
    assert len(list((tmp_path / "b").glob("*.png"))) == 5


def test_a_distance_of_networks_measures_images_where_it_is():
    "Reconstructions are kept on the CPU; the judge of `evaluate` is on the GPU."
    net = make_perceptual("reference", net=ReferenceNet(10).eval())
    judge = Perceptual(net.maps, [torch.ones(w) for w in ReferenceNet(10).widths])
    tokenizer = Tokenizer(TokenizerConfig(**TINY)).eval()
    with fake_cuda(judge), pytest.raises(CopyToCPU, match=r"\(128,\)"):  # its values, to be kept
        reconstruct_split(tokenizer, digits(32), lpips=judge)
