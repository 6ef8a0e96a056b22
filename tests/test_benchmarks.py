"""The benchmarks' two ways compute the same at small sizes, and the page is written from what was
measured. No times are asserted.
"""

import json
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

import bench
import measure

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


def test_results_that_are_kept_can_be_put_into_the_table():
    for f in (ROOT / "benchmarks" / "results").glob("*.json"):
        assert bench.table(json.loads(f.read_text())["rows"]).startswith("| work |")
