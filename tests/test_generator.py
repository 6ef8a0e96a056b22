"""The exported generators: shapes, errors, guidance, determinism, their bond to one tokenizer."""

import pytest
import torch

from softvq_lab.core import ConfigError
from softvq_lab.data.datasets import digits
from softvq_lab.generators.base import Generator, samplers_of
from softvq_lab.generators.model import make_generator
from softvq_lab.hub.models import load_generator, load_tokenizer, save
from softvq_lab.latents.stats import LatentStats
from softvq_lab.registry import registered
from softvq_lab.runs import Run
from softvq_lab.settings.parse import parse
from softvq_lab.settings.sections import (
    GeneratorConfig,
    RepaConfig,
    SampleConfig,
    TokenizerConfig,
)
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.training.generator_task import GeneratorTask

STATS = LatentStats((1.0, -2.0, 0.0), (2.0, 0.5, 1.0), 100)
GENERATORS = list(registered("generator"))
SAMPLERS = [(k, s) for k in GENERATORS for s in samplers_of(k)]


def make(generator="sit", num_classes=7, tokens=5, **kw) -> Generator:
    torch.manual_seed(0)
    g = make_generator(
        GeneratorConfig(generator=generator, width=32, depth=2, heads=2, **kw),
        tokens,
        3,
        num_classes,
        STATS,
        "x",
    ).eval()
    for p in g.parameters():
        # zero gates would make every field zero; mar's norms have weights, and small ones would
        # hide the class
        torch.nn.init.normal_(p, std=0.1 if generator == "mar" else 0.05)
    return g


@pytest.mark.parametrize("kind", GENERATORS)
def test_the_loss_is_one_value_an_image_and_reaches_every_weight(kind):
    g = make(kind).train()
    loss = g.loss(torch.randn(4, 5, 3), torch.tensor([0, 1, 6, 6]))
    assert loss.shape == (4,) and loss.isfinite().all() and (loss > 0).all()
    loss.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in g.parameters())


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_training_step_never_waits_for_the_device(kind):
    "The meta device holds no values: whoever asks for one fails."
    g = make(kind).train().to("meta")
    g.loss(
        torch.randn(4, 5, 3, device="meta"), torch.zeros(4, dtype=torch.long, device="meta")
    ).mean().backward()


@pytest.mark.parametrize(
    "kw",
    [
        dict(interpolant="cosine"),
        dict(prediction="noise"),
        dict(prediction="data", interpolant="cosine"),
        dict(time_sampling="lognormal"),
        dict(qk_norm=True),
        dict(generator="dit", noise_schedule="cosine"),
        dict(tokens=24, latent_rows=4, latent_patch=2),
        dict(generator="dit", tokens=32, latent_rows=8, latent_patch=4),
    ],
)
def test_every_choice_learns_and_draws(kw):
    g = make(**kw)
    assert g.loss(torch.randn(2, g.tokens, 3), torch.tensor([0, 6])).isfinite().all()
    z = g.sample(torch.tensor([0, 6]), steps=3)
    assert z.shape == (2, g.tokens, 3) and z.isfinite().all()


@pytest.mark.parametrize("kind,sampler", SAMPLERS)
def test_sampling_is_reproducible(kind, sampler):
    g, y = make(kind), torch.tensor([0, 3, 7])
    a = g.sample(y, sampler, steps=4, seed=1)
    assert (
        a.shape == (3, 5, 3)
        and a.isfinite().all()
        and torch.equal(a, g.sample(y, sampler, steps=4, seed=1))
    )
    assert not torch.allclose(a, g.sample(y, sampler, steps=4, seed=2))


@pytest.mark.parametrize("kind,sampler", SAMPLERS)
def test_a_sample_does_not_depend_on_how_a_batch_is_split(kind, sampler):
    "As many processes would: numbers 0..6 in one batch, or 0..2 here and 3..6 there."
    g, y = make(kind), torch.arange(7)
    tight = (
        dict(rtol=1e-6, atol=1e-6) if sampler == "dopri5" else {}
    )  # it chooses its steps by the whole batch
    whole = g.sample(y, sampler, steps=4, seed=3, **tight)
    parts = torch.cat(
        [
            g.sample(y[:3], sampler, steps=4, seed=3, **tight),
            g.sample(y[3:], sampler, steps=4, seed=3, start=3, **tight),
        ]
    )
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(whole[:3], g.sample(y[:3], sampler, steps=4, seed=3, start=3))


