"""Write what a run did as tables, for pandas or a spreadsheet.

    python -m experiments.export RUN_DIR                  # CSV files in RUN_DIR/export
    python -m experiments.export RUN_DIR --to parquet     # needs the extra "parquet"
    python -m experiments.export RUN_DIR --out tables

There are five tables, one file each: members, versions, reports (one row per slice of training),
episodes, and events (decisions, with their evidence). docs/run-directory.md describes every
column. A run can be exported at any time, also while it trains.
"""

import contextlib
import dataclasses
import itertools
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import tyro

from experiments import cli
from experiments.analysis import files, history, tables, wording
from pbt import store

FORMATS = ("csv", "parquet")
BATCH = 50_000
"""Rows that are in memory at a time as columns of a Parquet file."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Write what a run did as tables."""

    run_dir: tyro.conf.Positional[Path]
    """Directory of the run, e.g. results/runs/atari-Pong."""
    to: str = "csv"
    """Format of the files: csv or parquet."""
    out: Path | None = None
    """Directory for the files; RUN_DIR/export by default."""

    def check(self) -> None:
        """Raise `ValueError`, one line, for a format that cannot be written."""
        if self.to not in FORMATS:
            raise ValueError(f"--to {self.to}: choose from {', '.join(FORMATS)}")
        if self.to == "parquet":
            try:
                import pyarrow  # noqa: F401 - an extra
            except ImportError as error:
                raise ValueError(
                    "--to parquet needs pyarrow: pip install 'population-based-training[parquet]', "
                    "or use --to csv"
                ) from error


@cli.quiet
def main() -> None:
    """Parse the command line, write the tables, print how many rows each has."""
    arguments = cli.read(Arguments, __doc__)
    try:
        arguments.check()
        with store.Store.open(arguments.run_dir) as run_store:
            out = arguments.out or run_store.path.parent / "export"
            _check_out(out)
            read = history.History.read(run_store, run_store.path.parent.name)
        out.mkdir(parents=True, exist_ok=True)
        counts = write(read, out, arguments.to)
    except (ValueError, store.StoreError, OSError) as error:
        cli.fail(" ".join(str(error).split()))
    if read.damage is not None:
        print(f"note: {read.damage}", file=sys.stderr)
    for path, count in counts.items():
        print(f"{path}: {wording.counted(count, 'row')}")


def write(read: history.History, directory: Path, form: str) -> dict[Path, int]:
    """Write the tables of a run, all of them or none.

    Args:
        read: The run.
        directory: Existing directory. Files of an earlier export are replaced.
        form: "csv" or "parquet".

    Returns:
        Number of rows by file.

    Raises:
        OSError: A file cannot be written. Files of an earlier export are as they were.
    """
    counts = {}
    with contextlib.ExitStack() as all_written:
        for table in tables.all_tables(read):
            path = directory / f"{table.name}.{form}"
            partial = all_written.enter_context(files.aside(path))
            if form == "csv":
                with partial.open(
                    "w", encoding="utf-8", errors="backslashreplace", newline=""
                ) as file:
                    counts[path] = tables.write_csv(table, file)
            else:
                counts[path] = _write_parquet(table, partial)
    return counts


def _write_parquet(table: tables.Table, path: Path) -> int:
    import pyarrow
    from pyarrow import parquet

    types = {
        int: pyarrow.int64(),
        float: pyarrow.float64(),
        bool: pyarrow.bool_(),
        str: pyarrow.string(),
    }
    # Stated, not inferred: a table without rows has its columns too.
    schema = pyarrow.schema([(name, types[kind]) for name, kind in table.columns.items()])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        for rows in _batches(table):
            columns = [
                pyarrow.array(values, kind)
                for values, kind in zip(zip(*rows, strict=True), schema.types, strict=True)
            ]
            writer.write_batch(pyarrow.record_batch(columns, schema=schema))
            count += len(rows)
    return count


def _batches(table: tables.Table) -> Iterator[list[Sequence[tables.Value]]]:
    rows = iter(table.rows)
    while batch := list(itertools.islice(rows, BATCH)):
        yield batch


def _check_out(out: Path) -> None:
    """Refuse a place where something else lies."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file: name a directory with --out")
    if store.find(out) is not None:
        raise ValueError(f"--out {out} is a run: name another directory")


if __name__ == "__main__":
    main()
