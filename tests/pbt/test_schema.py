"""Rows that no store writes: each is refused in one line that names file, table and row."""

import json
import shutil
import sqlite3

import pytest

import projection_run as runs
from pbt import store

READS = {
    "member": lambda opened: opened.members(),
    "version": lambda opened: opened.versions(),
    "report": lambda opened: opened.reports(),
    "event": lambda opened: opened.events(),
}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The directory of a run that no test changes."""
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    population = runs.Population(run_dir, runs.configuration())
    population.train(24)
    population.store.close()
    return run_dir


@pytest.fixture
def run_store(trained, tmp_path):
    with store.Store.open(shutil.copytree(trained, tmp_path / "run"), durable=False) as opened:
        yield opened


def alter(path, statement, *values):
    connection = sqlite3.connect(path)
    with connection:
        assert connection.execute(statement, values).rowcount == 1
    connection.close()


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [
        ("member", "hyperparameters", '{"learning_rate": 0.001'),
        ("member", "hyperparameters", "[]"),
        ("member", "hyperparameters", '{"learning_rbte": 0.001}'),
        ("member", "window", "null"),
        ("member", "window", "[1e999]"),
        ("member", "window", "[NaN]"),
        ("member", "window", '["1"]'),
        ("member", "window", json.dumps([0.5] * 11)),
        ("member", "state", "actjve"),
        ("member", "agent_steps", -1),
        ("member", "agent_steps", 1.5),
        ("member", "version", "two"),
        ("member", "lease_expires_s", "soon"),
        ("member", "error", b"\xff\xfe"),
        ("version", "kind", "slace"),
        ("version", "hyperparameters", '{"learning_rate": true}'),
        ("version", "score", "high"),
        ("version", "parent_member", 1),
        ("version", "created_s", -5.0),
        ("version", "member", 4),
        ("report", "episodes", "[[1, 2.0, 3]]"),
        ("report", "episodes", "[[1, 2.0, -3, true]]"),
        ("report", "episodes", '[[1, "2", 3, true]]'),
        ("report", "episodes", "[" * 5_000),
        ("report", "metrics", '{"loss": Infinity}'),
        ("report", "hyperparameters", "{}"),
        ("report", "seconds", -1.0),
        ("report", "slice_steps", 2**60),
        ("report", "created_s", 1e300),
        ("event", "kind", "explojt"),
        ("event", "details", "[1, 2]"),
        ("event", "details", ""),
        ("event", "member", 77),
    ],
)
def test_a_damaged_row_is_refused_by_name(run_store, table, column, value):
    row = 2 if table == "member" else 3
    if isinstance(value, bytes):
        alter(
            run_store.path, f"UPDATE {table} SET {column} = CAST(? AS TEXT) WHERE id = {row}", value
        )
    else:
        alter(run_store.path, f"UPDATE {table} SET {column} = ? WHERE id = {row}", value)
    with pytest.raises(store.StoreError) as error:
        READS[table](run_store)
    said = str(error.value)
    assert said.startswith(f"{run_store.path} is damaged (table {table}, row {row}: ")
    assert "\n" not in said
    for other in READS.keys() - {table}:
        READS[other](run_store)


def test_readers_of_history_may_leave_damaged_rows_out(run_store):
    reports, events = run_store.reports(), run_store.events()
    alter(run_store.path, "UPDATE report SET metrics = '{' WHERE id = 3")
    alter(run_store.path, "UPDATE event SET kind = 'kind' WHERE id = 1")
    damaged = []
    assert run_store.reports(damaged=damaged) == [pair for pair in reports if pair[0] != 3]
    assert run_store.events(damaged=damaged) == events[1:]
    assert [line.partition(":")[0] for line in damaged] == [
        "table report, row 3",
        "table event, row 1",
    ]
    with pytest.raises(store.StoreError):
        run_store.reports()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM version WHERE member = 1 AND version = 1",
        "UPDATE version SET agent_steps = agent_steps + 1000000 WHERE member = 1 AND version = 0",
        "DELETE FROM member WHERE id = 2",
    ],
)
def test_missing_rows_are_refused(run_store, statement):
    alter(run_store.path, statement)
    table = "member" if " member WHERE" in statement else "version"
    with pytest.raises(store.StoreError, match=f"is damaged .table {table}"):
        READS[table](run_store)


@pytest.mark.parametrize("text", ["null", "[]", '"task"', "{", "[" * 5_000, '{"task": NaN}'])
def test_a_damaged_configuration_is_one_line(run_store, text):
    alter(run_store.path, "UPDATE run SET config = ?", text)
    with pytest.raises(store.StoreError, match="holds a configuration that is not valid") as error:
        store.Store.open(run_store.path)
    assert "\n" not in str(error.value)
