"""The files that a study's results are made of, and the CSV files of a comparison.

study.json       what was done: protocol, command, commit, settings, arms, the paper's finding
scores.csv       one row per run
curves.csv       best and median training score of every run's members over its agent steps
schedules.csv    hyperparameters behind the best member of every run that adapts them
"""

import csv
import dataclasses
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from experiments.analysis import units
from experiments.analysis.arms import Row, Tables

STUDY, SCORES, CURVES, SCHEDULES = "study.json", "scores.csv", "curves.csv", "schedules.csv"
_DESCRIBED = frozenset(
    {"study", "title", "question", "paper", "reference", "arms"}
    | {"world", "agent", "settings", "protocol", "command", "commit"}
)
"""Keys of a study.json. Older ones lack `run_commits` and `units`."""


def write(folder: Path, tables: Tables) -> None:
    """Write the CSV files of some tables."""
    _write(
        folder / SCORES,
        (
            {name: value for name, value in dataclasses.asdict(row).items() if name != "left_out"}
            | ({"left_out": row.left_out} if row.left_out else {})
            for row in tables.rows
        ),
    )
    _write(
        folder / CURVES,
        (
            {"run": run, "agent_steps": steps, "best": best, "median": median}
            for run, curve in tables.curves.items()
            for steps, best, median in curve
        ),
    )
    _write(
        folder / SCHEDULES,
        ({"run": run, **row} for run, rows in tables.schedules.items() for row in rows),
    )


def read_study(folder: Path) -> dict[str, Any] | None:
    """Return what a folder's study.json says was done, or None if there is none.

    Raises:
        ValueError: The file is damaged. Names it.
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


def units_of(described: Mapping[str, Any]) -> units.Units:
    """Return the words of a study.json for its members. Older studies are of agents."""
    return units.Units(**described["units"]) if "units" in described else units.AGENTS


def read(folder: Path, described: Mapping[str, Any]) -> Tables:
    """Read the tables of a study.

    Args:
        folder: Folder of the study.
        described: Contents of its study.json.

    Raises:
        ValueError: A table is empty or damaged. Names the line.
    """
    rows = _read_scores(folder / SCORES)
    # A run in which no member copied may have had nothing to adapt.
    adapting = {row.run for row in rows if row.exploits}
    schedules = _read_runs(folder / SCHEDULES, adapting)
    return Tables(
        arms=[(arm["panel"], arm["name"]) for arm in described["arms"]],
        environment=described["world"],
        reference=described["reference"],
        rows=rows,
        curves={
            run: tuple((int(line["agent_steps"]), line["best"], line["median"]) for line in lines)
            for run, lines in _read_runs(folder / CURVES, {row.run for row in rows}).items()
        },
        schedules={run: tuple(lines) for run, lines in schedules.items()},
        words=units_of(described),
    )


def _write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table of all columns that any row has, in the order of their first appearance."""
    rows = list(rows)
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _read_scores(path: Path) -> list[Row]:
    whole = ("seed", "member", "agent_steps", "exploits", "comparisons", "dead")
    kinds: dict[str, Any] = dict.fromkeys(("panel", "arm", "run"), str) | dict.fromkeys(whole, int)
    found = []
    for line, cells in enumerate(_read(path), start=2):
        try:
            found.append(Row(**{name: kinds.get(name, float)(c) for name, c in cells.items()}))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {line}: not a row of scores ({error})") from None
    if not found:
        raise ValueError(f"{path} is damaged (no rows): restore it")
    return found


def _read_runs(path: Path, expected: set[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the numbers of curves.csv or schedules.csv, line by line of each run.

    Raises:
        ValueError: A line is damaged, or an expected run is missing.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    for line, cells in enumerate(_read(path), start=2):
        try:
            run = cells.pop("run")
            # Before any member has a score, best and median are empty.
            numbers: dict[str, Any] = {
                name: None if cell == "" and name in ("best", "median") else float(cell)
                for name, cell in cells.items()
            }
            if not all(value is None or math.isfinite(value) for value in numbers.values()):
                raise ValueError(f"{cells}")
            numbers["agent_steps"] = int(cells["agent_steps"])
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {line}: not a row of it ({error})") from None
        found.setdefault(run, []).append(numbers)
    if missing := sorted(expected - found.keys()):
        raise ValueError(f"{path} is damaged (without {missing[0]}): restore it")
    return found


def _read(path: Path) -> list[dict[str, str]]:
    """Return cells by column. A missing cell is None, and superfluous ones are under None."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path} is damaged ({error}): restore it") from None
