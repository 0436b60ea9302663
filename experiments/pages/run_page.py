"""The page of one run: a single HTML file that needs no other file and no network."""

import collections
import datetime
import json
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from experiments.analysis import aggregates, protocol, provenance, scores, tasks, units, wording
from experiments.analysis.history import History
from experiments.pages import markup, sections, summary
from experiments.pages.markup import Content, Html, element
from pbt import checkpoint, storage


def page(
    history: History, run_dir: Path, drawn: Mapping[str, Figure], refresh_s: int | None = None
) -> Html:
    """Return the page of a run.

    Args:
        history: The run, which may be training.
        run_dir: The directory with its evaluations and its commands.
        drawn: The figures of `figures.figures`. Their titles are removed.
        refresh_s: Seconds after which a browser loads the page again. None for never.
    """
    title = "The winner's schedule" if history.followed is None else "The schedule it followed"
    settings = element("pre", json.dumps(history.config.to_json(), indent=2))
    parts: list[tuple[str, str, list[Content]]] = [
        ("how", "How it was run", _how(history, run_dir)),
        ("curves", "Learning curves", sections.learning_curves(history, drawn)),
        ("samples", "Samples", sections.pictures(history, run_dir)),
        ("hyperparameters", "Hyperparameters", sections.hyperparameters(history, drawn)),
        ("schedule", title, sections.schedule(history, drawn)),
        ("tree", "Family tree", sections.family_tree(history, drawn)),
        ("decisions", "Decisions", sections.decision_table(history)),
        ("members", "Members", sections.member_table(history)),
        (
            "settings",
            "All settings",
            [markup.details("The run's configuration as stored", settings)],
        ),
    ]
    parts = [part for part in parts if part[2]]
    return markup.document(
        history.name,
        element(
            "header",
            element("p", "A run of population based training", class_="kind"),
            element("h1", history.name),
            element("p", _lede(history), class_="lede"),
            *_score(history, run_dir),
            _numbers(history),
            *_dead(history),
            markup.contents((id_, title) for id_, title, _ in parts),
        ),
        element(
            "main", *(markup.section(title, *content, id_=id_) for id_, title, content in parts)
        ),
        element(
            "footer",
            wording.written_on(),
            " The CSV files beside this page have the same data."
            if refresh_s is None
            else f" Refreshed every {refresh_s} seconds.",
        ),
        refresh_s=refresh_s,
    )


def _lede(history: History) -> str:
    config = history.config
    env_id = protocol.environment(config)
    words = history.units
    who = f"{config.population} {words.learner}s"
    if config.population == 1:
        who = f"One {words.learner}"
    where = f" on {env_id}" if env_id else ""
    trained = f"{who}{where}, trained for {config.total_steps:,} {words.steps}"
    if config.population > 1:
        trained += " each"
    if history.followed is not None:
        return (
            f"{trained} with a given schedule of hyperparameters. This is a replay: no member "
            "copies another, and nothing is searched."
        )
    if config.population == 1:
        return f"{trained}, with nobody to learn from."
    if config.exploit == "none" and not history.varied:
        return f"{trained} with the same hyperparameters. No member copies another."
    if config.exploit == "none":
        return (
            f"{trained}. Each member keeps its own random draw of hyperparameters, and none copies "
            "another. This is random search, the control of population based training."
        )
    return (
        f"{trained}. Each learns on its own. At intervals it compares itself with the others, may "
        "copy a better one, and explores from there. In this way hyperparameters become schedules, "
        "found within one run."
    )


def _score(history: History, run_dir: Path) -> list[Content]:
    """Return the result in large type, and what it is worth."""
    best, score = history.best, scores.best_score(history, run_dir)
    words = history.units
    if best is None or score is None:
        text = f"No score yet: that takes {history.config.min_episodes} counted {words.many}."
        return [element("p", text, class_="note")]
    said: list[Content] = [
        f"{units.training_score(words)} of member {best.id}, "
        f"{units.of_last(score.episodes, words)}{score.since}. ",
        *_bias(history),
        *_way_to_a_result(history, run_dir),
    ]
    if score.is_fresh:
        said = [
            f"{'mean of' if score.is_mean else 'over'} {score.episodes} fresh {words.many} of "
            f"member {best.id}, 95 % interval "
            f"{wording.interval(score.interval)}; one run, one seed (n\u00a0=\u00a01)"
        ]
        if history.selection is not None:
            said.append(f"; {history.selection.text(words.many)}")
    kind = "score" if score.is_fresh else "score biased"
    number = element("strong", wording.score(score.mean))
    return [
        element("p", number, " ", element("span", *said), class_=kind),
        *_beside(history, score),
    ]


