"""TensorBoard event files of a run, made from its store.

    <directory>/member-00 ...   one run per member; x = the member's own agent steps
    <directory>/population      best, median and worst of the members' scores at each report
                                interval; x = agent steps per member (the population's mean)
    <directory>/best-lineage    see `write_best_lineage`; x = agent steps behind the weights

Tags of a member: `episode/return` and `episode/length` (every episode, at the step where it ended;
translators and GANs have `evaluation/score` instead, learners that name their score
`evaluation/<name>`), `hyperparameter/<name>` (as used, so integers
are rounded), the task's own metrics (`loss/...`, `gradient_norm`, ...) and `steps_per_second`.
`samples` are the pictures of `pbt.pictures`, if the task makes any. A copy adds
`exploit/donor/member-<number>`, which is the donor's number, `exploit/donor_agent_steps` and, as
text, everything that decided it in `exploit/evidence`. Each donor has a tag of its own, since a
line from one donor to another would run through members that gave nothing. Other changes of a
member have `explore/evidence`, `reseed/evidence` or `restored/evidence`.

Steps of a tag only go up. Three cases need care:

- Parallel episodes may end in the same vector step. Each environment made one of that vector step's
  agent steps, so all episodes but the last move back to steps of their own.
- A copy or a perturbation takes no step. Its new values stand at the next steps, the first ones
  that use them, so that a schedule looks like a staircase. They are repeated (`REPEATS`), or
  TensorBoard's smoothing, which goes from point to point, would make slopes of the stairs.
- A restore lowers the member's steps. What was already drawn stays, and the repeated part is left
  out.

The population's text has the settings (`run/config`) and the commands (`run/commands`), and the
HParams dashboard has a row per member, with the values that it began with.

The event files themselves say how far they got (`experiments.projections.event_file`). Nothing is
doubled or lost when the writing process is killed or another launcher goes on. A deleted directory
is made again with the same curves and the same times.
"""

import bisect
import collections
import contextlib
import copy
import functools
import itertools
import json
import os
import re
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Self

from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams import summary_v2 as hparams

from experiments.analysis import provenance, units, wording
from experiments.projections import event_file
from experiments.projections.event_file import Point
from pbt import files, lineage, owner, pictures, run, space, task
from pbt import store as stores
from pbt.records import Event, Report, Version

EPISODE_TAGS = ("episode/return", "episode/length")
"""Tags of an episode of an agent, and of a sample of a learner of which the suite knows nothing."""
PNG = b"\x89PNG\r\n\x1a\n"
"""First bytes of a PNG file."""
REPEATS = 8
"""Points of a new value of a hyperparameter. TensorBoard's default smoothing of 0.6 then leaves
0.6 ** 8 = 2 % of the change."""
LEASE_NAME = "tensorboard"
LEASE_SECONDS = 30.0
"""Seconds until another launcher goes on for one that died. Longer than an update takes."""


