"""The parts of a run's page that show what happened: figures with captions, and tables."""

import collections
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from experiments.analysis import decisions, tasks, units, wording
from experiments.analysis.history import History
from experiments.pages import drawing, family, markup
from experiments.pages.markup import Cell, Column, Content, element
from pbt import pictures as kept
from pbt.records import Member

MOST_DECISIONS = 1_500
"""Largest number of rows in the table of decisions. Above it, the earliest decisions that copied
nothing are left out."""
MOST_PICTURES = 12
"""Largest number of members whose last pictures are shown."""
_STATISTICS = (
    Column("t", True, "Welch's t"),
    Column("dof", True, "degrees of freedom, Welch-Satterthwaite"),
    Column("p", True, "two-sided"),
)


def learning_curves(history: History, drawn: Mapping[str, Figure]) -> list[Content]:
    """Return the figure of returns over training."""
    scores = [
        (step.version.score, step.training)
        for step in history.lineage
        if step.version.score is not None
    ]
    words = history.units
    said = (
        f"Line chart of {words.many} over {words.steps} for {len(history.members)} members, by "
        f"their {words.score}."
    )
    if scores:
        said += (
            f" The best lineage goes from a training score of {wording.score(scores[0][0])} to "
            f"{wording.score(scores[-1][0])} in {wording.steps(scores[-1][1])} {words.steps}."
        )
    return _figure(
        drawn,
        "learning_curves.png",
        said,
        f"Training scores. Orange: all {words.many} behind the weights that the best member has "
        "now, followed back through the members from which these were copied. Grey: every member, "
        "cut where its weights were replaced.",
        " Blue: interquartile mean and middle half of the members' scores. The band is the spread "
        "of one population, not a confidence interval."
        if len(history.members) >= 4
        else None,
    )


def hyperparameters(history: History, drawn: Mapping[str, Figure]) -> list[Content]:
    """Return the figure of all members' hyperparameters over time."""
    score = units.training_score(history.units)
    return _figure(
        drawn,
        "hyperparameters.png",
        f"One panel each for {', '.join(map(_words, history.varied))}: values of "
        f"{len(history.members)} members over their {history.units.steps}, coloured by "
        f"{score}.",
        f"Hyperparameters of every member, coloured by its {score} at that time. A line ends where "
        "the member changed its values.",
    )


def schedule(history: History, drawn: Mapping[str, Figure]) -> list[Content]:
    """Return the hyperparameters behind the best member's weights, as a figure and a table."""
    if not history.lineage:
        return []
    names, rows = history.scheduled, history.schedule
    best = history.lineage[-1].version
    caption: list[Content] = [
        f"Hyperparameters with which the weights of member {best.member} were trained, followed "
        "back through the members from which these were copied (numbers at the top). It is the "
        "best member. ",
    ]
    if tasks.has_fresh_samples(history.config):  # the learners that a replay can build
        caption += [
            markup.code("python -m experiments.replay"),
            f" trains a fresh {history.units.learner} with this schedule, from ",
            markup.code("schedule.csv"),
            ".",
        ]
    if history.followed is not None:
        caption = [
            "The schedule with which every member was trained. The run was given it and chose no "
            f"values of its own. Top panel: training score of member {best.member}, which has the "
            "highest. Grey dots: values that its learner reported, mean of each slice."
        ]
    shown = _figure(
        drawn,
        "schedule.png",
        f"Training score and {', '.join(names)} along the lineage of member {best.member}, in "
        f"{wording.counted(len(rows) - 1, 'stretch', 'stretches')}.",
        *caption,
    )
    table = markup.table(
        f"Values from each number of {history.units.steps} behind the weights on",
        [
            Column(history.units.steps, True),
            *(Column(_words(n), True) for n in names),
            Column("member"),
        ],
        [
            [
                _count(row.agent_steps),
                *(_value(history.used(row)[name]) for name in names),
                str(row.member),
            ]
            for row in rows
        ],
    )
    return [*shown, markup.details("The schedule as a table", table)]


def family_tree(history: History, drawn: Mapping[str, Figure]) -> list[Content]:
    """Return the figure of whose weights came from whom."""
    return _figure(
        drawn,
        "family_tree.png",
        f"Family tree: {family.describe(history)}.",
        f"{family.describe(history)}. Each horizontal line is a member between two changes of its "
        "weights, and each vertical line is a copy. The horizontal position is the training behind "
        "the weights. Colours of initial draws and present members as in the paper's trees.",
    )


