"""The parts of a run's page that show what happened: figures with captions, and tables."""

import collections
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from experiments.analysis import decisions, wording
from experiments.analysis.history import History
from experiments.pages import drawing, family, markup
from experiments.pages.markup import Cell, Column, Content, Html, element
from pbt.records import Member

MOST_DECISIONS = 1_500
"""Rows of the table of decisions: of more, copies stay and the earliest others go."""
_STATISTICS = (
    Column("t", True, "Welch's t"),
    Column("dof", True, "degrees of freedom, Welch-Satterthwaite"),
    Column("p", True, "two-sided"),
)


def learning_curves(history: History, drawn: Mapping[str, Figure]) -> list[Content]:
    """Returns over training."""
    scored = [step for step in history.lineage if step.version.score is not None]
    said = f"Line chart of episode returns over agent steps for {len(history.members)} members."
    if scored:
        first, last = scored[0].version.score, scored[-1].version.score
        assert first is not None
        assert last is not None
        said += (
            f" The best lineage goes from a training score of {wording.score(first)} to "
            f"{wording.score(last)} in {wording.steps(scored[-1].training)} agent steps."
        )
    return _figure(
        drawn,
        "learning_curves.png",
        said,
        "Training returns. Orange: the lineage of the best member, that is the episodes behind the "
        "weights that it holds now, followed back through the members it was copied from. Grey: "
        "every member, cut where its weights were replaced.",
        " Blue: interquartile mean of the members' scores, with their middle half: the spread of "
        "one population, and no confidence interval."
        if len(history.members) >= 4
        else None,
    )


def hyperparameters(history: History, drawn: Mapping[str, Figure]) -> list[Content]:
    """All members' values over time."""
    names = [name.replace("_", " ") for name in history.varied]
    return _figure(
        drawn,
        "hyperparameters.png",
        f"One panel each for {', '.join(names)}: values of {len(history.members)} members over "
        "their agent steps, coloured by training score.",
        "What every member trained with, coloured by the training score that it had then: a line "
        "ends where the member took another's values. ",
        _swatch(drawing.INITIAL),
        "initial draws, ",
        _swatch(drawing.PRESENT),
        "present members.",
    )


def schedule(history: History, drawn: Mapping[str, Figure]) -> list[Content]:
    """The hyperparameters behind the best member's weights, as figure and table."""
    if not history.lineage:
        return []
    names, rows = history.scheduled, history.schedule
    best = history.lineage[-1].version
    caption: list[Content] = [
        f"What the weights of member {best.member}, the best by training score, were trained with, "
        "followed through its donors. Their numbers stand above. ",
        markup.code("python -m experiments.replay"),
        " trains a fresh agent along it, from ",
        markup.code("schedule.csv"),
        ".",
    ]
    if history.followed is not None:
        caption = [
            "What every member was trained with: the schedule that the run was given, and nothing "
            f"chose values here. On top, the training score of member {best.member}, the best by "
            "it. Grey dots: what its learner reports to have used, in the mean of each slice."
        ]
    shown = _figure(
        drawn,
        "schedule.png",
        f"Training score and {', '.join(names)} along the lineage of member {best.member}, in "
        f"{wording.counted(len(rows) - 1, 'stretch', 'stretches')}.",
        *caption,
    )
    used = [history.used(row) for row in rows]
    table = markup.table(
        "From these agent steps on, behind the weights",
        [Column("agent steps", True), *(Column(_words(n), True) for n in names), Column("member")],
        [
            [
                Cell(f"{row.agent_steps:,}", row.agent_steps),
                *(_value(values[name]) for name in names),
                str(row.member),
            ]
            for row, values in zip(rows, used, strict=True)
        ],
    )
    return [*shown, markup.details("The schedule as a table", table)]


def family_tree(history: History, drawn: Mapping[str, Figure]) -> list[Content]:
    """Whose weights came from whom."""
    return _figure(
        drawn,
        "family_tree.png",
        f"Family tree: {family.describe(history)}.",
        f"{family.describe(history)}. ".capitalize(),
        "Each line is a member between two changes of its weights, and a vertical line a copy; "
        "from left to right, the training behind the weights. ",
        _swatch(drawing.INITIAL),
        "initial draws, ",
        _swatch(drawing.PRESENT),
        "present members, as in the paper's trees.",
    )


