"""Stores on PostgreSQL: URLs and pointers, passwords, lost connections, ambiguous commits."""

import json
import os
import re
import select
import socket
import sys
import threading
import time
from dataclasses import replace

import psycopg
import pytest
import sqlalchemy as sa

import postgres_server as postgres_servers
import projection_run as runs
from pbt import create, disk, records, store
from pbt.store import postgres

SECRET = "sesame"
COMMIT = b"COMMIT\0"  # unlike "READ COMMITTED", it ends here


@pytest.fixture
def url(postgres_server):
    return postgres_server.url


@pytest.fixture
def run_store(tmp_path, url):
    with create.create_run(tmp_path, runs.configuration(), url=url, durable=False) as made:
        yield made


def schemas(url):
    with psycopg.connect(url) as connection:
        found = connection.execute("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'pbt%'")
        return {name for (name,) in found}


# URLs and pointers.


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        (f"postgresql://me:{SECRET}@host/pbt", "PGPASSWORD"),
        (f"postgresql://me@host/pbt?password={SECRET}", "PGPASSWORD"),
        (f"postgresql://me:{SECRET}@host:port/pbt", "has the form postgresql://"),
        (f"{SECRET}", "has the form postgresql://"),
        ("mysql://host/pbt", "'mysql', not on postgresql"),
        ("sqlite:///run.sqlite3", "'sqlite', not on postgresql"),
        ("postgresql://host", "names no database"),
        ("postgresql://host/pbt?passfile=x", "parameter 'passfile'"),
        ("postgresql://host/pbt?options=-cx=y", "parameter 'options'"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_before_anything_is_made(tmp_path, url, problem):
    with pytest.raises(ValueError, match=problem) as error:
        create.create_run(tmp_path / "run", runs.configuration(), url=url)
    assert SECRET not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_the_pointer_names_the_schema_and_no_password(tmp_path, run_store, url, monkeypatch):
    monkeypatch.setenv("PGPASSWORD", SECRET)
    (pointer,) = [path for path in tmp_path.iterdir() if path.is_file()]
    assert pointer == run_store.path == tmp_path / "run.postgresql"
    named = json.loads(pointer.read_text())
    assert postgres.parse_url(named["url"]) == postgres.parse_url(url)
    assert named["schema"] in schemas(url)
    assert SECRET not in pointer.read_text()
    with store.Store.open(tmp_path) as opened:
        assert opened.members() == run_store.members()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "must hold"),
        ("[]", "must hold"),
        ('{"url": "postgresql://host/pbt"}', "must hold"),
        ('{"url": "postgresql://host/pbt", "schema": "x\\"; DROP TABLE member"}', "must hold"),
        ('{"url": "postgresql://me:sesame@host/pbt", "schema": "x"}', "PGPASSWORD"),
    ],
)
def test_a_damaged_pointer_is_one_line(tmp_path, text, problem):
    (tmp_path / "run.postgresql").write_text(text)
    with pytest.raises(store.StoreError, match=problem) as error:
        store.Store.open(tmp_path)
    assert str(tmp_path / "run.postgresql") in str(error.value)
    assert "\n" not in str(error.value)
    assert SECRET not in str(error.value)


def test_a_directory_with_two_stores_is_refused(tmp_path, run_store):
    (tmp_path / store.FILE_NAME).touch()
    with pytest.raises(store.StoreError, match="two stores"):
        store.Store.open(tmp_path)


def test_a_schema_that_was_dropped_does_not_come_back_empty(run_store, url):
    schema = json.loads(run_store.path.read_text())["schema"]
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"DROP SCHEMA {schema} CASCADE")
    with pytest.raises(store.StoreError, match="is not there"):
        run_store.claim("me")
    with pytest.raises(store.NotARun):
        store.Store.open(run_store.path)
    assert schema not in schemas(url)


def test_a_run_that_could_not_be_created_leaves_no_schema(tmp_path, run_store, url):
    before = schemas(url)
    first = [records.Member(i, 0, 0, m.hyperparameters) for i, m in enumerate(run_store.members())]
    with pytest.raises(store.RunExists):
        store.Store.create(run_store.path, run_store.config, first, url=url)
    with pytest.raises(FileNotFoundError):
        store.Store.create(tmp_path / "no" / "run.postgresql", run_store.config, first, url=url)
    with pytest.raises(ValueError, match="is no name for this store"):
        store.Store.create(tmp_path / "run.sqlite3", run_store.config, first, url=url)
    assert schemas(url) == before


