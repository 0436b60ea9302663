"""Figures of arms side by side: scores of all runs, training curves, hyperparameters.

They show the arms of a study, or the groups of a comparison. A band is the mean over seeds with its
pointwise 95 % bootstrap interval.
"""

import bisect
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from experiments.analysis import aggregates, arms, units, wording
from experiments.analysis.outcome import Curve, Schedule
from experiments.pages import drawing

GRID_POINTS = 41
"""Points at which schedules are compared."""
KINDS: Mapping[arms.Kind, str] = {
    "score": "{} in {}:\nfresh {}",
    "training_score": "training {} in {},\nbiased upward; {}",
}
"""Labels of axes with scores, in two lines, since a panel may be narrow."""


def figures(tables: arms.Tables, title: str) -> dict[str, Figure]:
    """Return all figures of a study by the names of their files.

    The schedules are those of the reference.

    Args:
        tables: Tables of the study.
        title: Title of the study.
    """
    drawn = {"scores.png": scores(tables, title), "curves.png": curves(tables)}
    if (figure := schedules(tables, [tables.reference or ""])) is not None:
        drawn["schedules.png"] = figure
    return drawn


def scores(tables: arms.Tables, title: str) -> Figure:
    """Draw every run as a dot, and every arm's interquartile mean with its interval."""
    panels = tables.panels
    most = max(len(tables.names(panel)) for panel in panels)
    figure, made = drawing.grid(
        len(panels), 1, 0.45 * most + 0.7, share_steps=bool(tables.environment)
    )
    for [axes], panel in zip(made, panels, strict=True):
        names = tables.names(panel)
        labels = []
        for place, name in enumerate(names):
            own = list(tables.scores(panel, name).values())
            labels.append(f"{wording.shortened(name, 40)}\nn = {len(own)}")
            if not own:
                continue
            spread = np.linspace(-0.16, 0.16, len(own)) if len(own) > 1 else np.zeros(1)
            axes.plot(own, place + spread, "o", color=drawing.OTHERS, ms=4, mec="none", alpha=0.8)
            low, high = aggregates.interval(own)
            if not math.isnan(low):
                axes.hlines(place, low, high, color=drawing.POPULATION, linewidth=3)
            axes.plot(aggregates.iqm(own), place, "D", color=drawing.POPULATION, ms=6)
        _say_if_empty(axes, has_names=True)
        axes.set_yticks(range(len(names)), labels, parse_math=False)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")
        if panel and tables.environment:
            axes.set_title(panel, loc="left", fontsize=10, color=drawing.INK)
        if panel == panels[-1] or not tables.environment:
            kind = tables.kind(panel)
            where = wording.shortened(tables.environment or panel, 40)
            score = "score" if tables.words == units.AGENTS else tables.words.score
            label = KINDS[kind].format(score, where, tables.words.many)
            axes.set_xlabel(label, parse_math=False)
    drawing.title(figure, title)
    what, width = "interquartile mean", 0.0
    if has_intervals(tables):
        what, width = f"{what}, 95 % interval over seeds", 3.0
    mean = Line2D([], [], color=drawing.POPULATION, marker="D", linewidth=width, label=what)
    drawing.legend(figure, [drawing.dot(drawing.OTHERS, "a run"), mean])
    return figure


def _say_if_empty(axes: Axes, has_names: bool = False) -> None:
    """Say that a panel has no data. Ticks that are no names would be numbers of nothing."""
    if not np.isfinite(axes.dataLim.get_points()).all():
        axes.tick_params(bottom=False, labelbottom=False, left=False, labelleft=has_names)
        axes.text(
            0.5, 0.5, "no score yet", transform=axes.transAxes, color=drawing.MUTED, ha="center"
        )


def has_intervals(tables: arms.Tables) -> bool:
    """Return whether any arm has several runs. A single run has no interval."""
    return any(len(tables.counted(panel, name)) > 1 for panel, name in tables.arms)


def _curves_title(tables: arms.Tables) -> str:
    over = ": mean and 95 % interval over seeds" if has_intervals(tables) else ", a run each"
    return f"Training scores{over}"


