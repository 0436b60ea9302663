"""The stores under a soak, each read and disturbed with its database's own driver.

Both have the `url` that a run is created with, `faults` of their own with weights, the `rows` of a
table, and `lock` and `watch`, which do what an administrator's session might do for a while.
"""

import json
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path

import psycopg
import psycopg.rows

import postgres_server


class SQLite:
    """A file in each run's directory."""

    url = None
    faults: Mapping[str, int] = {}

    def rows(self, run_dir: Path, table: str) -> list[dict]:
        # For writing: the next to open a database after a kill rolls its last transaction back.
        connection = sqlite3.connect(run_dir / "run.sqlite3", timeout=60)
        connection.row_factory = sqlite3.Row
        try:
            return [dict(row) for row in connection.execute(f"SELECT * FROM {table} ORDER BY id")]
        finally:
            connection.close()

    def lock(self, run_dir: Path, seconds: float) -> bool:
        """Keep everybody out for a while; return whether it could be done."""
        return self._hold(run_dir, "BEGIN EXCLUSIVE", seconds)

    def watch(self, run_dir: Path, seconds: float) -> bool:
        """Read for a while."""
        return self._hold(run_dir, "SELECT * FROM version", seconds)

    def _hold(self, run_dir: Path, statement: str, seconds: float) -> bool:
        connection = sqlite3.connect(run_dir / "run.sqlite3", timeout=30, isolation_level=None)
        try:
            cursor = connection.execute(statement)
            cursor.fetchone()  # a reader that has not read all rows keeps its lock
            time.sleep(seconds)
            cursor.close()
        except sqlite3.OperationalError:
            return False
        finally:
            connection.close()
        return True

    def close(self) -> None:
        pass


class PostgreSQL:
    """A server of the soak's own, with a schema for each run."""

    faults: Mapping[str, int] = {"crash the database server": 2, "restart the database server": 2}

    def __init__(self) -> None:
        self._server = postgres_server.Server()
        self.url = self._server.url

    def rows(self, run_dir: Path, table: str) -> list[dict]:
        with self._connect(run_dir) as connection:
            return connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall()

    def lock(self, run_dir: Path, seconds: float) -> bool:
        """Keep everybody out for a while; return whether it could be done."""
        return self._hold(run_dir, "LOCK TABLE member IN ACCESS EXCLUSIVE MODE", seconds)

    def watch(self, run_dir: Path, seconds: float) -> bool:
        """Read for a while, in a transaction that stays open."""
        return self._hold(run_dir, "SELECT count(*) FROM version", seconds)

    def away(self, mode: str, seconds: float) -> None:
        """Stop the server, "immediate" as in a crash or "fast", and start it after a while."""
        self._server.stop(mode)
        time.sleep(seconds)
        self._server.start()

    def _connect(self, run_dir: Path) -> psycopg.Connection:
        schema = json.loads((run_dir / "run.postgresql").read_text())["schema"]
        return psycopg.connect(
            self.url,
            row_factory=psycopg.rows.dict_row,
            options=f"-c search_path={schema} -c lock_timeout=30s",
        )

    def _hold(self, run_dir: Path, statement: str, seconds: float) -> bool:
        with self._connect(run_dir) as connection:
            try:
                connection.execute(statement)
                time.sleep(seconds)
            except psycopg.OperationalError:
                return False
        return True

    def close(self) -> None:
        self._server.close()
