"""The family tree of a run: whose weights came from whom."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import collections
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.analysis import curves, units, wording
from experiments.analysis.history import History
from experiments.pages import drawing
from pbt import lineage, records

Point = tuple[float, float]
"""Agent steps, and the height in rows, counted from the top."""


@dataclasses.dataclass(frozen=True)
class _Layout:
    """The places and sizes of everything in the figure."""

    history: History
    order: Sequence[lineage.Branch]
    """All branches from top to bottom."""
    rows: Mapping[lineage.Key, float]
    """Height of each branch in rows, by its first version."""
    total: float
    """Height of all branches in rows."""
    best: frozenset[lineage.Key]
    """Versions on the best member's lineage."""
    dead: Mapping[int, str]
    """States of the members that diverged, failed or were lost, by id."""
    furthest: int
    """Largest number of agent steps behind any weights."""
    inches: float
    """Height of the figure."""
    pitch: float
    """Height of a row in points."""

    @property
    def line_width(self) -> float:
        return max(0.7, min(2.2, self.pitch * 0.3))

    @property
    def marker_size(self) -> float:
        return max(2.5, min(6.0, self.pitch * 0.6))

    def point(self, branch: lineage.Branch, place: int = 0) -> Point:
        """Return where a branch has one of its versions, by default the first."""
        return self.history.tree.training[branch.keys[place]], self.rows[branch.keys[0]]

    def copy(self, donor: lineage.Branch, child: lineage.Branch) -> str:
        """Return whom a member copied and when."""
        versions = self.history.tree.versions
        version = versions[child.keys[0]]
        elapsed_s = version.created_s - min(v.created_s for v in self.history.versions)
        return (
            f"copies member {donor.member} after {wording.duration(elapsed_s)}, at "
            f"{version.agent_steps:,} {self.history.units.steps} of its own"
        )


def family_tree(history: History) -> Figure:
    """Draw who descends from whom, after the paper's phylogenetic trees.

    Initial draws are on the left and present members on the right. Each horizontal line is a
    member between two changes of its weights, and each vertical line is a copy. The horizontal
    position is the training behind the weights, so that a copy takes no width. Below each branch
    come its copies, the latest first, so that no line crosses another.
    """
    layout = _layout(history)
    scale = drawing.score_scale(curves.slice_scores(history))
    figure, (axes,) = drawing.panels(1, layout.inches - 0.9)
    _draw_copies(axes, layout)
    _draw_training(axes, layout, scale)
    _mark_ends(axes, layout)
    _number_members(axes, layout)
    axes.set_xlim(-0.02 * layout.furthest, 1.09 * layout.furthest)
    axes.set_ylim(layout.total + 0.6, -0.6)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    drawing.steps_axis(axes, f"{history.units.steps} of training behind the weights")
    axes.grid(axis="y", visible=False)
    drawing.score_bar(figure, scale, [axes], units.training_score(history.units))
    drawing.title(figure, f"{history.name}: {describe(history)}")
    handles = [
        *drawing.member_ends(bool(layout.dead)),
        drawing.line(drawing.MUTED, "copy of weights", 0.9),
        drawing.line(drawing.BEST, "best lineage", 5, 0.5),
    ]
    drawing.legend(figure, handles)
    return figure


def _layout(history: History) -> _Layout:
    """Give each branch a row; the rows of branches without present descendants are lower."""
    order = _tree(history)
    lasting = _with_living(order)
    heights = np.array([1.0 if branch.keys[0] in lasting else 0.4 for branch in order])
    middles, total = np.cumsum(heights) - heights / 2, float(heights.sum())
    inches = min(10.5, max(3.2, 1.4 + 0.2 * total))
    return _Layout(
        history,
        order,
        rows={branch.keys[0]: y for branch, y in zip(order, middles, strict=True)},
        total=total,
        best=frozenset((step.version.member, step.version.version) for step in history.lineage),
        dead={m.id: m.state for m in history.members if records.is_dead(m)},
        furthest=max(history.tree.training.values(), default=0) or 1,
        inches=inches,
        pitch=(inches - 1.4) * 72 / total,
    )


