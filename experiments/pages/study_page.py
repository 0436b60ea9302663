"""The page of a study, and the parts of it that a comparison's page has, too."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from experiments.analysis import arms, units
from experiments.pages import drawing, markup, study_figures
from experiments.pages.markup import Column, Content, Html, element

Part = tuple[str, str, list[Content]]
"""Id, title and contents of a section. A section without contents is left out."""
ALTERNATIVES: Mapping[str, str] = {
    "scores.png": "Every run of every arm as a dot, with interquartile means.",
    "curves.png": "Training scores of the best and the median member over steps, by arm.",
    "schedules.png": "Hyperparameters behind the winners' weights over steps, by seed.",
}
CAPTIONS: Mapping[str, str] = {
    "scores.png": "Fresh {samples} of the best member. Grey: one run. Blue: interquartile "
    "mean{over}.",
    "curves.png": "Training scores, by which members are compared and chosen; the best of several "
    "is biased upward. Mean{over}.",
    "schedules.png": "What the winners' weights were trained with, followed through their donors. "
    "Grey: one seed. Orange: geometric mean{over}.",
}


def page(
    described: Mapping[str, Any],
    tables: arms.Tables,
    notes: str,
    protocol: Sequence[str],
    drawn: Mapping[str, Figure],
) -> Html:
    """Return the page of a study.

    Args:
        described: Contents of study.json.
        tables: Tables of the study.
        notes: What a person says about the results, in Markdown.
        protocol: How the study was done, one thing per line of Markdown.
        drawn: Figures by the names of their files. Their titles are removed.
    """
    said = notes.strip().removeprefix("## What it shows").strip()  # the section is called so
    done = (element("li", markup.markdown_line(line)) for line in protocol)
    training: list[Content] = [
        figure(tables, drawn, name) for name in ("curves.png", "schedules.png")
    ]
    return document(
        f"A study in {described['world']}"
        if tables.words == units.AGENTS
        else f"A study of {tables.words.learner}s",
        described["title"],
        described["question"],
        [
            ("scores", "Scores", scores(tables, described["question"], drawn)),
            ("paper", "The paper", [element("p", described["paper"])]),
            ("notes", "What it shows", [markup.markdown(said)] if said else []),
            ("curves", "Training", training),
            ("how", "Protocol", [element("ul", *done)]),
        ],
        "Made from study.json and the tables beside this page.",
    )


def document(
    kind: str,
    title: str,
    lede: str,
    parts: Sequence[Part],
    footer: str,
    warnings: Sequence[str] = (),
) -> Html:
    """Return a whole page.

    Args:
        kind: What the page is, above its title.
        title: Title of the page.
        lede: What the page is about, below its title.
        parts: Sections.
        footer: Last line.
        warnings: What must be known before any number is read.
    """
    shown = [part for part in parts if part[2]]
    return markup.document(
        title,
        element(
            "header",
            element("p", kind, class_="kind"),
            element("h1", title),
            element("p", lede, class_="lede"),
            *(element("p", warning, class_="warning") for warning in warnings),
            markup.contents((id_, name) for id_, name, _ in shown),
        ),
        element("main", *(markup.section(name, *content, id_=id_) for id_, name, content in shown)),
        element("footer", footer),
    )


def scores(
    tables: arms.Tables, question: str, drawn: Mapping[str, Figure], caption: str | None = None
) -> list[Content]:
    """Return the figure with all scores, and the table of each panel.

    Args:
        tables: The tables.
        question: Caption of a table whose panel has no name.
        drawn: Figures by the names of their files.
        caption: Caption of the figure instead of the usual one.
    """
    made: list[Content] = [figure(tables, drawn, "scores.png", caption)]
    for panel in tables.panels:
        titles = arms.header(tables, panel)
        columns = [Column(title, is_number=place > 0) for place, title in enumerate(titles)]
        rows = arms.cells(tables, panel)
        made.append(markup.table(panel or question, columns, rows))
    return made


def figure(
    tables: arms.Tables, drawn: Mapping[str, Figure], name: str, caption: str | None = None
) -> Html | None:
    """Return a figure with its caption, or None if it was not drawn.

    Args:
        tables: What the figure was drawn from.
        drawn: Figures by the names of their files.
        name: The file's name.
        caption: Caption instead of the usual one. It may have {samples} for what a sample is
            called, and {over} for what a mean is over.
    """
    if name not in drawn:
        return None
    svg = drawing.svg(drawn[name], name.partition(".")[0])
    over = ", a run each"
    if study_figures.has_intervals(tables):
        over = " over seeds, with its 95 % bootstrap interval"
    said = (caption or CAPTIONS[name]).format(samples=tables.words.many, over=over)
    return markup.figure(svg, ALTERNATIVES[name], said)
