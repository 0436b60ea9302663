"""Write what a run did as tables, or its best policy for use without this suite.

    python -m experiments.export RUN_DIR                  # CSV files in RUN_DIR/export
    python -m experiments.export RUN_DIR --to parquet     # needs the extra "parquet"
    python -m experiments.export RUN_DIR --out tables
    python -m experiments.export RUN_DIR --to torch       # the policy, in RUN_DIR/export/policy

There are five tables, one file each: members, versions, reports (one row per slice of training),
episodes, and events (decisions, with their evidence). docs/run-directory.md describes every
column. A run can be exported at any time, also while it trains.

The policy is that of the best member. It is exported as `torch.export` writes it, with its state
dict and a file that acts with it. These files need PyTorch and NumPy alone:
`import policy; policy.load(".").act(observation, reward)`.
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
from experiments.members import evaluation, portable
from pbt import checkpoint, store

FORMATS = ("csv", "parquet")
"""Formats of tables."""
POLICY = "torch"
"""Format of a policy."""
BATCH = 50_000
"""Rows that are in memory at a time as columns of a Parquet file."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Write what a run did as tables, or its best policy for use without this suite."""

    run_dir: tyro.conf.Positional[Path]
    """Directory of the run, e.g. results/runs/atari-Pong."""
    to: str = "csv"
    """Format of the files: csv or parquet for tables, torch for a policy."""
    out: Path | None = None
    """Directory for the files; by default RUN_DIR/export, or RUN_DIR/export/policy for a policy."""
    member: int | None = None
    """Number of the member whose policy is exported; default: the best one."""
    trust: bool = False
    """Export a policy though its environment is of other code than the suite's and Gymnasium's:
    that code is executed."""

    def check(self) -> None:
        """Raise `ValueError`, one line, for a format that cannot be written."""
        if self.to not in (*FORMATS, POLICY):
            raise ValueError(f"--to {self.to}: choose from {', '.join((*FORMATS, POLICY))}")
        if self.to != POLICY and self.member is not None:
            raise ValueError(
                f"--member {self.member}: tables have all members; leave it out, or export a "
                f"policy with --to {POLICY}"
            )
        if self.to == "parquet":
            try:
                import pyarrow  # noqa: F401 - an extra
            except ImportError as error:
                raise ValueError(
                    "--to parquet needs pyarrow: pip install -c constraints.txt -e '.[parquet]', "
                    "or use --to csv"
                ) from error


@cli.quiet
def main() -> None:
    """Parse the command line, write the files, print their names and the rows of each table."""
    arguments = cli.read(Arguments, __doc__)
    try:
        arguments.check()
        if arguments.to == POLICY:
            return export_policy(arguments)
        with store.Store.open(arguments.run_dir) as run_store:
            out = arguments.out or run_store.path.parent / "export"
            _check_out(out)
            read = history.History.read(run_store, run_store.path.parent.name)
        out.mkdir(parents=True, exist_ok=True)
        counts = write(read, out, arguments.to)
    except (ValueError, store.StoreError, checkpoint.CheckpointError, OSError) as error:
        cli.fail(" ".join(str(error).split()))
    if read.damage is not None:
        print(f"note: {read.damage}", file=sys.stderr)
    for path, count in counts.items():
        print(f"{path}: {wording.counted(count, 'row')}")


def export_policy(arguments: Arguments) -> None:
    """Write the policy of a member, and print the names of its files.

    Raises:
        ValueError: The run's members are no agents of the suite, or its environment is foreign
            code; or there is no such member or checkpoint.
        pbt.store.StoreError: There is no run, or it cannot be read.
        pbt.checkpoint.CheckpointError: The checkpoint is damaged.
        OSError: A file cannot be written.
    """
    run_dir = arguments.run_dir
    with store.Store.open(run_dir) as run_store:
        out = arguments.out or run_dir / "export" / "policy"
        _check_out(out)
        member, agent, config = evaluation.load_agent(
            run_store, run_dir, arguments.member, trust=arguments.trust, seed=0
        )
        score = run_store.version(member.id, member.version).score
    origin = {
        "run": run_dir.resolve().name,
        "member": member.id,
        "version": member.version,
        "agent_steps": member.agent_steps,
        "training_score": score,
        "agent": config.agent,
    }
    portable.describe(agent, config)  # raises before anything is written
    out.mkdir(parents=True, exist_ok=True)
    for path in portable.write(agent, config, origin, out):
        print(path)


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
