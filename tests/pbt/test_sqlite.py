"""Stores in SQLite files: what is checked when one is opened, damage, locks."""

import sqlite3
import threading

import pytest

import projection_run as runs
from pbt import store
from pbt.store import sqlite


@pytest.fixture
def new(tmp_path):
    """Make a store that has trained so many slices."""
    made = []

    def make(slices=0):
        population = runs.Population(tmp_path, runs.configuration())
        population.train(slices)
        made.append(population.store)
        return population.store

    yield make
    for run_store in made:
        run_store.close()


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


def test_another_journal_mode_is_refused(new):
    path = new().path
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=WAL")
    with pytest.raises(store.StoreError, match="journal mode wal"):
        store.Store.open(path)
    connection.close()


def test_what_is_not_a_run_is_refused_and_left_alone(tmp_path):
    other = sqlite3.connect(tmp_path / "other.sqlite3")
    other.execute("CREATE TABLE holiday (x)")
    other.commit()
    other.close()
    (tmp_path / "text").write_text("no database at all, but long enough for a header" * 100)
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "directory").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    for name in ("other.sqlite3", "text", "empty", "directory", "missing", "missing/run.sqlite3"):
        with pytest.raises(store.NotARun, match=name):
            store.Store.open(tmp_path / name)
    assert {path: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "directory",
        "empty",
        "other.sqlite3",
        "text",
    ]


@pytest.mark.parametrize("damage", ["page", "cut", "head"])
def test_damage_is_found_and_left_alone(new, damage):
    run_store = new(24)
    content = bytearray(run_store.path.read_bytes())
    if damage == "page":
        content[8192:12288] = b"\xa5" * 4096
    elif damage == "cut":
        del content[len(content) // 2 :]
    else:
        content[:16] = b"x" * 16
    run_store.path.write_bytes(content)
    with pytest.raises(store.StoreError) as raised:
        store.Store.open(run_store.path)
    assert str(run_store.path) in str(raised.value)
    if damage != "head":
        assert "damaged" in str(raised.value)
        assert ".recover" in str(raised.value)
    assert run_store.path.read_bytes() == content


def test_a_store_that_was_deleted_does_not_come_back_empty(new):
    run_store = new()
    run_store.path.unlink()
    with pytest.raises(store.StoreError):
        run_store.members()
    with pytest.raises(store.StoreError):
        run_store.claim("me")
    assert not run_store.path.exists()


# Locks.


def test_readers_and_writers_wait_for_a_lock_and_then_say_who(new):
    path = new().path
    locker = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    locker.execute("BEGIN EXCLUSIVE")
    impatient = store.Store(sqlite.SQLite(path, busy_timeout_s=0.05), runs.configuration())
    for call in (impatient.members, lambda: impatient.claim("me")):
        with pytest.raises(store.StoreBusy, match="is locked by another process"):
            call()
    patient = store.Store(sqlite.SQLite(path, busy_timeout_s=30), runs.configuration())
    threading.Timer(0.2, lambda: locker.execute("COMMIT")).start()
    assert len(patient.members()) == 4
    assert patient.claim("me") is not None
    locker.close()


def test_nothing_is_held_between_calls(new):
    run_store = new()
    run_store.members()
    run_store.claim("me")
    run_store.versions()
    locker = sqlite3.connect(run_store.path, isolation_level=None, timeout=0)
    locker.execute("BEGIN EXCLUSIVE")
    locker.execute("ROLLBACK")
    locker.close()


def test_the_store_is_kept_as_promised(new):
    run_store = store.Store.open(new().path)
    with run_store._database.transaction() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar() == 30_000
