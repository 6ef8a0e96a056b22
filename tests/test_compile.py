"""What is compiled is compiled once: no breaks within a graph, and no second compilation while a
training goes on. Graphs are counted, not made fast: that takes a moment and no compiler of C++.
"""

import pytest
import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torch._dynamo.utils import counters

from softvq_lab.core import blocks_of, compile_blocks
from softvq_lab.data.datasets import digits
from softvq_lab.generators.model import make_generator
from softvq_lab.latents.stats import LatentStats
from softvq_lab.pretrained.reference import ReferenceNet
from softvq_lab.progress import progress_bar
from softvq_lab.registry import registered
from softvq_lab.runs import Run
from softvq_lab.settings.sections import (
    EngineConfig,
    GeneratorConfig,
    LossConfig,
    OptimConfig,
    RepaConfig,
    TokenizerConfig,
)
from softvq_lab.tokenizer.model import Tokenizer, make_quantizer
from softvq_lab.training.align import Aligner, ReferenceTeacher
from softvq_lab.training.discriminators import make_discriminator
from softvq_lab.training.generator_task import GeneratorTask
from softvq_lab.training.health import where_not_finite
from softvq_lab.training.loop import Loop, make_accelerator
from softvq_lab.training.losses import Perceptual, reference_distance
from softvq_lab.training.state import State, compile_networks, modules_of
from softvq_lab.training.tokenizer_task import TokenizerTask

TINY = dict(preset="tiny", image_size=32, patch_size=8, tokens=8, latent_dim=4, codebook_size=64)
STEPS = 20
SIZES = [*[4] * (STEPS - 1), 3]  # images of each step; the last batch is smaller

