"""TensorBoard event files of a run: a projection of its store.

    <directory>/member-00 ...   one run per member; x = the member's own agent steps
    <directory>/population      best, median and worst of the members' scores, every report
                                interval; x = agent steps per member (the population's mean)
    <directory>/best-lineage    see `write_best_lineage`; x = agent steps behind the weights

Tags of a member: `episode/return` and `episode/length` (every episode, at the step where it
ended), `hyperparameter/<name>` (as used: integers rounded), the task's own metrics (`loss/...`,
`gradient_norm`, ...), `steps_per_second`, and at a copy `exploit/donor`,
`exploit/donor_agent_steps` and, as text, all that decided it in `exploit/evidence` (or
`explore/`, `reseed/`, `restored/evidence`).

Steps of a tag only ever go up. Three things would break that:
- parallel episodes that end in the same vector step: each environment made one of that vector
  step's agent steps, so they are told apart by moving all but the last back to steps of their
  own;
- a copy or a perturbation, which takes no step: its new values stand at the step after it, the
  first that they are used in, so that a schedule looks like the staircase that it is;
- a restore, which lowers the member's steps: what was already drawn stays, the repeated part is
  left out.

The cursor is in the files themselves (`experiments.event_file`): nothing is doubled or lost,
however often the projecting process dies, and a deleted directory is made again with the same
curves and the same times.
"""

import bisect
import contextlib
import itertools
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar

from experiments.projections import event_file
from experiments.projections.event_file import Point
from pbt import lineage, owner, run, space, task
from pbt import store as stores
from pbt.records import Event, Report, Version

LEASE_NAME = "tensorboard"
LEASE_SECONDS = 30.0
"""Longer than an update takes; a launcher that died is succeeded after at most this."""


class Projector:
    """Keeps a run's event files up to date; any number may run, the one with the lease writes.

    Args:
        store: of the run.
        directory: for the event files; made when there is something to write.
        warn: told once, in one line, when files cannot be written. Training goes on, and so do the
            attempts: nothing is lost if there is room again.
        lease_seconds: how long a dead launcher keeps others from writing.
    """

    def __init__(
        self,
        store: stores.Store,
        directory: Path,
        warn: Callable[[str], None] | None = None,
        lease_seconds: float = LEASE_SECONDS,
    ) -> None:
        self._store = store
        self._warn = warn or (lambda line: print(line, file=sys.stderr))
        self._warned = False
        self._lease_seconds = lease_seconds
        # Two projectors in one process are two owners.
        self._owner = f"{owner.current()}#{id(self)}"
        self._directory = directory
        names = [member_run(member) for member in range(store.config.population)]
        self._files = {
            name: event_file.EventFile(directory / name) for name in (*names, "population")
        }
        self._report_id = 0
        self._event_id = 0
        self._curve = _PopulationCurve(store.config)

    def __enter__(self) -> "Projector":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self) -> bool:
        """Append what is new in the store. Never raises for a full disk or a store that is busy.

        Returns:
            Whether the files are up to date with the store. False if another launcher has the
            lease, or if something could not be read or written.
        """
        try:
            if not self._acquire():
                return False
            return self._project()
        except (OSError, stores.StoreError) as error:
            if not self._warned:
                self._warn(f"TensorBoard files are not written, training goes on: {error}")
                self._warned = True
            return False

    def close(self, wait_s: float = 0.0) -> None:
        """Append what is still missing, and hand on the lease if it is ours.

        Args:
            wait_s: how long to wait for somebody else's lease. At the end of a run, when no update
                will follow: `LEASE_SECONDS`, as a launcher that was killed may have left it.
        """
        deadline = time.monotonic() + wait_s
        while not self.update() and not self._warned and time.monotonic() < deadline:
            time.sleep(min(1.0, wait_s / 20))
        with contextlib.suppress(stores.StoreError):
            self._store.give_up(LEASE_NAME, self._owner)

    def _acquire(self) -> bool:
        return self._store.acquire(LEASE_NAME, self._owner, self._lease_seconds)

    def _project(self) -> bool:
        acquired = time.monotonic()
        if not all(file.is_as_left() for file in self._files.values()):
            # The first time, after another launcher's turn, or after someone deleted them.
            self._report_id = self._event_id = 0
            self._curve = _PopulationCurve(self._store.config)
            for file in self._files.values():
                file.read()

        reports, events = self._committed()
        changed = [(event.member, event.version) for _, event in events if _changes(event)]
        reported = [(report.member, report.version) for _, report in reports]
        versions = self._versions(reported + changed)

        points: dict[str, list[Point]] = {name: [] for name in self._files}
        dated: list[tuple[tuple[int, int], list[Point]]] = []
        hyperparameters = self._store.config.space
        if self._report_id == self._event_id == 0:
            for number in range(self._store.config.population):
                version = self._store.version(number, 0)
                dated.append(((number, 0), hyperparameter_points(version, hyperparameters)))
            points["population"] += self._header()
        for _, report in reports:
            dated.append(((report.member, report.version), report_points(report, hyperparameters)))
        for _, event in events:
            if _changes(event):
                version = versions[event.member, event.version]
                donor = self._donor(version, versions)
                new = decision_points(event, donor)
                new += hyperparameter_points(version, hyperparameters)
                dated.append(((event.member, event.version), new))
        for (member, _), new in sorted(dated, key=lambda item: item[0]):
            points[member_run(member)] += new

        # Adopted only when all is on disk: after an error the whole update is done again.
        curve = self._curve.copy()
        for _, report in reports:
            score = versions[report.member, report.version].score
            points["population"] += curve.add(report, score)
        for name, file in self._files.items():
            if time.monotonic() - acquired > self._lease_seconds / 3:
                if not self._acquire():
                    return False
                acquired = time.monotonic()
            file.append(points[name])
        self._curve = curve
        self._report_id = reports[-1][0] if reports else self._report_id
        self._event_id = events[-1][0] if events else self._event_id
        return True

    def _committed(self) -> tuple[list[tuple[int, Report]], list[tuple[int, Event]]]:
        """New reports and events: for each member all up to some version, none beyond it.

        Reading is no snapshot, others commit meanwhile. A point that is read before one with a
        smaller step would push the other one out, so both lists are cut where either may be
        incomplete.
        """
        horizon = {member.id: member.version for member in self._store.members()}
        reports = self._store.reports(self._report_id)
        events = [(event.id, event) for event in self._store.events(self._event_id)]
        while True:
            kept_reports = list(itertools.takewhile(partial(_is_within, horizon), reports))
            kept_events = list(itertools.takewhile(partial(_is_within, horizon), events))
            late: list[tuple[int, Report | Event]] = []
            late += reports[len(kept_reports) :]
            late += events[len(kept_events) :]
            lower = dict(horizon)
            for _, record in late:
                lower[record.member] = min(lower[record.member], record.version - 1)
            if lower == horizon:
                return kept_reports, kept_events
            horizon = lower

    def _versions(self, keys: Sequence[lineage.Key]) -> dict[lineage.Key, Version]:
        if len(keys) > 32:
            return {(v.member, v.version): v for v in self._store.versions()}
        return {key: self._store.version(*key) for key in keys}

    def _donor(self, version: Version, known: Mapping[lineage.Key, Version]) -> Version | None:
        if version.parent is None or version.parent[0] == version.member:
            return None
        return known.get(version.parent) or self._store.version(*version.parent)

    def _header(self) -> list[Point]:
        config = self._store.config
        created = self._store.version(0, 0).created_s
        described = json.dumps(config.to_json(), indent=2, sort_keys=True)
        return [
            Point(custom_scalar.CONFIG_SUMMARY_TAG, 0, layout(config.space), created),
            Point("run/config", 0, f"```json\n{described}\n```", created),
        ]