class Projector:
    """Keeps a run's event files up to date. Of any number of projectors, one holds the lease.

    Args:
        store: The run's store.
        directory: Directory of the event files. Made when there is something to write.
        warn: Called once, with one line, when files cannot be written. Training goes on, and
            later updates write what is missing.
        lease_seconds: Time in seconds for which a dead launcher keeps others from writing.
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
        self._warned = self._warned_of_rows = False
        self._lease_seconds = lease_seconds
        # Two projectors in one process are two owners.
        self._owner = f"{owner.current()}#{id(self)}"
        names = [member_run(member) for member in range(store.config.population)]
        self._files = {
            name: event_file.EventFile(directory / name) for name in (*names, "population")
        }
        self._report_id = 0
        self._event_id = 0
        self._curve = _PopulationCurve(store.config)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def update(self) -> bool:
        """Append what is new in the store. Never raise for a full disk or a busy store.

        Returns:
            Whether the files are up to date with the store. False if another launcher holds the
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
        """Append what is still missing, and give up the lease.

        Args:
            wait_s: Time in seconds to wait for another launcher's lease. Use `LEASE_SECONDS` at the
                end of a run, when no update follows: a killed launcher may have left its lease.
        """
        deadline = time.monotonic() + wait_s
        while not self.update() and not self._warned and time.monotonic() < deadline:
            time.sleep(min(1.0, wait_s / 20))
        with contextlib.suppress(stores.StoreError):
            self._store.give_up(LEASE_NAME, self._owner)

    def _acquire(self) -> bool:
        holder = self.holder()
        gone = {holder} if holder is not None and owner.gone([holder.partition("#")[0]]) else ()
        return self._store.acquire(LEASE_NAME, self._owner, self._lease_seconds, gone)

    def holder(self) -> str | None:
        """Return the owner of the lease, as `pbt.owner` names it; None if nobody has it."""
        return self._store.holder(LEASE_NAME)

    def _project(self) -> bool:
        acquired_s = time.monotonic()
        if not all(file.is_unchanged() for file in self._files.values()):
            # This is the first update, another launcher wrote, or somebody deleted files.
            self._report_id = self._event_id = 0
            self._curve = _PopulationCurve(self._store.config)
            for file in self._files.values():
                file.read()

        reports, events = self._committed()
        points, curve = self._points(reports, events)
        # The cursors move only when all is on disk. After an error, the whole update is repeated.
        for name, file in self._files.items():
            if time.monotonic() - acquired_s > self._lease_seconds / 3:
                if not self._acquire():
                    return False
                acquired_s = time.monotonic()
            file.append(points[name])
        self._curve = curve
        self._report_id = reports[-1][0] if reports else self._report_id
        self._event_id = events[-1][0] if events else self._event_id
        return True

    def _committed(self) -> tuple[list[tuple[int, Report]], list[tuple[int, Event]]]:
        """Return the new reports and events with their ids, for each member up to some version.

        Others commit between the reads. If a record were missing, later ones would be written
        first, and its points would then be skipped. So both lists end before the first record that
        may lack an earlier one.
        """
        horizon = {member.id: member.version for member in self._store.members()}
        damaged: list[str] = []
        reports = self._store.reports(self._report_id, damaged)
        events = [(event.id, event) for event in self._store.events(self._event_id, damaged)]
        # No record is of a version that its member had not reached when the record was read.
        newest = {member.id: member.version for member in self._store.members()}
        reports = [(id_, report) for id_, report in reports if _is_within(newest, (id_, report))]
        events = [(id_, event) for id_, event in events if _is_within(newest, (id_, event))]
        if damaged and not self._warned_of_rows:
            self._warn(f"TensorBoard files: damaged rows are left out, such as {damaged[0]}")
            self._warned_of_rows = True
        while True:
            is_within = functools.partial(_is_within, horizon)
            kept_reports = list(itertools.takewhile(is_within, reports))
            kept_events = list(itertools.takewhile(is_within, events))
            late: list[tuple[int, Report | Event]] = []
            late += reports[len(kept_reports) :]
            late += events[len(kept_events) :]
            lower = dict(horizon)
            for _, record in late:
                lower[record.member] = min(lower[record.member], record.version - 1)
            if lower == horizon:
                return kept_reports, kept_events
            horizon = lower

    def _points(
        self, reports: Sequence[tuple[int, Report]], events: Sequence[tuple[int, Event]]
    ) -> tuple[dict[str, list[Point]], "_PopulationCurve"]:
        """Return the points of each TensorBoard run, and the population's curve after them."""
        changes = [event for _, event in events if _changes(event)]
        keys = [(report.member, report.version) for _, report in reports]
        versions = self._versions(keys + [(event.member, event.version) for event in changes])
        hyperparameters = self._store.config.space
        of_version: dict[lineage.Key, list[Point]] = collections.defaultdict(list)
        points: dict[str, list[Point]] = {name: [] for name in self._files}
        if self._report_id == self._event_id == 0:
            for member in range(self._store.config.population):
                first = self._store.version(member, 0)
                of_version[member, 0] += hyperparameter_points(first, self._store.config)
                of_version[member, 0].append(_begun(first, hyperparameters))
            points["population"] += self._header()
        for _, report in reports:
            of_version[report.member, report.version] += report_points(
                report, hyperparameters, tags_of_samples(self._store.config)
            )
            of_version[report.member, report.version] += picture_points(
                report, self._store.path.parent
            )
        for event in changes:
            key = (event.member, event.version)
            of_version[key] += decision_points(event, self._donor(versions[key], versions))
            of_version[key] += hyperparameter_points(versions[key], self._store.config)
        for key in sorted(of_version):
            points[member_run(key[0])] += of_version[key]

        curve = copy.deepcopy(self._curve)
        for _, report in reports:
            score = versions[report.member, report.version].score
            points["population"] += curve.add(report, score)
        return points, curve

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
        starts = provenance.read(self._store.path.parent)
        commands = "\n".join(dict.fromkeys(start.command for start in starts)) or "not recorded"
        score = tags_of_samples(config)[0]
        compared = hparams.hparams_config_pb(
            hparams=[
                hparams.HParam(name) for name in map(wording.printable, config.space.dimensions)
            ],
            metrics=[hparams.Metric(score, display_name=units.of(config).score)],
            time_created_secs=created,
        )
        return [
            Point(custom_scalar.CONFIG_SUMMARY_TAG, 0, layout(config), created),
            Point("run/config", 0, f"```json\n{described}\n```", created),
            Point("run/commands", 0, f"```\n{commands}\n```", created),
            Point(hparams_metadata.EXPERIMENT_TAG, 0, compared, created),
        ]


class _PopulationCurve:
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


def member_run(member: int) -> str:
    """Return the name of a member's TensorBoard run."""
    return f"member-{member:02d}"


def tags_of_samples(config: run.RunConfig) -> Sequence[str]:
    """Return the tag of the samples' scores and, where they have lengths, the tag of these."""
    words = units.of(config)
    if units.has_own_names(words):
        return (f"evaluation/{wording.printable(words.score)}",)
    return ("evaluation/score",) if words in units.WITHOUT_EPISODES else EPISODE_TAGS


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


