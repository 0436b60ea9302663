"""The report of one run as a page to be shown: one HTML file that needs nothing but itself."""

import collections
import datetime
import json
import shlex
from collections.abc import Mapping
from pathlib import Path

from matplotlib.figure import Figure

from experiments.analysis import aggregates, protocol, provenance, scores, wording
from experiments.analysis.history import History
from experiments.pages import markup, sections
from experiments.pages.markup import Content, Html, element


def page(history: History, run_dir: Path, drawn: Mapping[str, Figure]) -> Html:
    """The page of a run, which may be training.

    Args:
        history: Of the run.
        run_dir: Where its evaluation and its commands are looked for.
        drawn: `figures.figures` of it; their titles are taken off.
    """
    parts: list[tuple[str, str, list[Content]]] = [
        ("how", "How it was run", _how(history, run_dir)),
        ("curves", "Learning curves", sections.learning_curves(history, drawn)),
        ("hyperparameters", "Hyperparameters", sections.hyperparameters(history, drawn)),
        ("schedule", _schedule_title(history), sections.schedule(history, drawn)),
        ("tree", "Family tree", sections.family_tree(history, drawn)),
        ("decisions", "Decisions", sections.decision_table(history)),
        ("members", "Members", sections.member_table(history)),
        ("settings", "All settings", _settings(history)),
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
            markup.contents((id_, title) for id_, title, _ in parts),
        ),
        element(
            "main", *(markup.section(title, *content, id_=id_) for id_, title, content in parts)
        ),
        element(
            "footer", wording.written_on(), " The same as tables: the CSV files beside this page."
        ),
    )


def _schedule_title(history: History) -> str:
    return "The winner's schedule" if history.followed is None else "The schedule it followed"


def _lede(history: History) -> str:
    config = history.config
    world = protocol.environment(config)
    who = f"{config.population} agents on {world}" if world else f"{config.population} members"
    length = f"trained for {config.total_steps:,} agent steps each"
    if history.followed is not None:
        if config.population == 1:
            who = f"One agent{f' on {world}' if world else ''}"
        return (
            f"{who}, {length}, along a schedule of hyperparameters that the run was given. Nobody "
            "copies anybody, and nothing is searched: a replay."
        )
    if config.population == 1:
        return f"One agent{f' on {world}' if world else ''}, {length}, with nobody to learn from."
    if config.exploit == "none" and not history.varied:
        return f"{who}, {length}, with the same hyperparameters. Nobody copies anybody."
    if config.exploit == "none":
        return (
            f"{who}, {length}. Each keeps its own random draw of hyperparameters and nobody "
            "copies anybody: random search, the control of population based training."
        )
    return (
        f"{who}, {length}. Each learns on its own; from time to time it looks at the others, may "
        "copy one that does better, and explores from there. So hyperparameters become schedules, "
        "found during one run."
    )


def _score(history: History, run_dir: Path) -> list[Content]:
    """The result in large type, and what it is worth."""
    best, score = history.best, scores.best_score(history, run_dir)
    if best is None or score is None:
        text = f"No score yet: that takes {history.config.min_episodes} counted episodes."
        return [element("p", text, class_="note")]
    command = f"python -m experiments.evaluate {shlex.quote(str(run_dir))} --save"
    said: list[Content]
    if score.interval is not None:
        said = [
            f"mean of {score.episodes} fresh episodes of member {best.id}, 95 % interval "
            f"{wording.interval(score.interval)}; one run, one seed (n = 1)"
        ]
    else:
        said = [
            f"training score of member {best.id}, mean of the last {score.episodes} counted "
            f"episodes{score.since}: the highest of {len(history.members)}, so ",
            element("b", "biased upward"),
            ". For a result, play fresh episodes: ",
            markup.code(command),
        ]
    kind = "score" if score.is_fresh else "score biased"
    number = element("strong", wording.score(score.mean))
    return [
        element("p", number, " ", element("span", *said), class_=kind),
        *_beside(history, score),
    ]


def _beside(history: History, score: scores.Score) -> list[Content]:
    """The score on the human scale, and how it was played, where that is known."""
    said = []
    if score.is_fresh and protocol.is_game(history.config):
        human = aggregates.human_normalised(protocol.environment(history.config) or "", score.mean)
        said.append(
            "Human-normalised: n/a, no published scores at hand."
            if human is None
            else f"{100 * human:.0f} % of human (0 % is random play, 100 % a human tester)."
        )
    if score.protocol is not None:
        said.append(f"Played as: {score.protocol}.")
    return [element("p", " ".join(said), class_="note")] if said else []


def _numbers(history: History) -> Html:
    """The size of the run at a glance."""
    config, members = history.config, history.members
    states = collections.Counter(member.state for member in members)
    done = sum(member.agent_steps for member in members)
    budget = config.population * config.total_steps
    copies = sum(event.kind in ("exploit", "reseed") for event in history.events)
    compared = sum(event.kind in ("exploit", "no-exploit") for event in history.events)
    rows = [
        (
            "members",
            str(len(members)),
            ", ".join(f"{count} {state}" for state, count in sorted(states.items())),
        ),
        (
            "agent steps",
            wording.steps(done),
            "the whole budget" if done == budget else f"of {wording.steps(budget)}",
        ),
        ("copies", f"{copies:,}", f"in {wording.counted(compared, 'comparison')}"),
    ]
    if history.reports:
        started_s = min(version.created_s for version in history.versions)
        elapsed = max(report.created_s for report in history.reports) - started_s
        worked = sum(report.seconds for report in history.reports)
        rows.append(
            (
                "time",
                wording.duration(elapsed),
                f"{wording.duration(worked)} of training, summed over workers",
            )
        )
    items = (
        element("div", element("dt", what), element("dd", value, element("small", note)))
        for what, value, note in rows
    )
    return element("dl", *items, class_="numbers")


def _how(history: History, run_dir: Path) -> list[Content]:
    """World, protocol, agent, population, priors; seed, command and commit."""
    config = history.config
    return [
        markup.facts(protocol.environment_rows(config) + protocol.agent_rows(config)),
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
    again = len(starts) - 1
    more = f" (started again {wording.counted(again, 'time')})" if again else ""
    rows.append(("Command", markup.join([markup.code(starts[0].command), more])))
    commits = dict.fromkeys(start.commit or "unknown: not run from a checkout" for start in starts)
    rows.append(("Commit", ", then ".join(commits)))
    return rows


def _settings(history: History) -> list[Content]:
    text = json.dumps(history.config.to_json(), indent=2)
    return [markup.details("The run's configuration as stored", element("pre", text))]
