"""The figures of one run, drawn from its records."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.analysis import aggregates, curves, units, wording
from experiments.analysis.history import History
from experiments.pages import drawing, family
from pbt import lineage, records

UNCHANGED = ("initial", "slice", "restore")
"""Kinds of versions that keep the hyperparameters of the version before them."""


def learning_curves(history: History) -> Figure:
    """Draw the returns of all members and of the best lineage, and the population's average."""
    figure, (axes,) = drawing.panels(1, 3.9)
    count = sum(len(report.episodes) for report in history.reports)
    smooth = max(history.config.window, count // len(history.members) // 50)
    opacity = max(0.2, min(0.7, 5 / len(history.members)))
    for member in history.members:
        for piece in curves.curve_pieces(history, member.id):
            curve = curves.moving_mean(*piece, smooth)
            (line,) = axes.plot(
                *curve, color=drawing.OTHERS, linewidth=0.7, alpha=opacity, zorder=2
            )
            drawing.mark(line, (member.id, ""))
    smoothed = f", mean of {smooth} {history.units.many}" if smooth > 1 else ""
    handles = [drawing.line(drawing.OTHERS, f"members{smoothed}", 0.9)]
    if len(history.members) >= 4:
        handles.append(_draw_population(axes, history))
    episodes = [e for e in lineage.episodes(history.lineage, history.reports) if e.counted]
    if episodes:
        x, y = curves.returns(episodes)
        size, dots = (7, 0.35) if len(x) < 3000 else (3, 0.15)
        axes.scatter(
            x,
            y,
            s=size,
            color=drawing.BEST,
            alpha=dots,
            linewidths=0,
            zorder=3,
            rasterized=len(x) > drawing.RASTER_FROM,
        )
        best = curves.moving_mean(x, y, smooth)
        (edge,) = axes.plot(*best, color=drawing.PAPER, linewidth=3.8, zorder=5)
        drawing.mark(edge, (None, "best lineage"))
        (line,) = axes.plot(*best, color=drawing.BEST, linewidth=2.0, zorder=6)
        drawing.mark(line, (None, "best lineage"))
        handles += [
            drawing.line(drawing.BEST, f"best lineage{', same mean' if smooth > 1 else ''}", 2.0),
            drawing.dot(drawing.BEST, f"its {history.units.many}", 3),
        ]
    axes.set_ylabel(history.units.score)
    drawing.steps_axis(
        axes,
        f"{history.units.steps} (best lineage: steps of training behind its weights)",
    )
    axes.set_xlim(left=0)
    _title(figure, history, "training scores")
    drawing.legend(figure, handles)
    return figure


def _draw_population(axes: Axes, history: History) -> Line2D:
    """Draw the interquartile mean and middle half of the members' scores.

    Returns:
        The legend's entry.
    """
    population = curves.population_curves(history).shared()
    at_each = [column[~np.isnan(column)] for column in population.scores.T]
    quartiles = np.array([np.quantile(column, [0.25, 0.75]) for column in at_each]).reshape(-1, 2)
    axes.fill_between(
        population.steps,
        *quartiles.T,
        color=drawing.POPULATION,
        alpha=0.18,
        linewidth=0,
        zorder=3,
    )
    means = [aggregates.iqm(column) for column in at_each]
    (line,) = axes.plot(population.steps, means, color=drawing.POPULATION, linewidth=1.6, zorder=4)
    drawing.mark(line, (None, "population"))
    return drawing.line(drawing.POPULATION, "population: IQM and middle half", 1.6)


def schedule(history: History) -> Figure:
    """Draw the hyperparameters behind the best member's weights, and where these were copied.

    For a replay, draw the schedule that it followed, and the values that its learner reported.
    """
    names = history.scheduled
    figure, panels = drawing.panels(len(names) + 1, 1.45)
    rows = history.schedule
    segments = lineage.segments(history.lineage)
    # Without a score there is a gap. A line through it would hide what happened there.
    panels[0].plot(*curves.earned_scores(history.lineage), color=drawing.BEST, linewidth=1.6)
    panels[0].lines[-1].set(marker="o", markersize=2.2)  # a score between two gaps has no line
    drawing.mark(panels[0].lines[-1], (None, "best lineage"))
    panels[0].set_ylabel(units.training_score(history.units), parse_math=False)
    copies = [s.start for s in segments[1:] if s.kind in ("exploit", "reseed")]
    changes = _changes(history, rows)
    for name, axes in zip(names, panels[1:], strict=True):
        steps = [row.agent_steps for row in rows]
        used = [history.used(row)[name] for row in rows]
        (line,) = axes.step(steps, used, where="post", color=drawing.BEST, linewidth=1.8, zorder=3)
        drawing.mark(line, (None, "best lineage"))
        marks = [history.used(row)[name] for row in changes]
        axes.scatter([r.agent_steps for r in changes], marks, s=14, color=drawing.INK, zorder=5)
        if history.followed is None:
            drawing.value_axis(axes, name, history.config.space)
        else:
            reported = _reported(history, name)
            axes.scatter(*reported, s=12, color=drawing.OTHERS, linewidths=0, zorder=4)
            drawing.followed_axis(axes, name, used)
    for axes in panels:
        for step in copies:
            axes.axvline(step, color=drawing.MUTED, linewidth=0.7, alpha=0.5, zorder=1)
    _name_segments(panels[0], segments)
    drawing.steps_axis(panels[-1], f"{history.units.steps} of training behind the weights")
    best = history.lineage[-1].version
    handles = [
        drawing.line(drawing.BEST, "value in use"),
        drawing.dot(drawing.INK, "new value", 4),
    ]
    if history.followed is None:
        _title(figure, history, f"schedule behind member {best.member}, best training score")
        handles += [
            drawing.line(drawing.MUTED, "copy of weights", 0.7, 0.6),
            drawing.dashed("prior range"),
        ]
    else:
        _title(figure, history, f"given schedule, and score of member {best.member}")
        handles.append(drawing.dot(drawing.OTHERS, "reported by the learner, mean of a slice", 4))
    drawing.legend(figure, handles)
    return figure


def hyperparameters(history: History) -> Figure:
    """Draw every member's hyperparameters over its own agent steps, coloured by score."""
    names = history.varied
    figure, panels = drawing.panels(len(names), 2.0)
    scale = drawing.score_scale(curves.slice_scores(history))
    # The best slices are drawn last, on top of the others.
    drawn = sorted(
        ((history.tree.scores[r.member, r.version], r) for r in history.reports),
        key=lambda pair: -math.inf if pair[0] is None else pair[0],
    )
    width = max(1.2, min(3.0, 60 / len(history.members)))
    rows = lineage.schedule(history.lineage)
    ends: list[tuple[Any, str, str]] = [
        (version, drawing.INITIAL, "o") for version in history.versions if version.kind == "initial"
    ]
    ends += [(member, *drawing.present(records.is_dead(member))) for member in history.members]
    lap = drawing.LAP * max((report.agent_steps for _, report in drawn), default=0)
    for name, axes in zip(names, panels, strict=True):
        pieces, marks = [], []
        for _, report in drawn:
            value, steps = _used(history, report, name), report.agent_steps
            pieces.append(((steps - report.slice_steps - lap, value), (steps, value)))
            marks.append((report.member, f"to {wording.steps(steps)}: {wording.value(value)}"))
        drawing.slices(axes, pieces, [score for score, _ in drawn], scale, width, marks)
        axes.step(
            [r.agent_steps for r in rows],
            [_used(history, row, name) for row in rows],
            where="post",
            color=drawing.BEST,
            linewidth=0.9,
            zorder=4,
        )
        for record, colour, marker in ends:
            at = record.agent_steps, _used(history, record, name)
            (dot,) = axes.plot(*at, marker=marker, ms=4, color=colour, zorder=5, clip_on=False)
            drawing.mark(dot, (_member(record), ""))
        drawing.value_axis(axes, name, history.config.space)
        axes.autoscale_view()
    drawing.steps_axis(panels[-1], f"{history.units.steps} of the member")
    drawing.score_bar(figure, scale, panels, units.training_score(history.units))
    _title(figure, history, "hyperparameters of all members")
    handles = [
        *drawing.member_ends(any(map(records.is_dead, history.members))),
        drawing.line(drawing.BEST, "best lineage", 0.9),
        drawing.dashed("prior range"),
    ]
    drawing.legend(figure, handles)
    return figure


def _title(figure: Figure, history: History, what: str) -> None:
    drawing.title(figure, f"{wording.shortened(history.name, 40)}: {what}")


def _changes(
    history: History, rows: Sequence[lineage.ScheduleRow]
) -> Sequence[lineage.ScheduleRow]:
    """Return the rows with newly chosen values or, in a replay, with new values of the schedule."""
    if history.followed is not None:
        pairs = itertools.pairwise(rows)
        return [row for old, row in pairs if row.hyperparameters != old.hyperparameters]
    kinds = [history.tree.versions[row.member, row.version].kind for row in rows]
    return [row for row, kind in zip(rows, kinds, strict=True) if kind not in UNCHANGED]


def _reported(history: History, name: str) -> tuple[list[float], list[float]]:
    """Return what the best lineage's learners reported, at the middle of each slice.

    Returns:
        Agent steps behind the weights, and the hyperparameter's mean values.
    """
    behind = {(step.version.member, step.version.version): step for step in history.lineage}
    steps, values = [], []
    for report in history.reports:
        step = behind.get((report.member, report.version))
        value = report.metrics.get(f"hyperparameter/{name}")
        if step is not None and value is not None:
            steps.append(step.training - report.slice_steps / 2)
            values.append(value)
    return steps, values


def _used(history: History, row: Any, name: str) -> float:
    """Return the value of a record's hyperparameter where it is used: integers are rounded."""
    return float(history.config.space.used(row.hyperparameters)[name])


def _member(record: records.Member | records.Version) -> int:
    return record.id if isinstance(record, records.Member) else record.member


def _name_segments(axes: Axes, segments: Sequence[lineage.Segment]) -> None:
    """Write above the panel which member trained the weights, where there is room."""
    total = max(segments[-1].end, 1)
    for segment in segments:
        share = (segment.end - segment.start) / total
        label = f"member {segment.member}" if share > 0.14 else f"{segment.member}"
        if share > 0.03:
            axes.annotate(
                label,
                ((segment.start + segment.end) / 2, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=9,
                color=drawing.MUTED,
            )


def figures(history: History) -> Mapping[str, Figure]:
    """Draw all figures that the run has data for, by file name."""
    drawn = {"learning_curves.png": learning_curves(history)}
    if history.varied:
        drawn["hyperparameters.png"] = hyperparameters(history)
    if history.lineage:
        drawn["schedule.png"] = schedule(history)
    drawn["family_tree.png"] = family.family_tree(history)
    return drawn
