"""The worker in one process: budgets, windows, turns, copying, and what exploitation achieves."""

import dataclasses
import json
import os
import signal
import statistics
import subprocess
import sys
import time

import numpy as np
import pytest

from pbt import checkpoint, create, decide, owner, run, space, worker
from pbt.task import Episode, Progress

WINDOW = 5


class Hill:
    """Climbs fastest at the rate 0.5; one episode per update. Says what is done to it."""

    def __init__(self, calls, member, seed):
        self.calls, self.member = calls, member
        self.height, self.rate = 0.0, float("nan")
        self.rng = np.random.default_rng(seed)
        self.update = 10
        self.say("build", seed)

    def say(self, *what):
        self.calls.append((self.member, *what))

    def train(self, agent_steps, limit):
        self.say("train", self.rate)
        done = 0
        while done < agent_steps:
            steps = min(self.update, limit - done)
            done += steps
            self.height += steps * (1 - abs(self.rate - 0.5))
            score = self.height + float(self.rng.normal())
            yield Progress(steps, (Episode(done, score, steps, True),), {"height": self.height})

    def set_hyperparameters(self, values):
        self.say("set", values["rate"])
        self.rate = values["rate"]

    def hyperparameters(self):
        return {"rate": np.float32(self.rate)}  # as a learner in single precision does

    def save(self, directory):
        (directory / "hill.txt").write_text(repr([self.height, self.rate]))

    def load(self, directory):
        self.say("load", int(directory.parent.name), int(directory.name.split("-")[0]))
        text = (directory / "hill.txt").read_text()
        self.height, self.rate = map(float, text.strip("[]").split(","))

    def close(self):
        self.say("close")


@pytest.fixture
def start(tmp_path):
    """A factory of runs: returns (store, directory, calls, work)."""

    def make(name="run", **settings):
        defaults = {
            "task": "nowhere:make_task",
            "space": space.Space({"rate": space.Uniform(0.01, 1.0)}, adapt=("rate",)),
            "population": 4,
            "total_steps": 500,
            "report_interval": 100,
            "ready_interval": 100,
            "window": WINDOW,
            "min_episodes": WINDOW,
            "seed": 3,
        }
        config = run.RunConfig(**{**defaults, **settings})
        store = create.create_run(tmp_path / name, config, durable=False)
        calls = []

        def work(**arguments):
            arguments.setdefault(
                "make_task", lambda config, member, seed: Hill(calls, member, seed)
            )
            return worker.run(store, tmp_path / name, durable=False, **arguments)

        return store, tmp_path / name, calls, work

    return make


