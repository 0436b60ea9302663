"""Building blocks of HTML pages, in which all text is escaped and all elements are closed.

    element("p", "5 < 6, says ", element("b", name), class_="note")

A plain `str` is text and gets escaped. An `Html` is markup; only this module and `drawing.svg` make
it. Texts written by people are Markdown.
"""

import base64
import dataclasses
import hashlib
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from markdown_it import MarkdownIt

from experiments.analysis import wording
from experiments.pages import script, style

FILE_NAME = "index.html"
"""Name of a page's file."""
_VOID = frozenset({"meta", "br", "img"})


class Html(str):
    """Markup. Any other string is text."""

    __slots__ = ()


Content = str | Html | None
"""Text, markup, or nothing."""


def element(name: str, /, *children: Content, **attributes: str | bool | None) -> Html:
    """Return an element.

    Args:
        name: The tag.
        *children: Texts and elements inside. None is left out.
        **attributes: `class_` stands for class and `data_x` for data-x. None is left out, and True
            stands for an attribute without a value.
    """
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        written.append(f" {key}" if value is True else f' {key}="{_escaped(value)}"')
    start = f"<{name}{''.join(written)}>"
    return Html(start if name in _VOID else f"{start}{join(children)}</{name}>")


def join(children: Iterable[Content]) -> Html:
    """Join texts and elements."""
    return Html(
        "".join(
            child if isinstance(child, Html) else _escaped(child)
            for child in children
            if child is not None
        )
    )


def _escaped(text: str) -> str:
    return html.escape(wording.printable(text))


def markdown(text: str) -> Html:
    """Render CommonMark. HTML in it is text, and headings become those below a section's."""
    parser = _markdown_parser()
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = "h3"
    return Html(parser.renderer.render(tokens, parser.options, {}))


def markdown_line(text: str) -> Html:
    """Render a line of CommonMark, without a paragraph around it."""
    return Html(_markdown_parser().renderInline(text))


def _markdown_parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False})


@dataclasses.dataclass(frozen=True)
class Cell:
    """A cell of a table: its text and, for numbers, the value to sort by."""

    content: str | Html
    value: float | None = None


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    is_number: bool = False
    """Whether cells are aligned to the right."""
    explanation: str | None = None
    """Tooltip of the title."""


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell | Content]],
    *,
    sortable: bool = False,
    row_classes: Sequence[str | None] = (),
) -> Html:
    """Return a table in a frame that scrolls. The first cell of a row is its header.

    Args:
        caption: Text above the table.
        columns: The columns from left to right.
        rows: Rows with one cell per column.
        sortable: Whether the page's script lets readers sort and filter the rows.
        row_classes: CSS class of each row; empty for none.
    """
    head = [
        element(
            "th",
            column.title,
            scope="col",
            class_="number" if column.is_number else None,
            title=column.explanation,
        )
        for column in columns
    ]
    body = []
    for index, row in enumerate(rows):
        cells = []
        for place, (column, given) in enumerate(zip(columns, row, strict=True)):
            cell = _cell(given)
            cells.append(
                element(
                    "td" if place else "th",
                    cell.content,
                    scope=None if place else "row",
                    class_="number" if column.is_number else None,
                    data_value=None if cell.value is None else repr(cell.value),
                )
            )
        kind = row_classes[index] if row_classes else None
        body.append(element("tr", *cells, class_=kind))
    drawn = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *head)),
        element("tbody", *body),
        class_="sortable" if sortable else None,
    )
    return element("div", drawn, class_="scroll", role="region", tabindex="0", aria_label=caption)


def markdown_table(columns: Sequence[Column], rows: Iterable[Sequence[Cell | Content]]) -> str:
    """Return a table in Markdown, padded so that it reads well as plain text.

    Args:
        columns: The columns from left to right.
        rows: Rows with one cell per column.
    """
    lines = [[column.title for column in columns]]
    lines += [[_cell(given).content.replace("|", "\\|") for given in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    lines.insert(1, [f"{'-' * (width - 1)}:" for width in widths])
    padded = ([text.rjust(w) for text, w in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded)


def _cell(given: Cell | Content) -> Cell:
    return given if isinstance(given, Cell) else Cell(given or "")


def facts(rows: Iterable[tuple[str, Content]]) -> Html:
    """Return a list of names and their values."""
    pairs = (element("div", element("dt", what), element("dd", how)) for what, how in rows)
    return element("dl", *pairs, class_="facts")


def figure(drawn: str, alternative: str, *caption: Content) -> Html:
    """Return a figure with a caption.

    Args:
        drawn: The element from `drawing.svg`.
        alternative: Description for readers who cannot see the figure.
        *caption: Texts and elements of the caption.
    """
    labelled = drawn.replace("<svg ", f'<svg role="img" aria-label="{_escaped(alternative)}" ', 1)
    return element(
        "figure",
        element("div", Html(labelled), class_="plot"),
        element("figcaption", *caption),
    )


def gallery(pictures: Iterable[tuple[Path, str]], *caption: Content) -> Html:
    """Return PNG files side by side, embedded in the page, in a figure with a caption.

    Args:
        pictures: Each file and what is said below it.
        *caption: Texts and elements of the caption.
    """
    shown = []
    for path, label in pictures:
        data = base64.b64encode(path.read_bytes()).decode()
        image = element("img", src=f"data:image/png;base64,{data}", alt=f"Samples of {label}")
        shown.append(element("div", image, element("small", label)))
    return element(
        "figure",
        element("div", *shown, class_="gallery"),
        element("figcaption", *caption),
    )


def code(text: str) -> Html:
    """Return a command or a name in the type of code."""
    return element("code", text)


def details(summary: str, *children: Content) -> Html:
    """Return content that unfolds on a click on its summary."""
    return element("details", element("summary", summary), *children)


def section(title: str, *children: Content, id_: str) -> Html:
    """Return a section of a page with its heading."""
    return element("section", element("h2", title), *children, id=id_)


def contents(parts: Iterable[tuple[str, str]]) -> Html:
    """Return links to the sections of a page, each given by id and title."""
    items = (element("li", element("a", title, href=f"#{id_}")) for id_, title in parts)
    return element("nav", element("ul", *items), aria_label="Contents")


def document(title: str, *body: Content, refresh_s: int | None = None) -> Html:
    """Return a whole page that needs no network and no other file.

    Its content security policy forbids both, and any script but its own.

    Args:
        title: Title of the page.
        *body: Contents of the page.
        refresh_s: Seconds after which a browser loads the page again. None for never.
    """
    digest = base64.b64encode(hashlib.sha256(script.SCRIPT.encode()).digest()).decode()
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        None
        if refresh_s is None
        else element("meta", http_equiv="refresh", content=str(refresh_s)),
        element("title", title),
        element("style", Html(style.SHEET)),
    )
    own = element("script", Html(script.SCRIPT))
    whole = element("html", head, element("body", *body, own), lang="en")
    return Html(f"<!doctype html>\n{whole}\n")