def curves(tables: arms.Tables) -> Figure:
    """Draw best and median training score of the members over their steps, a column per panel."""
    kinds = ("best", "median")
    figure, grid = drawing.grid(2, len(tables.panels), 2.3)
    for row, kind in zip(grid, kinds, strict=True):
        for axes, panel in zip(row, tables.panels, strict=True):
            _draw_arms(axes, tables, panel, kind)
        row[0].set_ylabel(f"{kind} member")
    for top, bottom, panel in zip(*grid, tables.panels, strict=True):
        top.set_title(panel, loc="left", fontsize=10, color=drawing.INK)
        drawing.steps_axis(bottom, f"{tables.words.steps} of each member", bins=5)
    drawing.title(figure, _curves_title(tables))
    drawing.legend(figure, _handles(tables))
    return figure


def curves_by_time(tables: arms.Tables) -> Figure:
    """Draw the curves of `curves`, and the best over time of training; a row per panel.

    A learner that learns more from a step may take longer over it. The time is what workers spent
    training a member, at the mean speed of the arm's runs.
    """
    ends = [(row, tables.curves[row.run]) for row in tables.rows if tables.curves[row.run]]
    longest = max((_hours_per_step([row]) * curve[-1][0] for row, curve in ends), default=0.0)
    units = (("hours", 1), ("minutes", 60), ("seconds", 3600))
    unit, per_hour = next((one for one in units if longest * one[1] >= 2), units[-1])
    figure, grid = drawing.grid(len(tables.panels), 3, 2.6, share_steps=False)
    for (best, median, by_time), panel in zip(grid, tables.panels, strict=True):
        _draw_arms(best, tables, panel, "best")
        _draw_arms(median, tables, panel, "median")
        _draw_arms(by_time, tables, panel, "best", per_hour)
        for axes in (best, median, by_time):
            _say_if_empty(axes)
        # A panel is too low for a long name in one line.
        where = wording.shortened(tables.environment or panel, 26)
        best.set_ylabel(f"training score\n{where}", parse_math=False)
        for axes in (best, median):
            drawing.steps_axis(axes, f"{tables.words.steps} of each member", bins=4)
        by_time.set_xlabel(f"{unit} per member")
    for axes, text in zip(
        grid[0], ("best member", "median member", "best member, by time"), strict=True
    ):
        axes.set_title(text, fontsize=10, loc="left", color=drawing.INK)
    drawing.title(figure, _curves_title(tables))
    drawing.legend(figure, _handles(tables))
    return figure


def schedules(tables: arms.Tables, shown: Sequence[str]) -> Figure | None:
    """Draw the hyperparameters behind the best members of some arms, one panel for each.

    Thin lines are runs. A thick line is the geometric mean over an arm's runs, with its band.

    Returns:
        The figure, or None if no run of these arms has a schedule.
    """
    runs = {row.run: row for row in tables.rows if row.arm in shown and row.run in tables.schedules}
    found = [arm for arm in shown if any(row.arm == arm for row in runs.values())]
    if not found:
        return None
    values_of: dict[str, list[float]] = {}
    for name, value in (
        one for run in runs for row in tables.schedules[run] for one in row.items()
    ):
        values_of.setdefault(name, []).append(value)
    del values_of["agent_steps"]
    # A hyperparameter that is fixed for all has nothing to show.
    names = [name for name, values in values_of.items() if len(set(values)) > 1] or list(values_of)
    styles, are_many = _styles(tables), len(found) > 1
    figure, panels = drawing.panels(len(names), 1.6)
    for axes, name in zip(panels, names, strict=True):
        given = {run: rows for run in runs if name in (rows := tables.schedules[run])[0]}
        values = values_of[name]
        is_log = min(values) > 0
        for arm in found:
            own = {run: rows for run, rows in given.items() if runs[run].arm == arm}
            for rows in own.values():
                axes.plot(
                    [row["agent_steps"] for row in rows],
                    [row[name] for row in rows],
                    drawstyle="steps-post",
                    color=styles[arm]["color"] if are_many else drawing.OTHERS,
                    linewidth=1,
                    alpha=0.4 if are_many else 0.7,
                )
            counted = [rows for run, rows in own.items() if not runs[run].left_out]
            style = styles[arm] if are_many else {"color": drawing.BEST}
            if counted:
                _draw_mean(axes, counted, name, is_log, style)
        if is_log:
            _log_axis(axes, min(values), max(values))
            if are_many and max(values) < 4 * min(values):  # or there might be no tick
                axes.set_ylim(min(values) / 2, 2 * max(values))
        axes.set_ylabel(name.replace("_", " "), parse_math=False)
    label = f"{tables.words.steps} of training behind the winner's weights"
    drawing.steps_axis(panels[-1], label)
    if are_many:
        drawing.title(figure, "What the winners trained with")
        drawing.legend(figure, _handles(tables))
        return figure
    drawing.title(figure, f"{found[0]}: what the winners trained with, n = {len(runs)}")
    handles = [
        Line2D([], [], color=drawing.OTHERS, label="winner of a seed"),
        Line2D(
            [],
            [],
            color=drawing.BEST,
            linewidth=2,
            label="geometric mean" + (", 95 % interval" if len(runs) > 1 else ""),
        ),
    ]
    drawing.legend(figure, handles)
    return figure