@pytest.mark.parametrize(("total", "interval"), [(100, 100), (505, 100), (130, 95), (999, 333)])
def test_the_budget_is_exact(total, interval, start):
    store, _, calls, work = start(total_steps=total, report_interval=interval)
    outcome = work()
    assert outcome.exit_code == 0
    assert outcome.message == f"finished: 4 members trained {total:,} steps each"
    for member in store.members():
        assert (member.agent_steps, member.state) == (total, "finished")
        steps = [report.slice_steps for _, report in store.reports() if report.member == member.id]
        assert sum(steps) == total
        # A slice ends at the first update boundary at or after its interval; only the last is cut.
        assert set(steps[:-1]) <= {-(-interval // 10) * 10}
    assert [call for call in calls if call[1] == "build"] == [
        (member, "build", decide.task_seed(3, member, 0)) for member in range(4)
    ]
    assert sum(call[1] == "close" for call in calls) == 4
    # Nothing is left to do, and it says so again.
    assert work().message == outcome.message


def test_few_residents_take_turns_fairly(start):
    store, _, calls, work = start(population=7, total_steps=1_000)
    spreads, alive = [], []

    def probe(name):
        if name == "committed":
            steps = [member.agent_steps for member in store.members()]
            spreads.append(max(steps) - min(steps))
            built = sum(call[1] == "build" for call in calls)
            alive.append(built - sum(call[1] == "close" for call in calls))

    assert work(resident_limit=2, probe=probe).exit_code == 0
    # Residents are preferred while the least advanced member is at most two slices behind.
    assert max(spreads) <= 3 * 100
    assert max(alive) == 2
    assert [member.agent_steps for member in store.members()] == [1_000] * 7
    # A task that was built anew took over what its member had committed.
    assert sum(call[1] == "load" for call in calls) > 7


def test_everybody_has_begun_before_anybody_goes_on(start):
    """Who starts early would meet few others and be copied by many: an advantage by number."""
    store, *_, work = start(population=7)
    assert work(resident_limit=7).exit_code == 0
    trained = [report.member for _, report in store.reports()]
    assert sorted(trained[:7]) == list(range(7))


def test_a_stop_cuts_the_slice_and_commits_it(start):
    store, _, _, work = start(exploit="none")
    updates = []
    outcome = work(
        probe=lambda name: updates.append(name) if name == "training" else None,
        stop=lambda: 15 if len(updates) >= 3 else 0,
    )
    assert (outcome.exit_code, outcome.message) == (143, "stopped by signal 15")
    [(_, report)] = store.reports()
    assert report.slice_steps == 30
    assert store.member(report.member).owner is None
    assert store.member(report.member).agent_steps == 30
    assert work().exit_code == 0
    assert [member.agent_steps for member in store.members()] == [500] * 4


def test_a_stop_before_the_first_update_commits_nothing(start):
    store, _, calls, work = start()
    outcome = work(stop=lambda: 2 if calls else 0)
    assert outcome.exit_code == 130
    assert sum(member.version for member in store.members()) <= 1
    assert work(stop=lambda: 2).exit_code == 130


def test_the_window_starts_again_when_a_task_is_built(start):
    store, _, _, work = start(exploit="none", total_steps=500, window=15, min_episodes=15)
    work(stop=lambda: 15 if min(m.agent_steps for m in store.members()) >= 200 else 0)
    before = store.members()
    assert all(m.counted_episodes == m.agent_steps // 10 >= 20 for m in before)
    assert all(m.score == pytest.approx(statistics.fmean(m.window)) for m in before)
    first = {}

    def probe(name):
        if name == "committed":
            for member in store.members():
                if member.version > before[member.id].version:
                    first.setdefault(member.id, member)

    assert work(probe=probe).exit_code == 0  # another worker: it has none of the tasks
    assert first
    for member in first.values():
        assert (len(member.window), member.counted_episodes) == (10, 10)
        assert member.score == before[member.id].score  # what was known stays
    for member in store.members():
        trained = member.agent_steps - before[member.id].agent_steps
        assert member.counted_episodes == (trained or member.agent_steps) // 10


def test_only_counted_episodes_decide(start):
    store, _, calls, work = start(exploit="none")

    class Shy(Hill):
        def train(self, agent_steps, limit):
            for progress in super().train(agent_steps, limit):
                odd = progress.episodes[0].agent_steps // 10 % 2 == 1
                yield progress._replace(episodes=(progress.episodes[0]._replace(counted=odd),))

    work(make_task=lambda config, member, seed: Shy(calls, member, seed))
    for member in store.members():
        reports = [report for _, report in store.reports() if report.member == member.id]
        episodes = [episode for report in reports for episode in report.episodes]
        counted = [episode.episode_return for episode in episodes if episode.counted]
        assert (len(episodes), len(counted), member.counted_episodes) == (50, 25, 25)
        assert member.window == tuple(counted[-WINDOW:])
        assert [episode.agent_steps for episode in episodes] == list(range(10, 501, 10))


def test_an_exploit_loads_then_explores_then_sets(start):
    """The order that keeps the donor's checkpoint from undoing the new hyperparameters."""
    store, directory, calls, work = start(total_steps=1_000)
    assert work().exit_code == 0
    exploits = [event for event in store.events() if event.kind == "exploit"]
    assert exploits
    for event in exploits:
        donor = (event.details["donor"], event.details["donor_version"])
        at = calls.index((event.member, "load", *donor))
        new = event.details["hyperparameters_after_explore"]["rate"]
        assert calls[at + 1] == (event.member, "set", new)
        later = [call for call in calls[at:] if call[0] == event.member and call[1] == "train"]
        assert not later or later[0] == (event.member, "train", new)
        child = store.version(event.member, event.version)
        assert child.agent_steps == store.version(event.member, event.version - 1).agent_steps
        assert child.parent == donor
        factor = new / event.details["hyperparameters_after_copy"]["rate"]
        assert factor == pytest.approx(0.8) or factor == pytest.approx(1.2) or new in (0.01, 1.0)
        explore = next(
            e for e in store.events() if e.kind == "explore" and e.version == event.version
            and e.member == event.member
        )  # fmt: skip
        assert explore.details["changes"]["rate"]["after"] == new
    # The window of a child starts again, and with it the right to decide.
    for event in exploits:
        again = [e for e in store.events() if e.member == event.member and e.id > event.id
                 and e.kind in ("exploit", "no-exploit")]  # fmt: skip
        assert all(e.agent_steps >= event.agent_steps + 100 for e in again)
    names = store.referenced_checkpoints()
    for version in store.versions():
        if version.checkpoint in names and version.kind == "exploit":
            written = directory / "checkpoints" / version.checkpoint / checkpoint.MANIFEST
            manifest = json.loads(written.read_text())
            assert manifest["hyperparameters"] == version.hyperparameters
            assert tuple(manifest["parent"]) == version.parent


@pytest.mark.parametrize("copy", ["both", "weights", "hyperparameters", "none"])
def test_what_is_copied(copy, start):
    store, _, calls, work = start(copy=copy, explore="none", total_steps=1_000)
    assert work().exit_code == 0
    exploits = [event for event in store.events() if event.kind == "exploit"]
    assert exploits
    for event in exploits:
        donor = store.version(event.details["donor"], event.details["donor_version"])
        before = store.version(event.member, event.version - 1)
        child = store.version(event.member, event.version)
        inherited = donor if copy in ("both", "hyperparameters") else before
        assert child.hyperparameters == inherited.hyperparameters
        source = donor if copy in ("both", "weights") else before
        assert (event.member, "load", source.member, source.version) in calls


def test_a_child_scores_as_the_weights_it_took(start, monkeypatch):
    store, _, _, work = start(total_steps=1_000)
    scores, commit = [], store.commit

    def recording(lease, member, *arguments, **keywords):
        if "exploit" in (*arguments[:1], keywords.get("kind")):
            scores.append((member.score, store.member(member.parent[0]).score, lease.member.score))
        return commit(lease, member, *arguments, **keywords)

    monkeypatch.setattr(store, "commit", recording)
    assert work().exit_code == 0
    assert scores
    for child, donor, replaced in scores:
        assert child == donor != replaced


def test_exploring_at_every_ready_needs_no_exploit(start):
    store, _, _, work = start(exploit="none", explore_at="ready", total_steps=300)
    assert work().exit_code == 0
    kinds = [version.kind for version in store.versions(0)]
    assert kinds == ["initial", "slice", "explore", "slice", "explore", "slice"]
    rates = [version.hyperparameters["rate"] for version in store.versions(0)]
    assert rates[1] != rates[2] == rates[3] != rates[4] == rates[5]
    assert {event.kind for event in store.events()} == {"no-exploit", "explore"}


def test_ready_interval_counts_from_the_last_ready(start):
    store, _, _, work = start(ready_interval=200, total_steps=1_000)
    assert work().exit_code == 0
    for member in range(4):
        steps = [
            event.agent_steps
            for event in store.events()
            if event.member == member and event.kind in ("exploit", "no-exploit")
        ]
        assert steps == [200, 400, 600, 800]  # not at the end, where nothing could be learned


def test_the_same_seed_and_one_worker_repeat_exactly(start):
    results = []
    for name in ("first", "second"):
        store, _, _, work = start(name, total_steps=800)
        work()
        results.append(
            [
                (v.member, v.version, v.kind, v.agent_steps, v.hyperparameters, v.parent, v.score)
                for v in store.versions()
            ]
        )
    assert results[0] == results[1]


def test_exploitation_finds_the_best_rate(start):
    """The best rate is known, 0.5: against random search from the same draws, in every quantile."""
    strategies, heights, distances = ("t-test", "truncation", "binary-tournament"), {}, {}
    for exploit in (*strategies, "none"):
        store, _, _, work = start(
            exploit, exploit=exploit, population=6, total_steps=1_500, explore="resample"
        )
        work()
        final = {report.member: report for _, report in store.reports()}
        heights[exploit] = sorted(report.metrics["height"] for report in final.values())
        rates = [member.hyperparameters["rate"] for member in store.members()]
        distances[exploit] = statistics.median(abs(rate - 0.5) for rate in rates)
    median = statistics.median(heights["none"])
    for exploit in strategies:
        assert heights[exploit][-1] >= heights["none"][-1]  # equal where the best never copied
        assert statistics.median(heights[exploit]) > 1.15 * median
        assert distances[exploit] < distances["none"]


def test_a_lone_member_exploits_nobody(start):
    store, _, _, work = start(population=1)
    assert work().exit_code == 0
    assert {event.kind for event in store.events()} == {"no-exploit"}


def test_a_donor_needs_a_checkpoint_and_a_valid_window(start):
    store, _, _, _ = start()
    config = store.config
    me, other, *_ = store.members()
    ready = {"agent_steps": 100, "window": (1.0,) * WINDOW, "counted_episodes": WINDOW}
    me = dataclasses.replace(me, **ready)
    strong = dataclasses.replace(
        other, **{**ready, "window": (9.0, 9.1, 9.2, 9.1, 9.0)}, checkpoint="1/1-x", version=1
    )
    assert decide.choose_donor(config, me, [me, strong]).donor == 1
    for change in (
        {"checkpoint": None},
        {"window": (9.0,) * (WINDOW - 1)},
        {"counted_episodes": WINDOW - 1},
        {"state": "diverged"},
        {"state": "failed"},
    ):
        weak = dataclasses.replace(strong, **change)
        assert decide.choose_donor(config, me, [me, weak]).donor is None
    finished = dataclasses.replace(strong, state="finished")
    assert decide.choose_donor(config, me, [me, finished]).donor == 1


def test_an_owner_that_ended_is_known_to_be_gone(monkeypatch):
    mine = owner.current()
    host, boot, namespace, pid, started = mine.split("/")
    another = f"{pid}/{int(started) + 1}"
    dead = {f"{host}/{boot}/{namespace}/{another}", f"{host}/{boot}/{namespace}/{2**22 + 1}/1"}
    unknown = {
        f"{host}/another-boot/{namespace}/{another}",  # or another machine of the same name
        f"{host}/{boot}/1/{another}",  # another container's
        f"elsewhere/{boot}/{namespace}/{another}",
        f"{host}/{boot}/{namespace}/x/1",
        "somebody",
    }
    assert owner.gone({None, mine} | dead | unknown) == dead
    assert owner.at_work({None, mine} | dead | unknown) == {mine}
    # Older code did not name the namespace, so only in the first one can its processes be known.
    old = {f"{host}/{boot}/{another}"}
    for where, known in (("4026531836", old), ("4026532000", set())):
        monkeypatch.setattr(owner, "_namespace", lambda where=where: where)
        assert owner.gone(old) == known
        assert owner.at_work({f"{host}/{boot}/{pid}/{started}"}) == (
            {f"{host}/{boot}/{pid}/{started}"} if known else set()
        )


def test_a_stopped_owner_is_neither_gone_nor_at_work(monkeypatch):
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        name = owner.current().split("/")
        monkeypatch.setattr(os, "getpid", lambda: child.pid)
        theirs = owner.current()
        monkeypatch.undo()
        assert theirs.split("/")[:3] == name[:3]
        assert owner.at_work({theirs}) == {theirs}
        child.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 10
        while owner.at_work({theirs}):
            assert time.monotonic() < deadline
        assert owner.gone({theirs}) == set()
    finally:
        child.kill()
        child.wait()
    assert owner.gone({theirs}) == {theirs}
