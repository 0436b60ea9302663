"""A study on machines that share only a database and a place of checkpoints."""

import json
import secrets
import signal
import threading

import psycopg
import pytest

import projection_run as runs
from experiments import evaluate, study
from experiments.analysis import outcome, provenance, selection
from experiments.studies import definitions, machines, plan, results
from pbt import checkpoint, create, owner, storage, store
from terminal import start

TINY = (
    *("--env", "Catch", "--population", "2", "--num-envs", "4", "--seeds", "1"),
    *("--total-steps", "240", "--report-interval", "120", "--ready-interval", "120", "--tuned"),
)


@pytest.fixture
def database(postgres_server):
    """The URL of a database of the test's own, since runs are found by their settings."""
    name = f"study_{secrets.token_hex(4)}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return postgres_server.url.replace("/postgres?", f"/{name}?")


@pytest.fixture(params=["folder", "objects", "s3"])
def checkpoints(request, tmp_path):
    if request.param == "s3":
        return request.getfixturevalue("s3_server").url(f"study-{secrets.token_hex(4)}")
    return f"{'file://' if request.param == 'objects' else ''}{tmp_path}/bucket"


@pytest.fixture
def machine(tmp_path, monkeypatch, here):
    """Go to another machine: to an empty directory."""

    def change(name):
        (tmp_path / name).mkdir(exist_ok=True)
        monkeypatch.chdir(tmp_path / name)
        return tmp_path / name

    return change


def runs_of(directory):
    return {path.name: path for path in (directory / "results/runs/studies/Catch").iterdir()}


def test_what_one_machine_has_trained_another_one_tables(
    command, machine, database, tmp_path, monkeypatch
):
    monkeypatch.setattr(results, "rebuild", lambda folder: None)  # figures are drawn elsewhere
    shared = ("--store", database, "--checkpoints", f"file://{tmp_path}/bucket")
    one = machine("one")
    first = command(study, "schedule", *TINY, *shared)
    assert first.code is None, first
    assert not list(one.rglob("run.sqlite3"))

    two = machine("two")
    monkeypatch.setattr(plan, "train", lambda run_dir, *_: pytest.fail(f"trains {run_dir}"))
    counted = command(study, "schedule", *TINY, *shared, "--dry-run")
    assert "8 member runs are done" in counted.out, counted
    assert list(two.iterdir()) == []
    second = command(study, "schedule", *TINY, *shared)
    assert second.code is None, second
    folder = "results/runs/study-schedule-Catch"
    for name in ("scores.csv", "curves.csv", "schedules.csv"):
        assert (one / folder / name).read_bytes() == (two / folder / name).read_bytes(), name
    told = [json.loads((it / folder / "study.json").read_text()) for it in (one, two)]
    assert told[0]["run_commits"] == told[1]["run_commits"]
    assert sum(told[1]["run_commits"].values()) == 4

    # The runs are ordinary ones there: with their best members and how they were scored.
    there, here = runs_of(one), runs_of(two)
    assert there.keys() == here.keys()
    for name, run_dir in here.items():
        with store.Store.open(run_dir) as run_store:
            assert run_store.holder("study") is None
            assert selection.read(run_dir, run_store.members()) is not None
        assert outcome.read(run_dir) == outcome.read(there[name])
        assert len(provenance.read(run_dir)) == 1
    assert command(evaluate, next(iter(here.values())), "--episodes", "2").code in (0, None)

    # Another place is no other study, as long as the database is the same.
    three = machine("three")
    refused = command(study, "schedule", *TINY, *shared[:3], f"{tmp_path}/elsewhere")
    assert refused.code == 2
    assert "its checkpoints are not in " in refused.err
    assert "give the place with which it was begun, or another database" in refused.err
    assert list(three.iterdir()) == []


def test_a_second_machine_goes_on_with_a_run_that_the_first_began(
    tmp_path, database, checkpoints, monkeypatch
):
    base = definitions.base_settings(
        "Catch",
        changes={
            **{"population": 2, "num_envs": 4, "total_steps": 240},
            **{"report_interval": 120, "ready_interval": 120},
        },
    )
    places = machines.Places(database, checkpoints)
    one, two, three = (
        plan.Plan(base, None, tmp_path / name / "Catch", 1, places=places)
        for name in ("one", "two", "three")
    )
    trained = plan.train

    def part(run_dir, workers, beat):
        """Be a worker who is stopped after a commit."""
        with store.Store.open(run_dir) as run_store:
            begun = len(run_store.versions())
            plan.worker.run(
                run_store,
                run_dir,
                stop=lambda: signal.SIGTERM if len(run_store.versions()) > begun else 0,
            )
            assert run_store.holder("study") == owner.current()
        raise SystemExit(143)

    monkeypatch.setattr(plan, "train", part)
    with pytest.raises(SystemExit):
        one.complete(definitions.PBT, 0)
    assert two.done(definitions.PBT, 0) is None
    monkeypatch.setattr(plan, "train", trained)
    name, found = two.complete(definitions.PBT, 0)
    assert three.done(definitions.PBT, 0) == (name, found)
    assert not (tmp_path / "three").exists()
    run_dir = tmp_path / "two/Catch" / name
    with store.Store.open(run_dir) as run_store:
        reports = [found for _, found in run_store.reports()]
        assert len({(found.member, found.version) for found in reports}) == len(reports)
        assert sum(found.slice_steps for found in reports) == 2 * 240
        assert run_store.holder("study") is None
    assert len(provenance.read(run_dir)) == 2, "both machines are named"
    assert one.complete(definitions.PBT, 0) == (name, found)


