"""TensorBoard event files of a run, made from its store.

    <directory>/member-00 ...   one run per member; x = the member's own agent steps
    <directory>/population      best, median and worst of the members' scores at each report
                                interval; x = agent steps per member (the population's mean)
    <directory>/best-lineage-01 the best member's samples and hyperparameters, followed back through
                                its donors; x = agent steps behind the weights. The number goes up
                                when another member becomes the best, see
                                `experiments.projections.best_lineage`

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

import contextlib
import copy
import functools
import itertools
import json
import math
import re
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Self

from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.hparams import metadata as hparams_metadata
from tensorboard.plugins.hparams import summary_v2 as hparams

from experiments.analysis import provenance, units, wording
from experiments.analysis.history import History
from experiments.projections import best_lineage, event_file, points
from experiments.projections.points import Point
from pbt import lineage, owner, pictures, run, space
from pbt import store as stores
from pbt.records import Event, Report, Version

PNG = b"\x89PNG\r\n\x1a\n"
"""First bytes of a PNG file."""
LEASE_NAME = "tensorboard"
LEASE_SECONDS = 30.0
"""Seconds until another launcher goes on for one that died. Longer than an update takes."""
LINEAGE_INTERVAL_S, LINEAGE_REST = 60.0, 20.0
"""Least time between two updates of the best lineage: in seconds, and as a multiple of the time
that an update takes, since it reads the whole run."""


TICKED_RUNS = 40
"""Most runs that TensorBoard's Custom Scalars show at first. Of more they show none."""


def way_to_see(run_dir: Path, population: int) -> str:
    """Return the command that shows a run's files, with advice where a page would be empty.

    Args:
        run_dir: The run directory.
        population: Number of its members.
    """
    command = f"tensorboard --logdir {shlex.quote(str(run_dir))}"
    runs = population + 2  # the population's and the best lineage's
    if runs <= TICKED_RUNS:
        return command
    return f"{command} (Custom Scalars: press TOGGLE ALL RUNS, it ticks none of {runs} by itself)"


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
        names = [points.member_run(member) for member in range(store.config.population)]
        self._files = {
            name: event_file.EventFile(directory / name) for name in (*names, points.POPULATION)
        }
        self._directory = directory
        self._lineage_s = -math.inf  # monotonic, when the best lineage is due
        self._report_id = 0
        self._event_id = 0
        self._curve = points.PopulationCurve(store.config)

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

    def close(self, wait_s: float = 0.0) -> bool:
        """Append what is still missing, and give up the lease.

        Args:
            wait_s: Time in seconds to wait for another launcher's lease. Use `LEASE_SECONDS` at the
                end of a run, when no update follows: a killed launcher may have left its lease.

        Returns:
            What `update` does.
        """
        self._lineage_s = -math.inf
        deadline = time.monotonic() + wait_s
        while not (is_whole := self.update()) and not self._warned and time.monotonic() < deadline:
            time.sleep(min(1.0, wait_s / 20))
        with contextlib.suppress(stores.StoreError):
            self._store.give_up(LEASE_NAME, self._owner)
        return is_whole

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
            self._lineage_s = -math.inf
            self._curve = points.PopulationCurve(self._store.config)
            for file in self._files.values():
                file.read()

        reports, events = self._committed()
        found, curve = self._points(reports, events)
        # The cursors move only when all is on disk. After an error, the whole update is repeated.
        for name, file in self._files.items():
            if time.monotonic() - acquired_s > self._lease_seconds / 3:
                if not self._acquire():
                    return False
                acquired_s = time.monotonic()
            file.append(found.get(name, []))
        self._curve = curve
        self._report_id = reports[-1][0] if reports else self._report_id
        self._event_id = events[-1][0] if events else self._event_id
        return time.monotonic() < self._lineage_s or self._project_lineage()

    def _project_lineage(self) -> bool:
        """Bring the best member's lineage up to date."""
        begun_s = time.monotonic()
        seen = History.read(self._store, self._store.path.parent.name)
        found = points.of_lineage(seen.lineage, seen.reports, seen.config)
        if not self._acquire():  # reading a long run takes a while
            return False
        best_lineage.write(found, self._directory)
        ended_s = time.monotonic()
        self._lineage_s = ended_s + max(LINEAGE_INTERVAL_S, LINEAGE_REST * (ended_s - begun_s))
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
    ) -> tuple[dict[str, list[Point]], points.PopulationCurve]:
        """Return the points of each TensorBoard run, and the population's curve after them."""
        config = self._store.config
        is_first = self._report_id == self._event_id == 0
        keys = [(report.member, report.version) for _, report in reports]
        keys += [(event.member, event.version) for _, event in events if points.changes(event)]
        if is_first:
            keys += [(member, 0) for member in range(config.population)]
        versions = self._versions(keys)
        found = points.of_members(
            config, versions, [report for _, report in reports], [event for _, event in events]
        )
        found[points.POPULATION] = self._header() if is_first else []
        for member in range(config.population) if is_first else ():
            found[points.member_run(member)].append(_begun(versions[member, 0], config.space))
        curve = copy.deepcopy(self._curve)
        for _, report in reports:
            found[points.member_run(report.member)] += picture_points(
                report, self._store.path.parent
            )
            score = versions[report.member, report.version].score
            found[points.POPULATION] += curve.add(report, score)
        return found, curve

    def _versions(self, keys: Sequence[lineage.Key]) -> dict[lineage.Key, Version]:
        """Return versions and those that they copied."""
        if len(keys) > 32:
            return {(v.member, v.version): v for v in self._store.versions()}
        versions = {key: self._store.version(*key) for key in keys}
        parents = [version.parent for version in versions.values() if version.parent is not None]
        return {key: self._store.version(*key) for key in parents} | versions

    def _header(self) -> list[Point]:
        config = self._store.config
        created = self._store.version(0, 0).created_s
        described = json.dumps(config.to_json(), indent=2, sort_keys=True)
        commands = provenance.commands(self._store.path.parent) or "not recorded"
        score = points.tags_of_samples(config)[0]
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


def _begun(version: Version, hyperparameters: space.Space) -> Point:
    """Return a member's row of the HParams dashboard: the values that it begins with."""
    used = hyperparameters.used(version.hyperparameters)
    values = {wording.printable(name): float(value) for name, value in used.items()}
    name, begun = points.member_run(version.member), version.created_s
    row = hparams.hparams_pb(values, trial_id=name, start_time_secs=begun)
    return Point(hparams_metadata.SESSION_START_INFO_TAG, 0, row, begun)


def picture_points(report: Report, run_dir: Path) -> list[Point]:
    """Return the picture that a member made at the end of a slice, if its task makes any."""
    try:
        drawn = pictures.path(run_dir, report.member, report.version).read_bytes()
    except FileNotFoundError:
        return []
    if len(drawn) < 24 or not drawn.startswith(PNG):
        return []  # a learner of somebody else may write anything
    return [Point("samples", report.agent_steps, drawn, report.created_s)]


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
        "Returns" if points.tags_of_samples(config) == points.EPISODE_TAGS else "Scores": {
            f"{wording.printable(words.score)}, all members": [
                f"^{re.escape(points.tags_of_samples(config)[0])}$"
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


def _is_within(horizon: Mapping[int, int], record: tuple[int, Report | Event]) -> bool:
    return record[1].version <= horizon[record[1].member]
