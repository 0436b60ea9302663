"""The figures of a run, drawn from its records: each function takes a `History`.

Colours are told apart by colour-blind readers: Okabe and Ito's palette
(https://jfly.uni-koeln.de/color/) for single things, viridis for scores. No pyplot: nothing
here touches global state.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import cm, collections, colors, ticker
from matplotlib.axes import Axes
from matplotlib.backends import backend_agg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.history import History
from pbt import lineage, space
from pbt.task import Episode

BEST = "#D55E00"  # vermilion: the best lineage, in all figures
COPY = "#404040"
PRESENT = "#0072B2"  # blue, as in the paper's trees
INITIAL = "#CC79A7"  # reddish purple, as the paper's pink
OTHERS = "#8C8C8C"
UNKNOWN = "#D0D0D0"  # no score yet
SCORES = "viridis"
DPI = 160
WIDTH = 9.0  # inches
UNCHANGED = ("initial", "slice", "restore")
"""Kinds of versions at which nobody chose new values."""
CURVE_POINTS = 400
"""Of a smoothed curve: more than its pixels would show."""


def save(figure: Figure, path: Path) -> None:
    """Write a PNG; a reader sees the old file or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        backend_agg.FigureCanvasAgg(figure).print_png(str(partial))  # type: ignore[no-untyped-call]
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def format_steps(steps: float, _position: int | None = None) -> str:
    """Agent steps for people: 500, 250k, 2M, 1.5G."""
    for unit, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(steps) >= unit * 0.9999:
            return f"{steps / unit:.4g}{suffix}"
    return f"{steps:.4g}"


