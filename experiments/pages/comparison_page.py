"""The page of a comparison: several runs side by side, as one HTML file."""

import collections
import itertools
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from experiments.analysis import comparison, protocol, provenance, wording
from experiments.analysis.comparison import Group
from experiments.pages import comparison_figures, drawing, markup
from experiments.pages.markup import Cell, Column, Content, Html, element

KINDS: Mapping[comparison.Kind, str] = {
    "fresh": "means of fresh episodes",
    "training": "training scores, biased upward",
}
COVERED: Mapping[int, float] = {2: 0.5, 3: 0.75, 4: 0.87}
"""By the 95 % intervals of the interquartile mean over so few seeds: measured on 1,000 sets of
normal scores each."""


def page(compared: Sequence[Group], drawn: Mapping[str, Figure]) -> Html:
    """The page.

    Args:
        compared: From `comparison.groups`.
        drawn: `learning_curves.png`, and `schedules.png` if there are any; titles are taken off.
    """
    parts: list[tuple[str, str, list[Content]]] = [
        ("scores", "Scores", [_aggregates(compared), *_pairs(compared), _runs(compared)]),
        ("curves", "Learning curves", _curves(compared, drawn)),
        ("schedules", "Schedules", _schedules(compared, drawn)),
        ("differences", "What differs", _differences(compared)),
        ("how", "How they were run", _how(compared)),
    ]
    parts = [part for part in parts if part[2]]
    runs = sum(len(group.runs) for group in compared)
    return markup.document(
        _title(compared),
        element(
            "header",
            element("p", "A comparison of runs", class_="kind"),
            element("h1", _title(compared)),
            element("p", _lede(compared, runs), class_="lede"),
            *(element("p", warning, class_="warning") for warning in warnings(compared)),
            markup.contents((id_, title) for id_, title, _ in parts),
        ),
        element(
            "main", *(markup.section(title, *content, id_=id_) for id_, title, content in parts)
        ),
        element("footer", wording.written_on(), " All runs as a table: scores.csv."),
    )


def warnings(compared: Sequence[Group]) -> list[str]:
    """What must be known before any number is read."""
    found = []
    worlds = list(dict.fromkeys(group.world for group in compared))
    if len(worlds) > 1:
        names = "; ".join(", ".join(world) for world in worlds)
        found.append(
            f"These runs are of different worlds or protocols ({names}). Their scores do not "
            "compare: none are pooled, and no run is said to be better than one of another world."
        )
    for world in worlds:
        inside = [group for group in compared if group.world == world]
        if comparison.kind(inside) == "training":
            missing = [run.run_dir for group in inside for run in group.counted if not run.fresh]
            found.append(
                f"{', '.join(world)}: {_of_all(missing, inside)} not been evaluated, so these are "
                "training scores, which chose the members that they are of. They are biased "
                "upward, more so where members copy each other, and may favour a side that fresh "
                "episodes do not: no group is said to be better than another. For a result, play "
                f"fresh episodes: {_evaluation(missing)}"
            )
    unfinished = [run.name for group in compared for run in group.runs if not run.is_finished]
    if unfinished:
        found.append(
            f"Not finished, and left out of what is computed over seeds: {', '.join(unfinished)}."
        )
    again = [run.name for group in compared for run in group.runs if run not in group.distinct]
    if again:
        found.append(
            f"The same settings and the same seed as another run, so no sample of its own, and "
            f"left out of what is computed over seeds: {', '.join(again)}."
        )
    few = [one for one in comparison.group_scores(compared) if one.count in COVERED]
    if few:
        found.append(
            "So few seeds have bootstrap intervals that are too narrow: where scores are normal, "
            "the nominal 95 % are really about "
            + ", ".join(
                f"{100 * share:.0f} % with {count} seeds" for count, share in COVERED.items()
            )
            + "."
        )
    return found


def why_no_pairs(compared: Sequence[Group]) -> str:
    """What is missing before any two groups could be compared."""
    enough: collections.Counter[tuple[str, ...]] = collections.Counter(
        group.world for group in compared if len(group.counted) > 1
    )
    if any(count > 1 for count in enough.values()):
        return "No two groups are compared: that takes fresh episodes of every run in their world."
    return "No two groups are compared: that takes two seeds of each, in the same world."


