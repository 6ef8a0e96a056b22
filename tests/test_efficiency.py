"""What is counted: parameters and multiply-adds beside the paper's. What is measured: turns,
ratios, memory.
"""

import time

import pytest
import torch
from torch import nn

from softvq_lab.core import ConfigError
from softvq_lab.evaluation.efficiency import (
    GENERATOR_SIZES,
    PAPER_PARAMETERS,
    Load,
    bare_generator,
    by_length,
    count_generator,
    count_tokenizer,
    decoding,
    forward,
    generator_step,
    generator_table,
    measure,
    multiply_adds,
    paper_tokenizer,
    peak_memory,
    race,
    sampling,
    speedup,
    tokenizer_step,
    wide_table,
)
from softvq_lab.settings.parse import parse
from softvq_lab.settings.sections import GeneratorConfig, TokenizerConfig
from softvq_lab.settings.workflows import EfficiencyConfig

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "given,says",
    [
        ({"generator": "mar", "size": "XL"}, "size='XL': mar has tiny, B, L, H"),
        ({"tokens": "32,many"}, "separated by commas"),
        ({"image_size": 30}, "not a multiple of patch_size"),
        ({"device": "tpu"}, "device='tpu'"),
    ],
)
def test_wrong_settings_are_refused(given, says):
    with pytest.raises(ConfigError) as e:
        parse(EfficiencyConfig, given)
    assert says in str(e.value)


def test_settings_follow_the_preset():
    assert parse(EfficiencyConfig, {"tokens": 64}).lengths == [64] and parse(
        EfficiencyConfig, {"tokens": "16, 32"}
    ).lengths == [16, 32]
    assert (
        parse(EfficiencyConfig, {"preset": "L"}).image_size == 256
        and parse(EfficiencyConfig, {"preset": "L", "image_size": 512}).image_size == 512
    )


@pytest.mark.parametrize(
    "kind,size,tokens,paper",
    [
        ("sit", "XL", 32, 14.73),
        ("sit", "XL", 64, 29.23),
        ("dit", "XL", 32, 14.52),
        ("dit", "XL", 64, 28.81),
        ("mar", "H", 32, 67.93),
        ("mar", "H", 64, 86.55),
    ],
)
def test_a_pass_costs_what_the_paper_says_within_2_percent(kind, size, tokens, paper):
    counted = count_generator(GeneratorConfig(generator=kind, size=size), tokens)
    assert counted["forward"] / 1e9 == pytest.approx(paper, rel=0.02)


def test_the_paper_s_sit_xl_2_does_not_follow_from_its_architecture():
    g = (
        count_generator(
            GeneratorConfig(generator="sit", size="XL", latent_rows=32, latent_patch=2),
            1024,
            latent_dim=4,
        )["forward"]
        / 1e9
    )  # a 32 x 32 grid of 4 channels in patches of 2 x 2: 256 tokens
    assert g == pytest.approx(118.6, rel=0.005) and g > 1.4 * 81.92


@pytest.mark.slow
def test_parameters_are_the_paper_s():
    for kind, size, millions in [
        ("sit", "L", 458),
        ("sit", "XL", 675),
        ("dit", "XL", 675),
        ("mar", "B", 208),
        ("mar", "H", 942),
    ]:
        assert count_generator(GeneratorConfig(generator=kind, size=size), 64)[
            "parameters"
        ] / 1e6 == pytest.approx(millions, rel=0.005)
    for p in ("S", "B", "BL", "L"):
        assert count_tokenizer(paper_tokenizer(p, 64))["parameters"] / 1e6 == pytest.approx(
            PAPER_PARAMETERS[f"SoftVQ-{p}"], rel=0.005
        )


@pytest.mark.parametrize(
    "config",
    [
        GeneratorConfig(),
        GeneratorConfig(generator="dit", depth=2),
        GeneratorConfig(generator="mar"),
    ],
    ids=lambda c: c.generator,
)
def test_three_counts_give_every_length(config):
    def count(n):
        return count_generator(config, n, latent_dim=8, num_classes=10)

    assert by_length(count, [16, 20, 256]) == {n: count(n) for n in (16, 20, 256)}


def test_three_counts_give_every_length_of_a_tokenizer():
    def count(n):
        return count_tokenizer(TokenizerConfig(tokens=n))

    assert by_length(count, [16, 64]) == {n: count(n) for n in (16, 64)}


def test_meta_counts_are_those_of_real_tensors():
    g = bare_generator(GeneratorConfig(depth=2), 12, 8, 10)
    real = multiply_adds(g.net, torch.randn(1, 12, 8), torch.rand(1), torch.tensor([3]))
    assert real == count_generator(GeneratorConfig(depth=2), 12, 8, 10)["forward"]
    assert (
        sum(p.numel() for p in g.parameters())
        == count_generator(GeneratorConfig(depth=2), 12, 8, 10)["parameters"]
    )


