"""The family tree of a run: whose weights came from whom."""

from collections.abc import Sequence

import numpy as np
from matplotlib import collections
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.analysis import curves
from experiments.analysis.history import History
from experiments.pages import drawing
from pbt import lineage

Line = list[tuple[float, float]]
"""Points in the figure's own units: agent steps, and rows."""


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
    figure, (axes,) = drawing.panels(1, height - 0.9)
    pitch_points = (height - 1.4) * 72 / sum(weights)
    thin = max(0.7, min(2.2, pitch_points * 0.3))

    on_best = {(step.version.member, step.version.version) for step in history.lineage}
    training, scale = history.tree.training, drawing.score_scale(curves.slice_scores(history))
    furthest = max(training.values(), default=0) or 1
    lap = drawing.LAP * furthest
    lines: list[Line] = []
    highlight: list[Line] = []
    copies: list[Line] = []
    tint = []
    for branch in order:
        y = row[id(branch)]
        for first, second in zip(branch.keys, branch.keys[1:], strict=False):
            piece: Line = [(training[first] - lap, y), (training[second], y)]
            score = history.tree.scores[second]
            lines.append(piece)
            tint.append(drawing.UNKNOWN if score is None else scale.to_rgba(score))
            if second in on_best:
                highlight.append(piece)
        for child in branch.children:
            x = training[child.keys[0]]
            fork: Line = [(x, y), (x, row[id(child)])]
            copies.append(fork)
            if child.keys[0] in on_best:
                highlight.append(fork)
    draw = collections.LineCollection
    axes.add_collection(
        draw(highlight, colors=drawing.BEST, linewidths=thin + 4.0, alpha=0.5, zorder=1)
    )
    axes.add_collection(draw(copies, colors=drawing.MUTED, linewidths=min(0.9, thin), zorder=2))
    is_dense = len(lines) > drawing.RASTER_FROM
    axes.add_collection(
        draw(
            lines,
            colors=tint,
            linewidths=thin,
            capstyle="butt",
            zorder=3,
            rasterized=is_dense,
        )
    )

    marker = max(2.5, min(6.0, pitch_points * 0.6))
    roots = [b for b in order if b.parent is None]
    living = [b for b in order if b.alive]
    for group, end, colour in ((roots, 0, drawing.INITIAL), (living, -1, drawing.PRESENT)):
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
            fontsize=9 if is_best else min(9, pitch_points),
            color=drawing.BEST if is_best else drawing.INK,
            weight="bold" if is_best else "normal",
        )
    axes.set_xlim(-0.02 * furthest, 1.09 * furthest)
    axes.set_ylim(sum(weights) + 0.6, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    drawing.steps_axis(axes, "agent steps of training behind the weights")
    axes.grid(axis="y", visible=False)
    drawing.score_bar(figure, scale, [axes])
    drawing.title(figure, f"{history.name}: {describe(history)}")
    handles = [
        drawing.dot(drawing.INITIAL, "initial draw"),
        drawing.dot(drawing.PRESENT, "present member, its number"),
        Line2D([], [], color=drawing.MUTED, linewidth=0.9, label="copy of weights"),
        Line2D([], [], color=drawing.BEST, linewidth=5, alpha=0.5, label="best lineage"),
    ]
    drawing.legend(figure, handles)
    return figure


def describe(history: History) -> str:
    """What the tree shows, in words."""
    order = tree_order([b for b in history.tree.branches() if b.parent is None])
    lasting = _with_living(order)
    roots = [branch for branch in order if branch.parent is None]
    ancestors = sum(1 for root in roots if id(root) in lasting)
    copied = sum(1 for branch in order if branch.kind in ("exploit", "reseed"))
    return (
        f"{copied} {'copy' if copied == 1 else 'copies'} of weights; "
        f"{ancestors} of {len(roots)} initial draws {'lives' if ancestors == 1 else 'live'} on"
    )


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
