"""Several runs side by side, as numbers: which belong together, what differs, who is better."""

import dataclasses
import itertools
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from experiments.analysis import aggregates, protocol, scores
from experiments.analysis.history import History
from pbt import records
from pbt import store as stores

Kind = Literal["fresh", "training"]
"""Of a score: from fresh episodes, or the biased one that chose the member."""


@dataclasses.dataclass(frozen=True)
class Run:
    """One of the runs compared."""

    name: str
    run_dir: Path
    history: History
    fresh: scores.Score | None
    training: scores.Score | None

    @property
    def is_finished(self) -> bool:
        """Return whether no member can go on; dead members have ended too."""
        return not records.unfinished(self.history.members, self.history.config)

    @property
    def seed(self) -> int:
        """The run's, of which all its draws are derived."""
        return self.history.config.seed

    def score(self, kind: Kind) -> float | None:
        """What the best member scored, if that is known."""
        found = self.fresh if kind == "fresh" else self.training
        return None if found is None else found.mean


@dataclasses.dataclass(frozen=True)
class Group:
    """Runs with the same settings but for their seeds."""

    name: str
    runs: tuple[Run, ...]

    @property
    def world(self) -> tuple[str, ...]:
        """World and protocol: scores compare only where these are the same."""
        return protocol.comparable(self.runs[0].history.config)

    @property
    def distinct(self) -> tuple[Run, ...]:
        """The first run of each seed: the same seed again is no other sample."""
        first: dict[int, Run] = {}
        for run in self.runs:
            first.setdefault(run.seed, run)
        return tuple(first.values())

    @property
    def counted(self) -> tuple[Run, ...]:
        """Those that a statistic may count: distinct, finished, and with a score."""
        return tuple(run for run in self.distinct if run.is_finished and run.training is not None)


@dataclasses.dataclass(frozen=True)
class Aggregate:
    """What the runs of a group score together."""

    group: Group
    kind: Kind
    count: int
    iqm: float
    interval: tuple[float, float]
    """95 % of the interquartile mean over seeds; NaN for a single run."""


@dataclasses.dataclass(frozen=True)
class Pair:
    """Two groups in the same world, by fresh episodes."""

    first: Group
    second: Group
    probability: float
    """That a run of the first scores above a run of the second, ties half."""
    interval: tuple[float, float]
    seeds: tuple[int, ...]
    """That both have."""
    difference: float | None
    """Mean of first minus second over these seeds; None if there are none."""
    difference_interval: tuple[float, float] | None


def read(run_dirs: Sequence[Path], names: Sequence[str] = ()) -> list[Run]:
    """Read all runs; they may be training.

    Raises:
        ValueError: fewer than two, one twice, or names that do not fit.
        pbt.store.StoreError: a directory is not a run, or cannot be read.
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
        fresh = best if best is not None and best.is_fresh else None
        found.append(Run(name, run_dir, history, fresh, scores.training_score(history)))
    _check_names(found)
    return found


def short_names(run_dirs: Sequence[Path]) -> list[str]:
    """The directories' names, with as many of their parents as tell them apart."""
    parts = [run_dir.resolve().parts for run_dir in run_dirs]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(path[-depth:]) for path in parts]
        if len(set(names)) == len(names):
            break
    return names


def groups(runs: Sequence[Run]) -> list[Group]:
    """The runs by their settings, seeds left aside, in order of appearance."""
    found: dict[str, list[Run]] = {}
    for run in runs:
        found.setdefault(_settings(run), []).append(run)
    return [Group(_group_name(together), tuple(together)) for together in found.values()]


def kind(compared: Sequence[Group]) -> Kind:
    """The best kind of score that all counted runs have: kinds are never mixed."""
    counted = [run for group in compared for run in group.counted]
    return "fresh" if all(run.fresh is not None for run in counted) else "training"


def group_scores(compared: Sequence[Group]) -> list[Aggregate]:
    """Every group that has a counted run."""
    found = []
    for group in compared:
        which = kind([other for other in compared if other.world == group.world])
        values = _values(group, which)
        if values:
            found.append(
                Aggregate(
                    group, which, len(values), aggregates.iqm(values), aggregates.interval(values)
                )
            )
    return found


def pairs(compared: Sequence[Group]) -> list[Pair]:
    """Every two groups in the same world that have two counted runs each, in order.

    None in a world where a run has only a training score: who chose its member by that score gains
    more from chance the more it had to choose from, so who is ahead by it may not be better.
    """
    found = []
    for first, second in itertools.combinations(compared, 2):
        if first.world != second.world or min(len(first.counted), len(second.counted)) < 2:
            continue
        if kind([group for group in compared if group.world == first.world]) != "fresh":
            continue
        probability, ends = aggregates.probability_of_improvement(
            _values(first, "fresh"), _values(second, "fresh")
        )
        by_seed = {run.seed: run.score("fresh") or 0.0 for run in second.counted}
        differences = {
            run.seed: (run.score("fresh") or 0.0) - by_seed[run.seed]
            for run in first.counted
            if run.seed in by_seed
        }
        values = list(differences.values())
        found.append(
            Pair(
                first=first,
                second=second,
                probability=probability,
                interval=ends,
                seeds=tuple(differences),
                difference=sum(values) / len(values) if values else None,
                difference_interval=aggregates.paired_interval(values) if values else None,
            )
        )
    return found


def differing_settings(compared: Sequence[Group]) -> list[tuple[str, list[str]]]:
    """Settings that are not the same in all groups: dotted name, and the value in each group."""
    values = [protocol.flat(group.runs[0].history.config) for group in compared]
    names = dict.fromkeys(name for one in values for name in one if name != "seed")
    rows = [(name, [one.get(name, "(not set)") for one in values]) for name in names]
    return [(name, row) for name, row in rows if len(set(row)) > 1]


def _values(group: Group, which: Kind) -> list[float]:
    return [score for run in group.counted if (score := run.score(which)) is not None]


def _settings(run: Run) -> str:
    settings = run.history.config.to_json()
    del settings["seed"]
    return json.dumps(settings, sort_keys=True)


def _group_name(runs: Sequence[Run]) -> str:
    """What the names of the runs have in common."""
    names = [run.name for run in runs]
    if len(set(names)) == 1:
        return names[0]
    same = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names, strict=False))
    prefix = re.sub(r"[\W_]*(seed)?[\W_]*\d*$", "", "".join(letters[0] for letters in same))
    return prefix or " + ".join(names)


def _are_copies(history: History, other: History) -> bool:
    """Whether two directories hold one run: nothing else begins in the same instant."""
    begun, other_begun = (
        {(v.member, v.created_s, tuple(v.hyperparameters.values())) for v in one.versions[:1]}
        for one in (history, other)
    )
    return history.config.to_json() == other.config.to_json() and begun == other_begun


def _check_names(runs: Sequence[Run]) -> None:
    for first, second in itertools.combinations(runs, 2):
        if first.name == second.name and _settings(first) != _settings(second):
            raise ValueError(
                f"--names: {first.run_dir} and {second.run_dir} are both {first.name!r}, but have "
                "different settings: name them apart"
            )
