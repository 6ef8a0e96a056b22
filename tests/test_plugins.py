"""One's own quantizers, data sets and teachers, brought by a file: known by name in settings, in
training, after loading, in child processes.
"""

import dataclasses
import os
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch

from softvq_lab import registry
from softvq_lab.core import ConfigError
from softvq_lab.data.datasets import digits, load_data
from softvq_lab.evaluation.extractors import make_extractor
from softvq_lab.evaluation.image_metrics import (
    check_metric,
    further_metrics,
    reconstruct_split,
    reconstruction_metrics,
)
from softvq_lab.hub.models import load_tokenizer, save
from softvq_lab.metrics import find_metric, forget, lower_is_better
from softvq_lab.pretrained.reference import weights_hash
from softvq_lab.quantizers.base import check_quantizer
from softvq_lab.runs import open_run
from softvq_lab.settings.parse import parse
from softvq_lab.settings.sections import DataConfig, TokenizerConfig
from softvq_lab.settings.workflows import TrainConfig
from softvq_lab.tokenizer.model import Tokenizer, make_quantizer
from softvq_lab.train import load_config
from softvq_lab.training.align import make_teacher
from softvq_lab.training.discriminators import make_discriminator
from softvq_lab.training.losses import make_perceptual

MINE = """
import torch
from torch import nn
from softvq_lab.data.datasets import digits
from softvq_lab.registry import register
from softvq_lab.quantizers.base import QuantOut, Quantizer

@register('quantizer', 'rounded')
class Rounded(Quantizer):
    def __init__(self, config, width):
        super().__init__()
        self.latent_dim, self.step = width, config.tau
    def forward(self, z_hat):
        h = z_hat.clamp(-1e3, 1e3)
        return QuantOut(h + ((h / self.step).round() * self.step - h).detach(), h)

@register('dataset', 'few-digits')
def few(data_path, size): return digits(size)

@register('teacher', 'means')
class Means(nn.Module):
    width = 3
    def __init__(self, images, config): super().__init__()
    def forward(self, x): return nn.functional.adaptive_avg_pool2d(x, 8).flatten(2).transpose(1, 2)

@register('metric', 'worst_pixel', better='lower', protocol='largest error of a pixel')
def worst(x, y): return (x - y).abs().flatten(1).amax(1)

@register('metric', 'brightness')
def brightness(x, y): return y.flatten(1).mean(1)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTVQ_LAB_PLUGINS", "")
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    yield path
    for kind, name in (
        ("quantizer", "rounded"),
        ("dataset", "few-digits"),
        ("teacher", "means"),
        ("metric", "worst_pixel"),
        ("metric", "brightness"),
    ):
        registry._registered[kind].pop(name, None)
        forget(f"plugin_{name}")


def test_a_name_that_nobody_registered_is_refused_with_what_is_possible():
    with pytest.raises(
        ConfigError, match="(?s)quantizer='rounded': should be one of 'softvq'.*plugins=FILE.py"
    ):
        parse(TrainConfig, dict(quantizer="rounded"))
    with pytest.raises(ConfigError, match="Did you mean 'softvq'"):
        parse(TrainConfig, dict(quantizer="softqv"))


@pytest.mark.parametrize(
    "text,says",
    [
        (None, "there is no file"),
        ("1 / 0", "ZeroDivisionError"),
        (
            "from softvq_lab.registry import register\nregister('quantiser', 'x')",
            "possible: quantizer",
        ),
    ],
)
def test_a_plugin_that_fails_says_so_by_its_name(tmp_path, text, says):
    path = tmp_path / "bad.py"
    if text:
        path.write_text(text)
    with pytest.raises(ConfigError, match=f"(?s)bad.py cannot be loaded.*{says}"):
        parse(TrainConfig, dict(plugins=str(path)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "text,says",
    [
        ("raise RuntimeError('boom')", "RuntimeError: boom"),
        (None, "there is no file"),
        (
            "from softvq_lab.train import main\nfrom softvq_lab.registry import register\n"
            "@register('loss', 'deep')\ndef f(x, y): return x",
            "tokens=0",  # it is loaded: a plug-in may import any part of the library
        ),
    ],
    ids=["broken", "missing", "deep"],
)
def test_a_plugin_of_the_environment_is_loaded_by_the_commands_and_by_no_import(
    tmp_path, text, says
):
    path = tmp_path / "own.py"
    if text:
        path.write_text(text)
    env = {**os.environ, "SOFTVQ_LAB_PLUGINS": str(path)}

    def run(*command):
        return subprocess.run(
            [sys.executable, *command], env=env, capture_output=True, text=True, cwd=tmp_path
        )

    imported = run("-c", "import softvq_lab.settings.workflows, softvq_lab.train, softvq_lab.cli")
    assert imported.returncode == 0, imported.stderr
    train = run("-m", "softvq_lab.train", "nothing")
    assert train.returncode == 2 and "Traceback" not in train.stderr
    execute = run("-m", "softvq_lab.cli", "execute", "train", "tokens=0")
    assert execute.returncode == 2 and "Traceback" not in execute.stderr
    assert says in execute.stderr


def test_what_a_file_registers_is_a_choice_like_any_other(mine):
    c = parse(
        TrainConfig,
        dict(
            plugins=str(mine),
            quantizer="rounded",
            dataset="few-digits",
            align="means",
            tau=0.25,
            tokens=4,
        ),
    )
    q = make_quantizer(c.tokenizer)
    check_quantizer(q, 4)
    assert torch.equal(q(torch.tensor([[[0.3] * 8]])).z, torch.full((1, 1, 8), 0.25))
    images = load_data(c.data, 16)
    assert len(images.train) == len(digits(16).train)
    assert make_teacher("means", c.tokenizer, images)(images.train[0][0][None]).shape == (
        1,
        64,
        3,
    )


def test_a_metric_stands_among_the_figures_and_in_the_passport(mine):
    parse(TrainConfig, dict(plugins=str(mine)))
    images, t = digits(16), Tokenizer(TokenizerConfig(tokens=4, image_size=16)).eval()
    r = reconstruct_split(t, images)
    m = further_metrics(r, images)["reconstruction-plugin_worst_pixel"]
    assert m.figures["plugin_worst_pixel"] == pytest.approx(
        (r["original"] - r["reconstruction"]).abs().flatten(1).amax(1).mean().item()
    )
    assert "plugin_worst_pixel by softvq_lab_plugin_mine" in m.passport["evaluator"]
    assert "(lower is better)" in m.passport["evaluator"]


def test_an_edited_metric_changes_its_own_passport_and_no_other(mine):
    parse(TrainConfig, dict(plugins=str(mine)))
    images, t = digits(16), Tokenizer(TokenizerConfig(tokens=4, image_size=16)).eval()
    without = {k: v for k, v in reconstruct_split(t, images).items() if "plugin" not in k}
    before = reconstruction_metrics(without, images).passport

    @registry.register("metric", "brightness", "lower")
    def darker(x, y):
        return -y.mean((1, 2, 3))

    r = reconstruct_split(t, images)
    assert reconstruction_metrics(r, images).passport == before
    of = {name: m.passport for name, m in further_metrics(r, images).items()}
    own, other = (of[f"reconstruction-plugin_{n}"] for n in ("brightness", "worst_pixel"))
    assert list(own["plugins"]) == ["metric brightness"] != list(other["plugins"])
    assert "brightness" not in str(other) and "worst_pixel" not in str(own)


def test_a_metric_that_does_not_say_which_direction_is_better_is_measured_and_never_ranked(mine):
    parse(TrainConfig, dict(plugins=str(mine)))
    images, t = digits(16), Tokenizer(TokenizerConfig(tokens=4, image_size=16)).eval()
    r = reconstruct_split(t, images, hold=False)
    m = further_metrics(r, images)["reconstruction-plugin_brightness"]
    assert "plugin_brightness" in m.figures and "(not ranked)" in m.passport["evaluator"]
    assert m.notes == [
        "Nothing is ranked by plugin_brightness: its plug-in does not say which direction is "
        "better. "
        "Write @register('metric', 'brightness', better='higher') or better='lower' and measure "
        "again."
    ]


def test_the_last_registration_counts(mine):
    name = "plugin_brightness"
    for better, lower in (("lower", True), ("higher", False), ("neither", None), (None, None)):
        registry.register("metric", "brightness", better)(lambda x, y: y)
        assert lower_is_better(name) is lower and bool(find_metric(name)) == bool(better)


@pytest.mark.parametrize(
    "kind,about,says",
    [
        ("metric", dict(better="smaller"), "Possible: higher, lower, neither"),
        ("metric", dict(unit="px"), "no direction"),
        ("metric", dict(better="lower", colour="red"), "given colour. Possible: better, unit"),
        ("teacher", dict(better="lower"), "was given better. Possible: nothing but the name"),
        ("dataset", dict(unit="px"), "was given unit. Possible: settings"),
        ("loss", dict(settings=dict), "was given settings. Possible: nothing but the name"),
    ],
)
def test_a_declaration_that_makes_no_sense_is_refused(kind, about, says):
    with pytest.raises(ValueError, match=says):
        registry.register(kind, "x", **about)
    assert "x" not in registry._registered[kind]


@pytest.mark.parametrize("measure", [lambda x, y: y.mean(), lambda x, y: y[:1].flatten(1).mean(1)])
def test_a_metric_that_gives_no_value_for_each_image_is_named(mine, measure):
    registry.register("metric", "brightness", "higher")(measure)
    with pytest.raises(
        ValueError, match="Metric 'brightness' gave values of shape .* for .* images"
    ):
        reconstruct_split(Tokenizer(TokenizerConfig(tokens=4, image_size=16)).eval(), digits(16))


@pytest.mark.slow
def test_a_saved_tokenizer_needs_its_plugin_and_says_so(mine, tmp_path):
    parse(TrainConfig, dict(plugins=str(mine)))
    t = Tokenizer(TokenizerConfig(quantizer="rounded", tokens=4, image_size=16)).eval()
    save(t, tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").fingerprint == t.fingerprint
    code = (
        "from softvq_lab.hub.models import load_tokenizer; "
        f"print(load_tokenizer({str(tmp_path / 'saved')!r}).fingerprint)"
    )

    def child(**env):
        return subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **env},
            capture_output=True,
            text=True,
            timeout=120,
        )

    without = child(SOFTVQ_LAB_PLUGINS="")
    assert (
        without.returncode
        and "quantizer='rounded'" in without.stderr
        and "plugins" in without.stderr
    )
    assert (
        child().stdout.strip() == t.fingerprint
    )  # parse has put the file into the environment, for children


def test_a_run_says_which_plugins_it_was_made_with(mine, tmp_path):
    run = open_run(
        tmp_path / "r",
        "tokenizer",
        asdict(parse(TrainConfig, dict(plugins=str(mine), quantizer="rounded", tokens=4))),
    )
    assert load_config(run).tokenizer.quantizer == "rounded"
    registry._registered["quantizer"].pop("rounded")
    with pytest.raises(ConfigError, match=f"export SOFTVQ_LAB_PLUGINS={mine}"):
        load_config(run)


def test_an_entry_may_list_what_its_kind_offers_and_is_given_it(mine):
    "Each kind's `offers` are what its maker hands over: here an entry lists all of them."
    seen = {}

    def listing(kind, contract, made):
        "An entry with the parameters of the contract and all that is offered."
        offers = registry.KINDS[kind].offers
        head = f"def entry({', '.join([*contract, *offers])}):\n"
        code = f"{head}    seen.update({kind}=True)\n    return made"
        space = {"seen": seen, "made": made}
        exec(code, space)
        registry.register(kind, "lists-all")(space["entry"])

    images, config = digits(16), TokenizerConfig(tokens=4, image_size=16)
    net = torch.nn.Linear(1, 1)
    listing("perceptual", ["images"], net)
    listing("discriminator", ["shape"], net)
    listing("teacher", ["images", "config"], net)
    listing("extractor", ["images"], net)
    listing("dataset", ["data_path", "size"], images)
    try:
        assert make_perceptual("lists-all", images=images) is net
        assert make_discriminator("lists-all", 16, width=3, file="x", norm="sync") is net
        assert make_teacher("lists-all", config, images) is net
        assert make_extractor("lists-all", images).kind == "lists-all"
        assert load_data(DataConfig(dataset="lists-all"), 16) is images
        assert len(seen) == 5
    finally:
        for kind in seen:
            del registry._registered[kind]["lists-all"]


def test_a_plugin_cannot_take_a_name_of_the_library(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTVQ_LAB_PLUGINS", "")
    path = tmp_path / "taken.py"
    path.write_text(
        "from softvq_lab.registry import register\n@register('loss', 'l1')\ndef f(x, y): return x"
    )
    with pytest.raises(ConfigError, match="library has a loss 'l1' of its own"):
        parse(TrainConfig, dict(plugins=str(path)))
    assert registry.registered("loss")["l1"].__module__ == "softvq_lab.training.losses"


def test_settings_of_an_entry_are_parameters_where_it_is_chosen_and_are_stored_with_the_run(
    tmp_path, monkeypatch
):
    monkeypatch.setenv("SOFTVQ_LAB_PLUGINS", "")
    path = tmp_path / "own.py"
    path.write_text(
        "from pydantic import Field\n"
        "from softvq_lab.data.datasets import digits\n"
        "from softvq_lab.registry import register\n"
        "from softvq_lab.settings.parse import config\n"
        "@config\n"
        "class Kept:\n"
        "    every: int = Field(2, ge=1, le=9)\n"
        "@register('dataset', 'thinned', settings=Kept)\n"
        "def thinned(data_path, size, config):\n"
        "    thinned.every = config.every\n"
        "    return digits(size)\n"
    )
    try:
        given = dict(plugins=str(path), dataset="thinned", every="3", tokens=4)
        c = parse(TrainConfig, given)
        load_data(c.data, 16)
        assert registry.registered("dataset")["thinned"].every == c.data.every == 3
        run = open_run(tmp_path / "r", "tokenizer", asdict(c))
        assert load_config(run).data == c.data
        for wrong, says in ((dict(every=10), "every=10"), (dict(dataset="digits"), "every='3'")):
            with pytest.raises(ConfigError, match=says):
                parse(TrainConfig, given | wrong)
        with pytest.raises(ConfigError, match="unknown. Did you mean 'every'"):
            parse(TrainConfig, given | dict(evry=1))
    finally:
        registry._registered["dataset"].pop("thinned", None)


def test_a_setting_that_the_section_has_already_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("SOFTVQ_LAB_PLUGINS", "")
    path = tmp_path / "twice.py"
    path.write_text(
        "from softvq_lab.registry import register\n"
        "from softvq_lab.settings.parse import config\n"
        "@config\n"
        "class Twice:\n"
        "    tau: float = 1.0\n"
        "@register('quantizer', 'twice', settings=Twice)\n"
        "def make(config, width): ...\n"
    )
    try:
        with pytest.raises(ConfigError, match="Twice has a setting 'tau', which TokenizerConfig"):
            parse(TrainConfig, dict(plugins=str(path), quantizer="twice"))
    finally:
        registry._registered["quantizer"].pop("twice", None)


def test_a_registered_network_is_an_extractor_whose_name_tells_its_weights():
    class Maps(torch.nn.Conv2d):
        widths = (5,)

        def maps(self, x):
            return [self(x)]

    def make(images):
        net = Maps(3, 5, 2, bias=False)
        net.weight.data.fill_(fill)
        return net

    registry.register("network", "maps")(make)
    try:
        names = []
        for fill in (1.0, 1.0, 2.0):
            extractor = make_extractor("maps", digits(16))
            features, logits = extractor(torch.full((2, 3, 8, 8), 255, dtype=torch.uint8))
            assert features.tolist() == [[12 * fill] * 5] * 2 and logits is None
            names.append(extractor.name)
        assert names[0] == names[1] != names[2]
        assert weights_hash(make(None).bfloat16()) != weights_hash(make(None))
    finally:
        registry._registered["network"].pop("maps")


@pytest.mark.parametrize(
    "settings,says",
    [
        (dict, "are no dataclass. Write @config"),
        (dataclasses.make_dataclass("Needs", [("n", int)]), "Give each a default"),
    ],
)
def test_settings_of_an_entry_are_a_dataclass_with_defaults(settings, says):
    with pytest.raises(ValueError, match=says):
        registry.register("dataset", "wrong", settings=settings)
    assert "wrong" not in registry.registered("dataset")


BROKEN = {
    "one for the batch": (lambda x, y: (x - y).abs().mean(), "not one for each"),
    "one for each channel": (lambda x, y: (x - y).abs().mean((2, 3)), "not one for each"),
    "no number": (lambda x, y: (x - y).flatten(1).mean(1).log(), "not a number"),
    "neighbours": (lambda x, y: (x - x.mean(0)).abs().mean((1, 2, 3)), "images beside it"),
    "in place": (lambda x, y: x.sub_(y).abs().mean((1, 2, 3)), "changes the images"),
    "the wrong way round": (lambda x, y: -(x - y).abs().mean((1, 2, 3)), "lower is better, but"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_metric_that_breaks_its_contract_is_told_which_promise(fault):
    measure, says = BROKEN[fault]
    registry.register("metric", "broken", "lower")(measure)
    try:
        with pytest.raises(AssertionError, match=f"metric 'broken': .*{says}"):
            check_metric("broken")
    finally:
        registry._registered["metric"].pop("broken")
        forget("plugin_broken")


def test_a_metric_that_keeps_its_contract_passes(mine):
    parse(TrainConfig, dict(plugins=str(mine)))
    check_metric("worst_pixel")
    check_metric("brightness")  # without a direction
    with pytest.raises(ValueError, match="No metric 'worst' is registered. Registered: .*worst_p"):
        check_metric("worst")
