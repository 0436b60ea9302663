"""Figures of a study: scores of all runs, training curves, the winners' hyperparameters."""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.analysis import aggregates, wording
from experiments.pages import drawing

Run = Mapping[str, Any]
"""A line of scores.csv: panel, arm, seed, run, score."""
Table = Sequence[Mapping[str, str]]

GRID_POINTS = 41
"""At which schedules are compared."""


def scores(described: Mapping[str, Any], runs: Sequence[Run]) -> Figure:
    """Every run as a dot, every arm's interquartile mean with its interval; a panel each."""
    panels = list(dict.fromkeys(arm["panel"] for arm in described["arms"]))
    most = max(sum(arm["panel"] == panel for arm in described["arms"]) for panel in panels)
    figure, rows = drawing.panels(len(panels), 0.45 * most + 0.5)
    for axes, panel in zip(rows, panels, strict=True):
        names = [arm["name"] for arm in described["arms"] if arm["panel"] == panel]
        labels = []
        for place, name in enumerate(names):
            own = [run["score"] for run in runs if (run["panel"], run["arm"]) == (panel, name)]
            labels.append(f"{name}\nn = {len(own)}")
            if not own:
                continue
            spread = np.linspace(-0.16, 0.16, len(own)) if len(own) > 1 else np.zeros(1)
            axes.plot(own, place + spread, "o", color=drawing.OTHERS, ms=4, mec="none", alpha=0.8)
            low, high = aggregates.interval(own)
            if not math.isnan(low):
                axes.hlines(place, low, high, color=drawing.POPULATION, linewidth=3)
            axes.plot(aggregates.iqm(own), place, "D", color=drawing.POPULATION, ms=6)
        axes.set_yticks(range(len(names)), labels)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        if panel:
            axes.set_title(panel, loc="left", fontsize=10, color=drawing.INK)
    rows[-1].set_xlabel(f"score in {described['world']}: mean of fresh episodes")
    drawing.title(figure, described["title"])
    drawing.legend(
        figure,
        [
            drawing.dot(drawing.OTHERS, "a run"),
            Line2D(
                [],
                [],
                color=drawing.POPULATION,
                marker="D",
                linewidth=3,
                label="interquartile mean, 95 % interval over seeds",
            ),
        ],
    )
    return figure


def curves(described: Mapping[str, Any], runs: Sequence[Run], table: Table) -> Figure:
    """Best and median training score of the members over their steps: mean over seeds."""
    points: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for line in table:
        values = {name: float(line[name]) for name in ("best", "median") if line[name]}
        points.setdefault(line["run"], []).append((int(line["agent_steps"]), values))
    arms = [(arm["panel"], arm["name"]) for arm in described["arms"]]
    columns = list(dict.fromkeys(panel for panel, _ in arms))
    figure, grid = drawing.grid(2, len(columns), 2.3)
    colours = {name: place for place, name in enumerate(dict.fromkeys(name for _, name in arms))}
    labels: dict[str, str] = {}
    for panel, name in arms:
        own = [run["run"] for run in runs if (run["panel"], run["arm"]) == (panel, name)]
        labels[name] = f"{name}, n = {len(own)}"
        colour = drawing.SERIES[colours[name] % len(drawing.SERIES)]
        for row, kind in enumerate(("best", "median")):
            axes = grid[row][columns.index(panel)]
            _band(axes, [points[run] for run in own if run in points], kind, colour)
    for row, kind in enumerate(("best", "median")):
        grid[row][0].set_ylabel(f"{kind} member")
    for column, panel in enumerate(columns):
        grid[0][column].set_title(panel, loc="left", fontsize=10, color=drawing.INK)
        drawing.steps_axis(grid[1][column], "agent steps of each member", bins=5)
    drawing.title(figure, "Training scores: mean and 95 % interval over seeds")
    drawing.legend(
        figure,
        [
            Line2D([], [], color=drawing.SERIES[place % len(drawing.SERIES)], label=labels[name])
            for name, place in colours.items()
        ],
    )
    return figure


def _band(
    axes: Axes, runs: Sequence[Sequence[tuple[int, dict[str, float]]]], kind: str, colour: str
) -> None:
    """Mean and interval over runs at every step that all of them have."""
    at: dict[int, list[float]] = {}
    for run in runs:
        for step, values in run:
            if kind in values:
                at.setdefault(step, []).append(values[kind])
    shared = [step for step in sorted(at) if len(at[step]) == len(runs)]
    if not shared:
        return
    axes.plot(shared, [float(np.mean(at[step])) for step in shared], color=colour, linewidth=1.8)
    if len(runs) > 1:
        ends = np.array([aggregates.interval(at[step], np.mean) for step in shared])
        axes.fill_between(shared, ends[:, 0], ends[:, 1], color=colour, alpha=0.15, linewidth=0)


def schedules(described: Mapping[str, Any], runs: Sequence[Run], table: Table) -> Figure | None:
    """The hyperparameters behind the reference arm's winners, every seed and their geometric mean.

    None if its runs adapt none.
    """
    reference = described["reference"]
    own = {run["run"]: run["seed"] for run in runs if run["arm"] == reference}
    rows_of: dict[str, list[Mapping[str, str]]] = {}
    for line in table:
        if line["run"] in own:
            rows_of.setdefault(line["run"], []).append(line)
    if not rows_of:
        return None
    names = [name for name in table[0] if name not in ("run", "agent_steps")]
    figure, panels = drawing.panels(len(names), 1.6)
    for axes, name in zip(panels, names, strict=True):
        sampled = []
        total = max(int(rows[-1]["agent_steps"]) for rows in rows_of.values())
        grid = np.linspace(0, total, GRID_POINTS)
        for rows in rows_of.values():
            steps = [int(row["agent_steps"]) for row in rows]
            values = [float(row[name]) for row in rows]
            axes.plot(
                steps, values, drawstyle="steps-post", color=drawing.OTHERS, linewidth=1, alpha=0.7
            )
            sampled.append([values[bisect.bisect_right(steps, step) - 1] for step in grid])
        logs = np.log(sampled)  # [runs, grid]
        axes.plot(grid, np.exp(logs.mean(axis=0)), color=drawing.BEST, linewidth=2)
        if len(logs) > 1:
            ends = np.exp([aggregates.interval(column, np.mean) for column in logs.T])
            axes.fill_between(
                grid, ends[:, 0], ends[:, 1], color=drawing.BEST, alpha=0.15, linewidth=0
            )
        axes.set_yscale("log")
        narrow = np.ptp(logs) < np.log(50)
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if narrow else (1,)))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(wording.value))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
        axes.set_ylabel(name.replace("_", " "), parse_math=False)
    drawing.steps_axis(panels[-1], "agent steps of training behind the winner's weights")
    drawing.title(figure, f"{reference}: what the winners trained with, n = {len(rows_of)}")
    drawing.legend(
        figure,
        [
            Line2D([], [], color=drawing.OTHERS, label="winner of a seed"),
            Line2D([], [], color=drawing.BEST, linewidth=2, label="geometric mean, 95 % interval"),
        ],
    )
    return figure


def figures(
    described: Mapping[str, Any], runs: Sequence[Run], curve: Table, schedule: Table
) -> dict[str, Figure]:
    """All figures of a study, by the names of their files."""
    drawn = {"scores.png": scores(described, runs), "curves.png": curves(described, runs, curve)}
    if (figure := schedules(described, runs, schedule)) is not None:
        drawn["schedules.png"] = figure
    return drawn
