"""How several ranks exchange gradients: what they learn is what one process learns, whichever way
they do it, and every trained parameter has a gradient in every step, as that way asks for.
"""

import pytest
import torch
from accelerate.utils import DDPCommunicationHookType
from ddp_rank import ENGINES, TINY, as_before, learn, player, weights
from two_ranks import found_by_two_ranks

from softvq_lab.core import ConfigError, device_asked
from softvq_lab.data.datasets import digits
from softvq_lab.runs import Run
from softvq_lab.settings.parse import parse
from softvq_lab.settings.sections import (
    EngineConfig,
    GeneratorConfig,
    LossConfig,
    RepaConfig,
    TokenizerConfig,
)
from softvq_lab.settings.workflows import TrainConfig
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.training.generator_task import GeneratorTask
from softvq_lab.training.loop import ddp_settings
from softvq_lab.training.tokenizer_task import TokenizerTask


@pytest.fixture(autouse=True)
def on_cpu():
    with device_asked("cpu"):
        yield


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    return found_by_two_ranks(player, tmp_path_factory.mktemp("ranks"))


@pytest.fixture(scope="module")
def alone():
    "What one process learns of the whole batches."
    return weights(learn(as_before(1)))


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def distance(a: dict, b: dict) -> float:
    "Euclidean, of two sets of weights."
    return sum((a[k].double() - b[k].double()).square().sum().item() for k in a) ** 0.5


@pytest.fixture(scope="module")
def way(alone):
    "How far the weights of one process moved."
    return distance(alone, weights(as_before(1)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["as before", *ENGINES])
def test_both_ranks_hold_the_same_bits(ranks, name):
    assert equal(ranks[0][name], ranks[1][name])


def test_gradients_in_buckets_teach_the_same_bits_as_copies_of_them(ranks):
    assert equal(ranks[0]["none"], ranks[0]["as before"])
    assert ranks[0]["none, in buckets"] and ranks[0]["in parts, in buckets"]


@pytest.mark.parametrize("name", ["none", "in parts", "recompute"])
def test_ranks_learn_what_one_process_does(ranks, alone, way, name):
    assert distance(alone, ranks[0][name]) < 0.01 * way


def test_compressed_gradients_round_what_is_learned_and_no_more(ranks, way):
    assert 0 < distance(ranks[0]["bf16"], ranks[0]["none"]) < 0.1 * way


def test_a_training_with_compressed_gradients_resumes_to_the_same_bits(ranks):
    assert equal(ranks[0]["bf16, resumed"], ranks[0]["bf16"])


def test_an_unknown_compression_is_refused_with_what_is_possible():
    with pytest.raises(ConfigError, match="gradient_compression='fp8': should be 'none' or 'bf16'"):
        parse(TrainConfig, dict(gradient_compression="fp8"))
    hook = ddp_settings(EngineConfig(gradient_compression="bf16")).comm_hook
    assert hook == DDPCommunicationHookType.BF16


# ---- no parameter without a gradient: those are not searched for, and ranks would wait for them
def untaught(task, steps=(0, 5)) -> list[str]:
    "Trained parameters without a gradient in one of the steps, the opponent's turn included."
    items = [task.data[i] for i in range(4)]
    batch = [torch.stack([torch.as_tensor(v) for v in column]) for column in zip(*items)]
    missing = []
    for step in steps:
        task.train().step = step
        turns = [(task, batch)] + [(o, None) for o in task.opponent]
        for module, given in turns:
            given = task.oppose(batch) if given is None else given
            if given is None:
                continue
            trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
            module.zero_grad()
            module(given)["loss"].backward()
            missing += [f"step {step}: {n}" for n, p in trained.items() if p.grad is None]
    return missing


LATE = dict(percep="reference", percep_warmup=5, align="reference", adv="reference", adv_start=3)
TOKENIZERS = {
    "softvq": ({}, {}),
    "every loss, the opponent later": ({}, LATE),
    "adaptive weight": ({}, LATE | dict(adv_adaptive=True)),
    "gmmvq, product": (dict(quantizer="gmmvq", groups=2), {}),
    "learned tau": (dict(learn_tau=True, detach_logits=False), {}),
    "residual": (dict(residual=2), {}),
    "vq": (dict(quantizer="vq"), {}),
    "vq of averages": (dict(quantizer="vq", codebook_ema=0.9), {}),
    "kl": (dict(quantizer="kl"), {}),
    "nested tokens": (dict(keep="uniform", codebooks=2), {}),
    "masked patches, noise": (dict(mask_patches=0.5, latent_noise=0.1), {}),
    "axial positions only": (dict(rope="axial", decoder_ape=False, decoder_cls=False), {}),
    "mixed positions": (dict(rope="mixed"), {}),
    "convolutional pixels": (dict(pixel_head="conv"), {}),
    "cnn": (dict(preset="cnn-tiny", patch_size=8, tokens=16), {}),
    "frozen encoder": (dict(encoder_tuning="frozen"), {}),
}


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_parameter_of_a_tokenizer_has_a_gradient_in_every_step(name, tmp_path):
    config, loss = TOKENIZERS[name]
    task = TokenizerTask(
        TokenizerConfig(**TINY | config), digits(32), Run(tmp_path), loss=LossConfig(**loss)
    )
    assert untaught(task) == []


@pytest.mark.parametrize("repa", ["none", "reference"])
@pytest.mark.parametrize("kind", ["sit", "dit", "mar"])
def test_every_parameter_of_a_generator_has_a_gradient_in_every_step(kind, repa, tmp_path):
    if kind == "mar" and repa != "none":
        pytest.skip("REPA is for transformers that see every token")
    where = "memory" if repa == "none" else "fly"
    config = GeneratorConfig(generator=kind, width=32, depth=2, heads=2)
    tokenizer = Tokenizer(TokenizerConfig(**TINY))
    task = GeneratorTask(
        config, tokenizer, digits(32), Run(tmp_path), 0, where, repa=RepaConfig(align=repa)
    )
    assert untaught(task) == []
