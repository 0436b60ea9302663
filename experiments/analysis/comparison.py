"""Compare any runs: group them, and bring them into the tables that a study has."""

import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path

from experiments.analysis import arms, outcome, protocol, scores, tasks, units
from experiments.analysis.history import History
from pbt import records
from pbt import store as stores
from pbt.run import RunConfig

UNFINISHED, REPEATED, UNSCORED = "not finished", "repeated seed", "no score"
"""Why a run is not counted."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a comparison."""

    name: str
    run_dir: Path
    history: History
    fresh: scores.Score | None
    """Score of fresh episodes of the best member, if any were saved."""


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs with the same settings but for the seed: an arm of the comparison."""

    name: str
    runs: tuple[Run, ...]

    @property
    def environment(self) -> str:
        """Environment and protocol. Scores compare only where these are the same."""
        return ", ".join(protocol.comparable(self.runs[0].history.config))


def read(run_dirs: Sequence[Path], names: Sequence[str] = ()) -> list[Run]:
    """Read all runs, which may still be training.

    Args:
        run_dirs: Directories of two or more runs.
        names: One name per run, instead of the directories' names.

    Raises:
        ValueError: There are fewer than two runs, one is given twice, or the names do not fit.
        pbt.store.StoreError: A directory is not a run or cannot be read.
    """
    if len(run_dirs) < 2:
        raise ValueError("give two or more run directories; for one: python -m experiments.report")
    if names and len(names) != len(run_dirs):
        raise ValueError(
            f"--names has {len(names)} for {len(run_dirs)} runs: give one per run, in their order"
        )
    if blank := [name for name in names if not name.strip()]:
        raise ValueError(f"--names {blank[0]!r}: give every run a name that can be read")
    for first, second in itertools.combinations(run_dirs, 2):
        if first.resolve() == second.resolve():
            raise ValueError(f"{second} is given twice: leave one out")
    found: list[Run] = []
    for run_dir, name in zip(run_dirs, names or short_names(run_dirs), strict=True):
        with stores.Store.open(run_dir) as store:
            history = History.read(store, name)
        for other in found:
            if _are_copies(history, other.history):
                raise ValueError(f"{run_dir} is a copy of {other.run_dir}: leave one out")
        best = scores.best_score(history, run_dir)
        found.append(Run(name, run_dir, history, best if best and best.is_fresh else None))
    for one, two in itertools.combinations(found, 2):
        if one.name == two.name and _settings(one) != _settings(two):
            raise ValueError(
                f"--names: {one.run_dir} and {two.run_dir} are both {one.name!r}, but have "
                "different settings: name them apart"
            )
    return found


def short_names(run_dirs: Sequence[Path]) -> list[str]:
    """Return the directories' names, with as many of their parents as tell them apart."""
    parts = [run_dir.resolve().parts for run_dir in run_dirs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(names):
            break
    return names


def groups(runs: Sequence[Run]) -> list[Group]:
    """Return the runs grouped by their settings but for the seed, in order of appearance."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(_settings(run), []).append(run)
    listed = [[run.name for run in together] for together in found.values()]
    short = [_common_name(names) for names in listed]
    return [
        # Two groups of one name would be one arm.
        Group(name if short.count(name) == 1 else _listed(names), tuple(together))
        for name, names, together in zip(short, listed, found.values(), strict=True)
    ]


def tables(compared: Sequence[Group]) -> arms.Tables:
    """Return the tables of some groups: a panel for each environment, an arm for each group.

    Each panel's reference is its first group.
    """
    environments = list(dict.fromkeys(group.environment for group in compared))
    alone = len(environments) == 1
    panels = {environment: "" if alone else environment for environment in environments}
    results = [
        arms.Result(
            panels[group.environment],
            group.name,
            run.history.config.seed,
            str(run.run_dir),
            outcome.of(
                run.history,
                None if run.fresh is None else run.fresh.mean,
                "" if run.fresh is None else run.fresh.protocol or "",
            ),
            _left_out(run, group.runs[:place]),
        )
        for group in compared
        for place, run in enumerate(group.runs)
    ]
    listed = [(panels[group.environment], group.name) for group in compared]
    listed.sort(key=lambda arm: list(panels.values()).index(arm[0]))
    words = {units.of(group.runs[0].history.config) for group in compared}
    shared = words.pop() if len(words) == 1 else units.MIXED
    return arms.tables_of(listed, environments[0] if alone else "", None, results, shared)


def differing_settings(compared: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Return the settings that are not the same in all groups.

    Returns:
        The dotted name of each setting, and its value in each group.
    """
    values = [protocol.flat(_current(group.runs[0])) for group in compared]
    names = dict.fromkeys(name for one in values for name in one if name != "seed")
    rows = [(name, [one.get(name, "(not set)") for one in values]) for name in names]
    return [(name, row) for name, row in rows if len(set(row)) > 1]


def _left_out(run: Run, before: Sequence[Run]) -> str:
    """Return why a run is not counted, given the runs before it in its group."""
    history = run.history
    if any(other.history.config.seed == history.config.seed for other in before):
        return REPEATED
    if records.unfinished(history.members, history.config):
        return UNFINISHED
    return UNSCORED if history.best is None else ""


def _settings(run: Run) -> str:
    settings = _current(run).to_json()
    del settings["seed"]
    return json.dumps(settings, sort_keys=True)


def _current(run: Run) -> RunConfig:
    """Return a run's settings with the present name of its task factory."""
    config = run.history.config
    return dataclasses.replace(config, task=tasks.current(config.task))


def _common_name(names: Sequence[str]) -> str:
    """Return what the names of a group's runs have in common."""
    if len(set(names)) == 1:
        return names[0]
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    prefix = re.sub(r"[\W_]*(seed)?[\W_]*\d*$", "", "".join(letters[0] for letters in same))
    return prefix or _listed(names)


def _listed(names: Sequence[str]) -> str:
    return " + ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} others"


def _are_copies(history: History, other: History) -> bool:
    """Return whether two directories hold one run: no other begins in the same instant."""
    begun, other_begun = (
        {(v.member, v.created_s, tuple(v.hyperparameters.values())) for v in one.versions[:1]}
        for one in (history, other)
    )
    return history.config.to_json() == other.config.to_json() and begun == other_begun
