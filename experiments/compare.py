"""Set runs of your own side by side: scores, training, schedules, and what differs.

    python -m experiments.compare RUN_DIR RUN_DIR ... [--out DIR] [--names NAME ...]

The runs may still be training. Written to DIR (default: results/comparison):

    index.html       all of it on one page, which needs no other file and no network
    scores.png       scores of all runs
    curves.png       training scores of the best and the median members
    schedules.png    the hyperparameters behind the best members, if any adapt
    scores.csv, curves.csv, schedules.csv    the numbers of all runs

Runs that differ in nothing but the seed are one group. The first group is compared with every other
group in the same environment. That takes fresh episodes of all their runs, and two seeds of each
group: runs of this suite play fresh episodes when they end, and `python -m experiments.evaluate
RUN_DIR --save` plays them for any other run. Without them the training scores are shown, by which
the best members were chosen. These are biased upward, and no group is said to be better.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments import cli
from experiments.analysis import arms, comparison, files
from experiments.pages import comparison_page, drawing, markup
from experiments.studies import tables
from pbt import store as stores


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare runs."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of two or more runs."""
    out: Path = Path("results/comparison")
    """Where to write. Files of the same names are replaced."""
    names: tuple[str, ...] = ()
    """One name per run, in their order, instead of the directories' names. Runs with the same
    settings may share one."""


def write(compared: Sequence[comparison.Group], directory: Path) -> arms.Tables:
    """Write all files of a comparison.

    Returns:
        The tables that they were made from.

    Raises:
        OSError: A file cannot be written.
    """
    made = comparison.tables(compared)
    drawn = comparison_page.figures(made, comparison_page.title(compared))
    directory.mkdir(parents=True, exist_ok=True)
    tables.write(directory, made)
    for name, figure in drawn.items():
        drawing.save(figure, directory / name)
    files.replace(directory / markup.FILE_NAME, comparison_page.page(compared, made, drawn))
    return made


def text(made: arms.Tables) -> str:
    """Return warnings and scores as Markdown."""
    lines = [f"note: {warning}" for warning in comparison_page.warnings(made)]
    for panel in made.panels:
        lines += ["", *([f"## {panel}", ""] if panel else []), *arms.markdown(made, panel)]
    return "\n".join([*lines, ""])


@cli.quiet
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = cli.read(Arguments, __doc__, arguments)
    try:
        _check_out(options.out)
        compared = comparison.groups(comparison.read(options.run_dirs, options.names))
    except (ValueError, stores.StoreError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    try:
        made = write(compared, options.out)
    except OSError as error:
        print(f"error: the comparison cannot be written: {error}", file=sys.stderr)
        return 2
    print(text(made))
    print(f"Written to {options.out}; to look at: {options.out / markup.FILE_NAME}")
    return 0


def _check_out(out: Path) -> None:
    """Refuse a place where something else lies."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: name a directory")
    for is_there, what in (
        (stores.find(out) is not None, "run"),
        ((out / tables.STUDY).exists(), "study"),
    ):
        if is_there:
            raise ValueError(f"--out {out} is a {what}: name another directory")


if __name__ == "__main__":
    sys.exit(main())
