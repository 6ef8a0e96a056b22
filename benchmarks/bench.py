"""Speed and memory beside the plain way, in one run: `make bench` (10 minutes on two CPU cores).

    python benchmarks/bench.py [--only ROW ...] [--rounds 5] [--name MACHINE]

Writes benchmarks/results/MACHINE.json, MACHINE-growth.png and the table of benchmarks/README.md. A
row that fails says so in the table and does not stop the others.
"""

import argparse
import json
import re
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import cpu
import fused
import torch
from measure import (
    about_machine,
    agree,
    alternate,
    compare,
    exponent,
    grads,
    high_water,
    machine_name,
    on_gpu,
    peak,
    seconds,
    wait,
)
from plain import DenseSoftVQ, released_euler
from steps import PIXELS, Ours, Plain, images, make_task, row_utilisation
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from softvq_lab.core import PRECISIONS, best_device, in_precision
from softvq_lab.generators.base import Guidance
from softvq_lab.generators.samplers import euler, guided
from softvq_lab.generators.transformer import PRESETS, DiffusionTransformer
from softvq_lab.quantizers.softvq import SoftVQ
from softvq_lab.settings.sections import TokenizerConfig
from softvq_lab.tokenizer.model import Tokenizer
from softvq_lab.training.profile import recorded

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[1]
GPU = on_gpu()
WAYS = {"ours": SoftVQ, "plain": DenseSoftVQ}
PAPER, DIGITS = dict(B=32, L=64, D=32, K=8192, G=4), dict(B=64, L=32, D=8, K=256, G=1)


# ---- the quantizer
def quantizers(B: int, L: int, D: int, K: int, G: int, ways=("ours", "plain")):
    "Both ways with the same codewords, and fresh random latents."
    made = {w: WAYS[w](D, K, G).to(best_device()) for w in ways}
    for m in made.values():
        m.load_state_dict(made[ways[0]].state_dict())
    return made, torch.randn(B, L, D, device=best_device()).requires_grad_()


def quantize(m: nn.Module, z: Tensor) -> list[Tensor]:
    "Forward and backward: z, the loss, and the gradients."
    out = m(z)
    return [
        out.z.detach(),
        out.losses["kl"].detach(),
        *grads(out.z.square().mean() + out.losses["kl"], [z, m.codebook]),
    ]


def quantizer_peak(way: str, **size) -> int:
    (m,), z = (
        quantizers(**size, ways=(way,))[0].values(),
        torch.randn(size["B"], size["L"], size["D"], device=best_device()).requires_grad_(),
    )
    quantize(m, z[:1, : size["G"]])  # libraries wake up
    return high_water(lambda: quantize(m, z))