class _PopulationCurve:
    """Best, median and worst score each time the population's mean has gone on by one interval."""

    def __init__(self, config: run.RunConfig) -> None:
        self._config = config
        self._scores: dict[int, float] = {}
        self._steps: dict[int, int] = {}
        self._next = config.report_interval

    def copy(self) -> "_PopulationCurve":
        twin = _PopulationCurve(self._config)
        twin._scores, twin._steps = dict(self._scores), dict(self._steps)
        twin._next = self._next
        return twin

    def add(self, report: Report, score: float | None) -> list[Point]:
        """Take one report, in order of commit."""
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


def member_run(member: int) -> str:
    """The name of a member's TensorBoard run."""
    return f"member-{member:02d}"


def report_points(report: Report, hyperparameters: space.Space) -> list[Point]:
    """All points of one slice of training."""
    start = report.agent_steps - report.slice_steps
    age_s = report.seconds / max(report.slice_steps, 1)  # per agent step before the end

    def wall_time(step: int) -> float:
        return report.created_s - age_s * (report.agent_steps - step)

    points = episode_points(report.episodes, start, wall_time)
    scalars = {
        f"hyperparameter/{name}": float(value)
        for name, value in hyperparameters.used(report.hyperparameters).items()
    }
    scalars |= report.metrics
    if report.seconds > 0:
        scalars["steps_per_second"] = report.slice_steps / report.seconds
    end = (report.agent_steps, report.created_s)
    return points + [Point(tag, end[0], value, end[1]) for tag, value in scalars.items()]


