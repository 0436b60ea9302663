"""The tables of a study's folder: written once, and read as what people may have edited.

See `experiments.study_results` for what there is.
"""

import csv
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

STUDY, SCORES, CURVES, SCHEDULES = "study.json", "scores.csv", "curves.csv", "schedules.csv"
_DESCRIBED = frozenset(
    {"study", "title", "question", "paper", "reference", "arms"}
    | {"world", "agent", "settings", "protocol", "command", "commit"}
)
"""What a study.json says; `run_commits` is missing in older ones."""

Table = Sequence[Mapping[str, str]]


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of scores.csv."""

    panel: str
    arm: str
    seed: int
    run: str
    member: int
    training_score: float
    score: float
    median_training_score: float
    agent_steps: int
    exploits: int
    comparisons: int
    """Times that a member was ready and copied nobody."""
    dead: int
    """Times that a member diverged or failed."""
    seconds: float


def read_study(folder: Path) -> dict[str, Any] | None:
    """What a folder's study.json says was done; None if there is none.

    Raises:
        ValueError: it is damaged; names it.
    """
    path = folder / STUDY
    if not path.exists():
        return None
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        missing = _DESCRIBED - known.keys()
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it") from None
    if missing:
        raise ValueError(f"{path} is damaged (without {', '.join(sorted(missing))}): restore it")
    return known


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table of all columns that any row has, in the order of their first appearance."""
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_scores(folder: Path) -> list[Row]:
    """The rows of a folder's scores.csv.

    Raises:
        ValueError: it is empty or damaged; names the line.
    """
    path = folder / SCORES
    kinds: dict[str, Any] = {field.name: field.type for field in dataclasses.fields(Row)}
    found = []
    for line, cells in enumerate(_read(path), start=2):
        try:
            found.append(Row(**{name: kinds[name](cell) for name, cell in cells.items()}))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {line}: not a row of scores ({error})") from None
    if not found:
        raise ValueError(f"{path} is damaged (no rows): restore it")
    return found


def read_runs(folder: Path, name: str, rows: Sequence[Row]) -> Table:
    """The lines of curves.csv or schedules.csv: numbers of each run over its agent steps.

    Raises:
        ValueError: a line is damaged, or a run of `rows` that should be there is missing.
    """
    path = folder / name
    table = _read(path)
    for line, cells in enumerate(table, start=2):
        try:
            for column, cell in cells.items():
                if column == "run" or (cell == "" and column in ("best", "median")):
                    continue  # before anybody has a score there is none
                if not math.isfinite(float(cell)):
                    raise ValueError(f"{column} {cell}")
            int(cells["agent_steps"])
            cells["run"]
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {line}: not a row of it ({error})") from None
    # A run in which nobody copied may have had nothing to adapt.
    expected = {row.run for row in rows if name == CURVES or row.exploits}
    if missing := sorted(expected - {cells["run"] for cells in table}):
        raise ValueError(f"{path} is damaged (without {missing[0]}): restore it")
    return table


def _read(path: Path) -> list[dict[str, str]]:
    """Cells by column; one that is missing is None, and those too many are under None."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it") from None
