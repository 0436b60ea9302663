import errno
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tensorboard import context
from tensorboard.backend.event_processing import (
    data_provider,
    event_accumulator,
    plugin_event_multiplexer,
)
from tensorboard.data import server_ingester as data_ingester
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import metadata as hparams
from tensorboard.util import grpc_util

import projection_run as runs
from experiments.analysis import history, provenance
from experiments.projections import event_file, points, tensorboard
from pbt import lineage
from pbt.task import Episode

HERE = Path(__file__).parent


def read(directory):
    """All scalars and texts by TensorBoard's own reader: {run: {tag: [(step, value, time)]}}.

    The name of the best lineage is without its number.
    """
    found = {}
    for path in sorted(directory.iterdir()):
        events = event_accumulator.EventAccumulator(
            str(path), size_guidance={"scalars": 0, "tensors": 0}
        )
        events.Reload()
        run = path.name.partition("-lineage")
        name = "".join(run[:2])
        assert name not in found
        tags = found[name] = {}
        for tag in events.Tags()["scalars"]:
            tags[tag] = [(e.step, e.value, e.wall_time) for e in events.Scalars(tag)]
        for tag in events.Tags()["tensors"]:
            if tag.startswith("_hparams_/"):  # all that these have to say is in their metadata
                content = events.SummaryMetadata(tag).plugin_data.content
                # The order of a map's items within the bytes differs from process to process.
                parse = hparams.parse_session_start_info_plugin_data
                if tag == hparams.EXPERIMENT_TAG:
                    parse = hparams.parse_experiment_plugin_data
                tags[tag] = [(0, parse(content), events.Tensors(tag)[0].wall_time)]
                continue
            tags[tag] = [
                (e.step, e.tensor_proto.string_val[0], e.wall_time) for e in events.Tensors(tag)
            ]
    return found


def assert_forward(found):
    for run, tags in found.items():
        for tag, drawn in tags.items():
            steps = [step for step, _, _ in drawn]
            assert all(a < b for a, b in itertools.pairwise(steps)), (run, tag)


def projected(population, directory):
    with tensorboard.Projector(population.store, directory) as projector:
        assert projector.update()
    return read(directory)


@pytest.fixture
def population(tmp_path):
    return runs.Population(tmp_path / "a run", runs.configuration())


def test_every_episode_and_every_value_of_the_store_is_there(population, tmp_path):
    population.train(1000)
    found = projected(population, tmp_path / "tb")
    assert_forward(found)
    members = [f"member-0{number}" for number in range(4)]
    assert sorted(found) == ["best-lineage", *members, "population"]
    for number in range(4):
        tags = found[f"member-0{number}"]
        reports = [r for _, r in population.store.reports() if r.member == number]
        episodes = [e for r in reports for e in r.episodes]
        assert [v for _, v, _ in tags["episode/return"]] == pytest.approx(
            [e.episode_return for e in episodes], rel=1e-6
        )
        assert [v for _, v, _ in tags["episode/length"]] == [e.length for e in episodes]
        moved = [
            e.agent_steps - s for e, (s, _, _) in zip(episodes, tags["episode/return"], strict=True)
        ]
        assert 0 <= min(moved) <= max(moved) < runs.NUM_ENVS
        losses = [(r.agent_steps, r.metrics["loss/policy"]) for r in reports]
        assert [(s, v) for s, v, _ in tags["loss/policy"]] == [
            (s, pytest.approx(v)) for s, v in losses
        ]
        rates = [r.slice_steps / r.seconds for r in reports]
        assert [v for _, v, _ in tags["steps_per_second"]] == pytest.approx(rates)
        copies = [v for v in population.store.versions(number) if v.kind == "exploit"]
        if copies:
            donors = {}  # each of them on a line of its own, which no other member's number is on
            for version in copies:
                donors.setdefault(version.parent[0], []).append(version.agent_steps)
            lines = {tag for tag in tags if tag.startswith("exploit/donor/")}
            assert lines == {f"exploit/donor/member-0{donor}" for donor in donors}
            for donor, steps in donors.items():
                line = tags[f"exploit/donor/member-0{donor}"]
                assert [(s, v) for s, v, _ in line] == [(step, donor) for step in steps]


def test_hyperparameters_are_the_used_ones_and_a_staircase(population, tmp_path):
    population.train(1000)
    found = projected(population, tmp_path / "tb")
    assert any(v.kind == "exploit" for v in population.store.versions())
    for number in range(4):
        versions = population.store.versions(number)
        for name, dimension in runs.SPACE.dimensions.items():
            drawn = found[f"member-0{number}"][f"hyperparameter/{name}"]
            for step, value, _ in drawn:
                # In force at a step are the values of the last version before it.
                before = [v for v in versions if v.agent_steps < step] or versions[:1]
                wanted = dimension.used(before[-1].hyperparameters[name])
                assert value == pytest.approx(wanted, rel=1e-6), (name, step)
            assert drawn[-1][0] == runs.INTERVAL * 10


