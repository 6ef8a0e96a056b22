"""SoftVQ's fused kernels without a GPU: what they compute (`fused_cases.py`, by Triton's
interpreter), that they compile for an H100, when they are chosen, and what happens without Triton.
"""

import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from softvq_lab.quantizers import fused
from softvq_lab.quantizers.blockwise import soft_mix

TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    "which", ["not slow", pytest.param("slow", marks=pytest.mark.slow)], ids=["quick", "slow"]
)
def test_the_interpreter_finds_the_formula(which):
    "Triton reads TRITON_INTERPRET when the kernels are made, hence a process of its own."
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", TESTS / "fused_cases.py", "-m", which),
            *("-p", "no:cacheprovider", "--tb=short", "--rootdir", TESTS.parent),
        ],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]


# ---------------------------------------------------------------- compiled for a card


def compiled(kernel, tiles, **constants):
    "Stack of a thread and shared memory of a block on compute capability 9.0, both in bytes."
    triton = pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    BN, BK, warps = tiles
    given = dict(BN=BN, BK=BK, PRECISION="ieee") | constants
    constexprs = {k: v for k, v in given.items() if k in kernel.arg_names}
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if name.endswith("_ptr") or name in ("N", "K")
    }
    signature = {
        name: "constexpr"
        if name in constexprs
        else "*i64"
        if name in ("top_ptr", "tops_ptr")
        else "*fp32"
        if name.endswith("_ptr")
        else "fp32"
        if name in ("beta", "inv", "inv_q", "inv_p")
        else "i32"
        for name in kernel.arg_names
    }
    built = triton.compile(
        ASTSource(kernel, signature, constexprs, aligned),
        target=GPUTarget("cuda", 90, 32),
        options=dict(num_warps=warps, num_stages=2, enable_fp_fusion=True),
    )
    return spilled(built.asm["cubin"]), built.metadata.shared


def spilled(cubin: bytes) -> int:
    "Bytes of stack that a thread needs, by NVIDIA's tool that comes with Triton."
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    file = Path(os.environ["TMPDIR"]) / "kernel.cubin"
    file.write_bytes(cubin)
    said = subprocess.run([tool, "-res-usage", file], capture_output=True, text=True, check=True)
    return int(re.search(r"STACK:(\d+)", said.stdout)[1])


def passes(D: int, L2: bool, KL: int):
    "Every kernel of a forward and backward pass, with its blocks and what is compiled in."
    same = dict(D=D, DP=D, L2=L2, KL=KL)
    for split in (False, True):
        yield fused._tokens_forward, fused.TOKENS_FORWARD[D], same | dict(SPLIT=split)
        yield fused._tokens_backward, fused.TOKENS_BACKWARD[D], same | dict(SPLIT=split)
    yield fused._merge, (32, 32, 4), same
    yield fused._columns, fused.COLUMNS[D], same
    for detach in (True, False):
        yield fused._codewords_backward, fused.CODEWORDS[detach][D], same | dict(DETACH=detach)


SLOW = [
    pytest.param(D, L2, KL, marks=pytest.mark.slow)
    for D, L2, KL in product((16, 32, 64, 128), (False, True), (0, 1, 2))
    if (D, L2, KL) != (32, False, 1)
]


@pytest.mark.parametrize("D,L2,KL", [(32, False, 1), *SLOW])
def test_every_kernel_compiles_for_an_h100(D, L2, KL, tmp_path, monkeypatch):
    """Within 64 KiB of shared memory, and with at most 8 registers spilled; 256 by distances of
    wide latents.
    """
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for kernel, tiles, constants in passes(D, L2, KL):
        stack, shared = compiled(kernel, tiles, **constants)
        assert stack <= (1024 if L2 and D > 32 else 32), (kernel.__name__, constants)
        assert shared <= 2**16, (kernel.__name__, constants)


# ---------------------------------------------------------------- the choice


def test_the_cpu_takes_the_blocks():
    u, C = torch.randn(2, 5, 3), torch.randn(2, 7, 3)
    assert not fused.suits(u)
    chosen, blocks = (soft_mix(u, torch.tensor(3.0), C, 0.1, fused=f) for f in (None, False))
    assert all(torch.equal(a, b) for a, b in zip(chosen, blocks))


def test_where_triton_does_not_run_a_warning_says_so_once():
    fused._works.cache_clear()
    cpu = torch.device("cpu")  # for which Triton has no driver
    with pytest.warns(UserWarning, match="SoftVQ runs in blocks, not fused: .*driver"):
        assert not fused.works(cpu)
    assert not fused.works(cpu)  # a second warning would be an error here
    fused._works.cache_clear()


def test_without_triton_the_library_works_in_blocks():
    program = """
import sys, warnings
sys.modules["triton"] = None  # importing it fails
import torch
from softvq_lab.quantizers import fused
from softvq_lab.quantizers.softvq import SoftVQ
out = SoftVQ(4, 9)(torch.randn(2, 3, 4))
assert out.z.shape == (2, 3, 4) and fused.triton is None
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    assert not fused.works(torch.device("cpu"))
print(said[0].message)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Triton is not installed" in done.stdout


def test_tf32_is_taken_only_where_torch_takes_it():
    assert fused.precision() == "ieee"
    matmul = torch.backends.cuda.matmul
    try:
        matmul.allow_tf32 = True
        assert fused.precision() == "tf32"
    finally:
        matmul.allow_tf32 = False
    assert fused.precision() == "ieee"


@pytest.mark.parametrize("D,suits", [(128, True), (129, False)])
def test_wider_latents_than_128_are_not_for_the_kernels(D, suits):
    assert (D <= fused.MOST_CHANNELS) == suits
    assert (fused.padded(D) in fused.TOKENS_FORWARD) == suits