def _draw_copies(axes: Axes, layout: _Layout) -> None:
    """Draw a vertical line for each copy, and underlay the best member's lineage."""
    copies, best, marks = [], [], []
    for branch in layout.order:
        last = max((at for at, key in enumerate(branch.keys) if key in layout.best), default=0)
        if last:
            best.append((layout.point(branch), layout.point(branch, last)))
        for child in branch.children:
            x, y = layout.point(child)
            copies.append(((x, layout.rows[branch.keys[0]]), (x, y)))
            marks.append((child.member, layout.copy(branch, child)))
            if child.keys[0] in layout.best:
                best.append(copies[-1])
    lines, wide, thin = collections.LineCollection, layout.line_width + 4.0, layout.line_width
    axes.add_collection(lines(best, colors=drawing.BEST, linewidths=wide, alpha=0.5, zorder=1))
    drawn = lines(copies, colors=drawing.MUTED, linewidths=min(0.9, thin), zorder=2)
    drawing.mark(drawn, *marks)
    axes.add_collection(drawn)


def _draw_training(axes: Axes, layout: _Layout, scale: Any) -> None:
    """Draw a horizontal line for each slice of training, coloured by the score at its end."""
    lines, scores, marks = [], [], []
    lap = drawing.LAP * layout.furthest
    for branch in layout.order:
        for place in range(1, len(branch.keys)):
            (start, y), end = layout.point(branch, place - 1), layout.point(branch, place)
            lines.append(((start - lap, y), end))
            scores.append(layout.history.tree.scores[branch.keys[place]])
            marks.append((branch.member, f"to {wording.steps(end[0])}"))
    drawing.slices(axes, lines, scores, scale, layout.line_width, marks)


def _mark_ends(axes: Axes, layout: _Layout) -> None:
    """Mark initial draws, present members, and members that diverged, failed or were lost."""
    ends = [
        (b.member, layout.point(b), drawing.INITIAL, "o") for b in layout.order if b.parent is None
    ]
    for branch in (branch for branch in layout.order if branch.alive):
        look = drawing.present(branch.member in layout.dead)
        ends.append((branch.member, layout.point(branch, -1), *look))
    for member, point, colour, marker in ends:
        (dot,) = axes.plot(
            *point, ls="", marker=marker, ms=layout.marker_size, color=colour, zorder=4
        )
        drawing.mark(dot, (member, f"at {wording.steps(point[0])}"))


def _number_members(axes: Axes, layout: _Layout) -> None:
    """Write the numbers of present members beside them, where there is room."""
    for branch in layout.order:
        is_best = branch.keys[-1] in layout.best
        if not branch.alive or (layout.pitch < 5.5 and not is_best):
            continue
        words = [str(branch.member), "best" if is_best else "", layout.dead.get(branch.member, "")]
        text = axes.annotate(
            " ".join(filter(None, words)),
            layout.point(branch, -1),
            xytext=(layout.marker_size * 0.5 + 3, 0),
            textcoords="offset points",
            va="center",
            fontsize=9 if is_best else min(9, layout.pitch),
            color=drawing.BEST if is_best else drawing.INK,
            weight="bold" if is_best else "normal",
        )
        drawing.mark(text, (branch.member, f"at {wording.steps(layout.point(branch, -1)[0])}"))


def describe(history: History) -> str:
    """Return what the tree shows, in words."""
    order = _tree(history)
    lasting = _with_living(order)
    roots = [branch for branch in order if branch.parent is None]
    ancestors = sum(root.keys[0] in lasting for root in roots)
    copied = sum(branch.kind in ("exploit", "reseed") for branch in order)
    return (
        f"{wording.counted(copied, 'copy', 'copies')} of weights; "
        f"{ancestors} of {len(roots)} initial draws {'lives' if ancestors == 1 else 'live'} on"
    )


def tree_order(roots: Sequence[lineage.Branch]) -> list[lineage.Branch]:
    """Return each branch before the branches copied from it, the latest copy first."""
    order, waiting = [], list(reversed(roots))
    while waiting:
        branch = waiting.pop()
        order.append(branch)
        position = {key: index for index, key in enumerate(branch.keys)}
        waiting += sorted(
            branch.children, key=lambda c: position[c.parent] if c.parent is not None else 0
        )
    return order


def _tree(history: History) -> list[lineage.Branch]:
    return tree_order([branch for branch in history.tree.branches() if branch.parent is None])


def _with_living(order: Sequence[lineage.Branch]) -> set[lineage.Key]:
    """Return the first versions of the branches that present members are or descend from."""
    lasting: set[lineage.Key] = set()
    for branch in reversed(order):  # children come after their parents
        if branch.alive or any(child.keys[0] in lasting for child in branch.children):
            lasting.add(branch.keys[0])
    return lasting