def smoothed(values, weight=0.6):
    """TensorBoard's exponential moving average with its correction of the first values."""
    last, found = 0.0, []
    for count, value in enumerate(values, start=1):
        last = weight * last + (1 - weight) * value
        found.append(last / (1 - weight**count))
    return found


def test_schedules_stay_steps_under_tensorboards_default_smoothing(population, tmp_path):
    population.train(1000)
    projected(population, tmp_path / "tb")
    found, changes = read(tmp_path / "tb"), 0
    for run in ("best-lineage", *(f"member-0{number}" for number in range(4))):
        drawn = found[run]["hyperparameter/learning_rate"]
        shown = dict(zip([s for s, _, _ in drawn], smoothed([v for _, v, _ in drawn]), strict=True))
        for (at, before, _), (step, after, _) in itertools.pairwise(drawn):
            if before != after:
                changes += 1
                assert step == at + 1
                jump = abs(after - shown[at])
                assert abs(shown[step + points.REPEATS - 1] - after) < 0.02 * jump
    assert changes > 2


def test_the_commands_and_the_members_first_values_have_cards(population, tmp_path):
    line = {"command": "python -m experiments.gym", "commit": None, "started_s": 0.0}
    (tmp_path / "a run" / provenance.FILE_NAME).write_text(json.dumps(line) + "\n")
    population.train(2)
    found = projected(population, tmp_path / "tb")
    assert b"python -m experiments.gym" in found["population"]["run/commands"][0][1]
    ((_, experiment, _),) = found["population"][hparams.EXPERIMENT_TAG]
    assert [one.name for one in experiment.hparam_infos] == list(runs.SPACE.dimensions)
    assert [one.name.tag for one in experiment.metric_infos] == ["episode/return"]
    for number in range(4):
        ((_, row, _),) = found[f"member-0{number}"][hparams.SESSION_START_INFO_TAG]
        first = runs.SPACE.used(population.store.version(number, 0).hyperparameters)
        assert {name: v.number_value for name, v in row.hparams.items()} == pytest.approx(first)


def test_the_population_s_curve(population, tmp_path):
    population.train(1000)
    tags = projected(population, tmp_path / "tb")["population"]
    steps = [step for step, _, _ in tags["score/best"]]
    assert steps[-1] == runs.INTERVAL * 10
    scores = [m.score for m in population.store.members()]
    assert tags["score/best"][-1][1] == pytest.approx(max(scores), rel=1e-6)
    assert tags["score/worst"][-1][1] == pytest.approx(min(scores), rel=1e-6)
    assert tags["score/median"][-1][1] == pytest.approx(np.median(scores), rel=1e-6)
    layout = layout_pb2.Layout.FromString(tags["custom_scalars__config__"][0][1])
    charts = {c.title: list(c.multiline.tag) for g in layout.category for c in g.chart}
    assert charts["learning_rate"] == ["^hyperparameter/learning_rate$"]
    assert b"a3c2016" in tags["run/config"][0][1]


def test_little_by_little_gives_the_same_as_all_at_once(population, tmp_path):
    projector = tensorboard.Projector(population.store, tmp_path / "slowly")
    for turn in range(60):
        population.train(1)
        if turn in (20, 33):
            population.restore()
        assert projector.update()
    projector.close()
    assert any(v.kind == "restore" for v in population.store.versions())
    slowly = read(tmp_path / "slowly")
    assert_forward(slowly)
    assert slowly == projected(population, tmp_path / "at once")


def test_commits_between_two_reads_are_not_lost(population, tmp_path):
    projector = tensorboard.Projector(population.store, tmp_path / "tb")
    reading = {name: getattr(population.store, name) for name in ("members", "reports", "events")}

    def then_train(name, count):
        def read_and_train(*arguments, **keywords):
            result = reading[name](*arguments, **keywords)
            for other, method in reading.items():  # training reads the store, too
                setattr(population.store, other, method)
            population.train(count)
            hook()
            return result

        return read_and_train

    def hook():
        for place, name in enumerate(reading):
            setattr(population.store, name, then_train(name, place + 1))

    hook()
    for _ in range(15):
        projector.update()
    for name, method in reading.items():
        setattr(population.store, name, method)
    projector.close()
    assert read(tmp_path / "tb") == projected(population, tmp_path / "at once")