def picture_points(report: Report, run_dir: Path) -> list[Point]:
    """Return the picture that a member made at the end of a slice, if its task makes any."""
    try:
        drawn = pictures.path(run_dir, report.member, report.version).read_bytes()
    except FileNotFoundError:
        return []
    if len(drawn) < 24 or not drawn.startswith(PNG):
        return []  # a learner of somebody else may write anything
    return [Point("samples", report.agent_steps, drawn, report.created_s)]


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
    steps = event_file.distinct_steps([episode.agent_steps for episode in episodes], start)
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


def hyperparameter_points(version: Version, config: run.RunConfig) -> list[Point]:
    """Return a version's hyperparameters as points at the first steps that use them.

    The values of a first version stand at step 0 alone, since no value was before them.
    """
    first, count = version.agent_steps, 1
    if version.kind != "initial":
        # The next slice ends at a point of its own, at the earliest after a report interval.
        left = min(config.report_interval, config.total_steps - version.agent_steps)
        first, count = first + 1, max(1, min(REPEATS, left - 1))
    return [
        Point(f"hyperparameter/{name}", step, float(value), version.created_s)
        for name, value in config.space.used(version.hyperparameters).items()
        for step in range(first, first + count)
    ]


def _begun(version: Version, hyperparameters: space.Space) -> Point:
    """Return a member's row of the HParams dashboard: the values that it begins with."""
    used = hyperparameters.used(version.hyperparameters)
    values = {wording.printable(name): float(value) for name, value in used.items()}
    name, begun = member_run(version.member), version.created_s
    row = hparams.hparams_pb(values, trial_id=name, start_time_secs=begun)
    return Point(hparams_metadata.SESSION_START_INFO_TAG, 0, row, begun)


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


def layout(config: run.RunConfig) -> layout_pb2.Layout:
    """Return the custom scalars dashboard, with all members in one chart per hyperparameter."""
    hyperparameters, words = config.space, units.of(config)

    def charts(is_adapted: bool) -> dict[str, list[str]]:
        names = [
            n for n in hyperparameters.dimensions if (n in hyperparameters.adapt) == is_adapted
        ]
        return {name: [f"^hyperparameter/{name}$"] for name in map(wording.printable, names)}

    categories = {
        "Hyperparameters of all members": charts(is_adapted=True),
        "Returns" if tags_of_samples(config) == EPISODE_TAGS else "Scores": {
            f"{wording.printable(words.score)}, all members": [
                f"^{re.escape(tags_of_samples(config)[0])}$"
            ],
            "population score": ["^score/best$", "^score/median$", "^score/worst$"],
            "donor copied from": ["^exploit/donor/"],
        },
        "Hyperparameters that are not adapted": charts(is_adapted=False),
    }
    dashboard = layout_pb2.Layout()
    for title, tags_of in categories.items():
        if tags_of:
            category = dashboard.category.add(title=title)
            for name, tags in tags_of.items():
                category.chart.add(title=name).multiline.tag.extend(tags)
    return dashboard


def write_best_lineage(
    steps: Sequence[lineage.Step],
    reports: Iterable[Report],
    hyperparameters: space.Space,
    directory: Path,
    tags: Sequence[str] = EPISODE_TAGS,
) -> None:
    """Write the TensorBoard run `best-lineage`, in place of an older one.

    The old run is replaced and not appended to, as all of it changes when another member becomes
    the best.

    Args:
        steps: The lineage, from `lineage.Tree.lineage`.
        reports: The reports of all members.
        hyperparameters: The run's search space.
        directory: Directory of the run `best-lineage` itself.
        tags: See `tags_of_samples`.
    """
    by_step = {step.training: step.version.created_s for step in reversed(steps)}
    known = sorted(by_step)

    def wall_time(step: int) -> float:
        # The time of the first version that has this step behind it.
        return by_step[known[min(bisect.bisect_left(known, step), len(known) - 1)]]

    points = []
    rows = lineage.schedule(steps)
    # Each row stands at the first steps and at the last one that use it: see `REPEATS`.
    for row, following in itertools.zip_longest(rows, rows[1:]):
        first = row.agent_steps + (row is not rows[0])
        ends = [first]
        if following is not None:
            count = 1 if row is rows[0] else REPEATS
            ends = [*range(first, min(first + count, following.agent_steps)), following.agent_steps]
        elif len(rows) > 1 and row.hyperparameters == rows[-2].hyperparameters:
            continue  # the last row only says where the schedule ends
        for name, value in hyperparameters.used(row.hyperparameters).items():
            for step in ends:
                points.append(Point(f"hyperparameter/{name}", step, value, wall_time(step)))
    counted = [e for e in lineage.episodes(steps, reports) if e.counted]
    points += episode_points(counted, steps[0].training, wall_time, tags)

    files.remove_old(directory.parent, f"{directory.name}.*.tmp")  # of killed processes
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
    """Return whether the event led to a version with other weights or hyperparameters."""
    return event.kind in ("exploit", "explore", "reseed", "restored")
