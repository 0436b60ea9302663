"""Exported tables, read back and compared with the store's records."""

import json
import os
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from pyarrow import parquet

import projection_run as runs
from experiments import export, toy
from experiments.analysis import history
from pbt import lineage, records, space, store, task

PAGE = Path(__file__).parents[2] / "docs/run-directory.md"
TABLES = ["members", "versions", "reports", "episodes", "events"]
METRIC = 'loss/"policy", größe'
HYPERPARAMETER = "rate, \"peak\"/größe 'β'"
ERROR = 'Traceback:\n  1 %\r 2 %\r\nValueError: "a", größe; b,c\n'
ODD = space.Space({HYPERPARAMETER: space.Uniform(0.0, 1.0), "b": space.Constant(0.1)}, ())


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the real engine with copies that a t-test decided."""
    directory = tmp_path_factory.mktemp("trained")
    settings = toy.ToyConfig(run_dir=directory, steps=120, exploit="t-test")
    assert toy.train_panel(settings, toy.PANELS[0])
    return directory / toy.PANELS[0].name


@pytest.fixture
def population(tmp_path):
    return runs.Population(tmp_path / "a run, größer", runs.configuration())


def odd_run(run_dir):
    """A run with odd names, a slice without episodes, and an error."""
    population = runs.Population(run_dir, runs.configuration(1, space=ODD, max_attempts=1))
    lease = population.store.claim("tester/boot/1/2")
    for metrics, episodes in (
        ({METRIC: 1e-300}, (task.Episode(32, -0.1, 32, True), task.Episode(64, 1e300, 7, False))),
        ({"new": 0.1}, ()),
    ):
        old = lease.member
        steps = old.agent_steps + runs.INTERVAL
        new = records.Member(
            old.id, old.version + 1, steps, old.hyperparameters, checkpoint=f"{old.id}/{steps}"
        )
        report = records.Report(
            *(new.id, new.version, steps, runs.INTERVAL, 0.1),
            *(old.hyperparameters, episodes, metrics),
        )
        lease = population.store.commit(lease, new, kind="slice", report=report)
    population.store.crash(lease, ERROR)
    return population


def expected(run_store):
    """The tables as the store's own records have them."""
    versions, reports = run_store.versions(), [report for _, report in run_store.reports()]
    tree = lineage.Tree(versions, run_store.config.copy)

    def common(record):
        values = {f"hyperparameter/{name}": v for name, v in record.hyperparameters.items()}
        return values | {"agent_steps": record.agent_steps, "version": record.version}

    def mean(values):
        return sum(values) / len(values) if values else None

    def parent(record):
        found = record.parent or (None, None)
        return {"parent_member": found[0], "parent_version": found[1]}

    metrics = {name: None for report in reports for name in report.metrics}
    tables = {name: [] for name in TABLES}
    for member in run_store.members():
        key = tree.newest(member.id)
        assert key[1] == member.version
        tables["members"].append(
            common(member)
            | parent(member)
            | {"member": member.id, "training": tree.training[key], "score": tree.scores[key]}
            | {
                name: getattr(member, name)
                for name in ("state", "counted_episodes", "attempts", "error", "checkpoint")
            }
        )
    for version in versions:
        weights = tree.parents[version.member, version.version] or (None, None)
        tables["versions"].append(
            common(version)
            | parent(version)
            | {"weights_member": weights[0], "weights_version": weights[1]}
            | {"training": tree.training[version.member, version.version]}
            | {
                name: getattr(version, name)
                for name in ("member", "kind", "score", "checkpoint", "created_s")
            }
        )
    for report in reports:
        found = report.episodes
        tables["reports"].append(
            common(report)
            | {f"metric/{name}": value for name, value in (metrics | dict(report.metrics)).items()}
            | {
                name: getattr(report, name)
                for name in ("member", "slice_steps", "seconds", "created_s")
            }
            | {
                "score": run_store.version(report.member, report.version).score,
                "episodes": len(found),
                "counted_episodes": sum(episode.counted for episode in found),
                "mean_return": mean([episode.episode_return for episode in found]),
                "mean_length": mean([episode.length for episode in found]),
            }
        )
        tables["episodes"] += [
            {
                "member": report.member,
                "version": report.version,
                "agent_steps": episode.agent_steps,
                "return": episode.episode_return,
                "length": episode.length,
                "counted": episode.counted,
            }
            for episode in found
        ]
    for event in run_store.events():
        names = ("donor", "donor_version", "opponent", "opponent_version", "own_mean")
        names += ("opponent_mean", "t", "degrees_of_freedom", "p", "reason")
        row = {name: event.details.get(name) for name in names}
        if "error" in event.details:
            row["reason"] = event.details["error"].strip().splitlines()[-1]
        tables["events"].append(
            row
            | {
                name: getattr(event, name)
                for name in ("id", "kind", "member", "version", "agent_steps", "created_s")
            }
            | {"details": dict(event.details)}
        )
    return tables


