"""How all figures look, and the two forms they leave in: PNG files, and SVG inside a page.

Colours are told apart by colour-blind readers: Okabe and Ito's palette
(https://jfly.uni-koeln.de/color/) for single things; for scores a ramp from slate over teal to
gold, rising in lightness, of which neither end vanishes on white or on black. No pyplot.
"""

import io
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib import cm, colors, ticker
from matplotlib.axes import Axes
from matplotlib.backends import backend_agg, backend_svg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.analysis import wording
from pbt import space

BEST = "#d55e00"  # vermilion: the best lineage, in all figures
POPULATION = "#0072b2"  # blue
PRESENT = POPULATION  # as in the paper's trees
INITIAL = "#cc79a7"  # reddish purple, as the paper's pink
OTHERS = "#8c959f"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""For runs side by side, in this order."""
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
"""For more runs than there are colours."""
INK, MUTED, GRID, PAPER, UNKNOWN = "#1f2328", "#59636e", "#e1e5ea", "#ffffff", "#c5ccd4"
_THEME = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    PAPER: "var(--paper)",
    UNKNOWN: "var(--unknown)",
    BEST: "var(--best)",
    POPULATION: "var(--blue)",
    "#000000": "var(--ink)",  # matplotlib's own default
}
"""Colours of a page's theme, light as drawn."""
SCORES = colors.LinearSegmentedColormap.from_list(
    "scores", ["#46508f", "#2b7f95", "#3fa37c", "#9bb64b", "#e3b32c"]
)
DPI = 180
WIDTH = 7.2
"""Inches. At half of it, in a column of a paper, text is 4.5 to 5 points high."""
LAP = 0.0015
"""Part of an axis by which pieces of a level line reach under each other: joints would shine
through in a browser."""
RASTER_FROM = 2_500
"""Marks of one kind from which on they are pixels, also inside an SVG."""


def panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """`count` panels one above the other, each `height` inches, on a shared horizontal axis."""
    figure, rows = grid(count, 1, height)
    return figure, [row[0] for row in rows]


def grid(
    rows: int, columns: int, height: float, share_steps: bool = True
) -> tuple[Figure, list[list[Axes]]]:
    """Panels in rows and columns; a row shares its vertical axis.

    Args:
        rows: How many.
        columns: How many.
        height: Inches of a panel.
        share_steps: Whether the panels of a column share their horizontal axis.
    """
    figure = Figure(figsize=(WIDTH, max(2.8, height * rows + 0.9)), dpi=DPI, layout="constrained")
    made = figure.subplots(
        max(rows, 1),
        columns,
        sharex="col" if share_steps else False,
        sharey="row" if columns > 1 else False,
        squeeze=False,
    )
    for axes in made.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(MUTED)
        axes.grid(visible=True, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=9.5, color=MUTED, labelcolor=INK, which="both")
        axes.xaxis.label.set_color(INK)
        axes.yaxis.label.set_color(INK)
    return figure, [list(row) for row in made]


def title(figure: Figure, text: str) -> None:
    """Above all panels; a page leaves it out, as it has its own."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=11.5, color=INK, parse_math=False)


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Below the panels, where it hides nothing; as many columns as there is room for."""
    characters = max((len(handle.get_label()) for handle in handles), default=0)
    columns = max(1, min(len(handles), int(100 / (characters + 8))))
    drawn = figure.legend(
        handles=list(handles),
        loc="outside lower left",
        ncols=columns,
        frameon=False,
        fontsize=9.5,
        labelcolor=INK,
        handlelength=1.6,
        columnspacing=1.6,
    )
    for text in drawn.get_texts():
        text.set_parse_math(False)


def dashed(label: str) -> Line2D:
    """The legend's entry for the priors that `value_axis` draws."""
    return Line2D([], [], color=OTHERS, ls=(0, (4, 3)), linewidth=0.9, label=label)


def dot(colour: str, label: str, size: float = 4.5) -> Line2D:
    """The legend's entry for single points; `size` in points."""
    return Line2D([], [], color=colour, marker="o", ls="", ms=size, label=label)


def steps_axis(axes: Axes, label: str = "agent steps of the member", bins: int = 8) -> None:
    """A horizontal axis of agent steps, from 0 on."""
    axes.xaxis.set_major_locator(
        ticker.MaxNLocator(nbins=bins, integer=True, steps=[1, 2, 2.5, 5, 10])
    )
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(wording.steps))
    axes.set_xlabel(label)
    axes.margins(x=0.015)


