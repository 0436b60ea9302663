"""The look of all figures, and their two output forms: PNG files, and SVG inside a page.

Colour-blind readers can tell the colours apart. Single things have Okabe and Ito's palette
(https://jfly.uni-koeln.de/color/). Scores have a ramp from slate over teal to gold, which rises in
lightness and stays visible on white and on black. Nothing here uses pyplot.
"""

import io
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib import artist as artists
from matplotlib import cm, collections, colors, ticker
from matplotlib.axes import Axes
from matplotlib.backends import backend_agg, backend_svg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text

from experiments.analysis import wording
from pbt import space

BEST = "#d55e00"  # vermilion: the best lineage, in all figures
POPULATION = "#0072b2"  # blue
PRESENT = POPULATION  # blue, as in the paper's trees
INITIAL = "#cc79a7"  # reddish purple for the pink of the paper's trees
OTHERS = "#8c959f"
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Colours of runs side by side, in this order."""
DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
"""Line styles, for more runs than there are colours."""
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
"""Colours that follow a page's light or dark theme, by the colour that is drawn."""
SCORES = colors.LinearSegmentedColormap.from_list(
    "scores", ["#46508f", "#2b7f95", "#3fa37c", "#9bb64b", "#e3b32c"]
)
DPI = 180
WIDTH = 7.2
"""Width of a figure in inches. At half of it, in a column of a paper, text is 4.5 to 5 points
high."""
LAP = 0.0015
"""Overlap of adjacent line segments, as a fraction of the axis; hides the hairline gaps that
browsers draw."""
_MARK = "mark:"
"""Beginning of a group id that carries the marks of `mark`."""
RASTER_FROM = 2_500
"""Number of marks of one kind above which they are drawn as pixels, also inside an SVG."""


def panels(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Make `count` panels, one above the other, `height` inches each, on one horizontal axis."""
    figure, rows = grid(count, 1, height)
    return figure, [row[0] for row in rows]


def grid(
    rows: int, columns: int, height: float, share_steps: bool = True
) -> tuple[Figure, list[list[Axes]]]:
    """Make panels in rows and columns. The panels of a row share their vertical axis.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        height: Height of a panel in inches.
        share_steps: Whether the panels of a column share their horizontal axis.

    Returns:
        The figure, and its panels by row.
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
    """Write a title above all panels. `svg` removes it, as a page has titles of its own."""
    figure.suptitle(text, x=0.01, ha="left", fontsize=11.5, color=INK, parse_math=False)


def legend(figure: Figure, handles: Sequence[Any]) -> None:
    """Draw the legend below the panels, in as many columns as there is room for."""
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
    """Return the legend's entry for the priors that `value_axis` draws."""
    return Line2D([], [], color=OTHERS, ls=(0, (4, 3)), linewidth=0.9, label=label)


def line(colour: str, label: str, width: float = 1.8, alpha: float = 1.0) -> Line2D:
    """Return the legend's entry for lines of a `width` in points."""
    return Line2D([], [], color=colour, linewidth=width, alpha=alpha, label=label)


def dot(colour: str, label: str, size: float = 4.5, marker: str = "o") -> Line2D:
    """Return the legend's entry for single points of a `size` in points."""
    return Line2D([], [], color=colour, marker=marker, ls="", ms=size, label=label)


def present(is_dead: bool) -> tuple[str, str]:
    """Return colour and marker of a present member: a cross if it diverged, failed or was lost."""
    return (INK, "x") if is_dead else (PRESENT, "o")


def member_ends(any_dead: bool) -> list[Line2D]:
    """Return the legend's entries for initial draws, present members and, if any, dead ones."""
    handles = [dot(INITIAL, "initial draw"), dot(PRESENT, "present member")]
    return [*handles, dot(INK, "diverged, failed or lost", 5, "x")] if any_dead else handles


def steps_axis(axes: Axes, label: str, bins: int = 8) -> None:
    """Make the horizontal axis one of steps, with at most `bins` intervals."""
    axes.xaxis.set_major_locator(
        ticker.MaxNLocator(nbins=bins, integer=True, steps=[1, 2, 2.5, 5, 10])
    )
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(wording.steps))
    axes.set_xlabel(label)
    axes.margins(x=0.015)


def value_axis(axes: Axes, name: str, hyper: space.Space) -> None:
    """Give the vertical axis the name, the scale and the prior of a hyperparameter."""
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
    """Like `value_axis`, for `values` of a schedule: there is no prior, and a cost may be 0."""
    axes.set_ylabel(name.replace("_", " "), parse_math=False)
    low, high = min(values), max(values)
    if low > 0:
        _log_axis(axes, 4 * high / low)
        axes.set_ylim(low / 2, 2 * high)