def learning_curves(history: History) -> Figure:
    """Returns of all members, thin, and of the best lineage, thick, with each episode."""
    figure, (axes,) = _panels(1, 5.2)
    count = sum(len(report.episodes) for report in history.reports)
    smooth = max(history.config.window, count // len(history.members) // 50)
    opacity = max(0.25, min(0.9, 6 / len(history.members)))
    for member in history.members:
        for x, y in curve_pieces(history, member.id):
            curve = moving_mean(x, y, smooth)
            axes.plot(*curve, color=OTHERS, linewidth=0.8, alpha=opacity, zorder=2)
    handles = [
        Line2D([], [], color=OTHERS, linewidth=0.9, label=f"members, mean of {smooth} episodes")
    ]
    episodes = [e for e in lineage.episodes(history.lineage, history.reports) if e.counted]
    if episodes:
        x, y = _curve(episodes)
        size, dots = (8, 0.4) if len(x) < 3000 else (4, 0.2)
        axes.scatter(x, y, s=size, color=BEST, alpha=dots, linewidths=0, zorder=3)
        axes.plot(*moving_mean(x, y, smooth), color="white", linewidth=4.2, zorder=4)
        axes.plot(*moving_mean(x, y, smooth), color=BEST, linewidth=2.2, zorder=5)
        handles += [
            Line2D([], [], color=BEST, linewidth=2.2, label="best lineage, same mean"),
            Line2D([], [], color=BEST, marker="o", ls="", ms=3, label="best lineage, each episode"),
        ]
    axes.set_ylabel("episode return")
    _steps_axis(axes, "agent steps of the member; of the best lineage: behind its weights")
    axes.set_xlim(left=0)
    _title(figure, f"{history.name}: training returns")
    _legend(figure, handles)
    return figure


def schedule(history: History) -> Figure:
    """The hyperparameters behind the best member's weights, with the points where it was a copy."""
    names = history.varied
    figure, panels = _panels(len(names) + 1, 2.0)
    rows = lineage.schedule(history.lineage)
    segments = lineage.segments(history.lineage)
    scored = [s for s in history.lineage if s.version.score is not None]
    scores = [s.version.score or 0.0 for s in scored]
    panels[0].plot([s.training for s in scored], scores, color=BEST, linewidth=1.6)
    panels[0].set_ylabel("training score")
    copies = [s.start for s in segments[1:] if s.kind in ("exploit", "reseed")]
    kinds = [history.tree.versions[row.member, row.version].kind for row in rows]
    changes = [row for row, kind in zip(rows, kinds, strict=True) if kind not in UNCHANGED]
    for name, axes in zip(names, panels[1:], strict=True):
        used = [float(history.config.space.used(row.hyperparameters)[name]) for row in rows]
        steps = [row.agent_steps for row in rows]
        axes.step(steps, used, where="post", color=BEST, linewidth=1.8, zorder=3)
        marks = [float(history.config.space.used(row.hyperparameters)[name]) for row in changes]
        axes.scatter([r.agent_steps for r in changes], marks, s=16, color=COPY, zorder=4)
        _value_axis(axes, name, history.config.space, used)
    for axes in panels:
        for step in copies:
            axes.axvline(step, color=COPY, linewidth=0.7, alpha=0.4, zorder=1)
    _name_segments(panels[0], segments)
    _steps_axis(panels[-1], "agent steps of training behind the weights")
    best = history.lineage[-1].version
    _title(figure, f"{history.name}: schedule behind member {best.member}, best training score")
    handles = [
        Line2D([], [], color=BEST, linewidth=1.8, label="value in use"),
        Line2D([], [], color=COPY, marker="o", ms=4, ls="", label="new value"),
        Line2D([], [], color=COPY, linewidth=0.7, alpha=0.6, label="copy of weights"),
        Line2D([], [], color=OTHERS, ls=(0, (4, 3)), linewidth=0.9, label="prior"),
    ]
    _legend(figure, handles)
    return figure


def hyperparameters(history: History) -> Figure:
    """Every member's values over its own steps, coloured by score: where the population went."""
    names = history.varied
    figure, panels = _panels(len(names), 2.5)
    scores = _score_scale(history)
    # The best on top, the unknown at the bottom.
    drawn = sorted(
        ((history.tree.scores[r.member, r.version], r) for r in history.reports),
        key=lambda pair: -math.inf if pair[0] is None else pair[0],
    )
    size = max(6.0, min(22.0, 16000 / max(len(drawn), 1)))
    tint = [UNKNOWN if score is None else scores.to_rgba(score) for score, _ in drawn]
    rows = lineage.schedule(history.lineage)
    for name, axes in zip(names, panels, strict=True):
        values = [float(history.config.space.used(r.hyperparameters)[name]) for _, r in drawn]
        steps = [report.agent_steps for _, report in drawn]
        axes.scatter(steps, values, s=size, c=tint, linewidths=0, alpha=0.85, zorder=2)
        used = [float(history.config.space.used(row.hyperparameters)[name]) for row in rows]
        axes.step(
            [r.agent_steps for r in rows], used, where="post", color=BEST, linewidth=1.5, zorder=3
        )
        _value_axis(axes, name, history.config.space, values)
    _steps_axis(panels[-1])
    _score_bar(figure, scores, panels)
    _title(figure, f"{history.name}: hyperparameters of all members")
    handles = [
        Line2D(
            [], [], color=OTHERS, marker="o", ms=4, ls="", label="a member's value in one slice"
        ),
        Line2D([], [], color=BEST, linewidth=1.5, label="best lineage"),
        Line2D([], [], color=OTHERS, ls=(0, (4, 3)), linewidth=0.9, label="prior"),
    ]
    _legend(figure, handles)
    return figure


def family_tree(history: History) -> Figure:
    """Who descends from whom, after the paper's phylogenetic trees.

    Initial draws left, present members right. One horizontal line per member between two
    changes of its weights, in its own row; a vertical line is a copy. Sideways everything
    stands at the training behind its weights, so a copy takes no room. Below each branch stand
    those copied from it, the latest nearest: so no line crosses another.
    """
    branches = history.tree.branches()
    order = tree_order([b for b in branches if b.parent is None])
    lasting = _with_living(order)
    weights = [1.0 if id(branch) in lasting else 0.4 for branch in order]
    middle = np.cumsum(weights) - np.array(weights) / 2
    row = {id(branch): y for branch, y in zip(order, middle, strict=True)}
    height = min(10.5, max(3.2, 1.4 + 0.2 * sum(weights)))
    figure, (axes,) = _panels(1, height)
    pitch_points = (height - 1.4) * 72 / sum(weights)
    thin = max(0.7, min(2.2, pitch_points * 0.3))

    on_best = {(step.version.member, step.version.version) for step in history.lineage}
    training, scores = history.tree.training, _score_scale(history)
    lines, tint, highlight, copies = [], [], [], []
    for branch in order:
        y = row[id(branch)]
        for first, second in zip(branch.keys, branch.keys[1:], strict=False):
            piece = [(training[first], y), (training[second], y)]
            score = history.tree.scores[second]
            lines.append(piece)
            tint.append(UNKNOWN if score is None else scores.to_rgba(score))
            if second in on_best:
                highlight.append(piece)
        for child in branch.children:
            x = training[child.keys[0]]
            fork = [(x, y), (x, row[id(child)])]
            copies.append(fork)
            if child.keys[0] in on_best:
                highlight.append(fork)
    draw = collections.LineCollection
    axes.add_collection(draw(highlight, colors=BEST, linewidths=thin + 4.0, alpha=0.55, zorder=1))
    axes.add_collection(draw(copies, colors="#6E6E6E", linewidths=min(0.9, thin), zorder=2))
    axes.add_collection(draw(lines, colors=tint, linewidths=thin, zorder=3))

    marker = max(2.5, min(6.0, pitch_points * 0.6))
    roots = [b for b in order if b.parent is None]
    living = [b for b in order if b.alive]
    for group, end, colour in ((roots, 0, INITIAL), (living, -1, PRESENT)):
        axes.plot(
            [training[b.keys[end]] for b in group],
            [row[id(b)] for b in group],
            ls="",
            marker="o",
            ms=marker,
            color=colour,
            zorder=4,
        )
    for branch in living:
        is_best = branch.keys[-1] in on_best
        if pitch_points < 5.5 and not is_best:
            continue  # no room
        axes.annotate(
            f"{branch.member}" + (" best" if is_best else ""),
            (training[branch.keys[-1]], row[id(branch)]),
            xytext=(marker * 0.5 + 3, 0),
            textcoords="offset points",
            va="center",
            fontsize=8 if is_best else min(8, pitch_points),
            color=BEST if is_best else "#333333",
            weight="bold" if is_best else "normal",
        )
    furthest = max(training.values(), default=0) or 1
    axes.set_xlim(-0.02 * furthest, 1.08 * furthest)
    axes.set_ylim(sum(weights) + 0.6, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    _steps_axis(axes, "agent steps of training behind the weights")
    axes.grid(axis="y", visible=False)
    _score_bar(figure, scores, [axes])
    ancestors = sum(1 for root in roots if id(root) in lasting)
    copied = sum(1 for branch in order if branch.kind in ("exploit", "reseed"))
    _title(
        figure,
        f"{history.name}: {copied} {'copy' if copied == 1 else 'copies'} of weights; "
        f"{ancestors} of {len(roots)} initial draws {'lives' if ancestors == 1 else 'live'} on",
    )
    handles = [
        Line2D([], [], color=INITIAL, marker="o", ls="", ms=5, label="initial draw"),
        Line2D([], [], color=PRESENT, marker="o", ls="", ms=5, label="present member, its number"),
        Line2D([], [], color="#6E6E6E", linewidth=0.9, label="copy of weights"),
        Line2D([], [], color=BEST, linewidth=5, alpha=0.55, label="best lineage"),
    ]
    _legend(figure, handles)
    return figure


def moving_mean(x: np.ndarray, y: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The mean of the last `count` values (of 10 to begin with), at `CURVE_POINTS` places."""
    if len(y) == 0:
        return x, y
    sums = np.concatenate(([0.0], np.cumsum(y)))
    ends = np.arange(1, len(y) + 1)
    starts = np.maximum(ends - count, 0)
    means = (sums[ends] - sums[starts]) / (ends - starts)
    # The first few would be means of next to nothing.
    first = min(count, 10, len(y)) - 1
    kept = np.unique(np.linspace(first, len(y) - 1, CURVE_POINTS).round().astype(int))
    return x[kept], means[kept]


def curve_pieces(history: History, member: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """A member's episodes, cut where its weights were replaced."""
    episodes = {
        report.version: [e for e in report.episodes if e.counted]
        for report in history.reports
        if report.member == member
    }
    piece: list[Episode] = []
    for number in range(history.tree.newest(member)[1] + 1):
        if history.tree.parents[member, number] != (member, number - 1) and piece:
            yield _curve(piece)
            piece = []
        piece += episodes.get(number, [])
    yield _curve(piece)


def _curve(episodes: Sequence[Episode]) -> tuple[np.ndarray, np.ndarray]:
    steps = np.array([episode.agent_steps for episode in episodes], float)
    return steps, np.array([episode.episode_return for episode in episodes], float)


def tree_order(roots: Sequence[lineage.Branch]) -> list[lineage.Branch]:
    """Each branch before those copied from it, the latest copy first."""
    order, waiting = [], list(reversed(roots))
    while waiting:
        branch = waiting.pop()
        order.append(branch)
        position = {key: index for index, key in enumerate(branch.keys)}
        waiting += sorted(
            branch.children, key=lambda c: position[c.parent] if c.parent is not None else 0
        )
    return order


def _with_living(order: Sequence[lineage.Branch]) -> set[int]:
    """The ids of the branches that a present member is or descends from."""
    lasting: set[int] = set()
    for branch in reversed(order):  # children come after their parents
        if branch.alive or any(id(child) in lasting for child in branch.children):
            lasting.add(id(branch))
    return lasting


def _panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """`count` panels one above the other, each `height` inches, on a shared axis of agent steps."""
    figure = Figure(figsize=(WIDTH, max(3.4, height * count + 0.9)), dpi=DPI, layout="constrained")
    grid = figure.subplots(max(count, 1), 1, sharex=True, squeeze=False)
    panels = [axes for row in grid for axes in row]
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(visible=True, color="#E6E6E6", linewidth=0.7)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9)
    return figure, panels


def _title(figure: Figure, text: str) -> None:
    figure.suptitle(text, x=0.01, ha="left", fontsize=12)


def _legend(figure: Figure, handles: Sequence[Line2D]) -> None:
    """Below the panels, where it hides nothing."""
    figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
    )


def _steps_axis(axes: Axes, label: str = "agent steps of the member") -> None:
    axes.xaxis.set_major_locator(
        ticker.MaxNLocator(nbins=9, integer=True, steps=[1, 2, 2.5, 5, 10])
    )
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(format_steps))
    axes.set_xlabel(label)
    axes.margins(x=0.015)