def decision_table(history: History) -> list[Content]:
    """Every decision with its evidence."""
    rows = decisions.decisions(history)
    if not rows:
        return []
    shown = _most_telling(rows)
    counts = collections.Counter(row.kind for row in rows)
    said = ", ".join(f"{count:,} {kind}" for kind, count in counts.most_common())
    if len(shown) < len(rows):
        said += f"; the first {len(rows) - len(shown):,} that copied nothing are left out here"
    names = [name for name in history.varied if any(row.before for row in rows)]
    has_test = any(row.t is not None for row in rows)
    columns = [
        Column("time", True, "since the run was created"),
        Column("steps", True, "the member's own agent steps"),
        Column("member", True),
        Column("decision"),
        Column("other", True, "donor, or the member that it was compared with"),
        Column("own mean", True, "of the returns compared"),
        Column("other mean", True, "of the returns compared"),
        *(_STATISTICS if has_test else ()),
        *(Column(_words(name), explanation="before → after") for name in names),
        Column("reason"),
    ]
    table = markup.table(
        "Decisions in order",
        columns,
        [_decision_row(row, names, has_test) for row in shown],
        sortable=True,
        wide=True,
        row_classes=["copy" if row.is_copy else None for row in shown],
    )
    note = f"{said}. With all evidence, both samples included: "
    return [element("p", note, markup.code("events.jsonl"), "."), table]


def _most_telling(rows: list[decisions.Decision]) -> list[decisions.Decision]:
    room = max(0, MOST_DECISIONS - sum(row.is_copy for row in rows))
    others = [index for index, row in enumerate(rows) if not row.is_copy]
    kept = set(others[max(0, len(others) - room) :])
    return [row for index, row in enumerate(rows) if row.is_copy or index in kept]


def _decision_row(
    row: decisions.Decision, names: list[str], has_test: bool
) -> list[Cell | Content]:
    tested = [_number(row.t), _number(row.degrees_of_freedom)]
    tested.append(Cell("") if row.p is None else Cell(wording.probability(row.p), row.p))
    return [
        Cell(_clock(row.elapsed_s), row.elapsed_s),
        Cell(f"{row.agent_steps:,}", row.agent_steps),
        Cell(str(row.member), row.member),
        row.kind,
        Cell("") if row.other is None else Cell(str(row.other), row.other),
        _number(row.own_mean),
        _number(row.other_mean),
        *(tested if has_test else ()),
        *(_change(row.before.get(name), row.after.get(name)) for name in names),
        row.reason,
    ]


def member_table(history: History) -> list[Content]:
    """All members, the best first."""
    names = history.varied
    copied = collections.Counter(
        event.member for event in history.events if event.kind in ("exploit", "reseed")
    )
    given = collections.Counter(
        row.other for row in decisions.decisions(history) if row.is_copy and row.other is not None
    )
    columns = [
        Column("member", True),
        Column("state"),
        Column("agent steps", True, "its own"),
        Column("training score", True),
        *(Column(_words(name), True) for name in names),
        Column("initial draw", True, "the member whose first weights these come from"),
        Column("copied others", True, "times"),
        Column("was copied", True, "times"),
    ]

    def row(member: Member) -> list[Cell | Content]:
        score = history.tree.scores[history.tree.newest(member.id)]
        used = history.config.space.used(member.hyperparameters)
        founder = history.tree.lineage(member.id)[0].version.member
        return [
            Cell(str(member.id), member.id),
            member.state,
            Cell(f"{member.agent_steps:,}", member.agent_steps),
            _number(score),
            *(_value(used[name]) for name in names),
            Cell(str(founder), founder),
            Cell(str(copied[member.id]), copied[member.id]),
            Cell(str(given[member.id]), given[member.id]),
        ]

    best = history.best.id if history.best is not None else None
    table = markup.table(
        "Members, the highest training score first, with their present hyperparameters",
        columns,
        [row(member) for member in history.ranked],
        sortable=True,
        row_classes=["best" if member.id == best else None for member in history.ranked],
    )
    return [table]


def _figure(
    drawn: Mapping[str, Figure], name: str, alternative: str, *caption: Content
) -> list[Content]:
    if name not in drawn:
        return []
    return [markup.figure(drawing.svg(drawn[name], name), alternative, *caption)]


def _swatch(colour: str) -> Html:
    return element(
        "span", class_="swatch", style=f"background:{drawing.themed(colour)}", aria_hidden="true"
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float | None) -> Cell:
    return Cell("") if value is None else Cell(wording.score(value), value)


def _value(value: Any) -> Cell:
    return Cell(wording.value(float(value)), float(value))


def _change(before: float | None, after: float | None) -> Cell:
    if before is None or after is None:
        return Cell("")
    if before == after:
        return Cell(wording.value(after), after)
    return Cell(f"{wording.value(before)} → {wording.value(after)}", after)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