@pytest.mark.slow  # leases and what the other machine has done are tested below and above
@pytest.mark.timeout(400)
def test_two_machines_train_no_run_together(machine, database, tmp_path):
    shared = ("--store", database, "--checkpoints", f"{tmp_path}/bucket")
    terminals = [
        start(machine(name), "-m", "experiments.study", "ready", *TINY, *shared)
        for name in ("one", "two")
    ]
    try:
        printed = [terminal.communicate(timeout=300)[0] for terminal in terminals]
    finally:
        for terminal in terminals:
            terminal.kill()
    assert [terminal.returncode for terminal in terminals] == [0, 0], printed
    for name in ("one", "two"):
        starts = [provenance.read(run) for run in runs_of(tmp_path / name).values()]
        assert [len(found) for found in starts] == [1] * 4, "each run was begun once"
    found = [tmp_path / name / "results/runs/study-ready-Catch" for name in ("one", "two")]
    assert (found[0] / "scores.csv").read_text() == (found[1] / "scores.csv").read_text()


def test_a_run_that_another_machine_trains_is_left_to_it_until_its_lease_ends(
    tmp_path, postgres_server, monkeypatch
):
    run_dir, url = tmp_path / "run", postgres_server.url
    create.create_run(run_dir, runs.configuration(), url=url, durable=False).close()
    clock, opened = [1_000.0], store.Store.open
    monkeypatch.setattr(
        store.Store, "open", lambda path, **more: opened(path, clock=lambda: clock[0], **more)
    )
    places = machines.Places(url)

    def held_by(name):
        with store.Store.open(run_dir) as run_store:
            assert run_store.acquire("study", name, machines.LEASE_S)

    held_by("another-machine/boot/1/2/3")
    with places.alone(run_dir, wait=False) as renew:
        assert renew is None
    waited = []

    def wait():
        with places.alone(run_dir, wait=True) as renew:
            waited.append(renew)

    thread = threading.Thread(target=wait)
    thread.start()
    thread.join(timeout=0.2)
    assert thread.is_alive()
    clock[0] += machines.LEASE_S + 1
    thread.join(timeout=30)
    assert waited[0] is not None
    with store.Store.open(run_dir) as run_store:
        assert run_store.holder("study") is None

    # Of a process of this machine it is known at once that it is gone.
    held_by(owner.current().rpartition("/")[0] + "/1")
    with places.alone(run_dir, wait=False) as renew:
        # Who goes on training keeps the right for longer than a lease lasts.
        monkeypatch.setattr(machines, "_RENEW_S", 0.0)
        clock[0] += machines.LEASE_S - 1
        renew()
        clock[0] += machines.LEASE_S - 1
        with places.alone(run_dir, wait=False) as other:
            assert other is not None  # it is this very process
        monkeypatch.setattr(owner, "current", lambda: "another-machine/boot/1/2/3")
        renew()
        with places.alone(run_dir, wait=False) as other:
            assert other is None


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--store", "postgresql://me:sesame@host/pbt"), "--store: the URL of a store holds a pas"),
        (("--store", "mysql://host/pbt"), "--store: a store is on 'mysql', not on postgresql"),
        (("--checkpoints", "s3://me:sesame@bucket/x"), "--checkpoints: the URL of checkpoints hol"),
        (("--checkpoints", "s3://bucket"), "--checkpoints: the URL of checkpoints names no folder"),
        (("--store", "postgresql:///pbt?host=/nowhere"), "cannot be reached"),
    ],
)
def test_places_that_cannot_be_used_are_refused_and_nothing_is_made(refused, flags, message):
    said = refused(study, "copy", *TINY, *flags)
    assert message in said
    assert "sesame" not in said


def test_what_a_bucket_holds_besides_is_not_written_into_a_run(tmp_path):
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    places = machines.Places(None, str(tmp_path / "bucket"))
    storage.record(run_dir, places.checkpoints_of("Catch/run"))
    place = storage.of(run_dir)
    with pytest.raises(checkpoint.NotThere):
        places.send(run_dir)
    place.mark({"seed": 0})
    bad = {"../../escaped.json": "x", "outcome.json": "{", "report/../x.json": "x", "run.x": "x"}
    for text in (json.dumps(bad), "[]", "null", "{", json.dumps({"outcome.json": 3})):
        place.write_text("files.json", text)
        places.receive(run_dir)
        assert places.outcome_of("Catch/run") is None
        assert outcome.read(run_dir) is None
        assert {path.name for path in run_dir.iterdir()} <= {"run.checkpoints", "outcome.json"}
    assert not (tmp_path / "escaped.json").exists()
