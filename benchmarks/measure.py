"""Two ways of the same work in one process: agreement first, then times in turn, then the peak of
memory of each in a child process of its own.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from softvq_lab.core import best_device

HERE = Path(__file__).parent


def runs_parser(about: str) -> argparse.ArgumentParser:
    "A command line whose first word is the folder of the runs."
    p = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "runs",
        nargs="?",
        default="runs",
        type=Path,
        metavar="RUNS",
        help="folder of the runs (default: %(default)s)",
    )
    return p


def agree(ours, plain, tolerance: float) -> float:
    """The largest relative difference of lists of tensors, ||a - b|| / ||b||; an `AssertionError`
    above `tolerance`.
    """
    worst = max(
        ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item()
        for a, b in zip(ours, plain, strict=True)
    )
    assert worst <= tolerance, f"the two ways differ by {worst:.1e}, allowed is {tolerance:.1e}"
    return worst


def on_gpu() -> bool:
    return best_device().type == "cuda"


def wait():
    "Until the GPU has done what it was given, where there is one."
    if on_gpu():
        torch.cuda.synchronize()


def machine_name() -> str:
    "As files of results are called: the GPU's name, or the CPU's kind and number of cores."
    name = (
        torch.cuda.get_device_name() if on_gpu() else f"{platform.machine()}-{os.cpu_count()}-cores"
    )
    return re.sub(r"\W+", "-", name)


def about_machine(name: str) -> dict:
    return {
        "name": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def seconds(f: Callable) -> float:
    wait()  # for what others left
    began = time.perf_counter()
    f()
    wait()
    return time.perf_counter() - began


def alternate(ways: dict[str, Callable], rounds: int, warm: int = 1) -> dict[str, list[float]]:
    "Seconds of each way in each round, the ways in turn, the order turned round every time."
    times = {name: [] for name in ways}
    for i in range(rounds + warm):
        for name in list(ways) if i % 2 else list(ways)[::-1]:
            t = seconds(ways[name])
            if i >= warm:
                times[name].append(t)
    return times


def compare(ways: dict[str, Callable], rounds: int, warm: int = 1) -> dict:
    "Medians of `ours` and `plain`, and the median and range of the ratio plain / ours over rounds."
    times = alternate(ways, rounds, warm)
    ratios = [p / o for p, o in zip(times["plain"], times["ours"])]
    return {
        "ours_s": statistics.median(times["ours"]),
        "plain_s": statistics.median(times["plain"]),
        "faster": statistics.median(ratios),
        "range": [min(ratios), max(ratios)],
    }


def high_water(work: Callable) -> int:
    """Bytes by which `work` raised the high-water mark of this process's resident set (of the GPU's
    allocator where there is one).
    """
    if on_gpu():
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        return torch.cuda.max_memory_allocated() - before
    before = _hwm()
    work()
    return _hwm() - before


def _hwm() -> int:
    """High-water mark in bytes.

    Not getrusage's: that one is inherited from the process that started this one.
    """
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1]) * 1024


def peak(row: str, **given) -> int:
    "High-water mark of `bench.MEMORY[row](**given)` in a fresh process."
    done = subprocess.run(
        [sys.executable, str(HERE / "bench.py"), "--peak", row, json.dumps(given)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return int(done.stdout.split()[-1])


def exponent(x: list[float], y: list[float]) -> float:
    """b of y = a x^b, by least squares of the logarithms of the upper half of the points: small
    sizes are all overhead.
    """
    x, y = (
        torch.tensor(v[len(v) // 2 - (len(v) % 2 == 0) :], dtype=torch.float64).log()
        for v in (x, y)
    )
    x = x - x.mean()
    return ((x * (y - y.mean())).sum() / x.square().sum()).item()


def grads(loss: Tensor, of: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(loss, of))
