"""Noise of samples may be drawn on the device: other draws than the CPU's, never taken for them,
and still each sample's own, however many are drawn at once.
"""

from dataclasses import dataclass

import pytest
import torch
from busy import busy_generator
from fake_cuda import fake_cuda
from scipy.stats import kstest

from softvq_lab.core import NOISES, rng
from softvq_lab.evaluation.passport import compare, passport
from softvq_lab.evaluation.sampling import read_samples, sample_folder, sample_settings
from softvq_lab.evaluation.sampling import sample_to_folder as write
from softvq_lab.evaluation.scores import sampling_protocol
from softvq_lab.generators.noise import DeviceNoise, SampleNoise, make_noise, split_mix
from softvq_lab.registry import registered

Y = torch.arange(5)


# ---- the numbers
def test_the_hash_is_that_of_split_mix():
    "The first numbers of two seeds, as the reference implementation gives them."
    keys = torch.tensor([1234567, 0])
    published = [
        [6457827717110365317, 3203168211198807973, 9817491932198370423],
        [16294208416658607535, 7960286522194355700, 487617019471545679],
    ]
    assert [[int(x) % 2**64 for x in row] for row in split_mix(keys, 0, 3)] == published
    assert torch.equal(split_mix(keys, 0, 7)[:, 4:], split_mix(keys, 4, 3))


@pytest.mark.parametrize("where", NOISES)
def test_draws_are_normal_and_uniform_and_independent(where):
    noise = make_noise(where, 3, 0, 40)
    x, u = noise(101, 50).flatten(1), noise.uniform(5050)
    assert kstest(x.flatten().numpy(), "norm").pvalue > 1e-3
    assert kstest(u.flatten().numpy(), "uniform").pvalue > 1e-3
    assert 0 <= u.min() and u.max() < 1
    n = x.shape[1]
    for one, other in ((x[:-1], x[1:]), (x[:, :-1], x[:, 1:]), (x, u)):
        # samples, neighbours in a sample, one kind of draw and the next
        correlation = torch.corrcoef(torch.stack([one.flatten(), other.flatten()]))[0, 1]
        assert abs(correlation) < 4 / one.numel() ** 0.5
    assert torch.corrcoef(x).triu(1).abs().max() < 5.5 / n**0.5  # of any two samples


def test_one_hash_gives_both_halves_of_a_pair_and_none_is_lost():
    odd, even = DeviceNoise(1, 0, 3), DeviceNoise(1, 0, 3)
    assert odd(7).shape == (3, 7) and even(8).shape == (3, 8)
    assert torch.equal(odd(4), even(4)), "both have gone on by eight numbers"


@pytest.mark.parametrize("where", NOISES)
def test_a_sample_has_the_same_draws_in_any_batch(where):
    whole, part = make_noise(where, 5, 0, 6), make_noise(where, 5, 4, 2)
    for draw in (lambda n: n(3, 3), lambda n: n.uniform(7), lambda n: n(1)):
        assert torch.equal(draw(whole)[4:], draw(part))
    assert not torch.equal(make_noise(where, 6, 4, 2)(9), make_noise(where, 5, 4, 2)(9))


def test_draws_of_the_cpu_are_those_of_before():
    "Number by number what torch's generator of the sample's stream gives."
    noise, streams = make_noise("cpu", 5, 3, 2), [rng("sample", 5, i) for i in (3, 4)]
    for f, draw in ((torch.randn, noise), (torch.rand, noise.uniform), (torch.randn, noise)):
        assert torch.equal(draw(9), torch.stack([f(9, generator=g) for g in streams]))
    assert not torch.equal(make_noise("cpu", 5, 3, 2)(9), make_noise("device", 5, 3, 2)(9))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_draws_the_same_numbers_but_for_rounding():
    here, there = (DeviceNoise(5, 0, 40, device) for device in ("cpu", "cuda"))
    torch.testing.assert_close(here(500), there(500).cpu(), rtol=1e-6, atol=1e-7)
    assert torch.equal(here.uniform(500), there.uniform(500).cpu())


