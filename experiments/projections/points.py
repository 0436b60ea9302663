"""The records of a run as points: values of tags over steps, for TensorBoard and other trackers.

There is one tracker's run per member, named `member_run`, whose steps are the member's own agent
steps. `experiments.projections.tensorboard` describes the tags. Steps of a tag only go up, see
`beyond`.
"""

import collections
import dataclasses
import itertools
import json
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.analysis import units, wording
from experiments.analysis.history import History
from pbt import lineage, run, space, task
from pbt.records import Event, Report, Version

EPISODE_TAGS = ("episode/return", "episode/length")
"""Tags of an episode of an agent, and of a sample of a learner of which the suite knows nothing."""
REPEATS = 8
"""Points of a new value of a hyperparameter. TensorBoard's default smoothing of 0.6 then leaves
0.6 ** 8 = 2 % of the change."""
POPULATION = "population"
"""Name of the run with the curve of all members."""


class Point(NamedTuple):
    """One value of one tag."""

    tag: str
    step: int
    value: Any
    """A float or, for TensorBoard alone, what `experiments.projections.event_file` knows too."""
    wall_time: float
    """Unix time in seconds."""


def beyond(points: Iterable[Point], last_steps: dict[str, int]) -> list[Point]:
    """Return the points that lie beyond their tag's last step, and move the last steps on.

    Args:
        points: Points in the order in which they are drawn.
        last_steps: Last step by tag. Changed.
    """
    fresh = []
    for point in points:
        if point.step > last_steps.get(point.tag, -1):
            last_steps[point.tag] = point.step
            fresh.append(point)
    return fresh


def member_run(member: int) -> str:
    """Return the name of a member's run in a tracker."""
    return f"member-{member:02d}"


def tags_of_samples(config: run.RunConfig) -> Sequence[str]:
    """Return the tag of the samples' scores and, where they have lengths, the tag of these."""
    words = units.of(config)
    if units.has_own_names(words):
        return (f"evaluation/{wording.printable(words.score)}",)
    return ("evaluation/score",) if words in units.WITHOUT_EPISODES else EPISODE_TAGS


def of_members(
    config: run.RunConfig,
    versions: Mapping[lineage.Key, Version],
    reports: Iterable[Report],
    events: Iterable[Event],
    repeats: int = REPEATS,
) -> dict[str, list[Point]]:
    """Return the points of the members' runs that come from some records, by name of the run.

    Args:
        config: The run's settings.
        versions: Versions by key: those of the reports and of the events that change a member, and
            the donors of these. First versions are drawn as well.
        reports: The reports.
        events: The events.
        repeats: Points of a new value, see `REPEATS`.
    """
    of_version: dict[lineage.Key, list[Point]] = collections.defaultdict(list)
    for key, version in versions.items():
        if version.kind == "initial":
            of_version[key] += hyperparameter_points(version, config, repeats)
    for report in reports:
        of_version[report.member, report.version] += report_points(
            report, config.space, tags_of_samples(config)
        )
    for event in filter(changes, events):
        key = (event.member, event.version)
        of_version[key] += decision_points(event, donor(versions[key], versions))
        of_version[key] += hyperparameter_points(versions[key], config, repeats)
    points: dict[str, list[Point]] = collections.defaultdict(list)
    for key in sorted(of_version):
        points[member_run(key[0])] += of_version[key]
    return points


def of_history(history: History) -> dict[str, list[Point]]:
    """Return all points of a run by name of the tracker's run: the members, and the population."""
    points = of_members(
        history.config, history.tree.versions, history.reports, history.events, repeats=1
    )
    curve = PopulationCurve(history.config)
    for report in history.reports:
        score = history.tree.versions[report.member, report.version].score
        points[POPULATION] += curve.add(report, score)
    return points


def copied(history: History, member: int) -> dict[str, str]:
    """Return the steps at which a member copied others, by `copied/<the other's run>`."""
    steps: dict[str, list[str]] = {}
    for event in history.events:
        version = history.tree.versions[event.member, event.version]
        if event.member == member and event.kind in ("exploit", "reseed"):
            other = donor(version, history.tree.versions)
            assert other is not None
            steps.setdefault(f"copied/{member_run(other.member)}", []).append(
                f"{event.agent_steps:,}"
            )
    return {tag: "; ".join(at) for tag, at in steps.items()}


def of_lineage(
    steps: Sequence[lineage.Step], reports: Iterable[Report], config: run.RunConfig
) -> list[Point]:
    """Return samples and hyperparameters along a lineage, over the agent steps behind the weights.

    Args:
        steps: The lineage, from `lineage.Tree.lineage`.
        reports: Reports of all members, in any order.
        config: The run's settings.
    """
    report_of = {(report.member, report.version): report for report in reports}
    tags, points = tags_of_samples(config), list[Point]()
    for (version, training), following in itertools.zip_longest(steps, steps[1:]):
        found: list[Point] = []
        if report := report_of.get((version.member, version.version)):
            counted = tuple(episode for episode in report.episodes if episode.counted)
            report = dataclasses.replace(report, episodes=counted)
            found = report_points(report, config.space, tags)
        elif version.kind == "initial" or (following and following.version.kind == "slice"):
            found = hyperparameter_points(version, config)  # and not if nothing was trained with it
        shift = training - version.agent_steps
        points += [
            point._replace(step=point.step + shift)
            for point in found
            if point.tag in tags or point.tag.startswith("hyperparameter/")
        ]
    return points


