"""Hyperparameter schedules: values by agent steps, discovered by a run or written by a user.

A schedule is read from a file, `schedule.csv`:

    agent_steps,learning_rate,entropy_cost,unroll_length
    0,0.003,0.01,5
    120000,0.0024,0.012,5
    400000,0.0005,0.012,20

The values of a row are in force from its `agent_steps` until the next row; those of the last row
stay in force. The first row is at 0 and the steps go up. Each hyperparameter of the agent may have
a column of its name. `WHOLE` ones may be fractional and are rounded where they are used. The
columns `member` and `version`, which `experiments.report` writes to say where the values come from,
are ignored, and so are empty lines. In the schedule of a run (`pbt.lineage.ScheduleRow`) the steps
count the training behind the best member's weights, through all its donors.
"""

import bisect
import csv
import dataclasses
import math
from collections.abc import Collection, Mapping
from pathlib import Path

from experiments.analysis import selection, tasks
from pbt import lineage, run, store

STEPS = "agent_steps"
_PROVENANCE = ("member", "version")
"""Columns that `experiments.report` writes to say where the values come from."""
WHOLE = ("unroll_length", "epochs")
"""Hyperparameters that are rounded where they are used."""
HIGHEST = 1e6
"""Largest value allowed: far above any sensible one, far below the overflow of float32."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Rows of (agent steps, values by name); see the module's docstring.

    Raises:
        ValueError: The steps do not go up from 0, or rows name different hyperparameters.
    """

    rows: tuple[tuple[int, Mapping[str, float]], ...]

    def __post_init__(self) -> None:
        if not self.rows or self.rows[0][0] != 0:
            raise ValueError("a schedule begins with a row at 0 agent steps")
        for (step, values), (next_step, next_values) in zip(self.rows, self.rows[1:], strict=False):
            if next_step <= step:
                raise ValueError(f"agent_steps {next_step} after {step}: they must go up")
            if values.keys() != next_values.keys():
                raise ValueError(f"the row at {next_step} names other hyperparameters")

    @property
    def names(self) -> tuple[str, ...]:
        """The hyperparameters, in the order of the columns."""
        return tuple(self.rows[0][1])

    def at(self, agent_steps: int) -> Mapping[str, float]:
        """Return the values in force after `agent_steps` of training."""
        row = bisect.bisect_right(self.rows, agent_steps, key=lambda row: row[0])
        return self.rows[row - 1][1]

    def used(self, agent_steps: int) -> Mapping[str, float]:
        """Return the values in force as the learner uses them, whole ones rounded half up."""
        return {
            name: math.floor(value + 0.5) if name in WHOLE else value
            for name, value in self.at(agent_steps).items()
        }

    @property
    def final(self) -> Mapping[str, float]:
        """The values of the last row, which stay in force."""
        return self.rows[-1][1]

    @property
    def length(self) -> int:
        """Agent steps at the last row, which is the end of training in the schedule of a run."""
        return self.rows[-1][0]

    def stretched(self, total_steps: int) -> "Schedule":
        """Return the schedule with its steps scaled so that the last row is at `total_steps`.

        Raises:
            ValueError: The schedule has a single row, or two rows would be at the same step.
        """
        if self.length == 0:
            raise ValueError("a schedule of one row has no length to stretch")
        factor = total_steps / self.length
        return Schedule(tuple((round(step * factor), values) for step, values in self.rows))

    def to_json(self) -> list[dict[str, float]]:
        """Return a JSON list that `from_json` takes back."""
        return [{STEPS: step, **values} for step, values in self.rows]

    @classmethod
    def from_json(cls, rows: list[dict[str, float]]) -> "Schedule":
        """Build a schedule from the result of `to_json`."""
        return cls(
            tuple(
                (int(row[STEPS]), {name: row[name] for name in row if name != STEPS})
                for row in rows
            )
        )


def followed(config: run.RunConfig) -> Schedule | None:
    """Return the schedule that all members of a replay follow; None for any other run."""
    if tasks.current(config.task) != tasks.SCHEDULED:
        return None
    return Schedule.from_json(config.task_config["schedule"])