def _of_all(missing: Sequence[Path], inside: Sequence[Group]) -> str:
    counted = sum(len(group.counted) for group in inside)
    if len(missing) == counted:
        return "the runs have"
    return f"{len(missing)} of {counted} runs {'has' if len(missing) == 1 else 'have'}"


def _evaluation(run_dirs: Sequence[Path]) -> str:
    """A command for the shell that evaluates them."""
    names = [shlex.quote(str(run_dir)) for run_dir in run_dirs]
    if len(names) == 1:
        return f"python -m experiments.evaluate {names[0]} --save"
    return f'for run in {" ".join(names)}; do python -m experiments.evaluate "$run" --save; done'


def _title(compared: Sequence[Group]) -> str:
    names = [group.name for group in compared]
    if len(names) == 1:
        return names[0]
    if len(names) <= 3:
        return f"{', '.join(names[:-1])} and {names[-1]}"
    return f"{names[0]} and {len(names) - 1} others"


def _lede(compared: Sequence[Group], runs: int) -> str:
    alone = all(len(group.runs) == 1 for group in compared)
    text = f"{wording.counted(runs, 'run')} in {wording.counted(len(compared), 'group')}: "
    text += "runs with the same settings but for the seed belong together."
    if alone:
        text += (
            " Here every run stands alone: what separates them may be chance, and only more seeds "
            "could tell."
        )
    return text


def _aggregates(compared: Sequence[Group]) -> Html:
    rows: list[list[Cell | Content]] = []
    worlds = {group.world for group in compared}
    inside = f" in {', '.join(*worlds)}" if len(worlds) == 1 else ""
    for one in comparison.group_scores(compared):
        low, high = one.interval
        rows.append(
            [
                _named(one.group, compared),
                *([] if inside else [", ".join(one.group.world)]),
                Cell(str(one.count), one.count),
                Cell(wording.score(one.iqm), one.iqm),
                "none: one seed" if one.count == 1 else wording.interval((low, high)),
                KINDS[one.kind],
            ]
        )
    return markup.table(
        f"Groups{inside}: interquartile mean over seeds, with its 95 % bootstrap interval",
        [
            Column("group"),
            *([] if inside else [Column("world")]),
            Column("n", True, "finished runs with different seeds"),
            Column("score", True),
            Column("95 % interval"),
            Column("scores are"),
        ],
        rows,
    )


def _pairs(compared: Sequence[Group]) -> list[Content]:
    found = comparison.pairs(compared)
    if not found:
        if len(compared) == 1:
            return []
        return [element("p", why_no_pairs(compared), class_="note")]
    rows: list[list[Cell | Content]] = []
    for pair in found:
        paired = pair.difference is not None and pair.difference_interval is not None
        difference = interval = ""
        if pair.difference is not None and pair.difference_interval is not None:
            difference = wording.score(pair.difference)
            interval = wording.interval(pair.difference_interval)
        rows.append(
            [
                f"{pair.first.name} over {pair.second.name}",
                Cell(f"{pair.probability:.2f}", pair.probability),
                wording.interval(pair.interval),
                f"{len(pair.first.counted)} and {len(pair.second.counted)}",
                Cell(difference, pair.difference) if paired else "",
                interval,
                str(len(pair.seeds)) if paired else "",
            ]
        )
    table = markup.table(
        "Every two groups, by fresh episodes: probability that a run of the first scores higher",
        [
            Column("groups"),
            Column("P", True, "P(X > Y) + P(X = Y) / 2"),
            Column("95 % interval"),
            Column("n", False, "runs of the first and of the second"),
            Column("paired difference", True, "mean over the seeds that both have"),
            Column("95 % interval"),
            Column("pairs", True),
        ],
        rows,
        wide=True,
    )
    if len(found) == 1:
        return [table]
    note = f"{len(found)} pairs, not corrected for their number."
    return [table, element("p", note, class_="note")]


