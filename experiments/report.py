"""What came out of a run, for people: a page to show, a summary, figures, tables.

    python -m experiments.report RUN_DIR [--out DIR]
    python -m experiments.report results/STUDY

At any time, also while the run trains. Everything is made from the store and can be deleted:

    index.html            all of it on one page, which needs no other file and no network
    summary.md            what is printed: best member, protocol, members, decisions
    schedule.csv / .png   the hyperparameters behind the best member's weights, through its donors;
                          of a replay, the schedule that it followed
    learning_curves.png   returns of all members and of the best lineage
    hyperparameters.png   all members' values over their steps, coloured by score
    family_tree.png       who descends from whom
    reports.csv           one row per slice of training
    episodes.csv          one row per finished episode
    events.jsonl          one object per decision, with its evidence (`pbt.records.event_record`)

They lie in RUN_DIR/report. The TensorBoard files in RUN_DIR/tensorboard are brought up to date,
made again if they were deleted, and the run `best-lineage` is added. With `--out` all that goes
to DIR (and DIR/tensorboard), and nothing in RUN_DIR changes.

The scores here are training scores: means of the last counted episodes, by which the population
is ranked. The best of many such means is biased upward. A result comes from fresh episodes:
`python -m experiments.evaluate RUN_DIR`.

A folder with a `study.json` is a study's: its page, figures and tables are made again from its
CSV files alone.
"""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments import cli
from experiments.pages import markup, run_report
from experiments.projections import tensorboard
from experiments.studies import results
from pbt import store as stores

STUDY_FILE = "study.json"
"""What says that a folder is a study's."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Summarise a run: best member, schedule, learning curves, family tree, tables."""

    run_dir: tyro.conf.Positional[Path]
    """Directory of the run, e.g. results/runs/atari-Pong; or of a study's results."""
    out: Path | None = None
    """Where to write instead of RUN_DIR/report; nothing in RUN_DIR changes then."""


@cli.quiet
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = tyro.cli(Arguments, args=arguments, prog="python -m experiments.report")
    if (options.run_dir / STUDY_FILE).exists():
        return _rebuild(options)
    try:
        store = stores.Store.open(options.run_dir)
    except (stores.StoreError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    base = options.out or options.run_dir
    directory = options.out or options.run_dir / "report"
    event_files = base / "tensorboard"
    with store:
        try:
            text = run_report.write_report(store, directory, event_files)
        except OSError as error:
            print(f"error: the report cannot be written: {error}", file=sys.stderr)
            return 2
        with tensorboard.Projector(store, event_files) as projector:
            is_projected = projector.update()
    print(text)
    print(f"Written to {directory}; to look at: {directory / markup.FILE_NAME}")
    if not is_projected:
        print("The TensorBoard files are kept up to date by a launcher that is running.")
    return 0


def _rebuild(options: Arguments) -> int:
    """A study's results again, from its tables."""
    if options.out is not None:
        print(
            f"error: --out {options.out}: a study is rebuilt where it lies; copy {options.run_dir} "
            "and rebuild the copy",
            file=sys.stderr,
        )
        return 2
    try:
        results.rebuild(options.run_dir)
    except (ValueError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(f"Rebuilt in {options.run_dir}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