def read(directory, name, form):
    """An exported table as a list of rows, with None for what is missing."""
    path = directory / f"{name}.{form}"
    if form == "csv":
        frame = pd.read_csv(path, dtype_backend="numpy_nullable")
    else:
        frame = pd.read_parquet(path, dtype_backend="numpy_nullable")
    rows = [
        {key: None if pd.isna(value) else value for key, value in row.items()}
        for row in frame.astype(object).to_dict("records")
    ]
    if name == "events":
        rows = [row | {"details": json.loads(row["details"])} for row in rows]
    return rows


def approximately(rows):
    """Rows whose means may differ in the last digit, since they are not summed in our order."""
    means = ("mean_return", "mean_length")
    return [
        {
            name: pytest.approx(value, rel=1e-12) if name in means and value is not None else value
            for name, value in row.items()
        }
        for row in rows
    ]


def check(run_store, directory, form):
    for name, rows in expected(run_store).items():
        found = read(directory, name, form)
        assert found == approximately(rows), name


def exported(command, run_dir, form="csv", out=None):
    more = [] if out is None else ["--out", out]
    result = command(export, run_dir, "--to", form, *more)
    assert result.code is None, result
    return Path(out or Path(run_dir) / "export")


@pytest.mark.parametrize("form", export.FORMATS)
def test_a_trained_run_reads_back_equal_to_its_store(trained, command, tmp_path, form):
    out = exported(command, trained, form, tmp_path / "new" / "tables")
    assert {path.name for path in out.iterdir()} == {f"{name}.{form}" for name in TABLES}
    with store.Store.open(trained) as run_store:
        check(run_store, out, form)
    events = read(out, "events", form)
    copies = [row for row in events if row["kind"] == "exploit"]
    assert copies
    assert all(row["p"] < 0.05 for row in copies)
    versions = {(row["member"], row["version"]) for row in read(out, "versions", form)}
    assert {(row["donor"], row["donor_version"]) for row in copies} <= versions


@pytest.mark.parametrize("form", export.FORMATS)
def test_restores_and_fallen_scores_are_exported(population, command, form):
    population.train(30)
    population.restore()
    population.train(7)
    check(population.store, exported(command, population.store.path.parent, form), form)


@pytest.mark.parametrize("form", export.FORMATS)
def test_odd_names_and_missing_values_survive(tmp_path, command, form):
    run_store = odd_run(tmp_path / "run, größer").store
    out = exported(command, run_store.path.parent, form)
    if form == "parquet":
        check(run_store, out, form)
    (failed,) = [row for row in read(out, "members", form) if row["state"] == "failed"]
    error = ERROR if form == "parquet" else ERROR.replace("\r\n", "\n").replace("\r", "\n")
    assert failed["error"] == error
    assert f"hyperparameter/{HYPERPARAMETER}" in failed
    first, second = read(out, "reports", form)
    assert (first[f"metric/{METRIC}"], first["metric/new"]) == (1e-300, None)
    assert (second[f"metric/{METRIC}"], second["metric/new"]) == (None, 0.1)
    assert (second["episodes"], second["mean_return"], second["score"]) == (0, None, None)
    assert [row["return"] for row in read(out, "episodes", form)] == [-0.1, 1e300]
    crashed, failed = read(out, "events", form)
    assert crashed["details"]["error"] == ERROR
    assert crashed["reason"] == failed["reason"] == 'ValueError: "a", größe; b,c'


@pytest.mark.parametrize("form", export.FORMATS)
def test_a_run_without_reports_has_tables_with_columns(population, command, form):
    out = exported(command, population.store.path.parent, form)
    check(population.store, out, form)
    reader = pd.read_csv if form == "csv" else pd.read_parquet
    lengths = [len(reader(out / f"{name}.{form}")) for name in TABLES]
    assert lengths == [4, 4, 0, 0, 0]
    assert "return" in reader(out / f"episodes.{form}").columns
    assert "hyperparameter/learning_rate" in reader(out / f"reports.{form}").columns


def test_many_rows_are_written_in_batches(population, command, monkeypatch):
    monkeypatch.setattr(export, "BATCH", 7)
    population.train(20)
    check(population.store, exported(command, population.store.path.parent, "parquet"), "parquet")