def test_nothing_of_it_waits_for_the_device():
    with fake_cuda():
        noise = make_noise("device", 5, 0, 3, torch.device("cuda"))
        for x, shape in ((noise(4, 5), (3, 4, 5)), (noise.uniform(6), (3, 6))):
            assert x.device.type == "cuda" and x.shape == shape and x.dtype == torch.float32


@dataclass
class Pinned:
    "A batch of draws, as far as it is sent."

    sent: tuple = ()

    def pin_memory(self):
        return Pinned(("pinned",))

    def to(self, device, non_blocking=False):
        return Pinned((*self.sent, str(device), non_blocking))


def test_a_gpu_gets_the_draws_of_the_cpu_without_waiting(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    noise = SampleNoise(5, 0, 2, torch.device("cuda"))
    monkeypatch.setattr(torch, "stack", lambda draws: Pinned())
    assert noise(3).sent == ("pinned", "cuda", True)
    noise.device = torch.device("cpu")
    assert noise(3).sent == ("cpu", True)


# ---- samplers
@pytest.mark.parametrize(
    "kind, sampler", [(k, s) for k in registered("generator") for s in busy_generator(k).samplers]
)
def test_every_sampler_takes_it_and_a_sample_is_the_same_in_any_batch(kind, sampler):
    g, how = busy_generator(kind), dict(sampler=sampler, steps=4, seed=3)
    z = g.sample(Y, **how, noise="device")
    part = g.sample(Y[3:], **how, noise="device", start=3)
    torch.testing.assert_close(z[3:], part, rtol=1e-3, atol=1e-3)
    plain = g.sample(Y, **how)
    assert torch.equal(plain, g.sample(Y, **how, noise="cpu"))
    assert z.isfinite().all() and (z - plain).abs().max() > 0.1


def test_another_place_is_refused_with_what_is_possible(pair):
    for f in (lambda: pair[0].sample(Y, noise="gpu"), lambda: settings(pair, noise="gpu")):
        with pytest.raises(ValueError, match="noise='gpu'. Possible: cpu, device."):
            f()


# ---- how it is told
def settings(pair, **how) -> dict:
    return sample_settings(*pair, **{"steps": 2, **how})


def test_folders_of_before_are_found_again(pair):
    assert settings(pair) == settings(pair, noise="cpu") and "noise" not in settings(pair)
    assert settings(pair, noise="device")["noise"] == "device"
    assert len({sample_folder("r", settings(pair, noise=n)) for n in NOISES}) == 2


def test_a_folder_holds_samples_of_one_kind_of_noise_from_any_number_of_processes(pair, tmp_path):
    how = dict(steps=2, progress=False)
    write(*pair, tmp_path / "a", 6, noise="device", batch_size=6, **how)
    for rank in range(2):
        write(*pair, tmp_path / "b", 6, noise="device", batch_size=2, rank=rank, world=2, **how)
    write(*pair, tmp_path / "c", 6, **how)
    a, b, c = (read_samples(tmp_path / f)[0] for f in "abc")
    assert (a - b).abs().max() <= 2 / 255 + 1e-6 and (a - c).abs().max() > 0.1
    for there, other in (("a", "cpu"), ("c", "device")):
        with pytest.raises(ValueError, match=f"noise: .*{other}.* asked for"):
            write(*pair, tmp_path / there, 6, noise=other, **how)


def test_metrics_of_another_noise_are_not_compared(pair):
    def measured(**how):
        about = sampling_protocol(settings(pair, **how))
        return {"figures": {"fid": 1.0}, "passport": passport("judge", "train", 8, **about)}

    plain, device = measured(), measured(noise="device")
    assert compare(plain, measured()) and device["passport"]["noise"] == "device"
    with pytest.raises(ValueError, match="noise"):
        compare(plain, device)
