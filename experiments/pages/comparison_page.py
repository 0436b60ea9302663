"""The page of a comparison of runs: a study's scores and training, and what differs."""

import shlex
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from experiments.analysis import arms, comparison, protocol, provenance, units, wording
from experiments.analysis.comparison import Group
from experiments.pages import markup, study_figures, study_page
from experiments.pages.markup import Cell, Column, Content, Html, element

COVERED: Mapping[int, float] = {2: 0.5, 3: 0.75, 4: 0.87}
"""Share of normal samples of so few scores whose 95 % bootstrap interval of the interquartile mean
covers the true one."""


CAPTIONS: Mapping[str, str] = {
    "scores": "Grey: one run, by fresh {samples} of its best member. Blue: interquartile "
    "mean{over}.",
    "training scores": "Grey: one run, by the score that the axis names. Training scores chose the "
    "members and are biased upward. Blue: interquartile mean{over}.",
    "curves": "Training scores, by which members are compared and chosen; the best of several is "
    "biased upward. Thick: mean{over}. Thin: runs that are "
    "left out. Times compare only where the machine and its load were the same.",
    "schedules": "What the winners' weights were trained with, followed through their donors. "
    "Thin: one run. Thick: geometric mean{over}.",
}
"""Captions by figure."""


def figures(tables: arms.Tables, title: str) -> dict[str, Figure]:
    """Return all figures of a comparison by the names of their files."""
    drawn = {
        "scores.png": study_figures.scores(tables, title),
        "curves.png": study_figures.curves_by_time(tables),
    }
    names = list(dict.fromkeys(name for _, name in tables.arms))
    if (figure := study_figures.schedules(tables, names)) is not None:
        drawn["schedules.png"] = figure
    return drawn


def page(compared: Sequence[Group], tables: arms.Tables, drawn: Mapping[str, Figure]) -> Html:
    """Return the page.

    Args:
        compared: From `comparison.groups`.
        tables: From `comparison.tables` of these groups.
        drawn: From `figures`. Their titles are removed.
    """
    runs = sum(len(group.runs) for group in compared)
    where = "in an environment" if tables.words == units.AGENTS else "of a kind"
    lede = (
        f"{wording.counted(runs, 'run')} in {wording.counted(len(compared), 'group')}. Runs of a "
        "group have the same settings but for the seed. "
        f"The first group {where} is the one that the others are compared with."
    )
    training: list[Content] = [
        study_page.figure(tables, drawn, f"{name}.png", CAPTIONS[name])
        for name in ("curves", "schedules")
    ]
    question = f"Groups in {tables.environment}"
    fresh = all(tables.kind(panel) == "score" for panel in tables.panels)
    caption = CAPTIONS["scores" if fresh else "training scores"]
    scores = study_page.scores(tables, question, drawn, caption)
    return study_page.document(
        "A comparison of runs",
        title(compared),
        lede,
        [
            ("scores", "Scores", [*scores, _runs(compared, tables)]),
            ("curves", "Training", training),
            ("differences", "What differs", _differences(compared)),
            ("how", "How they were run", _how(compared)),
        ],
        f"{wording.written_on()} All runs as a table: scores.csv.",
        warnings(tables),
    )


def title(compared: Sequence[Group]) -> str:
    """Return the title of a comparison."""
    names = [group.name for group in compared]
    if len(names) == 1:
        return names[0]
    if len(names) <= 3:
        return f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{names[0]} and {len(names) - 1} others"


def warnings(tables: arms.Tables) -> list[str]:
    """Return what must be known before any number is read."""
    found = []
    if len(tables.panels) > 1:
        what = "environments" if tables.words == units.AGENTS else "tasks"
        found.append(
            f"These runs are of different {what} or protocols ({'; '.join(tables.panels)}). "
            "Their scores do not compare: none are pooled, and no run is said to be better than "
            "one of another kind."
        )
    for panel in tables.panels:
        counted = [row for name in tables.names(panel) for row in tables.counted(panel, name)]
        missing = [row.run for row in counted if row.score is None]
        if missing:
            found.append(
                f"{panel or tables.environment}: {_share(missing, counted)} not been evaluated, so "
                "these are training scores, which chose the members that they are of. They are "
                "biased upward, more so where members copy each other, and may favour a side that "
                f"fresh {tables.words.many} do not: no group is said to be better than another."
            )
            if tables.words in units.KNOWN.values():
                found[-1] += f" For a result, get fresh {tables.words.many}: {_evaluation(missing)}"
    for reason, why in (
        (comparison.UNFINISHED, "Not finished"),
        (comparison.UNSCORED, "Without a score"),
        (comparison.REPEATED, "The same settings and the same seed as another run"),
    ):
        if runs := [row.run for row in tables.rows if row.left_out == reason]:
            found.append(f"{why}, and left out of all statistics: {', '.join(runs)}.")
    counts = {name: len(tables.counted(panel, name)) for panel, name in tables.arms}
    if single := [name for name, count in counts.items() if count == 1]:
        found.append(
            f"One seed: {', '.join(single)}. What separates single runs from others may be chance, "
            "and only more seeds could tell. Groups are compared from two seeds each on."
        )
    if any(count in COVERED for count in counts.values()):
        shares = (f"{100 * share:.0f} % with {count} seeds" for count, share in COVERED.items())
        found.append(
            "So few seeds have bootstrap intervals that are too narrow: where scores are normal, "
            f"the nominal 95 % are really about {', '.join(shares)}."
        )
    return found