@pytest.mark.parametrize("kind,sampler", SAMPLERS)
def test_guidance_of_one_is_the_conditional_model_and_more_is_not(kind, sampler):
    g, y = make(kind), torch.tensor([2, 4])

    def draw(**kw):
        return g.sample(y, sampler, steps=4, **kw)

    plain = draw(guidance=1.0)
    torch.testing.assert_close(
        plain,
        draw(guidance=5.0, interval=(0.0001, 0.0001)),
        rtol=1e-3,
        atol=1e-3 if sampler == "dopri5" else 0.0,
    )  # no step lies in the interval; dopri5 stops there and goes on
    guided = draw(guidance=5.0, interval=(0.0, 1.0), schedule="constant")
    assert not torch.allclose(plain, guided, rtol=1e-3) and not torch.allclose(
        guided, draw(guidance=5.0, interval=(0.0, 1.0), schedule="linear"), rtol=1e-4
    )


@pytest.mark.parametrize(
    "kind,sampler,steps,batches",
    [
        ("sit", "euler", 10, [2] * 3 + [4] * 7),
        ("sit", "heun", 5, [2, 2, 2, 2, 4, 4, 4, 4, 4]),
        ("dit", "ddim", 4, [4] * 4),
    ],
)
def test_the_null_branch_is_computed_where_guidance_is_on_and_once(kind, sampler, steps, batches):
    g, seen = make(kind), []
    g.net.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    g.sample(torch.tensor([1, 2]), sampler, steps=steps, guidance=2.0)
    assert seen == batches  # sit: t = 1.0, 0.9, 0.8 lie outside [0, 0.7]


def test_guidance_of_dit_leaves_the_variance_and_takes_all_channels():
    g, outs = make("dit"), []
    g.net.register_forward_hook(lambda m, args, out: outs.append(out))
    x, y = torch.randn(2, 5, 3), torch.tensor([1, 2])
    from softvq_lab.generators.base import Guidance
    from softvq_lab.generators.samplers import guided

    with torch.no_grad():
        v = guided(g.net, y, g.null_class, Guidance(3.0), channels=3)(x, 500.0, 0.5)
        own, null = (
            g.net(x, torch.full((2,), 500.0), y),
            g.net(x, torch.full((2,), 500.0), torch.full((2,), 7)),
        )
    torch.testing.assert_close(v[..., 3:], own[..., 3:])
    torch.testing.assert_close(v[..., :3], null[..., :3] + 3 * (own - null)[..., :3])


def test_the_papers_scales_are_the_defaults():
    def scale(kind, tokens, **kw):
        return make(kind, tokens=tokens, **kw).guidance.scale

    assert [scale("sit", n) for n in (64, 32, 128, 8)] == [1.75, 2.25, 1.75, 2.25] and [
        scale("dit", n) for n in (64, 32)
    ] == [1.35, 1.45]
    assert scale("sit", 64, guidance=3.0) == 3.0 and scale("sit", 64, num_classes=0) == 1.0
    assert (
        make("sit").guidance.high == 0.7
        and make("dit").guidance.high == 1.0
        and make("sit", guidance_high=0.9).guidance.high == 0.9
    )


@pytest.mark.parametrize("kind", GENERATORS)
def test_an_unconditional_model_has_the_null_class_only(kind):
    g, y = make(kind, num_classes=0), torch.zeros(2, dtype=torch.long)
    assert g.null_class == 0 and g.loss(torch.randn(2, 5, 3), y).shape == (2,)
    seen = []
    g.net.register_forward_pre_hook(lambda m, args: seen.append(len(args[0])))
    assert g.sample(y, steps=2, guidance=4.0).shape == (2, 5, 3) and set(seen) == {
        2
    }  # nothing to guide by
    with pytest.raises(ValueError, match="unconditional"):
        g.sample(torch.tensor([1]))


