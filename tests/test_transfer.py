"""Pictures go to a GPU as bytes, and what arrives are the floats that a data set gave."""

import pytest
import torch
from fake_cuda import fake_cuda
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from softvq_lab.data.datasets import Augmented, digits, shapes
from softvq_lab.data.images import from_uint8, to_uint8
from softvq_lab.data.transfer import as_bytes, collate, to_device
from softvq_lab.settings.sections import OptimConfig
from softvq_lab.training.loop import load_batches

CPU = torch.device("cpu")


def first(data: Dataset, count: int = 6) -> list:
    return [data[i] for i in range(count)]


def arrived(items: list) -> list[torch.Tensor]:
    return to_device(collate(items), CPU)


def same(one: list, other: list) -> bool:
    return all(a.dtype == b.dtype and torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_every_byte_becomes_the_float_it_was():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(from_uint8(pixels), pixels.float() / 127.5 - 1)
    assert torch.equal(to_uint8(from_uint8(pixels)), pixels)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_makes_the_same_floats_of_bytes():
    pixels = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(from_uint8(pixels.cuda()).cpu(), from_uint8(pixels))


def test_pictures_travel_as_bytes_and_arrive_as_they_were():
    for data in (shapes(32, 16).train, Augmented(shapes(32, 16).train, "random", True)):
        assert collate(first(data))[0].dtype == torch.uint8
        assert same(arrived(first(data)), default_collate(first(data)))


def moved(picture: torch.Tensor) -> torch.Tensor:
    return picture.clone().index_fill_(2, torch.tensor(5), 0.1234)


FLOATS = {
    "digits": lambda: first(digits(32).train),
    "a plug-in's floats": lambda: [(torch.rand(3, 8, 8), 1) for _ in range(4)],
    "one of them": lambda: [*(i := first(shapes(32, 16).train)), (moved(i[0][0]), 0)],
    "beyond [-1, 1]": lambda: [(torch.full((3, 8, 8), 1.5), 1)],
    "no numbers": lambda: [(torch.full((3, 8, 8), float("nan")), 1)],
    "double": lambda: [(torch.ones(3, 8, 8, dtype=torch.float64), 1)],
}


@pytest.mark.parametrize("name", FLOATS)
def test_what_was_not_made_of_bytes_travels_as_it_is(name):
    items = FLOATS[name]()
    sent = collate(items)
    assert sent[0].dtype == items[0][0].dtype
    assert torch.equal(sent[0].nan_to_num(7), default_collate(items)[0].nan_to_num(7))


def test_latents_and_labels_are_left_alone():
    z = torch.randn(4, 8, 4)
    assert same(arrived([(a, i) for i, a in enumerate(z)]), [z, torch.arange(4)])
    bare = [torch.ones(3, 8, 8)] * 2
    assert torch.equal(collate(bare), default_collate(bare))
    assert as_bytes("a name") is None and as_bytes(torch.ones(4, 8, 8)) is None


class Gpu:
    "An accelerator of one process, as far as a loader asks."

    process_index, num_processes = 0, 1

    def __init__(self, kind: str):
        self.device = torch.device(kind)


class Pictured:
    data = shapes(16, 12).train


@pytest.mark.parametrize(
    "device, workers, kind",
    [("cuda", 2, torch.uint8), ("cuda", 0, torch.float32), ("cpu", 2, torch.float32)],
)
def test_worker_processes_send_bytes_to_a_gpu(device, workers, kind, monkeypatch):
    # memory can only be pinned where there is a GPU
    plain = DataLoader.__init__

    def unpinned(self, *given, pin_memory, **more):
        plain(self, *given, **more)

    monkeypatch.setattr(DataLoader, "__init__", unpinned)
    optim = OptimConfig(steps=3, batch_size=4, warmup_steps=1)
    for batch in (found := list(load_batches(Pictured, optim, 0, Gpu(device), 0, workers))):
        assert batch[0].dtype == kind and to_device(batch, CPU)[0].dtype == torch.float32
    plainly = list(load_batches(Pictured, optim, 0, Gpu("cpu")))
    assert all(same(to_device(a, CPU), b) for a, b in zip(found, plainly, strict=True))


def test_nothing_of_it_waits_for_the_gpu():
    sent = collate(first(shapes(16, 8).train))
    with fake_cuda():
        x, y = to_device(sent, torch.device("cuda"))
        assert x.device.type == y.device.type == "cuda" and x.dtype == torch.float32


def test_a_data_set_of_tensors_is_collated_as_before():
    data = TensorDataset(torch.randn(6, 8, 4), torch.arange(6))
    assert same(collate([data[i] for i in range(6)]), list(data.tensors))