def _way_to_a_result(history: History, run_dir: Path) -> list[Content]:
    """Say how to get a score by which nothing was chosen."""
    if tasks.has_fresh_samples(history.config):
        command = f"python -m experiments.evaluate {shlex.quote(str(run_dir))} --save"
        return [f"For a result, get fresh {history.units.many}: ", markup.code(command)]
    return [
        "For a result, score it on data by which nothing was chosen. ",
        *_where(history, run_dir),
    ]


def _where(history: History, run_dir: Path) -> list[Content]:
    """Say where the best member's state lies."""
    if history.best is None or history.best.checkpoint is None:
        return []
    try:
        path = f"{storage.place(run_dir)}/{history.best.checkpoint}"
    except checkpoint.NotThere:  # a run can be read while its checkpoints cannot
        return []
    return ["Its state is in ", markup.code(path), "."]


def _bias(history: History) -> list[Content]:
    """Return what choosing the best of several members does to its training score."""
    if len(history.members) == 1 or history.selection is not None:
        return []
    highest = f"It is the highest of {len(history.members)} and so "
    return [highest, element("b", "biased upward"), ". "]


def _beside(history: History, score: scores.Score) -> list[Content]:
    """Return the score on the human scale, and how it was played, where that is known."""
    said = []
    if score.is_fresh and protocol.is_game(history.config):
        human = aggregates.human_normalised(protocol.environment(history.config) or "", score.mean)
        said.append(
            "Human-normalised: n/a, no published scores known."
            if human is None
            else f"{100 * human:.0f} % of human (0 % is random play, 100 % a human tester)."
        )
    if score.protocol is not None:
        said.append(f"Played as: {score.protocol}.")
    return [element("p", " ".join(said), class_="note")] if said else []


def _numbers(history: History) -> Html:
    """Return the size of the run at a glance."""
    done = summary.totals(history)
    copies = sum(event.kind in ("exploit", "reseed") for event in history.events)
    compared = sum(event.kind in ("exploit", "no-exploit") for event in history.events)
    whole = done.agent_steps == done.budget
    rows = [
        ("members", str(len(history.members)), done.states),
        (
            history.units.steps,
            wording.steps(done.agent_steps),
            "the whole budget" if whole else f"of {wording.steps(done.budget)}",
        ),
        ("copies", f"{copies:,}", f"in {wording.counted(compared, 'comparison')}"),
    ]
    if done.elapsed is not None:
        rows.append(("time", done.elapsed, f"{done.worked} of training, summed over workers"))
    items = (
        element("div", element("dt", what), element("dd", value, element("small", note)))
        for what, value, note in rows
    )
    return element("dl", *items, class_="numbers")


def _dead(history: History) -> list[Content]:
    """Return warnings about members that diverged, failed or were lost, and about damaged rows."""
    dead, damage = summary.totals(history).dead, history.damage
    said = [] if dead is None else [f"Not training: {dead}."]
    said += [] if damage is None else [f"{damage}."]
    return [element("p", line, class_="warning") for line in said]


def _how(history: History, run_dir: Path) -> list[Content]:
    """Return environment, protocol, agent, population, priors, seed, command and commit."""
    config = history.config
    return [
        markup.facts(protocol.task_rows(config)),
        element("h3", "Population"),
        markup.facts(protocol.population_rows(config)),
        element("h3", "Hyperparameters"),
        markup.facts(protocol.hyperparameter_rows(config)),
        element("h3", "To run it again"),
        markup.facts([("Seed", str(config.seed)), *_started(history, run_dir)]),
    ]


def _started(history: History, run_dir: Path) -> list[tuple[str, Content]]:
    starts = provenance.read(run_dir)
    created_s = min((version.created_s for version in history.versions), default=None)
    rows: list[tuple[str, Content]] = [("Directory", markup.code(str(run_dir)))]
    if created_s is not None:
        created = datetime.datetime.fromtimestamp(created_s, datetime.UTC)
        rows.append(("Created", f"{created:%Y-%m-%d %H:%M} UTC"))
    if not starts:
        return [*rows, ("Command and commit", "not recorded")]
    rows += [("Working directory", markup.code(where)) for where in _directories(starts)]
    # A run may have been extended or resumed by another command than the first.
    commands = collections.Counter(start.command for start in starts)
    for place, (command, count) in enumerate(commands.items()):
        more = f" ({count} times)" if count > 1 else ""
        rows.append(("then" if place else "Command", markup.join([markup.code(command), more])))
    commits = dict.fromkeys(start.commit or "unknown: not run from a checkout" for start in starts)
    rows.append(("Commit", ", then ".join(commits)))
    return rows


def _directories(starts: Sequence[provenance.Start]) -> Iterable[str]:
    """Return the working directories in which the commands were given, each once."""
    return dict.fromkeys(start.directory for start in starts if start.directory is not None)
