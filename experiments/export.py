"""Write what a run did as tables or for a tracker, or its best policy for use without this suite.

    python -m experiments.export RUN_DIR                  # CSV files in RUN_DIR/export
    python -m experiments.export RUN_DIR --to parquet     # needs the extra "parquet"
    python -m experiments.export RUN_DIR --out tables
    python -m experiments.export RUN_DIR --to torch       # the policy, in RUN_DIR/export/policy
    python -m experiments.export RUN_DIR --to mlflow      # needs the extra "mlflow"
    python -m experiments.export RUN_DIR --to wandb       # needs the extra "wandb"

There are five tables, one file each: members, versions, reports (one row per slice of training),
episodes, and events (decisions, with their evidence). docs/run-directory.md describes every
column. A run can be exported at any time, also while it trains.

The policy is that of the best member. It is exported as `torch.export` writes it, with its state
dict and a file that acts with it. These files need PyTorch and NumPy alone:
`import policy; policy.load(".").act(observation, reward)`. For an environment of Gymnasium,
`environment.py` has the wrapper that gives it the spaces of the policy.

A tracker gets a run per member, with schedules and returns over the member's own steps. MLflow's
store in RUN_DIR/export/mlflow has them nested in a run of the population, and may hold other runs
with `--out`. The offline runs of Weights & Biases are in RUN_DIR/export/wandb. Nothing is sent, and
a second export doubles nothing.
"""

import contextlib
import dataclasses
import hashlib
import importlib
import itertools
import json
import shlex
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import tyro

from experiments import cli
from experiments.analysis import files, history, tables, wording
from experiments.members import evaluation, portable
from experiments.projections import to_mlflow, to_wandb
from pbt import checkpoint, store

FORMATS = ("csv", "parquet")
"""Formats of tables."""
POLICY = "torch"
"""Format of a policy."""
TRACKERS = ("mlflow", "wandb")
"""Formats of trackers."""
NEEDED = {"parquet": ("pyarrow",), "mlflow": ("mlflow", "alembic"), "wandb": ("wandb",)}
"""Packages that a format needs, which are extras of its name."""
BATCH = 50_000
"""Rows that are in memory at a time as columns of a Parquet file."""


@dataclasses.dataclass(frozen=True)
class Arguments:
    """Write what a run did as tables or for a tracker, or its best policy."""

    run_dir: tyro.conf.Positional[Path]
    """Directory of the run, e.g. results/runs/atari-Pong."""
    to: str = "csv"
    """Format of the files: csv or parquet for tables, mlflow or wandb for a tracker, torch for a
    policy."""
    out: Path | None = None
    """Directory for the files; by default RUN_DIR/export, and export/policy, export/mlflow or
    export/wandb below RUN_DIR for other things than tables."""
    member: int | None = None
    """Number of the member whose policy is exported; default: the best one."""
    trust: bool = False
    """Export a policy though its environment is of other code than the suite's and Gymnasium's:
    that code is executed."""

    def check(self) -> None:
        """Raise `ValueError`, one line, for a format that cannot be written."""
        if self.to not in (known := (*FORMATS, *TRACKERS, POLICY)):
            raise ValueError(f"--to {self.to}: choose from {', '.join(known)}")
        if self.to != POLICY and self.member is not None:
            raise ValueError(
                f"--member {self.member}: all members are exported; leave it out, or export a "
                f"policy with --to {POLICY}"
            )
        for package in NEEDED.get(self.to, ()):
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise ValueError(
                    f"--to {self.to} needs {package}: "
                    f"pip install -c constraints.txt -e '.[{self.to}]', or use --to csv"
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
            run_dir = run_store.path.parent
            out = arguments.out or run_dir / "export"
            if arguments.out is None and arguments.to in TRACKERS:
                out /= arguments.to
            _check_out(out)
            read = history.History.read(run_store, run_dir.resolve().name)
            # Letters and digits alone, for ids of trackers.
            identity = hashlib.sha256(json.dumps(run_store.identity()).encode()).hexdigest()[:12]
        if arguments.to in TRACKERS:
            return export_to_tracker(arguments.to, read, run_dir, identity, out)
        out.mkdir(parents=True, exist_ok=True)
        counts = write(read, out, arguments.to)
    except (ValueError, store.StoreError, checkpoint.CheckpointError, OSError) as error:
        cli.fail(" ".join(str(error).split()))
    if read.damage is not None:
        print(f"note: {read.damage}", file=sys.stderr)
    for path, count in counts.items():
        print(f"{path}: {wording.counted(count, 'row')}")


def export_to_tracker(
    tracker: str, read: history.History, run_dir: Path, identity: str, out: Path
) -> None:
    """Write a run for a tracker, and print what was added and how to look at it.

    Args:
        tracker: One of `TRACKERS`.
        read: The run.
        run_dir: Its directory.
        identity: What tells the run from all others.
        out: Directory of the tracker's files. Made if it is missing.

    Raises:
        OSError: A file cannot be written.
        ValueError: The tracker refused something.
    """
    if tracker == "mlflow":
        counts = to_mlflow.export(read, run_dir, identity, out)
        store_file = f"sqlite:///{out.resolve() / to_mlflow.STORE_NAME}"
        way = f"mlflow ui --backend-store-uri {shlex.quote(store_file)}"
    else:
        counts = to_wandb.export(read, run_dir, identity, out)
        way = f"wandb sync {shlex.quote(str(out))}/offline-run-*-{identity}-*"
    for name, count in counts.items():
        print(f"{name}: {wording.counted(count, 'new value')}")
    print(f"to look at: {way}")


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
