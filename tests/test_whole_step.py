"""The same batch of a step gives the same numbers, in one process or shared by several, whole or in
parts: every quantizer, every statistic, LeCAM, the averages of weights.
"""

import math
import multiprocessing

import pytest
import torch
from torch import nn
from whole_step_rank import QUANTIZERS, WIDTH, alone, latents, learn, lecam, made, player

from softvq_lab.ranks import StepMean, parts_of_step

WORLDS, PARTS = (2, 4), (1, 2, 3)
pytestmark = pytest.mark.slow  # ranks of many kinds; test_ranks.py has one
context = multiprocessing.get_context("forkserver")  # one process imports for all
context.set_forkserver_preload(["whole_step_rank"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    "What each of two and of four processes found: {(world, rank): {(name, parts): numbers}}."
    folder, found = tmp_path_factory.mktemp("whole-step"), {}
    for world in WORLDS:
        store = folder / f"store-{world}"
        ranks = [
            context.Process(target=player, args=(r, world, store, folder)) for r in range(world)
        ]
        for p in ranks:
            p.start()
        for rank, p in enumerate(ranks):
            p.join(300)
            assert p.exitcode == 0
            found[world, rank] = torch.load(folder / f"{world}-{rank}.pt", weights_only=True)
    return found


def agree(one: dict, other: dict, where):
    assert one.keys() == other.keys(), where
    for k, v in one.items():
        torch.testing.assert_close(
            other[k], v, rtol=2e-4, atol=2e-5, msg=lambda m: f"{where}, {k}: {m}"
        )


@pytest.mark.parametrize("name", QUANTIZERS)
def test_parts_of_a_step_learn_and_count_what_the_whole_does(name):
    one = learn(name)
    for parts in (2, 3, 4, 8):
        agree(one, learn(name, parts=parts), f"{parts} parts")


@pytest.mark.slow
@pytest.mark.parametrize("name", QUANTIZERS)
def test_ranks_learn_and_count_what_one_process_does(shared, name):
    one = learn(name)
    for (world, rank), found in shared.items():
        for parts in PARTS:
            agree(one, found[name, parts], f"rank {rank} of {world}, {parts} parts")


@pytest.mark.parametrize("name", QUANTIZERS)
def test_all_ranks_hold_the_same_bits(shared, name):
    for world in WORLDS:
        first = shared[world, 0][name, 2]
        for rank in range(1, world):
            other = shared[world, rank][name, 2]
            assert all(torch.equal(first[k], other[k]) for k in first), (world, rank)


@pytest.mark.parametrize("name", [n for n in QUANTIZERS if n != "kl"])
def test_a_forward_pass_that_no_loop_announces_is_a_step_of_all_ranks(shared, name):
    one = alone(name)
    for (world, rank), found in shared.items():
        agree(one, found[name, "alone"], f"rank {rank} of {world}")


def test_a_quantizer_that_is_kept_as_it_is_counts_over_parts_and_ranks_too(shared):
    one = learn("softvq of three codebooks", frozen=True)
    agree(one, learn("softvq of three codebooks", parts=4, frozen=True), "4 parts")
    for (world, rank), found in shared.items():
        for parts in (1, 3):
            agree(one, found["frozen", parts], f"rank {rank} of {world}, {parts} parts")


def test_lecam_takes_a_step_in_once_and_before_its_loss(shared):
    one = lecam()
    assert one["seen"] == 4
    for parts in (2, 3, 4):
        agree(one, lecam(parts=parts), f"{parts} parts")
    for (world, rank), found in shared.items():
        for parts in PARTS:
            agree(one, found["lecam", parts], f"rank {rank} of {world}, {parts} parts")


def test_dead_codewords_were_revived_in_these_comparisons():
    for name in ("vq, revived", "vq of averages, revived"):
        first, second = (made(name), made(name))
        first.revive = False
        for q in (first, second):
            q(latents(0, WIDTH))
        assert not torch.allclose(first.codebook, second.codebook)


class Curved(nn.Module):
    "A loss of a mean, behind layers that keep a state and draw noise."

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 4))
        self.norm, self.noise, self.mean = nn.BatchNorm1d(4), nn.Dropout(0.3), StepMean()

    def forward(self, x):
        self.seen = self.noise(self.norm(self.first(x)))
        return self.mean(self.seen.square().mean(0)).log().sum()


def test_the_survey_of_a_step_leaves_no_trace_and_sees_the_noise_of_the_step():
    x, looks = torch.randn(9, 5), []
    one, pieces, shares = Curved(), x.split([4, 3, 2]), [4 / 9, 3 / 9, 2 / 9]
    torch.manual_seed(3)
    for i in parts_of_step(one, shares, lambda i: looks.append((one(pieces[i]), one.seen)[1])):
        loss = one(pieces[i])
        assert torch.equal(one.seen, looks[i])
    surveyed = sum(s * seen.square().mean(0) for s, seen in zip(shares, looks)).log().sum()
    torch.testing.assert_close(loss, surveyed)
    other = Curved()  # the same parts, one after the other, without a survey
    torch.manual_seed(3)
    for piece in pieces:
        other(piece)
    for k, v in one.state_dict().items():
        torch.testing.assert_close(v, other.state_dict()[k])


@pytest.mark.parametrize("name", ["softvq", "vq of averages, revived", "lfq", "rotation"])
def test_a_quantizer_forgets_the_parts_of_a_step_that_broke_off(name):
    def after(broken: bool) -> dict:
        q = made(name)
        if broken:
            with pytest.raises(FloatingPointError):
                for i in parts_of_step(q, [0.5, 0.5], lambda i: q(latents(7 + i, WIDTH))):
                    q(latents(7 + i, WIDTH))
                    raise FloatingPointError
        torch.manual_seed(1)
        out = q(latents(1, WIDTH))
        return out.stats | out.losses | q.state_dict()

    agree(after(broken=False), after(broken=True), name)


def test_a_step_that_breaks_off_leaves_no_part_behind():
    one = StepMean().train()
    with pytest.raises(FloatingPointError):
        for _ in parts_of_step(one, [0.5, 0.5], lambda i: one(torch.ones(2))):
            raise FloatingPointError
    assert one.phase == "alone" and one.known is None
    assert torch.equal(one(torch.full((2,), math.pi)), torch.full((2,), math.pi))
