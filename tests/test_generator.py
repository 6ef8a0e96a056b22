"""The exported generator: shapes, errors, guidance, determinism, its bond to one tokenizer."""
import pytest
import torch

from softvq_lab.config import GeneratorConfig
from softvq_lab.generators.sit import SiT
from softvq_lab.hub import load_generator, load_tokenizer, save
from softvq_lab.latents.stats import LatentStats

STATS = LatentStats((1., -2., 0.), (2., 0.5, 1.), 100)


def make(**kw) -> SiT:
    torch.manual_seed(0)
    g = SiT(GeneratorConfig(**kw), tokens=5, latent_dim=3, num_classes=7, stats=STATS, tokenizer_fingerprint='x').eval()
    for p in g.parameters(): torch.nn.init.normal_(p, std=0.05)  # zero gates would make every field zero
    return g


@pytest.mark.parametrize('path', ['linear', 'cosine'])
@pytest.mark.parametrize('sampler', ['euler', 'heun'])
def test_sampling_is_reproducible(path, sampler):
    g, y = make(interpolant=path), torch.tensor([0, 3, 7])
    a = g.sample(y, sampler, steps=3, seed=1)
    assert a.shape == (3, 5, 3) and a.isfinite().all() and torch.equal(a, g.sample(y, sampler, steps=3, seed=1))
    assert not torch.allclose(a, g.sample(y, sampler, steps=3, seed=2))


def test_guidance_of_one_is_the_conditional_model_and_more_is_not():
    g, y = make(), torch.tensor([2, 4])
    plain = g.sample(y, steps=3, guidance=1.)
    assert torch.equal(plain, g.sample(y, steps=3, guidance=5., interval=(0.99999, 0.99999)))  # no step lies in the interval
    assert not torch.allclose(plain, g.sample(y, steps=3, guidance=5., interval=(0., 1.)))


def test_a_zero_field_keeps_the_noise_and_the_latent_contract():
    g = make()
    torch.nn.init.zeros_(g.net.final_linear.weight), torch.nn.init.zeros_(g.net.final_linear.bias)
    z = g.sample(torch.zeros(4000, dtype=torch.long), 'euler', 1, guidance=1.)
    torch.testing.assert_close(z.mean((0, 1)), torch.tensor(STATS.mean), atol=0.06, rtol=0)
    torch.testing.assert_close(z.std((0, 1)), torch.tensor(STATS.std), atol=0.06, rtol=0)


@pytest.mark.parametrize('call,says', [(lambda g: g.sample(torch.tensor([8])), 'classes must be 0..6'), (lambda g: g.sample(torch.tensor([1]), 'rk4'), 'possible: euler, heun'), (lambda g: g.sample(torch.tensor([1]), steps=0), 'at least 1')])
def test_bad_requests_say_what_is_possible(call, says):
    with pytest.raises(ValueError, match=says): call(make())


def test_labels_are_dropped_at_the_rate_asked_for():
    g, seen = make(class_dropout=0.25), []
    g.net.register_forward_pre_hook(lambda m, args: seen.append(args[2]))
    g.loss(torch.randn(4000, 5, 3), torch.zeros(4000, dtype=torch.long))
    assert 0.2 < (seen[0] == g.null_class).float().mean() < 0.3 and set(seen[0].unique().tolist()) == {0, 7}


def test_round_trip(tmp_path):
    g, y = make(), torch.tensor([1, 2])
    save(g, tmp_path)
    assert torch.equal(load_generator(tmp_path).sample(y, steps=2), g.sample(y, steps=2))


def test_a_swapped_tokenizer_is_refused(trained):
    g, t = load_generator(trained/'generator'), load_tokenizer(trained/'tokenizer')
    g.check_tokenizer(t)
    with torch.no_grad(): t.to_latent.bias += 1
    with pytest.raises(ValueError, match='train a generator on this tokenizer'): g.check_tokenizer(t)
