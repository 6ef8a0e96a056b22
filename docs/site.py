"""The documentation site from README, docs/ and the notebooks: build/site, nothing in it asks the
network.

    python docs/site.py [--check-only]

Pages are laid out as the files of the repository, so that links mean the same here and there. Each
notebook becomes a page (its stored outputs, nothing is executed), each module a page of signatures
and sources. Formulas become MathML. At the end every
link and anchor of the built pages is checked, and that no script, style, font or image comes from
elsewhere. This file is also the hook module that mkdocs loads.
"""

import argparse
import base64
import html
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

sys.path.insert(0, str(Path(__file__).parent))  # mkdocs loads this file by its path
from map import module_of  # noqa: E402, needs the line before

ROOT = Path(__file__).resolve().parent.parent
PAGES, SITE = ROOT / "build" / "pages", ROOT / "build" / "site"
TUTORIALS = "nbs/tutorials"


def notebooks() -> list[Path]:
    return sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)


def page(path: Path) -> tuple[str, str]:
    "A notebook as Markdown, its pictures as files beside it; and the module that it exports."
    import nbformat

    nb, rel = nbformat.read(path, 4), path.relative_to(ROOT).with_suffix("")
    name, parts, pictures = module_of(nb), [], 0
    module = f"softvq_lab.{name}" if name else ""
    for cell in nb.cells:
        if cell.cell_type == "markdown":
            parts.append(re.sub(r"^- skip_exec: true\n?", "", cell.source, flags=re.M))
        if cell.cell_type != "code" or re.search(r"^#\| *(hide|default_exp)", cell.source, re.M):
            continue
        exported = re.search(r"^#\| *export", cell.source, re.M)
        source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip()
        if source:
            parts.append(f"```{{.python{' .exported' if exported else ''}}}\n{source}\n```")
        for o in cell.get("outputs", []):
            data = o.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{pictures}.png"
                (PAGES / rel).parent.mkdir(parents=True, exist_ok=True)
                (PAGES / rel.parent / name).write_bytes(base64.b64decode(data["image/png"]))
                parts.append(f"![output]({name})")
                pictures += 1
                continue
            if "text/markdown" in data:
                parts.append("".join(data["text/markdown"]))
                continue
            text = o.get("text") or data.get("text/plain", "") or "\n".join(o.get("traceback", []))
            text = re.sub(r"\x1b\[[\d;]*m|.*\r(?!\n)", "", text).strip("\n")
            if text and not text.startswith(("<PIL.", "Figure(")):
                parts.append(f"```{{.text .output}}\n{text}\n```")
    if module:
        parts.insert(
            1,
            (
                f"<small>Module `{module}`: [signatures and "
                f"source]({os.path.relpath(api_page(module), rel.parent)}) · notebook "
                f"`{rel}.ipynb`</small>"
            ),
        )
    else:
        parts.insert(1, f"<small>Notebook `{rel}.ipynb`</small>")
    return "\n\n".join(parts) + "\n", module


def api_page(module: str) -> str:
    return "api/" + module.removeprefix("softvq_lab.").replace(".", "/") + ".md"


def relink(text: str, at: Path) -> str:
    """Links of Markdown in the file `at` as they must read on the site: notebooks are pages,
    folders and files that have no page are shown as text.
    """

    def new(m):
        bang, label, target = m.groups()
        path, hash_, anchor = target.partition("#")
        if "://" in target or not path:
            return m.group(0)
        there = (at.parent / unquote(path)).resolve()
        if not there.exists() and not (PAGES / there.relative_to(ROOT)).exists():
            return m.group(0)  # mkdocs says what is missing, or it was made for the site
        if path.endswith(".ipynb"):
            return f"{bang}[{label}]({path[:-6]}.md{hash_}{anchor})"
        return m.group(0) if there.suffix in (".md", ".png", ".svg") else label

    return re.sub(
        r"```.*?```|(!?)\[((?:`[^`]*`|[^\]`])*)\]\(([^)\s]+)\)|`[^`\n]*`",
        lambda m: new(m) if m.group(3) else m.group(0),
        text,
        flags=re.S,
    )  # code is left alone