def of_run(run_store: store.Store, member: int | None = None) -> Schedule:
    """Return the schedule behind a member's present weights, followed through its donors.

    Args:
        run_store: Store of the run.
        member: Number of the member; None for the best one.

    Raises:
        ValueError: No member has a score yet.
    """
    if replayed := followed(run_store.config):
        return replayed
    tree = lineage.Tree(run_store.versions(), run_store.config.copy)
    if member is None:
        members = run_store.members()
        chosen = selection.read(run_store.path.parent, members)
        best = selection.best_member(chosen, members, tree)
        if best is None:
            raise ValueError("no member has a score yet: train on, or name one with --member")
        member = best.id
    rows = lineage.schedule(tree.lineage(member))
    return Schedule(tuple((row.agent_steps, dict(row.hyperparameters)) for row in rows))


def read(path: Path, known: Collection[str]) -> Schedule:
    """Read a `schedule.csv`.

    Args:
        path: The file.
        known: Names of the agent's hyperparameters.

    Raises:
        ValueError: The file is no schedule. The message names the line and what is wrong in it.
        OSError: The file cannot be read.
    """
    rows: list[tuple[int, dict[str, float]]] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file)
        try:
            names = _header(next(lines, []), known)
            for cells in lines:
                if any(cell.strip() for cell in cells):
                    rows.append(_row(names, cells, rows[-1][0] if rows else None))
        except (ValueError, csv.Error) as error:
            raise ValueError(f"{path}, line {max(lines.line_num, 1)}: {error}") from None
    if not rows:
        raise ValueError(f"{path}, line 2: no row: give one at 0 agent steps")
    return Schedule(tuple(rows))


def _header(cells: list[str], known: Collection[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    allowed = [STEPS, *known, *_PROVENANCE]
    if STEPS not in names:
        raise ValueError(f"no column {STEPS}: the first line names the columns, {_listed(allowed)}")
    for position, name in enumerate(names):
        if name not in allowed:
            raise ValueError(f"unknown column {name!r}: use {_listed(allowed)}")
        if name in names[:position]:
            raise ValueError(f"column {name!r} stands there twice")
    if not set(names) & set(known):
        raise ValueError(f"no hyperparameter: add a column for one of {_listed(known)}")
    return names


def _row(names: list[str], cells: list[str], before: int | None) -> tuple[int, dict[str, float]]:
    if len(cells) != len(names):
        raise ValueError(f"{len(cells)} cells, but {len(names)} columns")
    cell = dict(zip(names, (cell.strip() for cell in cells), strict=True))
    steps_text = cell[STEPS].replace("_", "")
    if not steps_text.isdecimal():
        raise ValueError(f"{STEPS} {cell[STEPS]!r}: use a whole number from 0 on")
    steps = int(steps_text)
    if before is None and steps != 0:
        raise ValueError(f"{STEPS} {steps}: the first row is at 0")
    if before is not None and steps <= before:
        raise ValueError(f"{STEPS} {steps} after {before}: they must go up from row to row")
    values = {}
    for name in names:
        if name != STEPS and name not in _PROVENANCE:
            values[name] = _value(name, cell[name])
    return steps, values


def _value(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if wanted := problem(name, value):
        raise ValueError(f"{name} {text!r}: use {wanted}, up to {HIGHEST:g}")
    return value


def problem(name: str, value: float) -> str | None:
    """Return the range of a hyperparameter in words if `value` is outside of it, else None."""
    match name:
        case "learning_rate" | "clip_range":
            fits, wanted = value > 0, "a number above 0"
        case "unroll_length" | "epochs":
            fits, wanted = value >= 1, "a number from 1 on"
        case _:
            fits, wanted = value >= 0, "0 or more"  # a cost
    return None if fits and value <= HIGHEST else wanted


def _listed(names: Collection[str]) -> str:
    return ", ".join(names)