def is_known(directory, url, name):
    try:
        store.Store.open_named(directory / "run.postgresql", url, name).close()
    except store.NotARun:
        return False
    return True


def test_a_run_with_a_name_is_found_by_machines_that_share_only_the_database(tmp_path, url):
    name, config = f"Catch/{tmp_path.name}", runs.configuration()
    here, there = tmp_path / "here", tmp_path / "there"
    assert not is_known(here, url, name)
    create.create_run(here, config, url=url, name=name, durable=False).close()
    assert is_known(there, url, name)
    with pytest.raises(store.RunExists, match="exists already"):
        create.create_run(there, config, url=url, name=name, durable=False)
    pointers = [(machine / "run.postgresql").read_text() for machine in (here, there)]
    assert pointers[0] == pointers[1]
    with store.Store.open(here) as first, store.Store.open(there) as second:
        assert first.identity() == second.identity()
        lease = first.claim("here")
        assert second.owners() == {"here"}
        assert second.members()[lease.member.id].fence == lease.fence
        old = lease.member
        new = replace(old, version=1, agent_steps=10, checkpoint=f"{old.id}/1-0123456789abcdef")
        report = records.Report(new.id, 1, 10, 10, 0.1, new.hyperparameters, (), {})
        first.commit(lease, new, kind="slice", report=report)
    # Its checkpoints are not where this machine would look for them.
    elsewhere = {"checkpoints": str(tmp_path / "elsewhere"), "durable": False}
    with pytest.raises(ValueError, match=r"its checkpoints are not in .*or another database"):
        create.create_run(tmp_path / "third", config, url=url, name=name, **elsewhere)
    assert not (tmp_path / "third").exists()
    # What cannot be written on this machine leaves the run to the others.
    (tmp_path / "file").touch()
    with pytest.raises(OSError):  # noqa: PT011
        create.create_run(tmp_path / "file", config, url=url, name=name, durable=False)
    assert is_known(there, url, name)
    # Nor is a pointer to another run replaced.
    other = tmp_path / "other"
    with create.create_run(other, config, url=url, durable=False) as made:
        first = made.members()
    before = (other / "run.postgresql").read_text()
    with pytest.raises(store.RunExists):
        store.Store.create(other / "run.postgresql", config, first, url=url, name=name)
    assert (other / "run.postgresql").read_text() == before
    assert is_known(there, url, name)


