"""Runs of your own side by side: who is better, how sure that is, and what differs.

    python -m experiments.compare RUN_DIR RUN_DIR ... [--out DIR] [--names NAME ...]

At any time, also while the runs train. Written to DIR (default: results/comparison):

    index.html            all of it on one page, which needs no other file and no network
    learning_curves.png   training scores of the best members and of the populations
    schedules.png         the hyperparameters behind the best members
    scores.csv            one row per run

Runs that differ in nothing but the seed are one group: interquartile mean with a 95 % interval
over seeds. A single run is shown as n = 1. Scores are means of fresh episodes where all runs in a
world have been evaluated: most are when they end, any other is by `python -m experiments.evaluate
RUN_DIR --save`. Only then are groups compared: for every two in the same world the probability of
improvement, and the difference over the seeds that both have. Otherwise the training scores are
shown by which the best members were chosen, and nobody is said to be better. They are biased
upward, and the more so the more there was to choose from.
"""

import csv
import dataclasses
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments import cli
from experiments.analysis import comparison, files, wording
from experiments.pages import comparison_figures, comparison_page, drawing, markup
from pbt import store as stores


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Compare runs."""

    run_dirs: tyro.conf.Positional[tuple[Path, ...]]
    """Directories of two or more runs."""
    out: Path = Path("results/comparison")
    """Where to write; what is there of the same name is replaced."""
    names: tuple[str, ...] = ()
    """One per run, in their order, instead of the directories' names. Runs with the same settings
    may share one."""


def write(compared: Sequence[comparison.Group], directory: Path) -> None:
    """Write all files of a comparison.

    Raises:
        OSError: something could not be written.
    """
    directory.mkdir(parents=True, exist_ok=True)
    drawn = {"learning_curves.png": comparison_figures.learning_curves(compared)}
    schedules = comparison_figures.schedules(compared)
    if schedules is not None:
        drawn["schedules.png"] = schedules
    for name, figure in drawn.items():
        drawing.save(figure, directory / name)
    files.replace(directory / "scores.csv", scores_csv(compared))
    files.replace(directory / markup.FILE_NAME, comparison_page.page(compared, drawn))


def scores_csv(compared: Sequence[comparison.Group]) -> str:
    """One row per run; `score` is of fresh episodes and empty where none were played."""
    text = io.StringIO()
    columns = "group,run,directory,world,seed,finished,score,low,high,episodes,training_score"
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns.split(","))
    for group in compared:
        for run in group.runs:
            fresh, training = run.fresh, run.training
            low, high = (None, None) if fresh is None else fresh.interval or (None, None)
            writer.writerow(
                [
                    group.name,
                    run.name,
                    run.run_dir,
                    " ".join(group.world),
                    run.seed,
                    int(run.is_finished),
                    None if fresh is None else fresh.mean,
                    low,
                    high,
                    None if fresh is None else fresh.episodes,
                    None if training is None else training.mean,
                ]
            )
    return text.getvalue()


def text(compared: Sequence[comparison.Group]) -> str:
    """What is printed: warnings, groups and pairs."""
    lines = [f"note: {warning}" for warning in comparison_page.warnings(compared)]
    for one in comparison.group_scores(compared):
        interval = "" if one.count == 1 else f" (95 % interval {wording.interval(one.interval)})"
        lines.append(
            f"{one.group.name}: {wording.score(one.iqm)}{interval}, n = {one.count}, "
            f"{comparison_page.KINDS[one.kind]}"
        )
    found = comparison.pairs(compared)
    if not found and len(compared) > 1:
        lines.append(comparison_page.why_no_pairs(compared))
    for pair in found:
        lines.append(
            f"P({pair.first.name} > {pair.second.name}) = {pair.probability:.2f} "
            f"(95 % interval {wording.interval(pair.interval)}), fresh episodes, "
            f"n = {len(pair.first.counted)} and {len(pair.second.counted)}"
        )
    return "\n".join(lines)


@cli.quiet
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = tyro.cli(
        Arguments, args=arguments, prog="python -m experiments.compare", description=__doc__
    )
    try:
        _check_out(options.out)
        compared = comparison.groups(comparison.read(options.run_dirs, options.names))
    except (ValueError, stores.StoreError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    try:
        write(compared, options.out)
    except OSError as error:
        print(f"error: the comparison cannot be written: {error}", file=sys.stderr)
        return 2
    print(text(compared))
    print(f"Written to {options.out}; to look at: {options.out / markup.FILE_NAME}")
    return 0


def _check_out(out: Path) -> None:
    """Refuse a place where something else lies."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"--out {out} is a file: name a directory")
    if (out / stores.FILE_NAME).exists():
        raise ValueError(f"--out {out} is a run: name another directory")


if __name__ == "__main__":
    sys.exit(main())
