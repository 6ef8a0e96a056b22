"""Tables as HTML in which whatever comes from a file is text."""

from html import escape

from softvq_lab.core import printable


class Raw(str):
    "A cell that is already HTML and is not escaped."


def text(x) -> str:
    "Anything from a file as HTML that shows it letter by letter."
    return escape(printable(x))


def sheet(head: list[str], rows: list[list], numbers: bool = False) -> str:
    """A table as HTML; every cell but `Raw` is text and nothing but text.

    `numbers`: the columns after the first are aligned at the right.
    """

    def cell(x, i, tag="td"):
        if isinstance(x, Raw):
            return x
        kind = " class=n" if numbers and i else ""
        return f"<{tag}{kind}>{text(f'{x:.4g}' if isinstance(x, float) else x)}</{tag}>"

    def line(cells, tag="td"):
        return "<tr>" + "".join(cell(x, i, tag) for i, x in enumerate(cells)) + "</tr>"

    body = line(head, "th") + "".join(map(line, rows))
    return f'<div class="sheet"><table>{body}</table></div>'