def _runs(compared: Sequence[Group]) -> Html:
    rows: list[list[Cell | Content]] = []
    for group, run in ((g, run) for g in compared for run in g.runs):
        done = sum(member.agent_steps for member in run.history.members)
        budget = run.history.config.population * run.history.config.total_steps
        best = run.history.best
        played, interval = Cell("not evaluated"), ""
        if run.fresh is not None:
            played = Cell(wording.score(run.fresh.mean), run.fresh.mean)
            low, high = run.fresh.interval or (0.0, 0.0)
            interval = f"{wording.score(low)} to {wording.score(high)}, n = {run.fresh.episodes}"
        training = run.training
        rows.append(
            [
                run.name,
                Cell(str(run.seed), run.seed),
                Cell(f"{done / budget:.0%}", done / budget),
                Cell("") if best is None else Cell(str(best.id), best.id),
                Cell("") if training is None else Cell(wording.score(training.mean), training.mean),
                played,
                interval,
                group.name,
            ]
        )
    return markup.table(
        "Runs: the member with the highest training score",
        [
            Column("run"),
            Column("seed", True),
            Column("trained", True),
            Column("member", True),
            Column("training score", True, "of the last window; it chose the member"),
            Column("fresh episodes", True, "mean"),
            Column("95 % interval", explanation="over the episodes of this one member"),
            Column("group"),
        ],
        rows,
        sortable=True,
        wide=True,
    )


def _curves(compared: Sequence[Group], drawn: Mapping[str, Figure]) -> list[Content]:
    figure = drawing.svg(drawn["learning_curves.png"], "learning_curves")
    bands = any(len(group.distinct) > 1 for group in compared)
    sizes = {run.history.config.population for group in compared for run in group.runs}
    return [
        markup.figure(
            figure,
            "Training scores over agent steps per member, one line per group: "
            + ", ".join(group.name for group in compared),
            "Training scores. Left: the best member at each moment, chosen by this very score and "
            "so too high in all. Middle: the same over time of training, at the mean speed of its "
            "run; they compare only where the machine and its load were the same. Right: "
            "interquartile mean of the members.",
            " Thick lines with bands: interquartile mean over seeds and its 95 % interval at each "
            "point; thin lines: single runs."
            if bands
            else " Every line is one run: n = 1.",
            " Populations differ in size: at the same steps per member, the larger has used more."
            if len(sizes) > 1
            else None,
        )
    ]


def _schedules(compared: Sequence[Group], drawn: Mapping[str, Figure]) -> list[Content]:
    if "schedules.png" not in drawn:
        return []
    return [
        markup.figure(
            drawing.svg(drawn["schedules.png"], "schedules"),
            "Hyperparameters behind the best member of every run over agent steps of training: "
            + ", ".join(group.name for group in compared),
            "What the weights of every run's best member were trained with, followed through "
            "their donors; one line per run. Of a replay, the schedule that it followed.",
        )
    ]


def _differences(compared: Sequence[Group]) -> list[Content]:
    if len(compared) == 1:
        return [element("p", "Nothing but the seeds.")]
    rows = comparison.differing_settings(compared)
    table = markup.table(
        "Settings that are not the same in all groups",
        [Column("setting"), *(Column(group.name) for group in compared)],
        [[name, *values] for name, values in rows],
    )
    return [table, element("p", "All other settings are the same.", class_="note")]


def _how(compared: Sequence[Group]) -> list[Content]:
    """Each group's protocol, and where each run came from."""
    content: list[Content] = []
    for group in compared:
        config = group.runs[0].history.config
        content += [
            element("h3", group.name),
            markup.facts(
                [
                    *protocol.environment_rows(config),
                    *protocol.agent_rows(config),
                    *protocol.population_rows(config),
                    *protocol.hyperparameter_rows(config),
                    ("Seeds", ", ".join(str(run.seed) for run in group.runs)),
                ]
            ),
        ]
    rows: list[list[Cell | Content]] = []
    for run in itertools.chain.from_iterable(group.runs for group in compared):
        starts = provenance.read(run.run_dir)
        rows.append(
            [
                run.name,
                markup.code(str(run.run_dir)),
                markup.code(starts[0].command) if starts else "not recorded",
                (starts[0].commit or "unknown") if starts else "not recorded",
            ]
        )
    columns = [Column("run"), Column("directory"), Column("command"), Column("commit")]
    return [*content, markup.table("Where the runs lie, and what made them", columns, rows)]


def _named(group: Group, compared: Sequence[Group]) -> Html:
    """A group's name beside its colour in the figures."""
    colour = comparison_figures.line_style(list(compared).index(group))["color"]
    swatch = element(
        "span",
        class_="swatch",
        style=f"background:{drawing.themed(colour)}",
        aria_hidden="true",
    )
    return markup.join([swatch, group.name])
