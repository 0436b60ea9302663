"""What MLflow and Weights & Biases read of an exported run, compared with the store's records."""

import json
import struct
import sys

import pytest

import projection_run as runs
from experiments import export
from experiments.analysis import history, provenance
from experiments.projections import points, to_mlflow
from pbt import space

EXTRA = "an extra: pip install -c constraints.txt -e '.[{}]'"
ODD = space.Space({"rate, größe//": space.LogUniform(1e-4, 1e-2)}, ("rate, größe//",))


@pytest.fixture
def population(tmp_path):
    return runs.Population(tmp_path / "a run, größer", runs.configuration(3, slices=6))


@pytest.fixture
def run_dir(population):
    line = {"command": "python -m experiments.gym", "commit": None, "started_s": 0.0}
    run_dir = population.store.path.parent
    (run_dir / provenance.FILE_NAME).write_text(json.dumps(line) + "\n")
    return run_dir


@pytest.fixture
def mlflow(monkeypatch):
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    return pytest.importorskip("mlflow", reason=EXTRA.format("mlflow"))


@pytest.fixture
def wandb():
    return pytest.importorskip("wandb", reason=EXTRA.format("wandb"))


def wanted(seen):
    """The last value of each step of each tag that a tracker shows, by run."""
    return {
        name: {
            tag: [(p.step, p.value, p.wall_time) for p in points.beyond(drawn, {}) if p.tag == tag]
            for tag in {p.tag for p in drawn if not isinstance(p.value, str)}
        }
        for name, drawn in points.of_history(seen).items()
    }


def in_mlflow(client):
    """All runs of a store: {name: (run, {metric: [(step, value, seconds)]})}."""
    found = {}
    for experiment in client.search_experiments():
        for run in client.search_runs([experiment.experiment_id]):
            name = run.data.tags[to_mlflow.MEMBER_TAG]
            assert name not in found
            found[name] = (
                run,
                {
                    metric: [
                        (one.step, one.value, one.timestamp / 1000)
                        for one in sorted(
                            client.get_metric_history(run.info.run_id, metric),
                            key=lambda one: one.step,
                        )
                    ]
                    for metric in run.data.metrics
                },
            )
    return found


def assert_equal(found, wanted):
    assert found.keys() == wanted.keys()
    for tag, line in wanted.items():
        assert [one[:2] for one in found[tag]] == [one[:2] for one in line], tag
        times = [one[2] for one in line]
        assert [one[2] for one in found[tag]] == pytest.approx(times, abs=0.002), tag


def test_mlflow_has_each_member_below_the_population_and_nothing_twice(
    population, run_dir, command, mlflow
):
    out = run_dir / "export" / "mlflow"
    for turns in (9, 0, 1000):  # training goes on between the exports
        population.train(turns)
        if turns == 9:
            population.restore()
        result = command(export, run_dir, "--to", "mlflow")
        assert result.code is None, result.err
        assert "0 new values" in result.out or turns
        assert f"mlflow ui --backend-store-uri 'sqlite:///{out / 'mlflow.db'}'" in result.out
        seen = history.History.read(population.store, "x")
        client = mlflow.MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
        found = in_mlflow(client)
        for name, lines in wanted(seen).items():
            assert_equal(found[name][1], lines)
        assert len(found) == 4
    parent = found[points.POPULATION][0]
    assert parent.data.tags["commands"] == "python -m experiments.gym"
    assert parent.data.params["population"] == "3"
    assert parent.data.params["task_config.env_id"] == "ALE/Pong-v5"
    assert parent.info.status == "FINISHED"
    copies = [event for event in seen.events if event.kind == "exploit"]
    assert copies
    for member in seen.members:
        run = found[points.member_run(member.id)][0]
        assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
        first = seen.config.space.used(seen.tree.versions[member.id, 0].hyperparameters)
        assert {name: float(value) for name, value in run.data.params.items()} == first
        donors = {f"copied/member-0{e.details['donor']}" for e in copies if e.member == member.id}
        assert {tag for tag in run.data.tags if tag.startswith("copied/")} == donors
        path = client.download_artifacts(run.info.run_id, "decisions.jsonl")
        with open(path, encoding="utf-8") as file:
            kept = [json.loads(line)["id"] for line in file]
        assert kept == [event.id for event in seen.events if event.member == member.id]
        ended_s = seen.tree.versions[member.id, member.version].created_s
        assert run.info.end_time / 1000 == pytest.approx(ended_s, abs=0.002)