def write_pages() -> dict[str, str]:
    "All Markdown pages under build/pages; page -> module of the notebooks' pages."
    shutil.rmtree(PAGES, ignore_errors=True)
    modules = {}
    for path in [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*"),
        *(ROOT / "benchmarks").glob("*.md"),
        *(ROOT / "benchmarks" / "results").glob("*"),
    ]:
        if path.suffix not in (".md", ".png", ".svg"):
            continue
        to = PAGES / path.relative_to(ROOT)
        to.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix != ".md":
            shutil.copy(path, to)
        else:
            to.write_text(relink(path.read_text(), path))
    for path in notebooks():
        text, module = page(path)
        to = PAGES / path.relative_to(ROOT).with_suffix(".md")
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(relink(text, path))
        if module:
            modules[str(to.relative_to(PAGES))] = module
    rows = []
    for at, module in modules.items():
        to = PAGES / api_page(module)
        to.parent.mkdir(parents=True, exist_ok=True)
        back = os.path.relpath(at, Path(api_page(module)).parent)
        to.write_text(
            f"# {module}\n\nWhy and how it works, with checks and pictures: [the "
            f"notebook]({back}).\n\n::: {module}\n    options:\n      show_root_heading: false\n  "
            "    show_root_toc_entry: false\n"
        )
        rows.append(
            f"- [`{module}`]({os.path.relpath(api_page(module), 'api')}) "
            f"([notebook]({os.path.relpath(at, 'api')}))"
        )
    (PAGES / "api" / "index.md").write_text(
        "# All modules\n\nSignatures and sources, in reading order.\n\n" + "\n".join(rows) + "\n"
    )
    return modules


def nav(modules: dict[str, str]) -> list:
    pages = [str(p.relative_to(ROOT).with_suffix(".md")) for p in notebooks()]

    def room(p):
        return p.split("/")[1] if p.count("/") > 1 else ""

    rooms = {
        r: [p for p in pages if room(p) == r and p in modules]
        for r in dict.fromkeys(["", *map(room, pages)])
        if r != "tutorials"
    }
    return [
        {"Home": "README.md"},
        {
            "Guide": [
                "docs/commands.md",
                "docs/sweeps.md",
                "docs/terminal.md",
                "docs/catalogue.md",
                "docs/adding.md",
                "docs/settings.md",
                "docs/outputs.md",
            ]
        },
        {"Paper": ["docs/from_the_paper.md", "docs/reproduction.md"]},
        {"Tutorials": [p for p in pages if p.startswith(TUTORIALS)]},
        {"Workflows": [p for p in pages if room(p) == "" and p not in modules]},
        {"Library": [{r or "softvq_lab": ps} for r, ps in rooms.items() if ps]},
        {"API": ["api/index.md", *(api_page(m) for m in modules.values())]},
        {
            "About": [
                "docs/map.md",
                "docs/architecture.md",
                "docs/decisions.md",
                "docs/reliability.md",
                "docs/measured.md",
                "benchmarks/README.md",
                "CONTRIBUTING.md",
                "CHANGELOG.md",
            ]
        },
    ]


def config(modules: dict[str, str]) -> dict:
    python = dict(
        docstring_style=None,
        show_source=True,
        filters=["!^_"],
        members_order="source",
        heading_level=2,
        show_signature_annotations=True,
        separate_signature=True,
        show_if_no_docstring=True,
        show_bases=True,
        line_length=120,
    )
    return dict(
        site_name="softvq_lab",
        docs_dir=str(PAGES),
        site_dir=str(SITE),
        use_directory_urls=False,
        nav=nav(modules),
        strict=True,
        hooks=[__file__],
        theme=dict(
            name="material",
            font=False,
            features=[
                "navigation.tabs",
                "navigation.indexes",
                "navigation.top",
                "content.code.copy",
                "toc.follow",
            ],
            palette=[
                dict(media="(prefers-color-scheme: light)", scheme="default", primary="blue"),
                dict(media="(prefers-color-scheme: dark)", scheme="slate", primary="blue"),
            ],
        ),
        extra=dict(generator=False),
        extra_css=["site.css"],
        plugins=[
            "search",
            {"mkdocstrings": dict(handlers=dict(python=dict(paths=[str(ROOT)], options=python)))},
        ],
        markdown_extensions=[
            "tables",
            "attr_list",
            "md_in_html",
            "sane_lists",
            {"pymdownx.highlight": dict(use_pygments=True)},
            "pymdownx.superfences",
            "pymdownx.inlinehilite",
            {"pymdownx.arithmatex": dict(generic=True)},
        ],
        validation=dict(
            nav=dict(omitted_files="info"),
            links=dict(
                not_found="warn", anchors="warn", absolute_links="warn", unrecognized_links="warn"
            ),
        ),
    )


