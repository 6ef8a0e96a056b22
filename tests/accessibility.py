"""Axe on a page of the explorer: what would keep somebody from using it."""

import contextlib
from pathlib import Path

import axe_playwright_python
from playwright.sync_api import TimeoutError as PlaywrightTimeout

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text(encoding="utf-8")
WIDTHS = (390, 768, 1024, 1440)
GRAVE = ("serious", "critical")
# What is not ours and cannot be mended from outside: (rule, part of the selector), and why.
EXCLUDED = ()


def findings(page) -> list[str]:
    "Serious and critical findings on what is visible now: rule, selector, what is wrong."
    with contextlib.suppress(PlaywrightTimeout):  # what is being computed is faded
        page.wait_for_function("!document.querySelector('.pending')", timeout=20_000)
    if not page.evaluate("'axe' in window"):
        page.evaluate(AXE)
    options = {"resultTypes": ["violations"]}
    if page.evaluate("document.body.classList.contains('dark')"):
        options["runOnly"] = ["color-contrast"]  # the rest is the same in light colours
    rules = page.evaluate("options => axe.run(options).then(r => r.violations)", options)
    found = [
        (rule["id"], " ".join(map(str, node["target"])), node["failureSummary"])
        for rule in rules
        if rule["impact"] in GRAVE
        for node in rule["nodes"]
    ]
    return [
        f"{rule} at {selector}: {' '.join(why.split())}"
        for rule, selector, why in found
        if not any(rule == r and part in selector for r, part in EXCLUDED)
    ]


def set_theme(page, theme: str):
    page.evaluate("dark => document.body.classList.toggle('dark', dark)", theme == "dark")


def views(page):
    "Walk through all widths and both themes: (width, theme) of each."
    page.add_style_tag(content="* {transition: none !important}")  # colours at once
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for theme in ("light", "dark"):
            set_theme(page, theme)
            page.wait_for_timeout(150)  # figures and names follow
            yield width, theme