def test_tables_of_a_running_run_fit_together(population, tmp_path):
    class Busy(store.Store):
        """Trained on before each of its reads."""

        def events(self, after_id=0, **how):
            population.train(1)
            return super().events(after_id, **how)

        def reports(self, after_id=0, **how):
            population.train(1)
            return super().reports(after_id, **how)

        def members(self):
            population.train(1)
            return super().members()

        def versions(self, member=None):
            population.train(1)
            return super().versions(member)

    population.train(10)
    for _ in range(10):
        with Busy.open(population.store.path) as busy:
            export.write(history.History.read(busy, "run"), tmp_path, "csv")
        tables = {name: read(tmp_path, name, "csv") for name in TABLES}
        known = {(row["member"], row["version"]) for row in tables["versions"]}
        for name in TABLES:
            assert {(row["member"], row["version"]) for row in tables[name]} <= known, name


def test_what_cannot_be_exported_is_refused_in_one_line(population, command, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("no run")
    run_dir = population.store.path.parent
    before = sorted(tmp_path.rglob("*"))
    for arguments, message in (
        ((tmp_path / "missing",), "does not exist"),
        ((tmp_path / "empty",), "does not exist"),
        ((tmp_path / "file",), "is not a run"),
        ((run_dir, "--to", "xlsx"), "--to xlsx: choose from csv, parquet"),
        ((run_dir, "--out", tmp_path / "file"), "is a file: name a directory"),
        ((run_dir, "--out", run_dir), "is a run: name another directory"),
        ((run_dir, "--out", tmp_path / "file" / "below"), "Not a directory"),
    ):
        result = command(export, *arguments)
        assert result.code == 2, arguments
        assert message in result.err
        assert len(result.err.splitlines()) == 1
        assert result.out == ""
        assert sorted(tmp_path.rglob("*")) == before


def test_without_pyarrow_the_way_out_is_named(population, command, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    result = command(export, population.store.path.parent, "--to", "parquet")
    assert result.code == 2
    assert len(result.err.splitlines()) == 1
    assert "pip install" in result.err
    assert "--to csv" in result.err
    assert not (population.store.path.parent / "export").exists()
    exported(command, population.store.path.parent)


@pytest.mark.parametrize("form", export.FORMATS)
def test_a_full_disk_leaves_the_old_export(population, command, form):
    population.train(10)
    out = exported(command, population.store.path.parent, form)
    old = {path: path.read_bytes() for path in out.iterdir()}
    population.train(10)
    (out / f".events.{form}.{os.getpid()}.tmp").symlink_to("/dev/full")
    result = command(export, population.store.path.parent, "--to", form)
    assert result.code == 2
    assert "No space left" in result.err
    assert len(result.err.splitlines()) == 1
    assert {path: path.read_bytes() for path in out.iterdir()} == old


@pytest.mark.parametrize("form", export.FORMATS)
def test_the_page_lists_the_columns_of_every_table(trained, command, tmp_path, form):
    out = exported(command, trained, form, tmp_path)
    sections = dict(re.findall(r"^### (\w+)\n(.*?)(?=^### |\Z)", PAGE.read_text(), re.M | re.S))
    assert list(sections) == TABLES
    kinds = {"int64": "int", "double": "float", "bool": "bool", "string": "str"}
    for name, section in sections.items():
        listed = re.findall(r"^\| `([^`]+)` \| (\w+) \|", section, re.M)
        if form == "csv":
            columns = list(pd.read_csv(out / f"{name}.csv", nrows=0))
            assert list(dict.fromkeys(map(_without_name, columns))) == [name for name, _ in listed]
        else:
            schema = parquet.read_schema(out / f"{name}.parquet")
            found = [(_without_name(field.name), kinds[str(field.type)]) for field in schema]
            assert list(dict.fromkeys(found)) == listed


def _without_name(column):
    """`hyperparameter/<name>` or `metric/<name>` for all columns of these kinds."""
    return re.sub(r"^(\w+)/.*", r"\1/<name>", column)


def test_the_examples_on_the_page_work(trained, command, tmp_path, monkeypatch, capsys):
    text = PAGE.read_text().partition("## From Python")[0]  # the rest is in test_runs.py
    out = tmp_path / "results/runs/gym-CartPole-v1/export"
    for form in export.FORMATS:
        exported(command, trained, form, out)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) == len(TABLES)
    names = {}
    printed = []
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
        printed.append(capsys.readouterr().out)
    assert "training" in printed[0]
    assert "hyperparameter/h_0" in printed[1]
    with store.Store.open(trained) as run_store:
        run = history.History.read(run_store, "run")
    assert names["best"]["member"] == run.best.id
    assert names["lineage"] == [(step.version.member, step.version.version) for step in run.lineage]
    assert list(names["schedule"].index) == [step.training for step in run.lineage]
    slices = [step for step in run.lineage if step.version.kind == "slice"]
    assert list(names["curve"]["training"]) == [step.training for step in slices]
    exploits = [event for event in run.events if event.kind == "exploit"]
    assert list(names["copies"]["donor"]) == [event.details["donor"] for event in exploits]
    assert names["evidence"] == exploits[0].details