def test_a_zero_field_keeps_the_noise_and_the_latent_contract():
    g = make()
    torch.nn.init.zeros_(g.net.final_linear.weight), torch.nn.init.zeros_(g.net.final_linear.bias)
    z = g.sample(torch.zeros(4000, dtype=torch.long), "euler", 1, guidance=1.0)
    torch.testing.assert_close(z.mean((0, 1)), torch.tensor(STATS.mean), atol=0.06, rtol=0)
    torch.testing.assert_close(z.std((0, 1)), torch.tensor(STATS.std), atol=0.06, rtol=0)


@pytest.mark.parametrize(
    "kind,call,says",
    [
        ("sit", lambda g: g.sample(torch.tensor([8])), "classes must be 0..6"),
        ("sit", lambda g: g.sample(torch.tensor([[1]])), "must be a vector"),
        ("sit", lambda g: g.sample(torch.tensor([1]), "rk4"), "SiT has heun, euler, dopri5, sde"),
        ("dit", lambda g: g.sample(torch.tensor([1]), "heun"), r"DiT has dpm\+\+, ddim, ddpm"),
        ("sit", lambda g: g.sample(torch.tensor([1]), steps=0), "at least 1"),
        ("sit", lambda g: g.sample(torch.tensor([1]), "sde", 1), "at least 2"),
        ("dit", lambda g: g.sample(torch.tensor([1]), steps=1001), "between 1 and 1000"),
        (
            "sit",
            lambda g: g.sample(torch.tensor([1]), "sde", diffusion="3t"),
            "possible: 2t, sigma",
        ),
        (
            "sit",
            lambda g: g.sample(torch.tensor([1]), rtol=0.1),
            "'heun' has no option rtol; possible: none",
        ),
        (
            "sit",
            lambda g: make(class_dropout=0.0).sample(torch.tensor([1]), guidance=2.0),
            "no null class to guide by",
        ),
        ("sit", lambda g: g.sample(torch.tensor([1]), interval=(0.5, 0.2)), "guidance interval"),
        (
            "sit",
            lambda g: g.sample(torch.tensor([1]), guidance=2.0, schedule="quadratic"),
            "possible: constant, linear",
        ),
    ],
)
def test_bad_requests_say_what_is_possible(kind, call, says):
    with pytest.raises(ValueError, match=says):
        call(make(kind))


@pytest.mark.parametrize(
    "cls,given,says",
    [
        (GeneratorConfig, dict(generator="sitt"), "Did you mean 'sit'"),
        (GeneratorConfig, dict(latent_patch=3), "latent_patch=3"),
        (GeneratorConfig, dict(latent_patch=2), "latent_rows above 0"),
        (GeneratorConfig, dict(guidance_low=0.8, guidance_high=0.5), "is above"),
        (GeneratorConfig, dict(guidance_low=0.8), "above guidance_high=0.7"),
        (GeneratorConfig, dict(guidance=True), "a truth value is not possible"),
        (SampleConfig, dict(sampler="dmp++"), "Did you mean 'dpm++'"),
    ],
)
def test_bad_settings_say_what_is_possible(cls, given, says):
    with pytest.raises(ConfigError) as e:
        parse(cls, given)
    assert says in str(e.value)


