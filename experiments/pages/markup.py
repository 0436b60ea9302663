"""HTML, built so that nothing gets in unescaped and everything opened is closed.

    element("p", "5 < 6, says ", element("b", name), class_="note")

Text is a plain `str` and escaped; markup is `Html`, and only what this module makes, and
`drawing.svg`, is that. What people write is Markdown.
"""

import base64
import dataclasses
import hashlib
import html
from collections.abc import Iterable, Sequence

from markdown_it import MarkdownIt

from experiments.pages import style

FILE_NAME = "index.html"
"""Of a page, in the folder of what it shows."""
_VOID = frozenset({"meta", "br"})


class Html(str):
    """Markup; any other string is text."""

    __slots__ = ()


Content = str | Html | None
"""None is left out."""


def element(name: str, /, *children: Content, **attributes: str | bool | None) -> Html:
    """An element. Attributes by name, `class_` for class, `data_x` for data-x; None is left out."""
    written = []
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        written.append(f" {key}" if value is True else f' {key}="{html.escape(value)}"')
    start = f"<{name}{''.join(written)}>"
    return Html(start if name in _VOID else f"{start}{join(children)}</{name}>")


def join(children: Iterable[Content]) -> Html:
    """Texts and elements one after the other."""
    return Html("".join(_escaped(child) for child in children if child is not None))


def _escaped(child: str | Html) -> str:
    return child if isinstance(child, Html) else html.escape(child)


def markdown(text: str) -> Html:
    """CommonMark, in which HTML is text; its headings are those below a section's."""
    parser = _markdown_parser()
    tokens = parser.parse(text)
    for token in tokens:
        if token.type in ("heading_open", "heading_close"):
            token.tag = "h3"
    return Html(parser.renderer.render(tokens, parser.options, {}))


def markdown_line(text: str) -> Html:
    """The marks inside a line of CommonMark, without a paragraph around it."""
    return Html(_markdown_parser().renderInline(text))


def _markdown_parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": False})


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a table shows, and the number that it sorts by where that is not what it shows."""

    content: str | Html
    value: float | None = None


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    is_number: bool = False
    """Right-aligned, sorted by value."""
    explanation: str | None = None
    """For whoever points at the title."""


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell | Content]],
    *,
    sortable: bool = False,
    wide: bool = False,
    row_classes: Sequence[str | None] = (),
) -> Html:
    """A table with headers for columns, and for rows in the first column, in a frame that scrolls.

    Args:
        caption: What the table is; shown above it.
        columns: From left to right.
        rows: Of as many cells as there are columns.
        sortable: Whether the page's script offers to sort and to filter it.
        wide: Whether it may be wider than the text.
        row_classes: One per row, for `style`; may be left out.
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
            cell = given if isinstance(given, Cell) else Cell(given or "")
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
    kind = "scroll wide" if wide else "scroll"
    return element("div", drawn, class_=kind, role="region", tabindex="0", aria_label=caption)


def facts(rows: Iterable[tuple[str, Content]]) -> Html:
    """A list of what is how."""
    pairs = (element("div", element("dt", what), element("dd", how)) for what, how in rows)
    return element("dl", *pairs, class_="facts")


def figure(drawn: str, alternative: str, *caption: Content) -> Html:
    """An `svg` of `drawing.svg`, with its text for those who do not see it, and a caption."""
    labelled = drawn.replace(
        "<svg ", f'<svg role="img" aria-label="{html.escape(alternative)}" ', 1
    )
    return element(
        "figure",
        element("div", Html(labelled), class_="plot"),
        element("figcaption", *caption),
    )


def code(text: str) -> Html:
    """A command or a name, as it is typed."""
    return element("code", text)


def details(summary: str, *children: Content) -> Html:
    """What is shown on demand."""
    return element("details", element("summary", summary), *children)


def section(title: str, *children: Content, id_: str) -> Html:
    """A part of a page, with its heading."""
    return element("section", element("h2", title), *children, id=id_)


def contents(parts: Iterable[tuple[str, str]]) -> Html:
    """Links to the sections of a page, each given by id and title."""
    items = (element("li", element("a", title, href=f"#{id_}")) for id_, title in parts)
    return element("nav", element("ul", *items), aria_label="Contents")


def document(title: str, *body: Content) -> Html:
    """A whole page that needs nothing but itself: no network, no other file.

    Its policy says so to the browser too, and lets no script run but its own.
    """
    digest = base64.b64encode(hashlib.sha256(style.SCRIPT.encode()).digest()).decode()
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
        element("title", title),
        element("style", Html(style.SHEET)),
    )
    script = element("script", Html(style.SCRIPT))
    whole = element("html", head, element("body", *body, script), lang="en")
    return Html(f"<!doctype html>\n{whole}\n")
