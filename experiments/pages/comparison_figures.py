"""Figures of several runs side by side: learning curves overlaid, schedules next to each other."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.analysis import aggregates, comparison, curves
from experiments.pages import drawing
from pbt import space

MOST_COLUMNS = 4
"""Groups that have room next to each other; of more, schedules are laid over each other."""


def learning_curves(compared: Sequence[comparison.Group]) -> Figure:
    """Training scores: best members over agent steps and over time, populations over agent steps.

    One row of panels per world; no populations where all are of one member. Of several runs, the
    interquartile mean with its 95 % interval at each point; of a single run, its own curve. Time
    is what workers spent training a member, at the mean speed of its run: an agent that learns
    more from a step may take longer over it.
    """
    worlds = list(dict.fromkeys(group.world for group in compared))
    alone = all(run.history.config.population == 1 for g in compared for run in g.runs)
    unit, unit_per_hour = _unit_of_time(compared)
    figure, rows = drawing.grid(len(worlds), 2 if alone else 3, 3.0, share_steps=False)
    for world, (best, by_hours, *population) in zip(worlds, rows, strict=True):
        for index, group in enumerate(compared):
            if group.world != world:
                continue
            found = [curves.population_curves(run.history) for run in group.distinct]
            style = line_style(index)
            _draw(best, [(one.steps, one.best) for one in found], style)
            rates = [unit_per_hour * curves.hours_per_step(run.history) for run in group.distinct]
            _draw(
                by_hours,
                [(one.steps * each, one.best) for one, each in zip(found, rates, strict=True)],
                style,
            )
            for axes in population:
                _draw(axes, [(one.steps, _middle(one)) for one in found], style)
        best.set_ylabel(f"training score, {', '.join(world)}", parse_math=False)
        for axes in (best, *population):
            drawing.steps_axis(axes, "agent steps per member", bins=4)
        by_hours.set_xlabel(f"{unit} of training per member")
        by_hours.margins(x=0.015)
    for axes, text in zip(
        rows[0], ("best member", "best member, by time", "population (IQM)"), strict=False
    ):
        axes.set_title(text, fontsize=10, loc="left", color=drawing.INK)
    drawing.title(figure, "Learning curves")
    drawing.legend(figure, _handles(compared))
    return figure


def schedules(compared: Sequence[comparison.Group]) -> Figure | None:
    """The hyperparameters behind every run's best member; None if none has any that vary."""
    names = list(
        dict.fromkeys(name for g in compared for run in g.runs for name in run.history.scheduled)
    )
    if not names or not any(run.history.lineage for group in compared for run in group.runs):
        return None
    is_wide = len(compared) <= MOST_COLUMNS
    has_room = is_wide and all(len(_label(group)) <= 76 // len(compared) for group in compared)
    figure, rows = drawing.grid(len(names), len(compared) if is_wide else 1, 1.6)
    for name, panels in zip(names, rows, strict=True):
        for index, group in enumerate(compared):
            axes = panels[index] if is_wide else panels[0]
            _draw_schedules(axes, group, name, line_style(index))
        _value_axes(panels, compared, name)
        for axes in panels[1:]:
            axes.set_ylabel("")
        panels[0].set_ylabel(name.replace("_", " "), parse_math=False)
    if is_wide:
        for axes, group in zip(rows[0], compared, strict=True):
            label = _label(group) if has_room else f"n = {len(group.distinct)}"
            axes.set_title(label, fontsize=10, loc="left", color=drawing.INK, parse_math=False)
    for axes in rows[-1]:
        drawing.steps_axis(axes, "", bins=max(3, 8 // len(rows[0])))
    figure.supxlabel("agent steps of training behind the weights", fontsize=10, color=drawing.INK)
    drawing.title(figure, "Schedules behind the best members")
    handles = [] if has_room else _handles(compared)
    if any(run.history.varied for group in compared for run in group.runs):
        handles.append(drawing.dashed("prior"))
    if handles:
        drawing.legend(figure, handles)
    return figure


def line_style(index: int) -> dict[str, Any]:
    """Colour and dashes of the n-th group, the same in all figures."""
    cycle, place = divmod(index, len(drawing.SERIES))
    return {"color": drawing.SERIES[place], "ls": drawing.DASHES[cycle % len(drawing.DASHES)]}


def _draw(
    axes: Axes, found: Sequence[tuple[curves.Floats, curves.Floats]], style: dict[str, Any]
) -> None:
    """One group in one panel."""
    width, opacity = (1.8, 1.0) if len(found) == 1 else (0.6, 0.35)
    for steps, values in found:
        axes.plot(steps, values, **style, linewidth=width, alpha=opacity, zorder=2)
    if len(found) == 1:
        return
    end = min(steps[-1] for steps, _ in found)
    shared = np.linspace(0, end, curves.GRID_POINTS + 1)
    table = np.array([curves.in_force(shared, steps, values) for steps, values in found])
    known = ~np.isnan(table).any(axis=0)
    if not known.any():
        return
    low, high = aggregates.curve_interval(table[:, known])
    axes.fill_between(
        shared[known], low, high, color=style["color"], alpha=0.18, linewidth=0, zorder=3
    )
    means = [aggregates.iqm(point) for point in table.T[known]]
    axes.plot(shared[known], means, **style, linewidth=2.0, zorder=4)


def _middle(population: curves.PopulationCurves) -> curves.Floats:
    """The interquartile mean of the members at each point that half of them have reached."""
    needed = math.ceil(len(population.scores) / 2)
    columns = [column[~np.isnan(column)] for column in population.scores.T]
    return np.array([aggregates.iqm(c) if len(c) >= needed else np.nan for c in columns])


def _draw_schedules(axes: Axes, group: comparison.Group, name: str, style: dict[str, Any]) -> None:
    for run in group.distinct:
        rows = run.history.schedule
        if not rows or name not in run.history.used(rows[0]):
            continue
        values = [float(run.history.used(row)[name]) for row in rows]
        opacity = max(0.35, 1 / len(group.distinct))
        axes.step(
            [row.agent_steps for row in rows],
            values,
            where="post",
            linewidth=1.5,
            alpha=opacity,
            zorder=3,
            **style,
        )


def _unit_of_time(compared: Sequence[comparison.Group]) -> tuple[str, int]:
    """In which the longest of these trainings is no tiny number, and how many make an hour."""
    longest = max(
        curves.hours_per_step(run.history) * run.history.config.total_steps
        for group in compared
        for run in group.runs
    )
    units = (("hours", 1), ("minutes", 60), ("seconds", 3600))
    return next((one for one in units if longest * one[1] >= 2), units[-1])


def _value_axes(panels: Sequence[Axes], compared: Sequence[comparison.Group], name: str) -> None:
    """Scales and priors of one hyperparameter; scales without priors if all runs are replays."""
    is_drawn = False
    for axes, group in zip(panels, compared, strict=False):
        hyper = group.runs[0].history.config.space
        if not isinstance(hyper.dimensions.get(name, space.Constant(0.0)), space.Constant):
            drawing.value_axis(axes, name, hyper)
            is_drawn = True
    given = [run.history.followed for group in compared for run in group.runs]
    values = [row[name] for one in given if one is not None for _, row in one.rows if name in row]
    if values and not is_drawn:
        drawing.followed_axis(panels[0], name, values)


def _label(group: comparison.Group) -> str:
    return f"{group.name} (n = {len(group.distinct)})"


def _handles(compared: Sequence[comparison.Group]) -> list[Line2D]:
    return [
        Line2D([], [], **line_style(index), linewidth=2.0, label=_label(group))
        for index, group in enumerate(compared)
    ]