def test_attention_is_counted():
    two, four = (count_generator(GeneratorConfig(depth=2), n)["forward"] for n in (1024, 2048))
    assert four > 2.5 * two


def test_convolutions_are_counted():
    with torch.device("meta"):
        assert (
            multiply_adds(nn.Conv2d(3, 5, 3, padding=1), torch.empty(1, 3, 8, 8)) == 3 * 5 * 9 * 64
        )


@pytest.mark.slow
def test_the_table_has_every_size_and_length():
    rows = generator_table(lengths=(16, 1024), kinds=("sit",))
    assert [(r["model"], r["tokens"]) for r in rows] == [
        (f"SiT-{s}", n) for s in GENERATOR_SIZES["sit"][1:] for n in (16, 1024)
    ]
    assert all(
        b["gflops"] > 60 * a["gflops"] for a, b in zip(rows[::2], rows[1::2])
    )  # 64 times the tokens


def test_a_table_has_the_paper_in_brackets():
    text = wide_table(
        [
            {
                "model": "A-1",
                "tokens": 32,
                "parameters": 1.25,
                "parameters_paper": None,
                "gflops": 2.0,
                "gflops_paper": 3.0,
            },
            {
                "model": "A-1",
                "tokens": 64,
                "parameters": 1.25,
                "parameters_paper": None,
                "gflops": 400.0,
                "gflops_paper": None,
            },
        ],
        "gflops",
    )
    assert "| A-1 | 1.2 | 2.00 (3.00) | 400.0 |" in text


def test_loads_take_turns():
    order = []

    def load(name):
        return Load(lambda: (order.append(name), time.sleep(0.002)), 1)

    seconds = race({n: load(n) for n in "abc"}, CPU, rounds=3, turn=0)
    assert (
        "".join(order) == "aabbcc" + "abc" + "bca" + "cab"
    )  # warm-up and a trial, then rounds that each begin with another
    assert {n: len(s) for n, s in seconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_a_ratio_is_taken_within_its_round():
    seconds = {
        "small": [1.0, 10.0, 3.0],
        "large": [2.0, 20.0, 6.0],
    }  # the machine was slow in the second round
    assert speedup(seconds, "small", "large") == 2


def test_memory_is_what_lives_at_once():
    def work():
        a = torch.zeros(1000)
        b = a.view(10, 100) + 1  # a view is nothing new
        del a
        c = b * 2
        b.add_(1)  # nor what is written in place
        return c.sum()

    assert peak_memory(Load(work, 1), CPU) == 8000 + 4  # two at a time, and the sum
    layer = nn.Linear(10, 20)
    optimizer = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 10)).sum().backward()
    optimizer.step()
    own = 4 * 220
    assert Load(lambda: None, 1, [layer]).standing() == own and Load(
        lambda: None, 1, [layer, optimizer]
    ).standing() == pytest.approx(
        3 * own, abs=16
    )  # two moments a weight, and two counters of steps


@pytest.mark.parametrize(
    "make",
    [
        lambda n: sampling(GeneratorConfig(width=16, depth=1, heads=2), n, 4, 2, CPU),
        lambda n: generator_step(GeneratorConfig(width=16, depth=1, heads=2), n, 4, 2, CPU),
        lambda n: sampling(
            GeneratorConfig(generator="dit", width=16, depth=1, heads=2), n, 4, 2, CPU, steps=1
        ),
        lambda n: decoding(TokenizerConfig(tokens=n), 2, CPU, "bf16"),
        lambda n: tokenizer_step(TokenizerConfig(tokens=n), 1, CPU),
        lambda n: forward(GeneratorConfig(width=16, depth=1, heads=2), n, 4, 2, CPU),
        lambda n: forward(GeneratorConfig(generator="mar"), n, 4, 2, CPU),
    ],
    ids=[
        "sampling sit",
        "training sit",
        "sampling dit",
        "decoding bf16",
        "training tokenizer",
        "passes of a sit",
        "passes of a mar",
    ],
)
def test_baselines_are_measured_beside_what_is_asked_for(make):
    before = torch.get_rng_state()
    rows = measure(make, [16], CPU, rounds=1)
    assert torch.equal(before, torch.get_rng_state())
    assert [r["tokens"] for r in rows] == [16, 256, 1024] and rows[1]["speedup_256"] == rows[2][
        "speedup_1024"
    ] == 1
    assert rows[0]["peak_memory"] < rows[1]["peak_memory"] < rows[2]["peak_memory"] and all(
        r["images_per_second"] > 0 for r in rows
    )


def test_a_wrong_precision_is_refused():
    with pytest.raises(ValueError, match="precision='fp8'"):
        decoding(TokenizerConfig(), 1, CPU, "fp8").run()