def test_machines_that_create_one_run_at_the_same_time_share_it(tmp_path, url):
    name, machines = f"Catch/{tmp_path.name}", 8
    barrier, made = threading.Barrier(machines), []

    def create_run(number):
        barrier.wait()
        try:
            directory = tmp_path / str(number)
            create.create_run(
                directory, runs.configuration(), url=url, name=name, durable=False
            ).close()
            made.append(number)
        except store.RunExists:
            pass

    threads = [threading.Thread(target=create_run, args=(number,)) for number in range(machines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    identities = []
    for number in range(machines):
        with store.Store.open(tmp_path / str(number)) as opened:
            identities.append(opened.identity())
    assert all(one == identities[0] for one in identities)


@pytest.mark.parametrize(
    ("setup", "database", "user", "problem"),
    [
        ([], "nothing", "me", 'database "nothing" does not exist'),
        ([], "postgres", "nobody", 'role "nobody" does not exist'),
        (["CREATE ROLE reader LOGIN"], "postgres", "reader", "grant CREATE"),
        (
            ["CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"],
            "bytes",
            "me",
            "the database's encoding is SQL_ASCII; create one with CREATE DATABASE",
        ),
    ],
)
def test_a_database_that_cannot_hold_a_run_is_refused_before_anything_is_made(
    tmp_path, url, setup, database, user, problem
):
    with psycopg.connect(url, autocommit=True) as connection:
        for statement in setup:
            connection.execute(statement)
    bad = url.replace("/postgres?", f"/{database}?").replace("me@", f"{user}@")
    started_s = time.monotonic()
    with pytest.raises(store.StoreError, match=problem):
        create.create_run(tmp_path / "run", runs.configuration(), url=bad)
    assert time.monotonic() - started_s < store.BUSY_TIMEOUT_S  # nothing was waited for
    assert list(tmp_path.iterdir()) == []


def test_without_the_driver_the_extra_is_named(tmp_path, url, monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(store.StoreError, match=r"'\.\[postgres\]'"):
        create.create_run(tmp_path / "run", runs.configuration(), url=url)
    assert list(tmp_path.iterdir()) == []


# Transactions.


def test_each_transaction_is_set_up_as_promised(run_store):
    with store.Store.open(run_store.path) as durable, durable._database.transaction(True) as writer:
        assert writer.exec_driver_sql("SHOW transaction_isolation").scalar() == "read committed"
        assert writer.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        assert writer.exec_driver_sql("SHOW idle_in_transaction_session_timeout").scalar() == "1min"
        locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
        assert writer.exec_driver_sql(locks).scalar() == 1
        with durable._database.transaction() as reader:  # beside the writer
            assert reader.exec_driver_sql("SHOW transaction_read_only").scalar() == "on"
            assert reader.exec_driver_sql("SHOW transaction_isolation").scalar() == (
                "repeatable read"
            )
    with run_store._database.transaction(True) as writer:
        assert writer.exec_driver_sql("SHOW synchronous_commit").scalar() == "off"


def test_the_clock_is_read_after_the_wait_for_the_lock(run_store):
    """The time at which the transaction began would let its lease end earlier than others say."""
    with store.Store.open(run_store.path) as other:
        before = []
        wall_clock = "SELECT extract(epoch FROM clock_timestamp())::float8"

        def hold():
            with other._database.transaction(True) as connection:
                held.set()
                released.wait()
                before.append(connection.exec_driver_sql(wall_clock).scalar())

        held, released = threading.Event(), threading.Event()
        holder = threading.Thread(target=hold)
        holder.start()
        held.wait()
        threading.Timer(0.3, released.set).start()
        with run_store._database.transaction(True) as connection:
            holder.join()
            assert run_store._database.now(connection) >= before[0]


def test_a_lock_is_waited_for_and_then_said(run_store):
    with store.Store.open(run_store.path, busy_timeout_s=0.05) as impatient:
        with run_store._database.transaction(True):
            with pytest.raises(store.StoreBusy, match="is locked by another session"):
                impatient.claim("me")
            assert len(impatient.members()) == 4  # readers wait for nobody
        assert impatient.claim("me") is not None

    waited = []

    def on_wait(waited_s, problem):
        waited.append(str(problem))
        holder.close()

    with store.Store.open(run_store.path, busy_timeout_s=0.05, on_wait=on_wait) as patient:
        holder = run_store._database._engine.connect()
        holder.exec_driver_sql(
            run_store._database._begin_writing, execution_options={"no_parameters": True}
        )
        assert patient.claim("me") is not None
    assert len(waited) == 1


def test_a_fork_does_not_use_its_parents_connection(run_store):
    run_store.members()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = 0 if len(run_store.members()) == 4 else 1
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert len(run_store.members()) == 4


# Lost connections.


class Gateway:
    """A server's socket in another place, which can cut connections at a given word."""

    def __init__(self, server, directory):
        self.target = str(server.directory / ".s.PGSQL.5432")
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(directory / ".s.PGSQL.5432"))
        self.listener.listen()
        self.cut_at, self.is_told, self.cuts = None, True, 0
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self, word, is_told):
        """Cut the next connection that says the word, after or before the server hears it."""
        self.cut_at, self.is_told = word, is_told

    def _accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client):
        with client, socket.socket(socket.AF_UNIX) as server:
            server.connect(self.target)
            while True:
                for readable in select.select([client, server], [], [])[0]:
                    data = readable.recv(65536)
                    if readable is client and self.cut_at and self.cut_at in data:
                        self.cut_at = None
                        self.cuts += 1
                        if self.is_told:
                            server.sendall(data)
                            server.recv(65536)  # the server has answered
                        return
                    if not data:
                        return
                    (server if readable is client else client).sendall(data)


@pytest.fixture
def gateway(postgres_server, tmp_path_factory):
    directory = tmp_path_factory.mktemp("gate", numbered=True)
    short = postgres_server.directory / "gate"
    short.symlink_to(directory)
    made = Gateway(postgres_server, directory)
    made.url = f"postgresql://me@/postgres?host={short}"
    yield made
    made.listener.close()
    short.unlink()


@pytest.mark.parametrize("word", [b"BEGIN", b"UPDATE member", COMMIT])
@pytest.mark.parametrize("is_told", [True, False])
def test_a_connection_that_is_lost_anywhere_does_nothing_twice(tmp_path, gateway, word, is_told):
    """C4: at COMMIT, only the server knows whether it heard it, and is asked."""
    config = runs.configuration()
    with create.create_run(tmp_path, config, url=gateway.url, durable=False) as run_store:
        lease = run_store.claim("me")
        member = replace(lease.member, version=1, agent_steps=runs.INTERVAL, checkpoint="0/1-x")
        report = records.Report(
            0, 1, runs.INTERVAL, runs.INTERVAL, 1.0, member.hyperparameters, (), {}
        )
        gateway.cut(word, is_told)
        committed = run_store.commit(lease, member, kind="slice", report=report, release=True)
        assert gateway.cuts == 1
        assert run_store.member(0) == committed.member
        assert [version.version for version in run_store.versions(0)] == [0, 1]
        assert len(run_store.reports()) == 1