def _draw_mean(
    axes: Axes, runs: Sequence[Schedule], name: str, is_log: bool, style: dict[str, Any]
) -> None:
    """Draw the mean of a hyperparameter over runs with its band; geometric on a log axis."""
    if len(runs) == 1:
        own = [(row["agent_steps"], row[name]) for row in runs[0]]
        axes.plot(*zip(*own, strict=True), drawstyle="steps-post", **style, linewidth=2)
        return
    grid = np.linspace(0, max(rows[-1]["agent_steps"] for rows in runs), GRID_POINTS)
    sampled = []
    for rows in runs:
        steps = [row["agent_steps"] for row in rows]
        sampled.append([rows[bisect.bisect_right(steps, step) - 1][name] for step in grid])
    values = np.log(sampled) if is_log else np.array(sampled)  # [runs, grid]
    ends = aggregates.band(values)
    mean, low, high = np.exp(ends) if is_log else ends
    axes.plot(grid, mean, **style, linewidth=2)
    axes.fill_between(grid, low, high, color=style["color"], alpha=0.15, linewidth=0)


def _log_axis(axes: Axes, low: float, high: float) -> None:
    axes.set_yscale("log")
    narrow = high < 50 * low
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if narrow else (1,)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(wording.value))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def _draw_arms(
    axes: Axes, tables: arms.Tables, panel: str, kind: str, per_hour: int | None = None
) -> None:
    """Draw a panel's arms as bands, and the runs that are left out as thin lines.

    Args:
        axes: Where to draw.
        tables: The tables.
        panel: Panel of the tables.
        kind: "best" or "median".
        per_hour: Units of time in an hour, for curves over time. None: over agent steps.
    """
    column = ("best", "median").index(kind) + 1
    for arm in tables.names(panel):
        rows = tables.runs(panel, arm)
        scale = 1.0 if per_hour is None else per_hour * _hours_per_step(rows)
        style = _styles(tables)[arm]
        for row in rows:
            if row.left_out:
                steps, values = _shared([tables.curves[row.run]], column)
                axes.plot(steps * scale, values[0], **style, linewidth=0.8, alpha=0.6)
        steps, values = _shared(
            [tables.curves[row.run] for row in rows if not row.left_out], column
        )
        if not len(steps):
            continue
        mean, low, high = aggregates.band(values)
        axes.plot(steps * scale, mean, **style, linewidth=1.8)
        if len(values) > 1:
            axes.fill_between(
                steps * scale, low, high, color=style["color"], alpha=0.15, linewidth=0
            )


def _shared(runs: Sequence[Curve], column: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the steps at which all runs have a score, and the scores `[runs, steps]`."""
    scores = [{p[0]: p[column] for p in curve if p[column] is not None} for curve in runs]
    steps = sorted(set.intersection(*map(set, scores))) if scores else []
    return np.array(steps, float), np.array([[own[s] for s in steps] for own in scores], float)


def _hours_per_step(rows: Sequence[arms.Row]) -> float:
    """Return the mean hours of training per agent step of a member."""
    steps = sum(row.agent_steps for row in rows)
    return sum(row.seconds for row in rows) / 3600 / steps if steps else 0.0


def _styles(tables: arms.Tables) -> dict[str, dict[str, Any]]:
    """Return colour and dashes of every arm by its name, the same in all figures."""
    found: dict[str, dict[str, Any]] = {}
    for index, name in enumerate(dict.fromkeys(name for _, name in tables.arms)):
        cycle, place = divmod(index, len(drawing.SERIES))
        dashes = drawing.DASHES[cycle % len(drawing.DASHES)]
        found[name] = {"color": drawing.SERIES[place], "ls": dashes}
    return found


def _handles(tables: arms.Tables) -> list[Line2D]:
    """Return an entry of the legend for every arm."""
    counts = {name: len(tables.counted(panel, name)) for panel, name in tables.arms}
    styles = _styles(tables)
    return [
        Line2D([], [], **styles[name], label=f"{name}, n = {count}")
        for name, count in counts.items()
    ]