def episode_points(
    episodes: Sequence[task.Episode], start: int, wall_time: Callable[[int], float]
) -> list[Point]:
    """Return and length of each episode, every one at a step of its own.

    Args:
        episodes: in order of finishing.
        start: the step before the first of these episodes could end.
        wall_time: of a step, Unix seconds.

    If there are more episodes than steps, those that cannot be told apart become one, their
    mean.
    """
    steps = event_file.distinct_steps([episode.agent_steps for episode in episodes], start)
    points = []
    for step, group in itertools.groupby(zip(steps, episodes, strict=True), lambda pair: pair[0]):
        together = [episode for _, episode in group]
        mean_return = statistics.fmean(episode.episode_return for episode in together)
        mean_length = statistics.fmean(episode.length for episode in together)
        points.append(Point("episode/return", step, mean_return, wall_time(step)))
        points.append(Point("episode/length", step, mean_length, wall_time(step)))
    return points


def hyperparameter_points(version: Version, hyperparameters: space.Space) -> list[Point]:
    """The values that hold from a version on, at the first step that uses them."""
    step = version.agent_steps + (version.kind != "initial")
    return [
        Point(f"hyperparameter/{name}", step, float(value), version.created_s)
        for name, value in hyperparameters.used(version.hyperparameters).items()
    ]


def decision_points(event: Event, donor: Version | None) -> list[Point]:
    """Whom a member copied, and why."""
    step, wall_time = event.agent_steps, event.created_s
    evidence = json.dumps(dict(event.details), indent=2, sort_keys=True, default=str)
    points = [Point(f"{event.kind}/evidence", step, f"```json\n{evidence}\n```", wall_time)]
    if donor is not None:
        points.append(Point("exploit/donor", step, donor.member, wall_time))
        points.append(Point("exploit/donor_agent_steps", step, donor.agent_steps, wall_time))
    return points


def layout(hyperparameters: space.Space) -> layout_pb2.Layout:
    """The custom scalars dashboard: all members in one chart per hyperparameter."""
    adapted = [name for name in hyperparameters.dimensions if name in hyperparameters.adapt]
    fixed = [name for name in hyperparameters.dimensions if name not in hyperparameters.adapt]

    def category(title: str, charts: Mapping[str, Sequence[str]]) -> layout_pb2.Category:
        return layout_pb2.Category(
            title=title,
            chart=[
                layout_pb2.Chart(
                    title=name, multiline=layout_pb2.MultilineChartContent(tag=list(tags))
                )
                for name, tags in charts.items()
            ],
        )

    def charts(names: Sequence[str]) -> dict[str, list[str]]:
        return {name: [f"^hyperparameter/{name}$"] for name in names}

    categories = [
        category("Hyperparameters of all members", charts(adapted)),
        category(
            "Returns",
            {
                "episode return, all members": ["^episode/return$"],
                "population score": ["^score/best$", "^score/median$", "^score/worst$"],
                "donor copied from": ["^exploit/donor$"],
            },
        ),
    ]
    if fixed:
        categories.append(category("Hyperparameters that are not adapted", charts(fixed)))
    return layout_pb2.Layout(category=[c for c in categories if c.chart])


def write_best_lineage(
    steps: Sequence[lineage.Step],
    reports: Iterable[Report],
    hyperparameters: space.Space,
    directory: Path,
) -> None:
    """Write the run `best-lineage` anew, in place of an older one.

    It is not appended to: it changes wholly when another member becomes the best.

    Args:
        steps: the lineage, from `lineage.Tree.lineage`.
        reports: of all members.
        hyperparameters: the run's space.
        directory: of the run `best-lineage` itself.
    """
    by_step = {step.training: step.version.created_s for step in reversed(steps)}
    known = sorted(by_step)

    def wall_time(step: int) -> float:
        # Of the first version that has this step behind it.
        return by_step[known[min(bisect.bisect_left(known, step), len(known) - 1)]]

    points = []
    rows = lineage.schedule(steps)
    # Each row at the first and at the last step that uses it: a staircase.
    for row, following in itertools.zip_longest(rows, rows[1:]):
        ends = [row.agent_steps + (row is not rows[0])]
        if following is not None:
            ends.append(following.agent_steps)
        elif len(rows) > 1 and row.hyperparameters == rows[-2].hyperparameters:
            continue  # it only says where the schedule ends
        for name, value in hyperparameters.used(row.hyperparameters).items():
            for step in ends:
                points.append(Point(f"hyperparameter/{name}", step, value, wall_time(step)))
    counted = [e for e in lineage.episodes(steps, reports) if e.counted]
    points += episode_points(counted, steps[0].training, wall_time)

    fresh = directory.with_name(f"{directory.name}.{os.getpid()}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        event_file.EventFile(fresh).append(points)
        if directory.exists():
            shutil.rmtree(directory)
        os.replace(fresh, directory)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def _is_within(horizon: Mapping[int, int], record: tuple[int, Report | Event]) -> bool:
    return record[1].version <= horizon[record[1].member]


def _changes(event: Event) -> bool:
    """Whether the event led to a version with other weights or hyperparameters."""
    return event.kind in ("exploit", "explore", "reseed", "restored")