@pytest.mark.parametrize("is_told", [True, False])
def test_a_claim_whose_commit_was_lost_is_made_once(tmp_path, gateway, is_told):
    """Else the first of two claims would hold its member until its lease expired."""
    config = runs.configuration()
    with create.create_run(tmp_path, config, url=gateway.url, durable=False) as run_store:
        gateway.cut(COMMIT, is_told)
        lease = run_store.claim("me")
        assert gateway.cuts == 1
        assert [member.id for member in run_store.members() if member.owner] == [lease.member.id]
        assert lease.fence == 1


def test_a_server_that_restarts_is_waited_for(tmp_path):
    server = postgres_servers.Server()
    now, waited = [1_000_000.0], []

    def on_wait(waited_s, problem):
        assert isinstance(problem, store.StoreUnavailable)
        waited.append(waited_s)
        if len(waited) == 3:
            now[0] += 60.0001  # its lease lapses while nobody can renew it
            server.start()

    keywords = {"clock": lambda: now[0]}  # and durable, as a crash of the server is one
    try:
        create.create_run(tmp_path, runs.configuration(1), url=server.url).close()
        with (
            store.Store.open(tmp_path, busy_timeout_s=0.2, **keywords) as impatient,
            store.Store.open(tmp_path, on_wait=on_wait, **keywords) as patient,
        ):
            assert impatient.claim("another host", lease_seconds=60) is not None
            assert patient.now() == now[0]
            server.stop()
            with pytest.raises(store.StoreUnavailable, match=r"cannot be reached .*: see to"):
                impatient.members()
            with pytest.raises(store.StoreUnavailable):
                store.Store.open(tmp_path)  # it has never answered here, so the URL may be wrong
            # Its owner could not renew the lease, and gets its turn first.
            assert patient.claim("this one") is None
            assert len(waited) >= 3
            assert sorted(waited) == waited
            assert impatient.owners() == {"another host"}
    finally:
        server.close()


def test_the_end_of_a_session_inside_a_transaction_is_a_lost_connection(run_store, url):
    """As after SIGSTOP: the server ends the session of whoever holds the lock and says nothing."""
    backend = "SELECT pg_backend_pid()"
    killed = []

    @sa.event.listens_for(run_store._database._engine, "before_cursor_execute")
    def kill_once(connection, cursor, statement, parameters, context, executemany):
        if "UPDATE member" in statement and not killed:
            killed.append(cursor.connection.execute(backend).fetchone()[0])
            with psycopg.connect(url, autocommit=True) as other:
                other.execute(f"SELECT pg_terminate_backend({killed[0]}, 5000)")

    lease = run_store.claim("me")
    assert len(killed) == 1
    assert (lease.fence, run_store.member(lease.member.id).owner) == (1, "me")


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        ("53100", store.StoreError, "no space left"),
        ("25006", store.ReadOnly, "cannot be written to"),
        ("XX001", store.StoreError, "is damaged .*pg_dump"),
        ("40P01", store.StoreBusy, "is locked by another session"),
        ("22012", store.StoreError, "the server said so"),
    ],
)
def test_what_the_server_says_becomes_the_stores_own_error(run_store, code, kind, words):
    statement = f"DO $$ BEGIN RAISE EXCEPTION 'the server said so' USING ERRCODE = '{code}'; END $$"
    with (
        pytest.raises(kind, match=words) as error,
        run_store._database.transaction(True) as connection,
    ):
        connection.exec_driver_sql(statement)
    assert type(error.value) is kind
    assert disk.is_full(error.value) is (code == "53100")
    assert len(run_store.members()) == 4


def test_no_message_has_the_password(tmp_path, run_store, monkeypatch, postgres_server):
    monkeypatch.setenv("PGPASSWORD", SECRET)
    with pytest.raises(store.StoreError) as error:
        create.create_run(
            tmp_path / "two", runs.configuration(), url=f"{postgres_server.url}-not-there"
        )
    assert re.search("cannot be reached .*: see to", str(error.value))
    assert SECRET not in str(error.value)
