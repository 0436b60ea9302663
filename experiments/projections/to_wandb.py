"""A run as offline runs of Weights & Biases: one per member and one for the population, in a group.

    <directory>/offline-run-<time>-<id>    for `wandb sync`

Values have the run's own steps and times. Hyperparameters are values over steps as well, since they
are schedules; a run's config has those that its member begins with. `copied/member-02` in the
config of a member that copied member 2 has the steps at which it did.

Nothing is sent. An export replaces the offline runs of the last one. The ids are derived from the
run, so they stay the same. Needs the extra `wandb`.
"""

import itertools
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from experiments.analysis import provenance, wording
from experiments.analysis.history import History
from experiments.projections import points

PROJECT = "population-based-training"
"""Name of the project, unless the variable WANDB_PROJECT names another."""
MOST_CHARACTERS = 64
"""Most characters of a run's id and of a tag, by W&B's limits."""


def export(history: History, run_dir: Path, identity: str, directory: Path) -> dict[str, int]:
    """Write a run as offline runs, in place of those of an earlier export.

    Args:
        history: The run, which may be training.
        run_dir: Its directory, with its commands.
        identity: What tells the run from all others: letters, digits and dashes.
        directory: Directory of the offline runs. Made if it is missing.

    Returns:
        Number of values by name of the W&B run.

    Raises:
        OSError: A file cannot be written.
        ValueError: W&B refused something.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.setdefault("WANDB_SILENT", "true")
    import wandb

    fresh = directory / f".wandb.{os.getpid()}.tmp"
    fresh.mkdir(parents=True, exist_ok=True)
    counts, commands = {}, provenance.commands(run_dir)
    try:
        for name, drawn in points.of_history(history).items():
            settings = wandb.Settings(
                mode="offline",
                root_dir=str(fresh),
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                run_id=f"{identity}-{name}"[-MOST_CHARACTERS:],
                run_name=name,
                run_group=wording.printable(history.name),
                run_job_type="population" if name == points.POPULATION else "member",
                run_notes=commands,
                console="off",
                silent=True,
                disable_git=True,
                disable_code=True,
                save_code=False,
                x_disable_meta=True,
                x_disable_stats=True,
            )
            with wandb.init(settings=settings, config=_config(history, name)) as run:
                counts[name] = _log(run, drawn)
        wandb.teardown()
        _replace(fresh / "wandb", directory, identity)
    except wandb.Error as error:
        raise ValueError(f"W&B in {directory}: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return counts


def _config(history: History, name: str) -> dict[str, Any]:
    """Return the settings and, for a member, its first hyperparameters and its donors."""
    config: dict[str, Any] = {"settings": history.config.to_json()}
    for member in history.members:
        if points.member_run(member.id) == name:
            first = history.tree.versions[member.id, 0]
            config |= history.config.space.used(first.hyperparameters)
            config |= {"state": member.state, **points.copied(history, member.id)}
    return config


def _log(run: Any, drawn: Iterable[points.Point]) -> int:
    """Log the points step by step, as a run's steps only go up; return their number."""
    scalars = [point for point in drawn if not isinstance(point.value, str)]
    fresh = sorted(points.beyond(scalars, {}), key=lambda point: point.step)
    for step, together in itertools.groupby(fresh, key=lambda point: point.step):
        row = list(together)
        values = {wording.printable(point.tag): point.value for point in row}
        run.log({**values, "_timestamp": max(point.wall_time for point in row)}, step=step)
    return len(fresh)


def _replace(fresh: Path, directory: Path, identity: str) -> None:
    """Move offline runs to a directory, in place of those of the same run."""
    for old in directory.glob(f"offline-run-*-{identity}-*"):
        shutil.rmtree(old)
    for run in fresh.glob("offline-run-*"):
        run.rename(directory / run.name)