CSS = """.md-grid {max-width: 76rem}
.highlight.output pre > code, .output .highlight pre > code {background: none}
.output code {border-left: .2rem solid var(--md-default-fg-color--lightest)}
.exported code {border-left: .2rem solid var(--md-primary-fg-color)}
.md-typeset pre > code {max-height: 40rem} math[display=block] {margin: 1em 0; overflow-x: auto}
"""


def on_page_content(content: str, **kwargs) -> str:
    "mkdocs: formulas as MathML, which browsers draw by themselves."
    from latex2mathml.converter import convert

    def tex(m):
        return html.unescape(m.group(1)).replace(r"\varnothing", r"\emptyset")

    content = re.sub(
        r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>',
        lambda m: convert(tex(m), display="block"),
        content,
        flags=re.S,
    )
    return re.sub(
        r'<span class="arithmatex">\\\((.*?)\\\)</span>',
        lambda m: convert(tex(m)),
        content,
        flags=re.S,
    )


class _Links(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.links, self.loads = set(), [], []

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        self.ids |= {v for k, v in attrs if k in ("id", "name") and v}
        if tag == "a" and a.get("href"):
            self.links.append(a["href"])
        if tag == "link" and a.get("href") and a.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(a["href"])
        if tag in ("script", "img", "iframe", "source") and a.get("src"):
            self.loads.append(a["src"])


def _wrong(p: Path, url: str, loaded: bool, pages: dict, site: Path) -> str:
    "What is wrong with an address on page `p`; empty where nothing is."
    u, here = urlsplit(url), p.relative_to(site)
    if u.scheme or u.netloc:
        return f"{here} loads {url}" if loaded and u.scheme != "data" else ""
    to = (p.parent / unquote(u.path)).resolve() if u.path else p
    if to.is_dir():
        to = to / "index.html"
    if not to.is_file():
        return f"{here}: {url} is not there"
    anchors = {*pages[to].ids, "", "__top"} if to in pages else {unquote(u.fragment)}
    if unquote(u.fragment) not in anchors:
        return f"{here}: no {u.fragment} in {to.relative_to(site)}"
    return ""


def check(site: Path = SITE) -> list[str]:
    """What is wrong with the built pages.

    Links and anchors that lead nowhere, and what would be loaded from elsewhere.
    """
    site, pages = site.resolve(), {}
    for p in site.rglob("*.html"):
        pages[p] = _Links()
        pages[p].feed(p.read_text())
    wrong = {
        _wrong(p, url, loaded, pages, site)
        for p, found in pages.items()
        if p.name != "404.html"  # its addresses begin at the server's root
        for loaded, urls in ((True, found.loads), (False, found.links))
        for url in urls
    }
    elsewhere = re.compile(r'url\(["\']?(https?:[^)"\']+)|@import ["\'](https?:[^"\']+)')
    for p in site.rglob("*.css"):
        for found in elsewhere.finditer(p.read_text()):
            wrong.add(f"{p.relative_to(site)} loads {found[1] or found[2]}")
    return sorted(wrong - {""})


def main() -> int:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--check-only", action="store_true", help="only check the pages that are there")
    if not p.parse_args().check_only:
        import yaml

        modules = write_pages()
        (PAGES / "site.css").write_text(CSS)
        (ROOT / "build" / "mkdocs.yml").write_text(yaml.safe_dump(config(modules), sort_keys=False))
        env = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "DISABLE_MKDOCS_2_WARNING": "true"}
        if code := subprocess.run(
            [
                sys.executable,
                "-m",
                "mkdocs",
                "build",
                "--quiet",
                "--strict",
                "-f",
                ROOT / "build" / "mkdocs.yml",
            ],
            env=env,
            cwd=ROOT,
        ).returncode:
            return code
    wrong = check()
    print(
        *wrong,
        (
            f"{len(list(SITE.rglob('*.html')))} pages in {SITE}, {len(wrong)} broken links or "
            "outside "
            "resources"
        ),
        sep="\n",
    )
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