def products(B: int, L: int, D: int, K: int, G: int) -> float:
    """Seconds of the six products of a forward and backward pass alone: in blocks of 32 tokens on a
    CPU, whose cache they fit, and all tokens at once on a GPU.
    """
    books, n = (G, B * L // G) if GPU else (1, 32)
    u, C, S = (
        torch.randn(books, *shape, device=best_device()) for shape in ((n, D), (K, D), (n, K))
    )

    def once():
        torch.bmm(u, C.mT, out=S)
        torch.bmm(S, C)
        torch.bmm(u, C.mT, out=S)
        torch.bmm(u, C.mT, out=S)
        torch.bmm(S, C)
        torch.bmm(S.mT, u)

    once()
    return seconds(lambda: [once() for _ in range(B * L // (books * n))])


def row_quantizer(rounds: int, size=PAPER) -> dict:
    made, z = quantizers(**size)
    differ = agree(*(quantize(m, z) for m in made.values()), 1e-4)
    found = compare({w: lambda m=m: quantize(m, z) for w, m in made.items()}, rounds)
    sizes = {w: peak("quantizer", way=w, **size) for w in WAYS}
    if size["K"] >= 4096:
        found["products_s"] = products(**size)
    return found | {"differ": differ, "ours_bytes": sizes["ours"], "plain_bytes": sizes["plain"]}


# ---- sampling
SAMPLED, CLAIMED = {}, {}  # number of tokens -> transformer: rows of one kind share their blocks


def transformer(
    tokens: int, size: str = "XL", grid=None, latent_dim: int = 32, like: nn.Module | None = None
) -> DiffusionTransformer:
    "With random weights that do something; `like`: the blocks of another, for memory's sake."
    m = DiffusionTransformer(
        tokens, latent_dim, 1000, **(PRESETS[size] | ({"depth": 0} if like else {})), grid=grid
    )
    if like:
        m.blocks = like.blocks
    for n, p in m.named_parameters():
        if "modulation" in n and not (like and n.startswith("blocks")):
            nn.init.normal_(p, std=0.02)
    nn.init.normal_(m.final_linear.weight, std=0.02)
    return m.to(best_device()).eval().requires_grad_(False)


def row_sampling(
    rounds: int,
    tokens: int,
    size: str = "XL",
    batch: int = 32 if GPU else 8,
    steps: int = 4,
    shared: dict = SAMPLED,
) -> dict:
    net = shared[tokens] = transformer(tokens, size, like=next(iter(shared.values()), None))
    x, y = (
        torch.randn(batch, tokens, 32, device=best_device()),
        torch.randint(1000, (batch,), device=best_device()),
    )
    ways = {
        "ours": lambda: euler(guided(net, y, 1000, Guidance(1.75, high=0.7)), x, steps),
        "plain": lambda: released_euler(net, x, y, 1000, steps, 1.75, 0.7),
    }
    with torch.no_grad():
        differ = agree([ways["ours"]()], [ways["plain"]()], 1e-4)  # warms up too
        found = compare(ways, rounds, warm=0)
    return found | {
        "differ": differ,
        "ours_images_s": batch / found["ours_s"],
        "plain_images_s": batch / found["plain_s"],
    }


def row_precisions(
    rounds: int, tokens: int = 64, size: str = "XL", batch: int = 64 if GPU else 2, steps: int = 10
) -> dict:
    """Images a second of Euler with guidance in 0.7 of its steps, by precision; on a GPU also with
    compiled blocks.
    """
    net = transformer(tokens, size).requires_grad_()  # as loaded: then autocast rounds weights once
    x = torch.randn(batch, tokens, 32, device=best_device())
    y = torch.randint(1000, (batch,), device=best_device())
    field = guided(net, y, 1000, Guidance(1.75, high=0.7))

    def draw(precision: str) -> Tensor:
        with torch.no_grad(), in_precision(precision, best_device()):
            return euler(field, x, steps)

    ways = {p: lambda p=p: draw(p) for p in PRECISIONS}
    exact = draw("fp32")
    differ = {p: agree([draw(p)], [exact], 0.1) for p in PRECISIONS}  # warms up too
    times = alternate(ways, rounds, warm=0)
    if GPU:
        began = time.perf_counter()
        for block in net.blocks:
            block.compile()
        draw("bf16")
        wait()
        differ["compile_s"] = time.perf_counter() - began
        times |= alternate({"bf16_compiled": ways["bf16"]}, rounds)
    images = {p: batch / statistics.median(t) for p, t in times.items()}
    return {"images_s": images, "differ_from_fp32": differ}


def row_claim(rounds: int, size: str = "XL", shared: dict = CLAIMED) -> dict:
    "Seconds an image of one evaluation: 1-D latents against grids in patches of 2 x 2."
    shapes = {
        "32": (32, 32, None, 4),
        "64": (64, 32, None, 4),
        "256": (1024, 4, (32, 2), 2),
        "1024": (4096, 4, (64, 2), 1),
    }  # length, width, grid, batch
    if GPU:
        shapes = {n: (*v[:3], 64) for n, v in shapes.items()}
    ways, flops = {}, {}
    for name, (n, d, grid, B) in shapes.items():
        net = shared.get(n) or transformer(n, size, grid, d, like=next(iter(shared.values()), None))
        shared.setdefault(n, net)
        x, t, y = (
            v.to(best_device())
            for v in (torch.randn(B, n, d), torch.rand(B), torch.zeros(B, dtype=torch.long))
        )
        ways[name] = lambda net=net, x=x, t=t, y=y: net(x, t, y)
        with torch.device("meta"):
            m, inputs = (
                DiffusionTransformer(n, d, 1000, **PRESETS[size], grid=grid),
                (torch.empty(1, n, d), torch.empty(1), torch.empty(1, dtype=torch.long)),
            )
        with FlopCounterMode(display=False) as counter:
            m(*inputs)
        flops[name] = counter.get_total_flops()
    with torch.no_grad():
        times = alternate(ways, max(1, rounds // 2), warm=0)
    image = {n: statistics.median(t) / shapes[n][3] for n, t in times.items()}
    return {"image_s": image, "flops": flops} | {
        f"{a}_vs_{b}": {"faster": image[b] / image[a], "flops": flops[b] / flops[a]}
        for a in ("32", "64")
        for b in ("256", "1024")
    }


# ---- the training step
def row_step(rounds: int, judged: bool, batch: int, **config) -> dict:
    """`fixed`: the share of our step that goes into matrix products and attention, which both ways
    have in common.
    """
    c = TokenizerConfig(**(dict(preset="S") | PIXELS | config))
    steps, x, counts = (
        {"ours": Ours(make_task(c, judged)), "plain": Plain(make_task(c, judged, plain=True))},
        images(batch, c.image_size),
        dict.fromkeys(WAYS, 0),
    )

    def step(way: str) -> Tensor:
        counts[way] += 1
        return steps[way](x, counts[way] - 1)

    differ = agree([step("ours")], [step("plain")], 1e-4)  # warms up too
    found = compare({w: lambda w=w: step(w) for w in WAYS}, rounds, warm=0)
    return found | {
        "differ": differ,
        "ours_images_s": batch / found["ours_s"],
        "plain_images_s": batch / found["plain_s"],
        "fixed": fixed_share(lambda: step("ours")),
    }


def fixed_share(work) -> float:
    """Share of the operations' own time that products, convolutions and attention take: time of the
    GPU where it computes, for the CPU only gives orders there.
    """
    with recorded(cuda=GPU) as p:
        work()
        wait()
    return share_of_products(p.key_averages(), "device" if GPU else "cpu")


def share_of_products(events, which: str) -> float:
    "Of a profiler's averages, by their own time on the 'cpu' or the 'device'."
    of_cpu = torch.autograd.DeviceType.CPU  # operations; kernels stand there once more
    times = {
        e.key: getattr(e, f"self_{which}_time_total")
        for e in events
        if e.device_type == of_cpu and (which == "device" or e.key.startswith("aten::"))
    }
    fixed = (t for n, t in times.items() if re.search(r"mm|attention|convolution", n))
    return sum(fixed) / sum(times.values())


# ---- growth
BASE = dict(B=8, L=64, D=32, K=8192, G=4)
GROWTH = {
    "L": (16, 32, 64, 128, 256),
    "K": (512, 2048, 8192, 32_768, 65_536),
    "B": (4, 8, 16, 32, 64),
}


def row_growth(rounds: int, base=BASE, sizes=GROWTH, pixels=(64, 128, 256)) -> dict:
    """Seconds and peak bytes of both ways against one size at a time, and of a forward pass of
    SoftVQ-S against the side of the image.
    """
    found = {}
    for axis, values in sizes.items():
        points = {w: {"s": [], "bytes": []} for w in WAYS}
        for v in values:
            size = base | {axis: v}
            made, z = quantizers(**size)
            times = alternate(
                {w: lambda m=m: quantize(m, z) for w, m in made.items()}, max(2, rounds // 2)
            )
            del made
            for w in WAYS:
                points[w]["s"].append(statistics.median(times[w]))
                points[w]["bytes"].append(
                    peak("quantizer", way=w, **size)
                    if v in (values[0], values[len(values) // 2], values[-1])
                    else None
                )
        found[axis] = {"values": list(values)} | {
            w: p
            | {
                "time_exponent": exponent(values, p["s"]),
                "memory_exponent": exponent(
                    *zip(*[(v, max(b, 1)) for v, b in zip(values, p["bytes"]) if b is not None])
                ),
            }
            for w, p in points.items()
        }
    times = []
    for side in pixels:
        m = (
            Tokenizer(
                TokenizerConfig(
                    preset="S",
                    image_size=side,
                    patch_size=16,
                    tokens=16,
                    latent_dim=32,
                    codebook_size=512,
                )
            )
            .to(best_device())
            .eval()
        )
        x = torch.rand(1, 3, side, side, device=best_device())
        with torch.no_grad():
            times.append(statistics.median(alternate({"ours": lambda: m(x)}, 3)["ours"]))
    found["pixels"] = {
        "values": list(pixels),
        "ours": {"s": times, "time_exponent": exponent(pixels, times)},
    }
    return found


# ---- start-up
def answers(deadline: float = 60) -> float:
    "Seconds until apps/explorer.py answers a request."
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    began = time.perf_counter()
    app = subprocess.Popen(
        [sys.executable, str(ROOT / "apps" / "explorer.py"), "--port", str(port)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        while time.perf_counter() - began < deadline:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5).read()
                return time.perf_counter() - began
            except OSError:
                time.sleep(0.1)
            if app.poll() is not None:
                raise RuntimeError(
                    f"apps/explorer.py ended with {app.returncode} before it answered"
                )
        raise RuntimeError(f"apps/explorer.py did not answer within {deadline} s")
    finally:
        app.terminate()
        try:
            app.wait(10)
        except subprocess.TimeoutExpired:
            app.kill()


def row_startup(rounds: int) -> dict:
    """Seconds of fresh interpreters, and until the explorer answers; the differences are medians of
    pairs.
    """

    def run(code):
        return seconds(lambda: subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT))

    codes = {
        "torch": "import torch",
        "package": "import torch, softvq_lab",
        "hub": "import torch, softvq_lab.hub.models",
        "timm": "import torch, timm",
    }
    times = alternate({n: lambda c=c: run(c) for n, c in codes.items()}, max(2, rounds // 2))

    def above(n):
        return statistics.median(a - b for a, b in zip(times[n], times["torch"]))

    return {
        "torch_s": statistics.median(times["torch"]),
        "package_adds_s": above("package"),
        "hub_adds_s": above("hub"),
        "timm_adds_s": above("timm"),
        "explorer_s": answers(),
    }


ROWS = {
    "SoftVQ, the paper's size": lambda n: row_quantizer(n),
    "SoftVQ, digits": lambda n: row_quantizer(2 * n, DIGITS),
    "start-up": row_startup,
    "training step, tokenizer": lambda n: row_step(n, False, 64 if GPU else 4),
    "training step, all losses": lambda n: row_step(n, True, 32 if GPU else 2),
    "sampling, 32 tokens": lambda n: row_sampling(max(2, n // 2), 32),
    "sampling, 64 tokens": lambda n: row_sampling(max(2, n // 2), 64),
    "claim": row_claim,
    "growth": row_growth,
}
if GPU:
    ROWS["SoftVQ, fused"] = lambda n: fused.row_fused(4 * n, **PAPER)
    ROWS |= {f"utilisation, {p}": lambda n, p=p: row_utilisation(n, p) for p in "BL"}
else:
    ROWS |= {
        "a CPU in bf16 : float32": lambda n: cpu.row_bf16(4 * n, False),
        "a CPU in bf16, attention as products : fused": lambda n: cpu.row_bf16(4 * n, True),
        "a CPU, frozen EfficientNet-Lite0": lambda n: cpu.row_frozen(4 * n),
    }
MEMORY = {"quantizer": quantizer_peak}


# ---- the page
def mib(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"


def faster_line(name: str, r: dict) -> str:
    "The row of what was done both ways."
    memory = " | | "
    if r.get("plain_bytes"):
        less = r["plain_bytes"] / max(r["ours_bytes"], 1)
        memory = f"{mib(r['ours_bytes'])} | {mib(r['plain_bytes'])} | {less:.1f}x"
    low, high = r["range"]
    return (
        f"| {name} | {r['ours_s']:.3g} s | {r['plain_s']:.3g} s | **{r['faster']:.2f}x** "
        f"({low:.2f} to {high:.2f}) | {memory} | {r['differ']:.0e} |"
    )


CLAIMS = {  # tokens -> what the paper says of them
    ("32", "256"): "18x",
    ("64", "256"): "10x",
    ("32", "1024"): "",
    ("64", "1024"): "",
}


def claim_lines(r: dict) -> Iterator[str]:
    "How much faster a generator is on few tokens."
    yield "\n| SiT-XL, one evaluation | an image faster | FLOPs promise | paper |"
    yield "| --- | --- | --- | --- |"
    for (few, many), paper in CLAIMS.items():
        if v := r[f"{few}_vs_{many}"]:
            times = f"{v['faster']:.1f}x | {v['flops']:.1f}x"
            yield f"| {few} against {many} tokens | {times} | {paper} |"


def growth_lines(r: dict) -> Iterator[str]:
    "The exponents with which time and memory of both ways grow."
    yield "\n| grows with | range | time, ours | time, plain | memory, ours | memory, plain |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for axis, p in r.items():
        measured = (
            f"{p[w][k]:.2f}" if k in p.get(w, {}) else ""
            for k in ("time_exponent", "memory_exponent")
            for w in WAYS
        )
        yield f"| {axis} | {p['values'][0]} to {p['values'][-1]} | {' | '.join(measured)} |"


def table(rows: dict) -> str:
    "Markdown of the rows that were measured."
    lines = [
        "| work | ours | plain | faster (range) | peak memory, ours | plain | less | differ by |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    lines += [faster_line(n, r) for n, r in rows.items() if "faster" in r]
    lines += [f"\n`{n}` failed: {r['failed']}" for n, r in rows.items() if "failed" in r]
    if r := next((r for r in rows.values() if "products_s" in r), None):
        lines.append(f"\nThe six matrix products of SoftVQ alone take {r['products_s']:.3g} s.")
    if "flops" in (r := rows.get("claim", {})):
        lines += claim_lines(r)
    if "L" in (r := rows.get("growth", {})):
        lines += growth_lines(r)
    if "torch_s" in (r := rows.get("start-up", {})):
        lines.append(
            f"\n`import torch` {r['torch_s']:.2f} s; `import softvq_lab` adds "
            f"{r['package_adds_s']:.2f} s, `softvq_lab.hub.models` (all models) "
            f"{r['hub_adds_s']:.2f} s, of which timm and torchvision {r['timm_adds_s']:.2f} s. "
            f"`explorer.py` answers after {r['explorer_s']:.1f} s."
        )
    return "\n".join(lines + [line for name, r in rows.items() for line in notes(name, r)])


def notes(name: str, r: dict) -> Iterator[str]:
    "What is said of a row below the tables."
    if "fixed" in r:
        yield (
            f"\n{name}: {r['fixed']:.0%} of our step is matrix products, convolutions and "
            "attention, which both ways share; were all else free, it would be "
            f"{1 / r['fixed']:.2f}x as fast."
        )
    if "warm_s" in r:
        used = (
            f"; {r['utilisation']:.0%} of the data sheet's arithmetic" if r["utilisation"] else ""
        )
        yield (
            f"\n{name}: {r['images_s']:.0f} images a second in bf16, compiled: {r['compiled']}"
            f"{used}; ten steps to warm up took {r['warm_s']:.0f} s."
        )
    if "differ_from_fp32" in r:
        speeds = ", ".join(f"{p} {v:.3g}" for p, v in r["images_s"].items())
        yield f"\n{name}: images a second by precision: {speeds}."
    if "of_synthetic" in r:
        yield (
            f"\n{name}: {r['images_s']:.0f} images a second, {r['of_synthetic']:.0%} of those "
            f"without a loader; its {r['workers']} workers alone read "
            f"{r['workers_alone_images_s']:.0f}."
        )
    if "fused_s" in r:
        yield from fused.notes(name, r)


def write_page(text: str, about: str, marker: str = "table"):
    "Put the table between the markers of README.md."
    page = HERE / "README.md"
    page.write_text(
        re.sub(
            rf"(<!-- {marker} -->\n).*(<!-- /{marker} -->)",
            lambda m: f"{m[1]}{about}\n\n{text}\n{m[2]}",
            page.read_text(),
            flags=re.S,
        )
    )


def draw(growth: dict, path: Path):
    "The growth of time, log-log, as a PNG."
    from plotly.subplots import make_subplots

    from softvq_lab.figure_png import figure_png

    fig = make_subplots(1, len(growth), subplot_titles=[f"against {a}" for a in growth])
    for i, (axis, p) in enumerate(growth.items(), 1):
        for w, colour in (("ours", "#1f77b4"), ("plain", "#d62728")):
            if w in p:
                fig.add_scatter(
                    x=p["values"],
                    y=p[w]["s"],
                    name=f"{w}: {axis}^{p[w]['time_exponent']:.2f}",
                    line_color=colour,
                    row=1,
                    col=i,
                )
    fig.update_xaxes(type="log").update_yaxes(type="log").update_layout(
        width=1200, height=380, yaxis_title="seconds", template="plotly_white"
    )
    path.write_bytes(figure_png(fig))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--only", nargs="*", choices=list(ROWS))
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument(
        "--name",
        default=machine_name(),
    )
    p.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.peak:
        return print(MEMORY[a.peak[0]](**json.loads(a.peak[1])))
    path = HERE / "results" / f"{a.name}.json"
    path.parent.mkdir(exist_ok=True)
    rows = json.loads(path.read_text())["rows"] if a.only and path.exists() else {}
    for name in a.only or ROWS:
        began = time.perf_counter()
        try:
            rows[name] = ROWS[name](a.rounds)
        except Exception as e:
            rows[name] = {"failed": f"{type(e).__name__}: {str(e)[:300]}"}
        print(
            f"{name}: {time.perf_counter() - began:.0f} s",
            json.dumps({k: v for k, v in rows[name].items() if not isinstance(v, dict)}),
            flush=True,
        )
        machine = about_machine(a.name)
        path.write_text(
            json.dumps(
                {"machine": machine, "rows": {n: rows[n] for n in ROWS if n in rows}}, indent=1
            )
            + "\n"
        )  # after each row: what was measured stays, whatever becomes of the next
        write_page(
            table(rows),
            (
                f"Machine `{a.name}`, {machine['threads']} threads, torch {machine['torch']}, "
                f"float32; load of the machine at the end {machine['load']:.1f}."
            ),
        )
    print(table(rows))
    if "L" in rows.get("growth", {}):
        draw(rows["growth"], path.with_name(a.name + "-growth.png"))


if __name__ == "__main__":
    main()