def pictures(history: History, run_dir: Path) -> list[Content]:
    """Return pictures of what members made: the best lineage over training, and all members last.

    They are the files of `pbt.pictures`, if the run's task writes any.
    """
    over_training = []
    for step in history.lineage:
        file = kept.path(run_dir, step.version.member, step.version.version)
        if file.is_file():
            label = f"member {step.version.member}, {wording.steps(step.training)} "
            over_training.append((file, label + history.units.steps))
    if not over_training:
        return []
    places = sorted({round(at * (len(over_training) - 1) / 5) for at in range(6)})
    last = []
    for member in history.ranked[:MOST_PICTURES]:
        files = [kept.path(run_dir, member.id, at) for at in range(member.version, 0, -1)]
        for file in (one for one in files if one.is_file()):
            score = history.tree.scores[history.tree.newest(member.id)]
            told = "no score yet" if score is None else wording.score(score)
            last.append((file, f"member {member.id}: {told}"))
            break
    return [
        markup.gallery(
            [over_training[place] for place in places],
            "Samples over training, of the weights that the best member has now, followed back "
            "through the members from which these were copied. Each place shows the same noise in "
            "all pictures.",
        ),
        markup.gallery(
            last, "The last samples of each member, best first by training score, from this noise."
        ),
    ]


def decision_table(history: History) -> list[Content]:
    """Return a table of the decisions, with the evidence for each."""
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
        Column("steps", True, f"the member's own {history.units.steps}"),
        Column("member", True),
        Column("decision"),
        Column("other", True, "donor, or the member it was compared with"),
        Column("own mean", True, "of the scores compared"),
        Column("other mean", True, "of the scores compared"),
        *(_STATISTICS if has_test else ()),
        *(Column(_words(name), explanation="before → after") for name in names),
        Column("reason"),
    ]
    table = markup.table(
        "Decisions in order",
        columns,
        [_decision_row(row, names, has_test) for row in shown],
        sortable=True,
        row_classes=["copy" if row.is_copy else None for row in shown],
    )
    note = f"{said}. The full evidence, with both samples of returns, is in "
    return [element("p", note, markup.code("events.jsonl"), "."), table]


def _most_telling(rows: list[decisions.Decision]) -> list[decisions.Decision]:
    """Return all copies, and the last others up to `MOST_DECISIONS` rows."""
    room = max(0, MOST_DECISIONS - sum(row.is_copy for row in rows))
    others = [index for index, row in enumerate(rows) if not row.is_copy]
    kept = set(others[max(0, len(others) - room) :])
    return [row for index, row in enumerate(rows) if row.is_copy or index in kept]


def _decision_row(
    row: decisions.Decision, names: list[str], has_test: bool
) -> list[Cell | Content]:
    tested = [_score(row.t), _score(row.degrees_of_freedom)]
    tested.append(Cell("") if row.p is None else Cell(wording.probability(row.p), row.p))
    return [
        Cell(_clock(row.elapsed_s), row.elapsed_s),
        _count(row.agent_steps),
        _count(row.member),
        row.kind,
        _count(row.other),
        _score(row.own_mean),
        _score(row.other_mean),
        *(tested if has_test else ()),
        *(_change(row.before.get(name), row.after.get(name)) for name in names),
        row.reason,
    ]


def member_table(history: History) -> list[Content]:
    """Return a table of all members, best first."""
    best = history.best.id if history.best is not None else None
    columns, rows = members(history)
    table = markup.table(
        "Members in order of training score, with their present hyperparameters",
        columns,
        rows,
        sortable=True,
        row_classes=["best" if member.id == best else None for member in history.ranked],
    )
    return [table]


def members(history: History) -> tuple[list[Column], list[list[Cell | Content]]]:
    """Return the columns and rows of a table of all members, best first."""
    names = history.varied
    copied = collections.Counter(
        event.member for event in history.events if event.kind in ("exploit", "reseed")
    )
    given = collections.Counter(row.other for row in decisions.decisions(history) if row.is_copy)
    columns = [
        Column("member", True),
        Column("state"),
        Column(history.units.steps, True, "its own"),
        Column(units.training_score(history.units), True),
        *(Column(_words(name), True) for name in names),
        Column("initial draw", True, "the member whose first weights these come from"),
        Column("copied others", True, "times"),
        Column("was copied", True, "times"),
    ]

    def row(member: Member) -> list[Cell | Content]:
        used = history.config.space.used(member.hyperparameters)
        return [
            _count(member.id),
            member.state,
            _count(member.agent_steps),
            _score(history.tree.scores[history.tree.newest(member.id)]),
            *(_value(used[name]) for name in names),
            _count(history.tree.lineage(member.id)[0].version.member),
            _count(copied[member.id]),
            _count(given[member.id]),
        ]

    return columns, [row(member) for member in history.ranked]


def _figure(
    drawn: Mapping[str, Figure], name: str, alternative: str, *caption: Content
) -> list[Content]:
    if name not in drawn:
        return []
    return [markup.figure(drawing.svg(drawn[name], name), alternative, *caption)]


def _words(name: str) -> str:
    return name.replace("_", " ")


def _count(number: int | None) -> Cell:
    return Cell("") if number is None else Cell(f"{number:,}", number)


def _score(number: float | None) -> Cell:
    return Cell("") if number is None else Cell(wording.score(number), number)


def _value(number: float) -> Cell:
    return Cell(wording.value(number), float(number))


def _change(before: float | None, after: float | None) -> Cell:
    if before is None or after is None:
        return Cell("")
    if before == after:
        return _value(after)
    return Cell(f"{wording.value(before)} → {wording.value(after)}", after)


def _clock(seconds: float) -> str:
    """Return hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