def test_a_projector_that_is_killed_leaves_no_gap_and_no_double(population, tmp_path):
    directory = tmp_path / "tb"
    command = [sys.executable, HERE / "projection_run.py", population.store.path.parent, directory]
    # The child of a source tree finds the packages where this process does.
    environment = os.environ | {"PYTHONPATH": str(HERE.parents[1])}
    rng = np.random.default_rng(0)
    for _ in range(3):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert child.stdout.readline() == b"updated\n"
        for _ in range(int(rng.integers(2, 14))):
            population.train(1)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    population.train(1000)
    projector = tensorboard.Projector(population.store, directory)
    projector.close(wait_s=10)
    found = read(directory)
    assert_forward(found)
    assert found == projected(population, tmp_path / "at once")


@pytest.mark.parametrize("left", [0, 1, 11, 12, 13, 40, -1, "zeros", "noise"])
def test_a_torn_last_record_is_cut_off(population, tmp_path, left):
    population.train(9)
    projected(population, tmp_path / "tb")
    path = tmp_path / "tb" / "member-00" / event_file.FILE_NAME
    data = path.read_bytes()
    if left == "zeros":  # what some file systems leave after a power cut
        path.write_bytes(data + bytes(100))
    elif left == "noise":
        path.write_bytes(data + np.random.default_rng(0).bytes(1000))
    else:
        path.write_bytes(data[:left] if left < 0 else data[: len(data) * 2 // 3 + left])
    population.train(9)
    found = projected(population, tmp_path / "tb")
    assert_forward(found)
    assert found == projected(population, tmp_path / "at once")


def test_a_full_disk_is_said_once_and_made_good_later(population, tmp_path, monkeypatch):
    said = []
    projector = tensorboard.Projector(population.store, tmp_path / "tb", warn=said.append)
    population.train(5)
    assert projector.update()
    before = read(tmp_path / "tb")
    written = []
    write = os.pwrite

    def full(descriptor, data, offset):
        written.append(len(data))
        if len(written) % 2:
            return write(descriptor, data[: len(data) // 2], offset)  # half of it fits
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        for _ in range(3):
            population.train(5)
            assert not projector.update()
    assert len(said) == 1
    assert "No space left" in said[0]
    assert read(tmp_path / "tb") == before
    assert projector.update()
    projector.close()
    assert read(tmp_path / "tb") == projected(population, tmp_path / "at once")


def test_a_directory_that_cannot_be_made_is_only_said(population, tmp_path):
    (tmp_path / "file").write_text("in the way")
    said = []
    projector = tensorboard.Projector(population.store, tmp_path / "file" / "tb", warn=said.append)
    assert not projector.update()
    projector.close(wait_s=60)  # does not wait for what will not come
    assert len(said) == 1


def test_of_two_launchers_one_writes_and_the_other_succeeds_it(population, tmp_path):
    first = tensorboard.Projector(population.store, tmp_path / "tb")
    second = tensorboard.Projector(population.store, tmp_path / "tb")
    population.train(3)
    assert first.update()
    assert not second.update()
    population.train(3)
    first.close()
    population.train(3)
    assert second.update()
    assert not first.update()
    population.train(30)
    second.close()
    first.close()
    assert read(tmp_path / "tb") == projected(population, tmp_path / "at once")


def test_deleted_files_are_made_again_even_while_it_runs(population, tmp_path):
    projector = tensorboard.Projector(population.store, tmp_path / "tb")
    population.train(20)
    assert projector.update()
    before = read(tmp_path / "tb")
    shutil.rmtree(tmp_path / "tb")
    assert projector.update()
    assert read(tmp_path / "tb") == before
    shutil.rmtree(tmp_path / "tb" / "member-02")
    population.train(20)
    projector.close()
    assert read(tmp_path / "tb") == projected(population, tmp_path / "at once")


def test_the_best_lineage_has_its_samples_and_values(population, tmp_path):
    population.train(1000)
    tags = projected(population, tmp_path / "tb")["best-lineage"]
    seen = history.History.read(population.store, "x")
    training = seen.lineage[-1].training
    for name in runs.SPACE.dimensions:
        assert tags[f"hyperparameter/{name}"][-1][0] == training
    # Each slice's values are those of the last point at or before its end.
    drawn = tags["hyperparameter/learning_rate"]
    for step in seen.lineage:
        if step.version.kind == "slice":
            value = [value for at, value, _ in drawn if at <= step.training][-1]
            assert value == pytest.approx(step.version.hyperparameters["learning_rate"], rel=1e-6)
    episodes = [e for e in lineage.episodes(seen.lineage, seen.reports) if e.counted]
    assert [value for _, value, _ in tags["episode/return"]] == pytest.approx(
        [e.episode_return for e in episodes], rel=1e-6
    )
    moved = [
        e.agent_steps - at for e, (at, _, _) in zip(episodes, tags["episode/return"], strict=True)
    ]
    assert 0 <= min(moved) <= max(moved) < runs.NUM_ENVS


@pytest.fixture(params=["its server", "its Python reader"])
def watched(request, tmp_path):
    """A function that reads the scalars of a directory as a TensorBoard does that goes on running.

    Returns {run: {tag: [(step, value)]}}.
    """
    (tmp_path / "tb").mkdir()
    if request.param == "its server":
        server = data_ingester.SubprocessServerDataIngester(
            server_binary=data_ingester.get_server_binary(),
            logdir=str(tmp_path / "tb"),
            reload_interval=1,
            channel_creds_type=grpc_util.ChannelCredsType.LOCAL,
        )
        server.start()
        provider = server.data_provider
    else:
        multiplexer = plugin_event_multiplexer.EventMultiplexer(size_guidance={"tensors": 0})
        provider = data_provider.MultiplexerDataProvider(multiplexer, str(tmp_path / "tb"))

    def seen():
        if request.param == "its Python reader":
            multiplexer.AddRunsFromDirectory(str(tmp_path / "tb"))
            multiplexer.Reload()
        found = provider.read_scalars(
            context.RequestContext(), experiment_id="", plugin_name="scalars", downsample=10**6
        )
        return {
            run: {tag: [(point.step, point.value) for point in drawn] for tag, drawn in of.items()}
            for run, of in found.items()
        }

    yield seen
    if request.param == "its server":
        server._stdin_handle.close()  # it ends with its standard input


def test_a_running_tensorboard_draws_one_best_lineage(population, tmp_path, watched):
    names = set()
    for _ in range(8):
        population.train(4)
        wanted = {
            tag: [(step, value) for step, value, _ in found]
            for tag, found in projected(population, tmp_path / "tb").get("best-lineage", {}).items()
        }
        deadline = time.monotonic() + 60
        while True:  # the server looks for new data on its own
            shown = {name: of for name, of in watched().items() if name.startswith("best-lineage")}
            if list(shown.values()) == [wanted] or not wanted or time.monotonic() > deadline:
                break
        assert list(shown.values()) == ([wanted] if wanted else [])
        names |= set(shown)
    assert 1 < len(names) < 8  # at times another member became the best


def test_the_best_lineage_is_there_while_training(population, tmp_path):
    projector = tensorboard.Projector(population.store, tmp_path / "tb")
    population.train(16)
    assert projector.update()
    first = read(tmp_path / "tb")["best-lineage"]
    population.train(1000)
    assert projector.update()
    assert read(tmp_path / "tb")["best-lineage"] == first  # it is read at most once a minute
    projector.close()
    assert read(tmp_path / "tb")["best-lineage"] != first


@pytest.mark.parametrize("left", [0, 30, 5_000])
def test_a_best_lineage_that_was_cut_off_is_completed(population, tmp_path, left):
    population.train(40)
    projected(population, tmp_path / "tb")
    (run,) = (tmp_path / "tb").glob("best-lineage*")
    path = run / event_file.FILE_NAME
    path.write_bytes(path.read_bytes()[:left])
    (tmp_path / "tb" / "best-lineage").mkdir()  # of a version before
    found = projected(population, tmp_path / "tb")
    assert run.is_dir()
    assert found == projected(population, tmp_path / "at once")


def test_equal_steps_are_moved_apart_as_little_as_possible():
    assert points.distinct_steps([64, 96, 96, 96, 128], 32) == [64, 94, 95, 96, 128]
    assert points.distinct_steps([3, 3, 3, 3], 0) == [1, 1, 2, 3]  # no room for four
    assert points.distinct_steps([], 0) == []
    rng = np.random.default_rng(0)
    for _ in range(200):
        steps = np.sort(rng.integers(101, 131, rng.integers(1, 30))).tolist()
        moved = points.distinct_steps(steps, 100)
        assert all(100 < m <= s for m, s in zip(moved, steps, strict=True))
        if len(steps) <= 30 and moved[0] > 101:
            assert len(set(moved)) == len(moved)


def test_more_episodes_than_steps_share_a_point():
    episodes = [Episode(1, 2.0, 1, True), Episode(1, 4.0, 3, True), Episode(2, 9.0, 1, True)]
    drawn = points.episode_points(episodes, 0, float)
    returns = [(p.step, p.value) for p in drawn if p.tag == "episode/return"]
    assert returns == [(1, 3.0), (2, 9.0)]


def test_the_way_to_see_a_large_population():
    assert tensorboard.way_to_see(Path("a run"), 38) == "tensorboard --logdir 'a run'"
    line = tensorboard.way_to_see(Path("run"), 39)
    assert line.startswith("tensorboard --logdir run (Custom Scalars: press TOGGLE ALL RUNS")
    assert "none of 41" in line
