"""The page of a study: its tables, its figures and what is said about it, as one HTML file."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from experiments.pages import drawing, markup
from experiments.pages.markup import Column, Content, Html, element

ALTERNATIVES: Mapping[str, str] = {
    "scores.png": "Every run of every arm as a dot, with interquartile means and intervals.",
    "curves.png": "Training scores of the best and the median member over agent steps, by arm.",
    "schedules.png": "Hyperparameters behind the winners' weights over agent steps, by seed.",
}
CAPTIONS: Mapping[str, str] = {
    "scores.png": "Fresh episodes of the member chosen by training score. Grey: one run. Blue: "
    "interquartile mean over seeds, with its 95 % bootstrap interval.",
    "curves.png": "Training scores, by which members are compared and chosen; the best of several "
    "is biased upward. Mean over seeds with its 95 % bootstrap interval.",
    "schedules.png": "What the winners' weights were trained with, followed through their donors. "
    "Grey: one seed. Orange: geometric mean with its 95 % bootstrap interval.",
}


def page(
    described: Mapping[str, Any],
    header: Sequence[str],
    panels: Sequence[tuple[str, Sequence[Sequence[str]]]],
    notes: str,
    protocol: Sequence[str],
    drawn: Mapping[str, Figure],
) -> Html:
    """The page.

    Args:
        described: The study, from study.json.
        header: Titles of the tables' columns.
        panels: Name, which may be empty, and rows of each table.
        notes: What a person says about it, in Markdown.
        protocol: How it was done, one thing per line, in Markdown.
        drawn: Figures by the names of their files; titles are taken off.
    """
    said = notes.strip().removeprefix("## What it shows").strip()  # the section is called so
    tables = [_table(name or described["question"], header, rows) for name, rows in panels]
    done = (element("li", markup.markdown_line(line)) for line in protocol)
    parts: list[tuple[str, str, list[Content]]] = [
        ("scores", "Scores", [_figure(drawn, "scores.png"), *tables]),
        ("paper", "The paper", [element("p", described["paper"])]),
        ("notes", "What it shows", [markup.markdown(said)] if said else []),
        ("curves", "Training", [_figure(drawn, "curves.png"), _figure(drawn, "schedules.png")]),
        ("how", "Protocol", [element("ul", *done)]),
    ]
    parts = [part for part in parts if part[2]]
    return markup.document(
        described["title"],
        element(
            "header",
            element("p", f"A study in {described['world']}", class_="kind"),
            element("h1", described["title"]),
            element("p", described["question"], class_="lede"),
            markup.contents((id_, title) for id_, title, _ in parts),
        ),
        element(
            "main", *(markup.section(title, *content, id_=id_) for id_, title, content in parts)
        ),
        element("footer", "Made from study.json and the tables beside this page."),
    )


def _table(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Html:
    columns = [Column(title, is_number=place > 0) for place, title in enumerate(header)]
    return markup.table(caption, columns, rows, wide=True)


def _figure(drawn: Mapping[str, Figure], name: str) -> Html | None:
    if name not in drawn:
        return None
    svg = drawing.svg(drawn[name], name.partition(".")[0])
    return markup.figure(svg, ALTERNATIVES[name], CAPTIONS[name])
