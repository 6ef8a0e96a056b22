"""The benchmarks' two ways compute the same at small sizes, and the page is written from what was
measured. No times are asserted.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from fake_cuda import fake_cuda, on_cuda
from torch.autograd import DeviceType

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import bench
import cpu
import gpu
import loader
import measure
import plain

SMALL = dict(B=3, L=6, D=5, K=130, G=2)


@pytest.mark.parametrize(
    "size",
    [SMALL, SMALL | dict(K=8192, G=3), SMALL | dict(B=70, K=4096, G=1)],
    ids=lambda s: f"K={s['K']}",
)
def test_both_quantizers_agree_in_values_and_gradients(size):
    made, z = bench.quantizers(**size)
    assert measure.agree(*(bench.quantize(m, z) for m in made.values()), 1e-4) <= 1e-4


def test_ways_that_differ_are_not_timed():
    with pytest.raises(AssertionError, match="differ by"):
        measure.agree([torch.ones(3)], [torch.ones(3) * 1.1], 1e-4)
    with pytest.raises(ValueError):
        measure.agree([torch.ones(3)], [], 1e-4)


@pytest.mark.slow
def test_the_quantizer_needs_a_quarter_of_the_dense_ways_memory():
    size = dict(B=16, L=32, D=8, K=8192, G=2)
    ours, plain = (measure.peak("quantizer", way=w, **size) for w in ("ours", "plain"))
    assert 0 <= ours < plain / 4, (ours, plain)


@pytest.mark.parametrize("tokens", [3, 8])
def test_both_arrangements_of_guidance_draw_the_same(tokens):
    r = bench.row_sampling(1, tokens, size="tiny", batch=3, shared={})
    assert r["differ"] <= 1e-4 and r["ours_images_s"] > 0


TINY = dict(
    preset="tiny",
    image_size=32,
    patch_size=8,
    tokens=8,
    latent_dim=4,
    codebook_size=64,
    codebooks=2,
)


@pytest.mark.parametrize("judged", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_both_training_steps_have_the_same_loss(judged):
    r = bench.row_step(1, judged, 2, **TINY)
    assert r["differ"] <= 1e-4


def test_both_training_steps_learn_the_same():
    c, x = bench.TokenizerConfig(**TINY), bench.images(8, 32)
    ours, plain = (
        bench.Ours(bench.make_task(c, False)),
        bench.Plain(bench.make_task(c, False, plain=True)),
    )
    before = {n: p.detach().clone() for n, p in ours.loop.task.model.named_parameters()}
    for step in range(3):
        assert ours(x, step).item() == pytest.approx(plain(x, step).item(), rel=1e-4)

    def moved(task):
        return {n: p.detach() - before[n] for n, p in task.model.named_parameters()}

    a, b = moved(ours.loop.task), moved(plain.task)
    assert (
        sum(v.abs().max() > 0 for v in a.values()) > 20
        and bench.agree(a.values(), b.values(), 0.05) < 0.05
    )


def test_an_exponent_is_that_of_the_upper_half():
    assert measure.exponent([1, 2, 4, 8, 16], [9, 9, 4**2, 8**2, 16**2]) == pytest.approx(2)


def test_the_page_keeps_its_words_and_takes_the_table(tmp_path, monkeypatch):
    monkeypatch.setattr(bench, "HERE", tmp_path)
    (tmp_path / "README.md").write_text("before\n<!-- table -->\nold\n<!-- /table -->\nafter\n")
    row = dict(
        ours_s=1.0,
        plain_s=3.0,
        faster=3.0,
        range=[2.9, 3.1],
        differ=1e-6,
        ours_bytes=2**20,
        plain_bytes=2**23,
    )
    text = bench.table(
        {
            "SoftVQ": row,
            "sampling": {k: v for k, v in row.items() if "bytes" not in k},
            "claim": {"failed": "MemoryError: "},
        }
    )
    bench.write_page(text, "a machine")
    page = (tmp_path / "README.md").read_text()
    assert page.startswith("before\n") and page.endswith("after\n") and "old" not in page
    assert (
        "**3.00x** (2.90 to 3.10) | 1 MiB | 8 MiB | 8.0x" in page
        and "`claim` failed: MemoryError" in page
    )


@pytest.mark.parametrize("fused", [True, False])
def test_a_step_on_a_cpu_in_bf16_is_the_same_step(fused):
    r = cpu.row_bf16(1, fused, batch=2)
    assert 0 < r["differ"] < 0.1 and r["ours_s"] > 0


def test_a_frozen_network_without_norms_is_the_same_network():
    r = cpu.row_frozen(1, batch=1)
    assert r["differ"] < 0.02 and r["plain_s"] > 0


def test_results_that_are_kept_can_be_put_into_the_table():
    for f in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert bench.table(json.loads(f.read_text())["rows"]).startswith("| work |")


# ---- what a GPU showed
def test_the_released_arrangement_computes_where_its_inputs_are():
    net = bench.transformer(6, "tiny", latent_dim=5)
    with fake_cuda(net):
        y = torch.zeros(2, dtype=torch.long, device="cuda")
        z = plain.released_euler(net, on_cuda(2, 6, 5), y, 1000, 3, 1.75, 0.7)
        assert z.device.type == "cuda"


def event(key: str, cpu: float, device: float, of=DeviceType.CPU) -> SimpleNamespace:
    own = dict(self_cpu_time_total=cpu, self_device_time_total=device)
    return SimpleNamespace(key=key, device_type=of, **own)


def test_the_share_of_products_is_of_the_time_of_what_computes():
    events = [
        event("aten::mm", 10, 60),
        event("aten::mul", 30, 20),
        event("a kernel of Triton", 5, 20),
        event("sm90_gemm", 0, 60, DeviceType.CUDA),  # what aten::mm ran: the same time again
    ]
    assert bench.share_of_products(events, "cpu") == pytest.approx(10 / 40)
    assert bench.share_of_products(events, "device") == pytest.approx(60 / 100)


def test_sampling_by_precision_gives_images_a_second_of_each():
    r = bench.row_precisions(1, 6, "tiny", 2, 2)
    assert set(r["images_s"]) == {"fp32", "tf32", "bf16"} and min(r["images_s"].values()) > 0
    assert r["differ_from_fp32"]["fp32"] == 0 < r["differ_from_fp32"]["bf16"] < 0.1


def test_the_loaders_images_are_counted_against_steps_without_it(capfd):
    r = loader.row_loader(1, "tiny", 2, 24, workers=1, precision="fp32", **gpu.PICTURE)
    speeds = [r[k] for k in ("images_s", "synthetic_images_s", "workers_alone_images_s")]
    assert min(speeds) > 0 and r["of_synthetic"] == pytest.approx(speeds[0] / speeds[1])
    assert "of those without a loader" in next(bench.notes("loader", r))
    assert "of synthetic batches" in gpu.cell(r) and "Traceback" not in capfd.readouterr().err


@pytest.mark.slow
# ---- make gpu
def test_what_takes_too_long_is_ended_with_all_that_it_has_started():
    stays = "import subprocess, time; subprocess.Popen(['sleep', '987']); print('so far', flush=1);"
    began = time.time()
    out, why = gpu.limited([sys.executable, "-c", stays + "time.sleep(60)"], 3)
    assert out == "so far\n" and why == "did not end within 3 s" and time.time() - began < 30
    assert "987" not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    out, why = gpu.limited([sys.executable, "-c", "print(1); raise ValueError('so it is')"], 30)
    assert out == "1\n" and why.startswith("ended with 1:") and "so it is" in why


def test_tracebacks_are_in_the_file_before_the_next_test(tmp_path):
    "A session that is cut off leaves what it found."
    (tmp_path / "test_a.py").write_text(
        "import os, pytest\n"
        "def test_good(): pass\n"
        "def test_bad(): assert 1 == 2, 'as it is'\n"
        "@pytest.mark.skip\n"
        "def test_left_out(): pass\n"
        "def test_end(): os._exit(1)\n"
    )
    lines = tmp_path / "found.jsonl"
    env = os.environ | {"TRACEBACKS": str(lines), "PYTHONPATH": str(ROOT / "benchmarks")}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "tracebacks", "-p", "no:cacheprovider"]
    subprocess.run([*words, "test_a.py"], cwd=tmp_path, env=env, capture_output=True)
    assert gpu.counted(lines) == {"passed": 1, "skipped": 1, "wrong": ["test_a.py::test_bad"]}
    assert "as it is" in next(l for l in lines.read_text().splitlines() if "test_bad" in l)


def test_machines_stand_side_by_side():
    def machine(name, **more):
        return {"machine": {"name": name, "torch": "2.11"}, **more}

    fast = dict(faster=2.0, ours_s=1.0)
    a = machine("A", rows={"sampling": fast, "claim": {"failed": "no memory"}})
    runs = [dict(heldout_psnr=p, seconds=4.0, steps=9) for p in (30.0, 32.0)]
    b = machine("B", rows={"sampling": fast | {"faster": 3.0}}, training={"digits": runs})
    lines = gpu.comparison([a, b]).splitlines()
    assert lines[0] == "| | A | B |" and "| sampling | 2.00x | 3.00x |" in lines
    assert "| claim | failed |  |" in lines
    assert "| training, digits |  | 31.00 dB (30.00 to 32.00 over 2 seeds), 4 s each |" in lines


def on_cpu(folder, *words: str) -> dict:
    "What `gpu.py` leaves at tiny sizes."
    called = [sys.executable, ROOT / "benchmarks" / "gpu.py", "--device", "cpu", "--name", "here"]
    done = subprocess.run(
        [*called, "--folder", folder, *words], capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    assert (folder / "here.json").exists() and "| work |" in done.stdout
    return json.loads((folder / "here.json").read_text())


@pytest.mark.slow
def test_parts_can_be_left_out_and_rows_added_later(tmp_path):
    row, other = "sampling, 64 tokens", "sampling by precision"
    found = on_cpu(tmp_path, "--parts", "rows", "--only", row)
    assert found.keys() == {"machine", "rows"} and found["rows"].keys() == {row}
    assert found["rows"][row]["faster"] > 0 and found["machine"]["tiny"]
    assert on_cpu(tmp_path, "--parts", "rows", "--only", other)["rows"].keys() == {row, other}


def test_a_dry_run_of_everything(tmp_path):
    found = on_cpu(tmp_path)
    assert not [r for r in found["rows"].values() if "failed" in r] and len(found["rows"]) >= 6
    assert found["tests"]["passed"] > 5 and found["tests"]["wrong"] == []
    digits = found["training"]["digits"]
    assert len(digits) == 2 and all(r["heldout_psnr"] > 0 for r in digits)
    pictures = found["training"]["pictures"][0]  # left out, in words, where there is no font
    assert "heldout_psnr" in pictures or pictures["left_out"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    with pytest.raises(SystemExit, match="device='cuda', and torch finds no GPU here"):
        gpu.main()