@pytest.mark.parametrize("kind", GENERATORS)
def test_labels_are_dropped_at_the_rate_asked_for_in_training_only(kind):
    g, seen = make(kind, class_dropout=0.25), []
    g.net.register_forward_pre_hook(lambda m, args: seen.append(args[2]))
    for training in (True, False):
        g.train(training).loss(torch.randn(4000, 5, 3), torch.zeros(4000, dtype=torch.long))
    assert (
        0.2 < (seen[0] == g.null_class).float().mean() < 0.3
        and set(seen[0].unique().tolist()) == {0, 7}
        and set(seen[1].tolist()) == {0}
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", GENERATORS)
def test_half_precision_changes_the_loss_by_little(kind, dtype):
    "Latents included, which a tokenizer gives in half precision where they are encoded on the fly."
    g, z, y, found = make(kind), torch.randn(8, 5, 3), torch.arange(8) % 7, []
    for half in (False, True):
        torch.manual_seed(1)
        with torch.autocast("cpu", dtype, enabled=half):
            found.append(g.loss(z.to(dtype) if half else z.to(dtype).float(), y))
    assert found[1].dtype == torch.float32 and (found[1] - found[0]).norm() / found[0].norm() < 0.02


@pytest.mark.parametrize("kind", GENERATORS)
def test_round_trip(tmp_path, kind):
    g, y = make(kind), torch.tensor([1, 2])
    save(g, tmp_path)
    other = load_generator(tmp_path)
    assert (
        type(other) is type(g)
        and other.config == g.config
        and torch.equal(other.sample(y, steps=2), g.sample(y, steps=2))
    )


def test_a_swapped_tokenizer_is_refused(trained):
    g, t = load_generator(trained / "generator"), load_tokenizer(trained / "tokenizer")
    g.check_tokenizer(t)
    with torch.no_grad():
        t.to_latent.bias += 1
    with pytest.raises(ValueError, match="train a generator on this tokenizer"):
        g.check_tokenizer(t)


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize(
    "quantizer",
    [
        dict(quantizer=q)
        for q in ("softvq", "gmmvq", "vq", "ae", "kl", "fsq", "lfq", "simvq", "rotation")
    ]
    + [dict(groups=2), dict(residual=2)],
    ids=lambda q: "-".join(map(str, q.values())),
)
def test_any_quantizers_latents_train_any_generator(quantizer, kind):
    torch.manual_seed(0)
    t = Tokenizer(TokenizerConfig(tokens=4, codebook_size=16, **quantizer)).eval()
    x, y = digits(32).train[:16]
    with torch.no_grad():
        z = t.encode(x).z
    g = make_generator(
        GeneratorConfig(generator=kind, width=32, depth=2, heads=2),
        t.tokens,
        t.latent_dim,
        10,
        LatentStats.measure(z),
        t.fingerprint,
    )
    optimizer, losses = torch.optim.AdamW(g.parameters(), 1e-2), []
    for _ in range(12):
        torch.manual_seed(1)  # the same draws each time: the loss of a batch must fall
        loss = g.loss(z, y).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    g.eval().check_tokenizer(t)
    with torch.no_grad():
        assert t.decode(g.sample(torch.tensor([3, 10]), steps=4)).isfinite().all()


@pytest.mark.parametrize("kind", GENERATORS)
def test_recomputed_activations_give_the_same_gradients(kind):
    z, y, grads = torch.randn(3, 5, 3), torch.tensor([0, 1, 6]), []
    for recompute in (False, True):
        g = make(kind).train()
        if recompute:
            g.set_grad_checkpointing()
        torch.manual_seed(1)
        g.loss(z, y).mean().backward()
        grads.append(torch.cat([p.grad.flatten() for p in g.parameters() if p.grad is not None]))
    torch.testing.assert_close(*grads)


def test_repa_aligns_the_patches_of_a_grid_of_latents(tmp_path):
    "As many as the transformer sees: 16 x 16 latents in patches of 2 x 2 are 64 positions."
    c = TokenizerConfig(preset="cnn-tiny", tokens=256, patch_size=2, latent_dim=4)
    tokenizer, where = Tokenizer(c), (digits(32), Run(tmp_path), 0, "fly")
    repa = RepaConfig(align="reference", align_layer=1)

    def task(**latents):
        return GeneratorTask(GeneratorConfig(**latents), tokenizer, *where, repa=repa)

    aligned = task(latent_rows=16, latent_patch=2)
    x = torch.stack([aligned.data[i][0] for i in range(3)])
    assert aligned([x, torch.arange(3)])["align"].isfinite()
    assert aligned.hidden.shape[:2] == (3, 64)
    with pytest.raises(ValueError, match="64 patches of the teacher cannot be shared out over 256"):
        task(latent_rows=16)
