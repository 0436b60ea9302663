"""A run as runs of MLflow: a parent for the population, and one nested run per member.

    <directory>/mlflow.db    the tracking store, for `mlflow ui --backend-store-uri sqlite:///...`
    <directory>/artifacts    settings, and each member's decisions with their evidence

Metrics have the run's own steps and times. Hyperparameters are metrics as well, since they are
schedules; a member's parameters are the values that it begins with. `copied/member-02` is a tag of
a member that copied member 2, with the steps at which it did.

A store may hold several runs. Each is found again by the tag `population_run`, and only what is new
is added. Needs the extra `mlflow`.
"""

import json
import logging
import os
import posixpath
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.analysis import provenance, wording
from experiments.analysis.history import History
from experiments.projections import points
from pbt import records

STORE_NAME = "mlflow.db"
"""Name of the tracking store's file."""
BATCH = 1_000
"""Most metrics of one request, by MLflow's limit."""
MOST_CHARACTERS = 500
"""Most characters of a parameter, by the lowest limit of MLflow's stores. A longer value is only
in `settings.json`."""
RUN_TAG, MEMBER_TAG = "population_run", "member"
"""Tags by which a run is found again."""
FOLLOWED = {"active": "RUNNING", "finished": "FINISHED"}
"""MLflow's status of a member by its state; that of a dead one is FAILED."""


def export(history: History, run_dir: Path, identity: str, directory: Path) -> dict[str, int]:
    """Write a run into the MLflow store of a directory, or add what is new.

    Args:
        history: The run, which may be training.
        run_dir: Its directory, with its commands.
        identity: What tells the run from all others.
        directory: Directory of the store. Made if it is missing.

    Returns:
        Number of metric values that were added, by name of the MLflow run.

    Raises:
        OSError: A file cannot be written.
        ValueError: MLflow refused something.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    import mlflow

    for noisy in ("mlflow.store.db.utils", "alembic"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    directory.mkdir(parents=True, exist_ok=True)
    try:
        return _Export(history, run_dir, identity, directory.resolve()).write()
    except mlflow.exceptions.MlflowException as error:
        raise ValueError(f"MLflow in {directory}: {error}") from error


class _Export:
    """One run on its way into a store."""

    def __init__(self, history: History, run_dir: Path, identity: str, directory: Path) -> None:
        import mlflow

        self._history, self._run_dir, self._identity = history, run_dir, identity
        self._client = mlflow.MlflowClient(f"sqlite:///{directory / STORE_NAME}")
        name = wording.printable(history.name)
        found = self._client.get_experiment_by_name(name)
        self._experiment = (
            self._client.create_experiment(
                name, artifact_location=(directory / "artifacts").as_uri()
            )
            if found is None
            else found.experiment_id
        )

    def write(self) -> dict[str, int]:
        history, drawn = self._history, points.of_history(self._history)
        created = {v.member: v for v in history.versions if v.kind == "initial"}
        last_s = max(version.created_s for version in history.versions)
        settings = history.config.to_json()
        is_over = not any(records.may_go_on(member, history.config) for member in history.members)
        best = {} if history.best is None else {"best_member": str(history.best.id)}
        parent = self._run(points.POPULATION, None, created[0].created_s)
        counts = {points.POPULATION: self._metrics(parent, drawn[points.POPULATION])}
        self._describe(
            parent,
            # A run may be extended, and a parameter cannot change.
            _flat({name: value for name, value in settings.items() if name != "total_steps"}),
            {
                "total_steps": str(history.config.total_steps),
                "commands": provenance.commands(self._run_dir),
            }
            | best,
        )
        self._client.log_text(parent, json.dumps(settings, indent=2), "settings.json")
        self._end(parent, "FINISHED" if is_over else "RUNNING", last_s)
        for member in history.members:
            name, first = points.member_run(member.id), created[member.id]
            run = self._run(name, parent, first.created_s)
            counts[name] = self._metrics(run, drawn[name])
            begun = history.config.space.used(first.hyperparameters)
            self._describe(run, begun, {"state": member.state, **points.copied(history, member.id)})
            decided = [
                json.dumps(records.event_record(event)) + "\n"
                for event in history.events
                if event.member == member.id
            ]
            self._client.log_text(run, "".join(decided), "decisions.jsonl")
            last = history.tree.versions[member.id, member.version]
            self._end(run, FOLLOWED.get(member.state, "FAILED"), last.created_s)
        return counts

    def _run(self, name: str, parent: str | None, begun_s: float) -> str:
        """Return the id of the MLflow run of a member or of the population, made if missing."""
        from mlflow.entities import ViewType

        tags = {RUN_TAG: self._identity, MEMBER_TAG: name}
        found = self._client.search_runs(
            [self._experiment],
            " and ".join(f"tags.{tag} = '{value}'" for tag, value in tags.items()),
            run_view_type=ViewType.ACTIVE_ONLY,
        )
        if found:
            return str(found[0].info.run_id)
        if parent is not None:
            tags["mlflow.parentRunId"] = parent
        shown = self._history.name if parent is None else name
        made = self._client.create_run(
            self._experiment, round(1_000 * begun_s), tags, wording.printable(shown)
        )
        return str(made.info.run_id)

    def _metrics(self, run: str, drawn: Sequence[points.Point]) -> int:
        """Add the values beyond the last step of each metric; return their number."""
        from mlflow.entities import Metric

        scalars = [
            point._replace(tag=key(point.tag))
            for point in drawn
            if not isinstance(point.value, str)
        ]
        last_steps = {
            name: max(one.step for one in self._client.get_metric_history(run, name))
            for name in self._client.get_run(run).data.metrics
        }
        fresh = points.beyond(scalars, last_steps)
        fresh.sort(key=lambda point: point.step)
        for start in range(0, len(fresh), BATCH):
            self._client.log_batch(
                run,
                [
                    Metric(point.tag, point.value, round(1_000 * point.wall_time), point.step)
                    for point in fresh[start : start + BATCH]
                ],
            )
        return len(fresh)

    def _describe(self, run: str, values: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        from mlflow.entities import Param, RunTag

        said = {key(name): str(value) for name, value in values.items()}
        self._client.log_batch(
            run,
            params=[Param(k, text) for k, text in said.items() if len(text) <= MOST_CHARACTERS],
            tags=[RunTag(key(name), text[:MOST_CHARACTERS]) for name, text in tags.items()],
        )

    def _end(self, run: str, status: str, ended_s: float) -> None:
        """Set the status of an MLflow run, and its end if it has one."""
        if status == "RUNNING":
            self._client.update_run(run, status)
        else:
            self._client.set_terminated(run, status, round(1_000 * ended_s))


def key(tag: str) -> str:
    """Return a name that MLflow takes: what it does not take is written as its code point."""

    def code(found: re.Match[str]) -> str:
        return f"_x{ord(found[0]):x}_"

    name = re.sub(r"[^\w. /-]", code, wording.printable(tag), flags=re.ASCII)
    # MLflow's stores may take names for paths, which must not lead elsewhere.
    is_plain = posixpath.normpath(name) == name and not name.startswith(("/", ".."))
    return name if is_plain else re.sub("[./]", code, name)


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings without nesting: {"task_config.env_id": "Pong"}."""
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