def _share(missing: Sequence[str], counted: Sequence[arms.Row]) -> str:
    if len(missing) == len(counted):
        return "the runs have"
    return f"{len(missing)} of {len(counted)} runs {'has' if len(missing) == 1 else 'have'}"


def _evaluation(runs: Sequence[str]) -> str:
    """Return a shell command that evaluates some runs."""
    names = [shlex.quote(run) for run in runs]
    if len(names) == 1:
        return f"python -m experiments.evaluate {names[0]} --save"
    return f'for run in {" ".join(names)}; do python -m experiments.evaluate "$run" --save; done'


def _runs(compared: Sequence[Group], tables: arms.Tables) -> Html:
    """Return a table of all runs with their own scores."""
    found, words = {row.run: row for row in tables.rows}, tables.words
    rows: list[list[Cell | Content]] = []
    for run in (run for group in compared for run in group.runs):
        row, config = found[str(run.run_dir)], run.history.config
        trained = row.agent_steps / (config.population * config.total_steps)
        played, ends = Cell("not evaluated"), ""
        if run.fresh is not None:
            played, ends = _score(run.fresh.mean), wording.interval(run.fresh.interval)
            ends += "" if run.fresh.episodes == 1 else f", n = {run.fresh.episodes}"
        rows.append(
            [
                markup.code(row.run),
                row.arm,
                Cell(str(row.seed), row.seed),
                Cell(f"{trained:.0%}", trained),
                Cell("") if row.member is None else Cell(str(row.member), row.member),
                _score(row.training_score),
                played,
                ends,
                row.left_out,
            ]
        )
    columns = [
        Column("run"),
        Column("group"),
        Column("seed", True),
        Column("trained", True, f"share of the run's {words.steps}"),
        Column("member", True, "the best member"),
        Column("training score", True, "of the last window; it chose the member"),
        Column(f"fresh {words.many}", True, "score"),
        Column("95 % interval", explanation=f"over the {words.many} of this one member"),
        Column("left out", explanation="why no statistic counts the run"),
    ]
    return markup.table("Runs and their best members", columns, rows, sortable=True)


def _score(value: float | None) -> Cell:
    return Cell("") if value is None else Cell(wording.score(value), value)


def _differences(compared: Sequence[Group]) -> list[Content]:
    if len(compared) == 1:
        return [element("p", "Nothing but the seeds.")]
    table = markup.table(
        "Settings that are not the same in all groups",
        [Column("setting"), *(Column(group.name) for group in compared)],
        [[name, *values] for name, values in comparison.differing_settings(compared)],
    )
    return [table, element("p", "All other settings are the same.", class_="note")]


def _how(compared: Sequence[Group]) -> list[Content]:
    """Return each group's protocol, and the command and commit that made each run."""
    content: list[Content] = []
    rows: list[list[Cell | Content]] = []
    for group in compared:
        config = group.runs[0].history.config
        settings = [
            *protocol.task_rows(config),
            *protocol.population_rows(config),
            *protocol.hyperparameter_rows(config),
            ("Seeds", ", ".join(str(run.history.config.seed) for run in group.runs)),
        ]
        content += [element("h3", group.name), markup.facts(settings)]
        for run in group.runs:
            made: list[Content] = ["not recorded", "not recorded"]
            if starts := provenance.read(run.run_dir):
                made = [markup.code(starts[0].command), starts[0].commit or "unknown"]
            rows.append([markup.code(str(run.run_dir)), *made])
    columns = [Column("run"), Column("command"), Column("commit")]
    return [*content, markup.table("How the runs were made", columns, rows)]