def value_axis(axes: Axes, name: str, hyper: space.Space) -> None:
    """A vertical axis with name, scale and prior of a hyperparameter."""
    dimension: Any = hyper.dimensions[name]
    axes.set_ylabel(name.replace("_", " "), parse_math=False)
    if isinstance(dimension, space.LogUniform) or getattr(dimension, "log", False):
        _log_axis(axes, dimension.high / dimension.low)
    elif isinstance(dimension, space.IntUniform):
        axes.yaxis.set_major_locator(ticker.MaxNLocator(nbins=5, integer=True))
    if isinstance(dimension, space.LogUniform | space.Uniform | space.IntUniform):
        for limit in (dimension.low, dimension.high):
            axes.axhline(limit, color=OTHERS, ls=(0, (4, 3)), linewidth=0.9, zorder=1)


def followed_axis(axes: Axes, name: str, values: Sequence[float]) -> None:
    """The same for values on a schedule: there is no prior, and a cost may be 0."""
    axes.set_ylabel(name.replace("_", " "), parse_math=False)
    low, high = min(values), max(values)
    if low > 0:
        _log_axis(axes, 4 * high / low)
        axes.set_ylim(low / 2, 2 * high)


def _log_axis(axes: Axes, factor: float) -> None:
    """`factor`: from the lowest value to the highest."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if factor < 300 else (1,)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(wording.value))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def score_scale(scores: Sequence[float]) -> Any:
    """Scores to colours; the lowest 2 % share one, or a bad start washes out the rest."""
    low, high = (float(np.quantile(scores, 0.02)), max(scores)) if scores else (0.0, 1.0)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return cm.ScalarMappable(norm=colors.Normalize(low, high, clip=True), cmap=SCORES)


def score_bar(figure: Figure, scale: Any, panels: Sequence[Axes]) -> None:
    """The legend of `score_scale`, beside the panels."""
    bar = figure.colorbar(scale, ax=list(panels), pad=0.02, aspect=35, shrink=0.9)
    bar.set_label("training score", color=INK)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9.5, color=MUTED, labelcolor=INK)


def save(figure: Figure, path: Path) -> None:
    """Write a PNG; a reader sees the old file or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        backend_agg.FigureCanvasAgg(figure).print_png(str(partial))  # type: ignore[no-untyped-call]
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def svg(figure: Figure, key: str) -> str:
    """The figure as an `svg` element to stand inside an HTML page.

    Text stays text, in the page's font; the theme's colours are the page's CSS variables; without
    the title.

    Args:
        figure: Any of the suite's.
        key: Its own in the page: ids are derived from it, so that they meet no other figure's.
    """
    if figure.get_suptitle():
        figure.suptitle("").set_in_layout(False)
    written = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        backend_svg.FigureCanvasSVG(figure).print_svg(written)  # type: ignore[no-untyped-call]
    root = ElementTree.fromstring(written.getvalue())
    for element in list(root.iter()):
        for child in list(element):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                element.remove(child)
    kept = {  # ids that something refers to: clip paths and markers
        found
        for element in root.iter()
        for value in element.attrib.values()
        for found in re.findall(r"^#(\w+)$|url\(#(\w+)\)", value)
        for found in found
    }
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        element.text, element.tail = (element.text or "").strip("\n "), None
        attributes = {name.rpartition("}")[2]: value for name, value in element.attrib.items()}
        if attributes.get("id") not in kept:
            attributes.pop("id", None)
        element.attrib = {name: _compact(name, value) for name, value in attributes.items()}
    root.attrib = {"viewBox": root.attrib["viewBox"]}
    return ElementTree.tostring(root, encoding="unicode")


def themed(colour: str) -> str:
    """A colour as CSS that follows the page's theme."""
    return _THEME.get(colour, colour)


def _compact(name: str, value: str) -> str:
    """An attribute as a page needs it: a hundredth of a point is precise enough."""
    if name == "style":
        value = re.sub(r"font-family: [^;]*;? ?", "", value)
        for colour, variable in _THEME.items():
            value = value.replace(colour, variable)
        return value.replace(": ", ":").replace("; ", ";")
    if name in ("href", "id", "clip-path"):
        return value
    value = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", value)
    return " ".join(value.split())
