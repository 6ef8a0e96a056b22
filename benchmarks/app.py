"""What a person waits for in the explorer, beside another checkout of it: they take turns in one
browser, and what counts is the ratio of the medians.

    git worktree add /tmp/before COMMIT
    python benchmarks/app.py RUNS --run RUN --beside /tmp/before

RUNS is a folder of runs that both can open, RUN a tokenizer in it that has a generator.
"""

import argparse
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

HERE = Path(__file__).resolve().parents[1]
PORTS = {"before": 7991, "now": 7992}
REST = 1200  # milliseconds between two moves, in which what follows a picture comes to its end
NEW_PICTURE = """([place, before]) => {
    const image = document.querySelector(place + ' img');
    return image && image.src && image.src !== before && image.complete && image.naturalWidth;
}"""


@contextmanager
def served(checkout: Path, runs: Path, port: int):
    "The explorer of a checkout, until the region is left."
    command = [sys.executable, "apps/explorer.py", "--runs", str(runs), "--port", str(port)]
    env = os.environ | {"PYTHONPATH": str(checkout)}
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=checkout, env=env, **silent)
    try:
        for _ in range(240):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2).read()
                break
            except OSError:
                time.sleep(0.5)
        yield
    finally:
        process.terminate()
        process.wait(60)


def waited(page: Page, place: str, act) -> float:
    "Seconds from `act()` until another picture stands in `place`."
    image = page.locator(f"{place} img")
    before = (image.first.get_attribute("src") if image.count() else "") or ""
    began = time.perf_counter()
    act()
    page.wait_for_function(NEW_PICTURE, arg=[place, before], timeout=120_000, polling=5)
    return time.perf_counter() - began


def visit(page: Page, url: str) -> dict[str, list[float]]:
    "What a person does on three tabs, and how long each picture is waited for."
    times = defaultdict(list)

    def move(what: str, place: str, act):
        times[what].append(waited(page, place, act))
        page.wait_for_timeout(REST)

    first = "#rec-reconstruction"
    move("first picture", first, lambda: page.goto(f"{url}&tab=reconstruct"))
    for i in range(1, 5):
        move("reconstruct", first, page.locator("#rec-heldout img").nth(i).click)
    waited(page, "#cw-after", lambda: page.goto(f"{url}&tab=codewords"))
    page.wait_for_timeout(2 * REST)
    box = page.locator("#cw-heat input[type=number]")
    for heat in ("2", "0.5", "3", "1.5"):
        move("temperature", "#cw-after", lambda heat=heat: (box.fill(heat), box.press("Enter")))
    for _ in range(2):
        move("edit", "#cw-after", page.locator("#cw-sharp input").click)
    page.goto(f"{url}&tab=sample")
    page.wait_for_timeout(2 * REST)
    for _ in range(2):
        move("first preview", "#samples", page.locator("#go").click)
        page.wait_for_timeout(3 * REST)
    return times


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("runs", type=Path)
    p.add_argument("--run", required=True)
    p.add_argument("--beside", type=Path, required=True, help="another checkout")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--chromium", default="/usr/bin/chromium")
    a = p.parse_args()
    ways = {"before": a.beside.resolve(), "now": HERE}
    found = {name: defaultdict(list) for name in ways}
    with (
        served(ways["before"], a.runs.resolve(), PORTS["before"]),
        served(ways["now"], a.runs.resolve(), PORTS["now"]),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=a.chromium, args=["--no-sandbox"])
        for i in range(a.rounds + 1):  # the first round loads and fills caches
            for name in sorted(ways, reverse=bool(i % 2)):
                page = browser.new_page(viewport={"width": 1440, "height": 1000})
                times = visit(page, f"http://127.0.0.1:{PORTS[name]}/?run={a.run}")
                page.close()
                for what, seconds in times.items():
                    found[name][what] += seconds if i else []
        browser.close()
    print("| waited for | before | now | ratio |\n| --- | ---: | ---: | ---: |")
    for what, seconds in found["now"].items():
        before, now = (statistics.median(s) for s in (found["before"][what], seconds))
        print(f"| {what} | {before * 1e3:.0f} ms | {now * 1e3:.0f} ms | {now / before:.2f} |")
    print(f"\nload of the machine at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
