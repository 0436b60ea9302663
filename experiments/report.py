"""Report on a run: a page, a summary, figures and tables.

    python -m experiments.report RUN_DIR [--out DIR]
    python -m experiments.report RUN_DIR --serve      # a page that follows the training
    python -m experiments.report results/STUDY

A report can be made at any time, also while the run trains. All its files are made from the store,
so they can be deleted and made again:

    index.html            the whole report on one page, which needs no other file and no network
    summary.md            the text that is printed: best member, protocol, members, decisions
    schedule.csv / .png   hyperparameters that the best member's weights were trained with, through
                          its donors; for a replay, the schedule that it followed
    learning_curves.png   returns of all members and of the best lineage
    hyperparameters.png   values of all members over their agent steps, coloured by score
    family_tree.png       copies between members
    reports.csv           one row per slice of training
    episodes.csv          one row per finished episode
    events.jsonl          one object per decision, with its evidence (`pbt.records.event_record`)

They are written to RUN_DIR/report. The TensorBoard files in RUN_DIR/tensorboard are brought up to
date, or made again if they were deleted. With `--out`, all files go to DIR and DIR/tensorboard, and
nothing in RUN_DIR changes.

With `--serve` the page is shown at http://127.0.0.1:8000/ to browsers on this machine alone, until
the command is stopped. It is drawn anew while the run trains, and no file is written.

Training scores are means of the last counted episodes, by which the population is ranked. The best
of many such means is biased upward, so a result needs fresh episodes:
`python -m experiments.evaluate RUN_DIR`.

A directory with a `study.json` holds a study. Its page, figures and tables are made again from its
CSV files alone.
"""

import contextlib
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import tyro

from experiments import cli
from experiments.analysis import wording
from experiments.pages import live, markup, run_report
from experiments.projections import tensorboard
from experiments.studies import results
from pbt import store as stores

STUDY_FILE = "study.json"
"""Name of the file that marks the directory of a study."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Report on a run: best member, schedule, learning curves, family tree, tables."""

    run_dir: tyro.conf.Positional[Path]
    """Directory of the run, e.g. results/runs/atari-Pong; or of a study's results."""
    out: Path | None = None
    """Directory of the report; default: RUN_DIR/report. With it, nothing in RUN_DIR changes."""
    serve: bool = False
    """Show the page to browsers on this machine, drawn anew while the run trains. Write no file."""
    port: int = 8000
    """Port of the page with --serve; 0 takes a free one."""


@cli.quiet
def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command with the given arguments, or with the process's own."""
    options = cli.read(Arguments, args=arguments)
    if (options.run_dir / STUDY_FILE).exists():
        if options.serve:
            cli.fail(f"--serve: {options.run_dir} is a study, whose page does not change")
        return _rebuild(options)
    try:
        store = stores.Store.open(options.run_dir)
    except (stores.StoreError, OSError) as error:
        cli.fail(error)
    if options.serve:
        store.close()
        return _serve(options)
    base = options.out or options.run_dir
    directory = options.out or options.run_dir / "report"
    event_files = base / "tensorboard"
    with store:
        try:
            text = run_report.write_report(store, directory)
        except stores.StoreError as error:
            cli.fail(error)
        except OSError as error:
            cli.fail(f"the report cannot be written: {error}")
        is_projected = tensorboard.Projector(store, event_files).close()
        keeper = None if is_projected else _keeper(store)
    print(text)
    print(wording.printable(f"Written to {directory}; to look at: {directory / markup.FILE_NAME}"))
    if keeper is not None:
        print(f"The TensorBoard files are kept up to date by a launcher that is running: {keeper}.")


def _keeper(store: stores.Store) -> str | None:
    """Return who holds the lease of the TensorBoard files, in words; None if nobody does."""
    holder = store.holder(tensorboard.LEASE_NAME)
    if holder is None:
        return None
    parts = holder.partition("#")[0].split("/")
    return f"process {parts[-2]} on {parts[0]}" if len(parts) > 3 else holder


def _serve(options: Arguments) -> None:
    """Show the page of a run until the command is stopped."""
    if options.out is not None:
        cli.fail(f"--out {options.out}: with --serve no file is written, leave one of them out")
    try:
        server = live.server(options.run_dir, options.port)
    except (OSError, OverflowError) as error:
        cli.fail(f"--port {options.port} cannot be used ({error}): give another one, or 0")
    with server, contextlib.suppress(KeyboardInterrupt):
        print(
            f"Showing {wording.printable(str(options.run_dir))} at "
            f"http://{live.ADDRESS}:{server.server_port}/ until you stop it with Ctrl-C",
            flush=True,
        )
        server.serve_forever()


def _rebuild(options: Arguments) -> None:
    """Make a study's page, figures and tables again from its CSV files."""
    if options.out is not None:
        cli.fail(
            f"--out {options.out}: a study is rebuilt where it lies; copy {options.run_dir} "
            "and rebuild the copy"
        )
    try:
        results.rebuild(options.run_dir)
    except (ValueError, OSError) as error:
        cli.fail(error)
    print(f"Rebuilt in {options.run_dir}")


if __name__ == "__main__":
    main()