def _log_axis(axes: Axes, factor: float) -> None:
    """Make the vertical axis logarithmic; the highest value is `factor` times the lowest."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5) if factor < 300 else (1,)))
    axes.yaxis.set_major_formatter(ticker.FuncFormatter(wording.value))
    axes.yaxis.set_minor_formatter(ticker.NullFormatter())


def score_scale(scores: Sequence[float]) -> Any:
    """Map scores to colours. The lowest 2 % share one, or a bad start would wash out the rest.

    Returns:
        The scale, or None without scores.
    """
    if not scores:
        return None
    low, high = float(np.quantile(scores, 0.02)), max(scores)
    if low == high:
        low, high = low - 0.5, high + 0.5
    return cm.ScalarMappable(norm=colors.Normalize(low, high, clip=True), cmap=SCORES)


def score_bar(figure: Figure, scale: Any, panels: Sequence[Axes], name: str) -> None:
    """Draw the legend of `score_scale` beside the panels, unless no slice has a score.

    Args:
        figure: The figure.
        scale: The colours.
        panels: The panels.
        name: What the score is called.
    """
    if scale is None:
        return
    bar = figure.colorbar(scale, ax=list(panels), pad=0.02, aspect=35, shrink=0.9)
    bar.set_label(name, color=INK, parse_math=False)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=9.5, color=MUTED, labelcolor=INK)


def slices(
    axes: Axes,
    lines: Sequence[tuple[tuple[float, float], tuple[float, float]]],
    scores: Sequence[float | None],
    scale: Any,
    width: float,
    marks: Sequence[tuple[int, str]],
) -> None:
    """Draw slices of training, coloured by training score.

    Args:
        axes: The panel.
        lines: Both ends of the line of each slice.
        scores: Score of each slice. None is drawn grey.
        scale: The colours, from `score_scale`. None if no slice has a score.
        width: Width of the lines in points.
        marks: The member of each slice, and what else is said of it beside its score.
    """
    drawn = collections.LineCollection(
        lines,
        colors=[UNKNOWN if score is None else scale.to_rgba(score) for score in scores],
        linewidths=width,
        capstyle="butt",
        zorder=3,
        rasterized=len(lines) > RASTER_FROM,
    )
    if not drawn.get_rasterized():
        earned = ["no score" if one is None else f"score {wording.score(one)}" for one in scores]
        pairs = zip(marks, earned, strict=True)
        mark(drawn, *((member, f"{said}, {score}") for (member, said), score in pairs))
    axes.add_collection(drawn)


def mark(drawn: artists.Artist, *marks: tuple[int | None, str]) -> None:
    """Say whose a drawing is, for the page's script: it tells values, and picks out a member.

    Args:
        drawn: A line or text with one mark, or a collection of lines with one for each.
        marks: The member, and what is said of it where the mouse is. Without words, the script
            reads the value off the axes. For a line of several members None, and its name.
    """
    drawn.set_gid(_MARK + json.dumps(marks))


def save(figure: Figure, path: Path) -> None:
    """Write a PNG. A reader sees the old file or the new one, never a part."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    _make_printable(figure)
    try:
        backend_agg.FigureCanvasAgg(figure).print_png(str(partial))  # type: ignore[no-untyped-call]
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def svg(figure: Figure, key: str) -> str:
    """Return a figure as an `svg` element for an HTML page.

    Text stays text, in the page's font. The theme's colours become the page's CSS variables, and
    the background is the page's own.

    Args:
        figure: The figure. Its title and background are removed.
        key: A name that is unique in the page. The element's ids are derived from it, so that they
            differ from those of other figures.
    """
    if figure.get_suptitle():
        figure.suptitle("").set_in_layout(False)
    for patch in (figure.patch, *(axes.patch for axes in figure.axes)):
        patch.set_visible(False)
    _make_printable(figure)
    written = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": key}):
        backend_svg.FigureCanvasSVG(figure).print_svg(written)  # type: ignore[no-untyped-call]
    root = ElementTree.fromstring(written.getvalue())
    _apply_marks(root, figure)
    for element in list(root.iter()):
        for child in list(element):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                element.remove(child)
    kept = {  # ids of clip paths and markers, which other elements refer to
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


def _apply_marks(root: ElementTree.Element, figure: Figure) -> None:
    """Turn the marks of `mark` into `data-` attributes, and add the scales of the axes."""
    width, height = map(float, root.attrib["viewBox"].split()[2:])
    panels = {f"axes_{number}": axes for number, axes in enumerate(figure.axes, start=1)}
    for element in root.iter():
        id_ = element.attrib.get("id", "")
        if id_.startswith(_MARK):
            del element.attrib["id"]
            marks = json.loads(id_.removeprefix(_MARK))
            paths = [child for child in element if child.tag.endswith("}path")]
            # A collection that is drawn as pixels has no paths.
            owners = [element] if len(marks) == 1 else paths
            for owner, (member, said) in zip(owners, marks, strict=False):
                owner.attrib["data-member"] = "" if member is None else str(member)
                if said:
                    owner.attrib["data-says"] = said
        elif (axes := panels.get(id_)) is not None:
            place = axes.get_position()
            ends = (place.x0 * width, place.x1 * width)
            heights = ((1 - place.y0) * height, (1 - place.y1) * height)
            numbers = (*ends, *heights, *axes.get_xlim(), *axes.get_ylim())
            element.attrib["data-axes"] = " ".join(f"{number:.6g}" for number in numbers)
            element.attrib["data-scale"] = axes.get_yscale()
            element.attrib["data-what"] = axes.get_ylabel()


def _make_printable(figure: Figure) -> None:
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        text.set_text(wording.printable(text.get_text()))


def themed(colour: str) -> str:
    """Return a colour as CSS that follows the page's theme."""
    return _THEME.get(colour, colour)


def _compact(name: str, value: str) -> str:
    """Return the value of an attribute, shortened: a hundredth of a point is precise enough."""
    if name == "style":
        value = re.sub(r"font-family: [^;]*;? ?", "", value)
        for colour, variable in _THEME.items():
            value = value.replace(colour, variable)
        return value.replace(": ", ":").replace("; ", ";")
    if name in ("href", "id", "clip-path") or name.startswith("data-"):
        return value
    value = re.sub(r"-?\d+\.\d{3,}", lambda found: f"{float(found[0]):.2f}", value)
    return " ".join(value.split())