def report_points(
    report: Report, hyperparameters: space.Space, tags: Sequence[str] = EPISODE_TAGS
) -> list[Point]:
    """Return all points of one slice of training; the tags as in `tags_of_samples`."""
    start = report.agent_steps - report.slice_steps
    step_s = report.seconds / max(report.slice_steps, 1)

    def wall_time(step: int) -> float:
        return report.created_s - step_s * (report.agent_steps - step)

    points = episode_points(report.episodes, start, wall_time, tags)
    scalars = {
        f"hyperparameter/{name}": float(value)
        for name, value in hyperparameters.used(report.hyperparameters).items()
    }
    scalars |= report.metrics
    if report.seconds > 0:
        scalars["steps_per_second"] = report.slice_steps / report.seconds
    return points + [
        Point(tag, report.agent_steps, value, report.created_s) for tag, value in scalars.items()
    ]


def episode_points(
    episodes: Sequence[task.Episode],
    start: int,
    wall_time: Callable[[int], float],
    tags: Sequence[str] = EPISODE_TAGS,
) -> list[Point]:
    """Return points with the return and the length of each episode, each at a step of its own.

    If there are more episodes than steps, episodes that share a step become one point, their mean.

    Args:
        episodes: Episodes in the order in which they ended.
        start: Agent step after which all of them ended.
        wall_time: Function from an agent step to Unix time in seconds.
        tags: See `tags_of_samples`.
    """
    steps = distinct_steps([episode.agent_steps for episode in episodes], start)
    points = []
    for step, group in itertools.groupby(zip(steps, episodes, strict=True), lambda pair: pair[0]):
        together = [episode for _, episode in group]
        means = [
            statistics.fmean(episode.episode_return for episode in together),
            statistics.fmean(episode.length for episode in together),
        ]
        for tag, mean in zip(tags, means, strict=False):
            points.append(Point(tag, step, mean, wall_time(step)))
    return points


def hyperparameter_points(
    version: Version, config: run.RunConfig, repeats: int = REPEATS
) -> list[Point]:
    """Return a version's hyperparameters as points at the first steps that use them.

    The values of a first version stand at step 0 alone, since no value was before them.
    """
    first, count = version.agent_steps, 1
    if version.kind != "initial":
        # The next slice ends at a point of its own, at the earliest after a report interval.
        left = min(config.report_interval, config.total_steps - version.agent_steps)
        first, count = first + 1, max(1, min(repeats, left - 1))
    return [
        Point(f"hyperparameter/{name}", step, float(value), version.created_s)
        for name, value in config.space.used(version.hyperparameters).items()
        for step in range(first, first + count)
    ]


def decision_points(event: Event, donor: Version | None) -> list[Point]:
    """Return points that say whom a member copied and why."""
    step, wall_time = event.agent_steps, event.created_s
    evidence = json.dumps(dict(event.details), indent=2, sort_keys=True, default=str)
    points = [Point(f"{event.kind}/evidence", step, f"```json\n{evidence}\n```", wall_time)]
    if donor is not None:
        tag = f"exploit/donor/{member_run(donor.member)}"
        points.append(Point(tag, step, donor.member, wall_time))
        points.append(Point("exploit/donor_agent_steps", step, donor.agent_steps, wall_time))
    return points


def changes(event: Event) -> bool:
    """Return whether an event led to a version with other weights or hyperparameters."""
    return event.kind in ("exploit", "explore", "reseed", "restored")


def donor(version: Version, versions: Mapping[lineage.Key, Version]) -> Version | None:
    """Return the version of another member that a version copied; None if it copied none."""
    if version.parent is None or version.parent[0] == version.member:
        return None
    return versions[version.parent]


class PopulationCurve:
    """Best, median and worst score, each time the members' mean steps pass a report interval."""

    def __init__(self, config: run.RunConfig) -> None:
        self._config = config
        self._scores: dict[int, float] = {}
        self._steps: dict[int, int] = {}
        self._next = config.report_interval

    def add(self, report: Report, score: float | None) -> list[Point]:
        """Take the next report in order of commit, and return the points that it completes."""
        self._steps[report.member] = report.agent_steps
        if score is not None:
            self._scores[report.member] = score
        mean = sum(self._steps.values()) // self._config.population
        if mean < min(self._next, self._config.total_steps):
            return []
        self._next = (mean // self._config.report_interval + 1) * self._config.report_interval
        if not self._scores:
            return []
        scores = self._scores.values()
        summary = {
            "best": max(scores),
            "median": statistics.median(scores),
            "worst": min(scores),
        }
        return [
            Point(f"score/{name}", mean, value, report.created_s) for name, value in summary.items()
        ]


def distinct_steps(steps: Sequence[int], after: int) -> list[int]:
    """Move equal steps apart, as little as possible and only to lower steps above `after`.

    Args:
        steps: Agent steps, in any order.
        after: Agent step that all results exceed. If there is too little room, some stay equal.

    Returns:
        The moved steps in ascending order, as many as `steps`.
    """
    moved: list[int] = []
    last = sys.maxsize
    for step in sorted(steps, reverse=True):
        last = max(min(step, last - 1), after + 1)
        moved.append(last)
    return moved[::-1]