pytestmark = [
    # dynamo asks every tensor for its gradient, leaf or not
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
    # the statistics of latents, put onto the device once
    pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`"),
]


@pytest.fixture(autouse=True)
def counter():
    "Counts graphs; each test begins without any."
    torch._dynamo.reset()
    counters.clear()
    yield CompileCounter()
    torch._dynamo.reset()


def breaks() -> list[str]:
    "Why graphs were broken, so far in this test."
    return list(counters["graph_break"])


def learn(f, draw, sizes=SIZES):
    "Forward and backward passes of f(*draw(batch size))."
    for n in sizes:
        value = f(*draw(n))
        if value.requires_grad:
            value.backward()


# ---- quantizers
OUTSIDE = {  # of vector-quantize-pytorch: left to it, and never within a compiled network of ours
    "lfq": "its mean over processes is replaced while it runs",
    "rotation": "its code branches on values of tensors",
}
SOFT = {"softvq", "gmmvq"}  # their blocks of tokens, which a GPU does without, are no graph


def quantizer_loss(q: nn.Module):
    def f(z_hat):
        out = q(z_hat)
        return out.z.square().mean() + sum(out.losses.values())

    return f


@pytest.mark.slow
@pytest.mark.parametrize("parts", [{}, {"groups": 2}, {"residual": 2}], ids=str)
@pytest.mark.parametrize("name", [n for n in registered("quantizer") if n not in OUTSIDE])
def test_a_quantizer_is_compiled_once(name, parts, counter):
    try:
        config = TokenizerConfig(**TINY, quantizer=name, **parts)
    except ValueError as e:
        pytest.skip(f"there is no such composition: {e}")
    q = make_quantizer(config)
    f = torch.compile(quantizer_loss(q), backend=counter, fullgraph=name not in SOFT)
    width = q.input_dim or q.latent_dim
    learn(f, lambda n: [torch.randn(n, 8, width, requires_grad=True)])
    assert all("_in_blocks" in why for why in breaks())
    passes = sum(parts.values()) or 1
    # before and after the blocks, in soft_mix and in forward; and each part's forward
    pieces = 3 + passes if name in SOFT else 1
    assert counter.frame_count <= 2 * pieces  # once more for the other batch size


def test_those_that_cannot_be_are_known():
    assert OUTSIDE.keys() <= registered("quantizer").keys()


# ---- networks, whole
@pytest.mark.slow
@pytest.mark.parametrize(
    "more", [{}, {"rope": "mixed"}, {"mask_patches": 0.5}, {"latent_noise": 0.1}], ids=str
)
def test_a_tokenizer_is_one_graph(more, counter):
    m = Tokenizer(TokenizerConfig(**TINY, quantizer="vq", **more))
    f = torch.compile(lambda x: m(x)[0].square().mean(), backend=counter, fullgraph=True)
    learn(f, lambda n: [torch.randn(n, 3, 32, 32)])
    assert counter.frame_count <= 2


STATS = LatentStats((0.0,) * 4, (1.0,) * 4, 100)


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"time_sampling": "lognormal"}], ids=str)
@pytest.mark.parametrize("kind", ["sit", "dit", "mar"])
def test_a_generators_training_loss_is_one_graph(kind, more, counter):
    if more and kind != "sit":
        pytest.skip("a setting of SiT")
    m = make_generator(GeneratorConfig(generator=kind, **more), 8, 4, 10, STATS, "")
    drawn = {"hidden": 5} if kind == "mar" else {}  # how many tokens are hidden is drawn outside

    def draw(n):
        order = [torch.rand(n, 8).argsort(1)] if drawn else []
        return [torch.randn(n, 8, 4), torch.randint(10, (n,)), *order]

    m.loss(*draw(2), **drawn)  # constants are put onto the device
    f = torch.compile(
        lambda z, y, *order: m.loss(z, y, *order, **drawn).mean(), backend=counter, fullgraph=True
    )
    learn(f, draw)
    assert counter.frame_count <= 2


def judges() -> dict[str, nn.Module]:
    "Losses of networks and discriminators: image pairs, images and latents, or images -> values."
    net = ReferenceNet(10).eval()
    kinds = registered("discriminator")
    return {
        "perceptual": reference_distance(net=net),
        "align": Aligner(ReferenceTeacher(net), 4),
        **{k: make_discriminator(k, 32, width=0, net=net) for k in kinds},
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["perceptual", "align", *registered("discriminator")])
def test_a_judge_is_one_graph(name, counter):
    judge = judges()[name]

    def draw(n):
        x, y = torch.randn(2, n, 3, 32, 32)
        given = {"perceptual": [x, y], "align": [torch.randn(n, 8, 4), x]}
        return given.get(name, [x.requires_grad_()])

    f = torch.compile(lambda *given: judge(*given).mean(), backend=counter, fullgraph=True)
    learn(f, draw, [3] * 4 + [2])  # some of them are large
    assert counter.frame_count <= 2


@pytest.mark.parametrize("name", registered("loss"))
def test_a_distance_of_pixels_is_one_graph(name, counter):
    distance = registered("loss")[name]
    f = torch.compile(lambda x, y: distance(x, y).mean(), backend=counter, fullgraph=True)
    learn(f, lambda n: torch.randn(2, n, 3, 32, 32))
    assert counter.frame_count <= 2


# ---- sampling
@pytest.mark.slow
@pytest.mark.parametrize(
    "kind, sampler",
    [("sit", "heun"), ("sit", "sde"), ("sit", "dopri5"), ("dit", "ddim"), ("mar", "mar")],
)
def test_samples_compile_in_their_first_steps_and_stay_the_same(kind, sampler, counter):
    config = GeneratorConfig(generator=kind)
    g = make_generator(config, 8, 4, 10, STATS, "").eval()
    y = torch.arange(10)
    how = dict(sampler=sampler, guidance=2.0, interval=(0.0, 0.7))
    plain = [g.sample(y[:n], steps=4, start=10 - n, **how) for n in (10, 3)]
    compile_blocks(g.modules(), backend=counter, fullgraph=True)
    torch.testing.assert_close(g.sample(y, steps=4, **how), plain[0], rtol=1e-4, atol=1e-4)
    graphs = counter.frame_count
    g.sample(y, steps=8, seed=1, **how)
    assert 1 <= graphs == counter.frame_count and breaks() == []
    last = g.sample(y[:3], steps=4, start=7, **how)  # a smaller batch: one graph for all sizes
    torch.testing.assert_close(last, plain[1], rtol=1e-4, atol=1e-4)
    assert counter.frame_count <= 2 * graphs


# ---- the loop's own step
def trained_by(task, counter, **engine) -> list[int]:
    "Steps of the loop on a task that is compiled as `compile` asks; graphs after each."
    run, optim = Run("unused"), OptimConfig(steps=STEPS, warmup_steps=3)
    c = EngineConfig(tracker="none", **engine)
    state = State(task, optim, c, make_accelerator(run, c))
    loop = Loop(task, run, optim, 0, state, progress_bar(disable=True))
    compile_networks(task, backend=counter, fullgraph=True)
    graphs = []
    for step, n in enumerate(2 * n for n in SIZES):
        loop.step(step, [t[:n] for t in next_batch(task)])
        graphs.append(counter.frame_count)
    return graphs


def next_batch(task) -> list[torch.Tensor]:
    items = [task.data[i] for i in range(8)]
    return [torch.stack([torch.as_tensor(v) for v in column]) for column in zip(*items)]


ALL = LossConfig(
    percep="reference", percep_warmup=5, adv="reference", adv_start=3, align="reference"
)


@pytest.mark.slow
@pytest.mark.parametrize("loss", [LossConfig(), ALL], ids=["pixels", "every loss"])
@pytest.mark.parametrize("engine", [{}, {"accumulate": 2}, {"recompute": True}], ids=str)
def test_a_tokenizers_training_compiles_in_its_first_step(loss, engine, counter, tmp_path):
    task = TokenizerTask(TokenizerConfig(**TINY), digits(32), Run(tmp_path), loss=loss)
    graphs = trained_by(task, counter, **engine)
    assert graphs[0] >= 1 and set(graphs[:-1]) == {graphs[0]}, graphs
    assert graphs[-1] <= 2 * graphs[0] and breaks() == []


@pytest.mark.slow
@pytest.mark.parametrize("repa", [RepaConfig(), RepaConfig(align="reference")], ids=["", "repa"])
@pytest.mark.parametrize("kind", ["sit", "dit", "mar"])
def test_a_generators_training_compiles_in_its_first_steps(kind, repa, counter, tmp_path):
    if kind == "mar" and repa.align != "none":
        pytest.skip("REPA is for transformers that see every token")
    tokenizer = Tokenizer(TokenizerConfig(**TINY))
    where = "fly" if repa.align != "none" else "memory"
    task = GeneratorTask(
        GeneratorConfig(generator=kind), tokenizer, digits(32), Run(tmp_path), 0, where, repa=repa
    )
    graphs = trained_by(task, counter)
    # MAR hides another number of tokens in each step: a second graph takes any number
    first = 3 if kind == "mar" else 1
    assert graphs[0] >= 1 and set(graphs[first:-1]) <= {graphs[first]}, graphs
    assert graphs[-1] <= 2 * graphs[first] and breaks() == []


@pytest.mark.slow
def test_a_networks_blocks_share_a_graph(counter, tmp_path):
    "Compiling takes as long for twelve blocks as for one."
    task = TokenizerTask(
        TokenizerConfig(**TINY, enc_depth=5, dec_depth=7), digits(32), Run(tmp_path)
    )
    assert len(list(blocks_of(modules_of(task)))) == 12
    assert trained_by(task, counter)[0] == 1


def test_the_networks_of_judges_are_among_them(tmp_path):
    trunk = nn.Module()
    trunk.blocks, trunk.widths = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), (2,)
    assert list(blocks_of(modules_of(Perceptual(trunk)))) == list(trunk.blocks)
    assert list(blocks_of(nn.Sequential(nn.Linear(2, 2)).modules())) == []


def test_a_model_without_blocks_is_compiled_whole(counter):
    task = nn.Module()
    task.model, task.opponent = nn.Sequential(nn.Linear(2, 2), nn.ReLU()), ()
    compile_networks(task, backend=counter, fullgraph=True)
    for n in SIZES:
        task.model(torch.randn(n, 2))
    assert 1 <= counter.frame_count <= 2


class Spoils(nn.Module):
    def forward(self, x):
        return x * float("nan")


def test_where_a_nan_began_is_found_within_a_compiled_network(tmp_path):
    task = TokenizerTask(TokenizerConfig(**TINY), digits(32), Run(tmp_path))
    task.model.decoder.model.blocks[1].mlp = Spoils()
    compile_networks(task, backend="eager")
    batch = next_batch(task)
    assert not task(batch)["loss"].isfinite()
    assert "model.decoder.model.blocks.1.mlp (Spoils) gave it" in where_not_finite(task, batch, 0)
