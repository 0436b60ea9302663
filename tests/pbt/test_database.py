"""What is checked when a store is opened, and the named leases of processes that are gone."""

import sqlite3

import pytest

import projection_run as runs
from pbt import store


def test_an_index_that_misses_rows_is_refused(tmp_path):
    population = runs.Population(tmp_path / "run", runs.configuration())
    population.train(8)
    path = population.store.path
    population.store.close()

    def edit(*statements):
        connection = sqlite3.connect(path)
        with connection:
            connection.execute("PRAGMA writable_schema = ON")
            found = [connection.execute(*statement).fetchall() for statement in statements]
        connection.close()
        return found

    # What is left of a transaction whose journal was deleted: a table without its index's rows.
    entry = edit(("SELECT * FROM sqlite_master WHERE name = 'version_score'",))[0][0]
    edit(("DELETE FROM sqlite_master WHERE name = 'version_score'",))
    edit(("UPDATE version SET score = score + 1 WHERE score IS NOT NULL",))
    edit(("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", entry))
    assert edit(("PRAGMA quick_check",))[0] == [("ok",)]
    with pytest.raises(store.StoreError, match=r"run\.sqlite3 is damaged .*version_score"):
        store.Store.open(path)


def test_a_named_lease_from_before_the_clock_was_set_back_has_lapsed(tmp_path):
    now = [1_000_000.0]
    config = runs.configuration()
    first = runs.Population(tmp_path / "run", config).store
    with store.Store.open(first.path, clock=lambda: now[0]) as run_store:
        assert run_store.acquire("tensorboard", "one", 30)
        now[0] -= 3600
        assert run_store.acquire("tensorboard", "two", 30)
        assert run_store.holder("tensorboard") == "two"
        now[0] += 29
        assert not run_store.acquire("tensorboard", "one", 30)