def _value_axis(axes: Axes, name: str, hyper: space.Space, values: Sequence[float]) -> None:
    """Name, scale and prior of a hyperparameter."""
    dimension: Any = hyper.dimensions[name]
    axes.set_ylabel(name.replace("_", " "))
    is_log = isinstance(dimension, space.LogUniform) or (
        isinstance(dimension, space.IntUniform) and dimension.log
    )
    if is_log:
        axes.set_yscale("log")
    if isinstance(dimension, space.IntUniform) and not is_log:
        axes.yaxis.set_major_locator(ticker.MaxNLocator(nbins=5, integer=True))
    if isinstance(dimension, space.IntUniform) and is_log:
        axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    if not isinstance(dimension, space.Choice):
        for limit in (dimension.low, dimension.high):
            axes.axhline(limit, color=OTHERS, ls=(0, (4, 3)), linewidth=0.9, zorder=1)


def _score_scale(history: History) -> Any:
    """Scores to colours; the lowest 2 % share one, or a bad start washes out the rest."""
    scores = [v.score for v in history.versions if v.score is not None and v.kind == "slice"]
    low, high = (np.quantile(scores, 0.02), max(scores)) if scores else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return cm.ScalarMappable(norm=colors.Normalize(low, high, clip=True), cmap=SCORES)


def _score_bar(figure: Figure, scores: Any, panels: Sequence[Axes]) -> None:
    bar = figure.colorbar(scores, ax=list(panels), pad=0.015, aspect=30, shrink=0.9)
    bar.set_label("training score (mean return of the window)")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9)


def _name_segments(axes: Axes, segments: Sequence[lineage.Segment]) -> None:
    """Above the panel: whose weights these were, where there is room for it."""
    total = max(segments[-1].end, 1)
    for segment in segments:
        share = (segment.end - segment.start) / total
        label = f"member {segment.member}" if share > 0.1 else f"{segment.member}"
        if share > 0.022:
            axes.annotate(
                label,
                ((segment.start + segment.end) / 2, 1.0),
                xycoords=("data", "axes fraction"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="center",
                fontsize=8,
                color="#555555",
            )


def figures(history: History) -> Mapping[str, Figure]:
    """All figures that the run has something to show in, by file name."""
    drawn = {
        "learning_curves.png": learning_curves(history),
        "family_tree.png": family_tree(history),
    }
    if history.varied:
        drawn["hyperparameters.png"] = hyperparameters(history)
    if history.lineage:
        drawn["schedule.png"] = schedule(history)
    return drawn