def test_mlflow_takes_two_runs_of_odd_names_in_one_store(tmp_path, command, mlflow):
    for name in ("one", "two"):
        population = runs.Population(tmp_path / name, runs.configuration(1, 2, space=ODD))
        population.train(1)
        result = command(
            export, tmp_path / name, "--to", "mlflow", "--out", tmp_path / "shared store"
        )
        assert result.code is None, result.err
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path / 'shared store' / 'mlflow.db'}")
    names = {e.name: e.experiment_id for e in client.search_experiments()}
    for name in ("one", "two"):
        (run,) = client.search_runs([names[name]], "tags.member = 'member-00'")
        assert run.info.status == "RUNNING"
        assert any("rate_x2c_ gr_xf6__xdf_e" in metric for metric in run.data.metrics)


def test_names_for_mlflow_differ_where_the_tags_do():
    assert to_mlflow.key("hyperparameter/learning_rate") == "hyperparameter/learning_rate"
    odd = ["a:b", "a,b", "a//b", "/a", "..", "ä", "a\n", "a/../b", "a."]
    keys = [to_mlflow.key(tag) for tag in odd]
    assert len(set(keys)) == len(odd)
    validation = pytest.importorskip("mlflow.utils.validation", reason=EXTRA.format("mlflow"))
    for name in keys:
        validation._validate_metric_name(name)


def in_wandb(directory):
    """All offline runs below a directory: {name: (run record, {tag: [(step, value, seconds)]})}."""
    from wandb.proto import wandb_internal_pb2

    found = {}
    for path in directory.glob("offline-run-*/*.wandb"):
        lines = {}
        for data in leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "run" and record.run.run_id:
                started = record.run
            if record.WhichOneof("record_type") == "history":
                row = {
                    "/".join(item.nested_key) or item.key: json.loads(item.value_json)
                    for item in record.history.item
                }
                for tag in row.keys() - {"_step", "_timestamp", "_runtime"}:
                    lines.setdefault(tag, []).append((row["_step"], row[tag], row["_timestamp"]))
        assert started.display_name not in found
        found[started.display_name] = (started, lines)
    return found


def leveldb_records(data):
    """Read W&B's file format: LevelDB's log in blocks of 32 KiB, after a header of 7 bytes."""
    place, parts = 7, b""
    while place + 7 <= len(data):
        left = 32_768 - place % 32_768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + 7])
        parts += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # the whole record, or its last part
            yield parts
            parts = b""


def test_wandb_has_a_run_per_member_and_nothing_twice(population, run_dir, command, wandb):
    ids = []
    for turns in (9, 1000):
        population.train(turns)
        if turns == 9:
            population.restore()
        result = command(export, run_dir, "--to", "wandb")
        assert result.code is None, result.err
        assert "wandb sync " in result.out
        seen = history.History.read(population.store, "x")
        found = in_wandb(run_dir / "export" / "wandb")
        for name, lines in wanted(seen).items():
            assert_equal_steps(found[name][1], lines)
        assert len(found) == 4
        ids.append({started.run_id for started, _ in found.values()})
    assert ids[0] == ids[1]
    config = {item.key: json.loads(item.value_json) for item in found["member-00"][0].config.update}
    first = seen.config.space.used(seen.tree.versions[0, 0].hyperparameters)
    assert {name: config[name] for name in first} == first
    assert found["member-00"][0].run_group == "a run, größer"
    assert found["member-00"][0].notes == "python -m experiments.gym"


def assert_equal_steps(found, wanted):
    assert found.keys() == wanted.keys()
    for tag, line in wanted.items():
        assert [one[:2] for one in found[tag]] == [one[:2] for one in line], tag
        # All values of a step have the time of the last one.
        assert all(a[2] >= b[2] - 1e-3 for a, b in zip(found[tag], line, strict=True)), tag


@pytest.mark.parametrize("tracker", export.TRACKERS)
def test_without_the_package_the_way_out_is_named(run_dir, command, monkeypatch, tracker):
    monkeypatch.setitem(sys.modules, tracker, None)
    before = sorted(run_dir.rglob("*"))
    result = command(export, run_dir, "--to", tracker)
    assert result.code == 2
    assert result.err == (
        f"error: --to {tracker} needs {tracker}: "
        f"pip install -c constraints.txt -e '.[{tracker}]', or use --to csv\n"
    )
    assert sorted(run_dir.rglob("*")) == before
