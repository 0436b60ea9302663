"""Random sequences of everything workers do to a store, against a model made of plain dictionaries.

The model restates the store's contract in the dullest way there is, without its code. Of the choice
that a claim makes, only the properties are checked.
"""

import itertools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pbt import run, space, store
from pbt.records import Event, Member, Report

SLICE, TOTAL, LEASE, TRIES = 10, 60, 60.0, 2
OWNERS = ["a", "b", "c"]
RESTS = [1, 4, 15, 60]


class Machine(RuleBasedStateMachine):
    databases: Any = None
    leases = Bundle("leases")

    @initialize(population=st.integers(1, 4), exploit=st.sampled_from(["t-test", "none"]))
    def create(self, population, exploit):
        self.directory = tempfile.TemporaryDirectory()
        self.clock = 1000.0
        self.exploit = exploit
        config = run.RunConfig(
            task="learner:make",
            space=space.Space({"lr": space.Uniform(0, 1)}, adapt=("lr",)),
            population=population,
            total_steps=TOTAL,
            report_interval=SLICE,
            ready_interval=SLICE,
            exploit=exploit,
            max_attempts=TRIES,
            lease_seconds=LEASE,
            window=1,
            min_episodes=1,
        )
        path = self.databases.file(Path(self.directory.name))
        first = [Member(i, 0, 0, {"lr": 0.5}) for i in range(population)]
        keywords = {"durable": False, "clock": lambda: self.clock}
        # Two doors to one run, as two processes have.
        self.stores = [self.databases.create(path, config, first, **keywords)]
        self.stores.append(store.Store.open(path, **keywords))
        self.model = [
            {
                "version": 0,
                "steps": 0,
                "state": "active",
                "owner": None,
                "fence": 0,
                "expires": None,
                "tries": 0,
                "first": None,  # number of reports when it first crashed at this version
                "lr": 0.5,
            }
            for _ in range(population)
        ]
        self.history = [(i, 0, "initial", 0, None, None) for i in range(population)]
        self.reported = []
        self.told = []
        self.uncommitted = 0

    def teardown(self):
        if hasattr(self, "directory"):
            for run_store in self.stores:
                run_store.close()
            self.directory.cleanup()

    def random_store(self):
        self.stores.reverse()
        return self.stores[0]

    def stands(self, lease):
        mine = self.model[lease.member.id]
        return (mine["owner"], mine["fence"]) == (lease.owner, lease.fence) and (
            mine["version"] == lease.member.version
        )

    def is_own_fault(self, i):
        mine = self.model[i]
        if mine["state"] == "failed":
            return True
        if not any(self.may_go_on(j) for j in range(len(self.model)) if j != i):
            return True
        since = self.reported[mine["first"] :] if mine["first"] is not None else []
        return any(member != i for member, _ in since)

    def note_crash(self, i):
        if self.model[i]["first"] is None:
            self.model[i]["first"] = len(self.reported)

    def end_attempt(self, i):
        """A crash or a kill: the member rests, or has failed."""
        mine = self.model[i]
        failed = mine["tries"] >= TRIES and self.is_own_fault(i)
        rest = RESTS[min(mine["tries"], len(RESTS)) - 1]
        mine.update(owner=None, expires=self.clock + rest)
        mine["fence"] += 1
        if failed:
            mine.update(state="lost" if mine["state"] == "failed" else "failed", tries=0)
            mine.update(expires=None)
            self.told.append(("failed", i))
        return failed

    def is_held(self, i, dead, live=()):
        mine = self.model[i]
        if mine["owner"] is None:
            return mine["expires"] is not None and self.clock < mine["expires"]
        patience = 3 * LEASE if mine["owner"] in live else 0
        return mine["owner"] not in dead and self.clock < mine["expires"] + patience

    def may_go_on(self, i):
        mine = self.model[i]
        alive = {"active"} if self.exploit == "none" else {"active", "diverged", "failed"}
        return mine["steps"] < TOTAL and mine["state"] in alive

    def may_be_copied(self, i):
        return self.model[i]["state"] in ("active", "finished") and self.model[i]["version"] > 0

    @rule(
        target=leases,
        owner=st.sampled_from(OWNERS),
        dead=st.sets(st.sampled_from(OWNERS), max_size=1),
        live=st.sets(st.sampled_from(OWNERS), max_size=1),
        resident=st.sets(st.integers(0, 3)),
        stale=st.booleans(),
    )
    def claim(self, owner, dead, live, resident, stale):
        everyone = range(len(self.model))
        residents = {i: self.model[i]["version"] - stale for i in resident if i in everyone}
        got = self.random_store().claim(owner, residents, dead_owners=dead, live_owners=live - dead)

        for i in everyone:
            mine = self.model[i]
            if not self.may_go_on(i) or mine["owner"] not in dead:
                continue
            # Killed once is nothing; killed again it rests, and at last it has failed.
            if mine["tries"] >= 2 or (mine["tries"] >= TRIES and self.is_own_fault(i)):
                self.told.append(("takeover", i))
                self.note_crash(i)
                self.end_attempt(i)
        free = [i for i in everyone if self.may_go_on(i) and not self.is_held(i, dead, live - dead)]
        donor = any(self.may_be_copied(i) for i in everyone)
        free = [
            i for i in free if self.may_go_on(i) and (donor or self.model[i]["state"] == "active")
        ]
        if got is None:
            assert free == []
            return multiple()
        chosen = got.member.id
        assert chosen in free
        steps = [self.model[i]["steps"] for i in free]
        mine = self.model[chosen]
        if 0 in steps:  # everybody begins before anybody goes on
            assert mine["steps"] == 0
        if mine["steps"] > min(steps):  # a task in memory is worth two slices, no more
            assert residents.get(chosen) == mine["version"]
            assert mine["steps"] <= min(steps) + 2 * SLICE

        if mine["owner"] is not None:
            self.told.append(("takeover", chosen))
            if mine["owner"] in dead:
                self.note_crash(chosen)
        if mine["owner"] in (None, *dead):
            mine["tries"] += 1
        mine["tries"] = max(1, mine["tries"])  # a holder that may live has used up nothing
        if mine["state"] == "failed":
            mine["tries"] = min(TRIES, mine["tries"])
        mine["fence"] += 1
        mine.update(owner=owner, expires=self.clock + LEASE)
        assert (got.owner, got.fence) == (owner, mine["fence"])
        return got

    def write(self, lease, action):
        """Do something under a lease; returns its result, or None when the lease was lost."""
        if self.stands(lease):
            return action(self.random_store())
        with pytest.raises(store.LostLease):
            action(self.random_store())
        return None

    def commit(self, lease, release, kind=None, report=False, events=(), **changes):
        """Commit and put it into the model; returns the lease to go on with, or nothing."""
        old = lease.member
        new = replace(old, **changes)
        score = None
        if kind is not None:
            self.uncommitted += 1
            new = replace(
                new,
                version=old.version + 1,
                checkpoint=f"{old.id}/{old.version + 1}-{self.uncommitted:016x}",
            )
        if report:
            report = Report(new.id, new.version, new.agent_steps, SLICE, 1.0, {"lr": 0.5}, (), {})
        else:
            report = None
        if kind == "slice" and new.counted_episodes:
            score = new.window[0]
        result = self.write(
            lease,
            lambda run_store: run_store.commit(
                lease, new, kind=kind, report=report, events=events, release=release
            ),
        )
        if result is None:
            return multiple()
        mine = self.model[old.id]
        if kind is not None:
            mine.update(tries=0 if release else 1, first=None)
            copied = kind in ("exploit", "restore", "reseed")
            self.history.append(
                (old.id, new.version, kind, new.agent_steps, new.parent if copied else None, score)
            )
        elif mine["state"] != new.state:
            mine["tries"] = 0 if release else 1
        elif release:
            mine["tries"] = max(0, mine["tries"] - 1)
        if report:
            self.reported.append((old.id, new.version))
        self.told.extend((event.kind, event.member) for event in events)
        mine.update(
            version=new.version,
            steps=new.agent_steps,
            state=new.state,
            lr=new.hyperparameters["lr"],
            owner=None if release else lease.owner,
            expires=None if release else self.clock + LEASE,
        )
        assert result.member == self.stores[0].member(old.id)
        return multiple() if release else result

    @rule(
        target=leases,
        lease=consumes(leases),
        release=st.booleans(),
        window=st.sampled_from([(), (1.0,), (2.0,), (3.0,)]),
        repeat=st.booleans(),
    )
    def train(self, lease, release, window, repeat):
        if lease.member.agent_steps + SLICE > TOTAL:
            return lease
        steps = lease.member.agent_steps + SLICE
        keywords = {
            "kind": "slice",
            "report": True,
            "agent_steps": steps,
            "state": "finished" if steps == TOTAL else "active",
            "window": window,
            "counted_episodes": len(window),
        }
        result = self.commit(lease, release, **keywords)
        if repeat:  # a worker that does not know whether its commit went through
            self.commit(lease, release, **keywords)
        return result

    @rule(target=leases, lease=consumes(leases), release=st.booleans(), data=st.data())
    def copy(self, lease, release, data):
        others = [entry for entry in self.history if entry[0] != lease.member.id and entry[1] > 0]
        if not others:
            return lease
        donor = data.draw(st.sampled_from(others))
        kind = "exploit" if lease.member.state == "active" else "reseed"
        event = Event(kind, lease.member.id, lease.member.version + 1, lease.member.agent_steps)
        return self.commit(
            lease,
            release,
            kind=kind,
            events=[event],
            parent=donor[:2],
            state="active",
            hyperparameters={"lr": data.draw(st.floats(0, 1))},
            window=(),
            counted_episodes=0,
        )

    @rule(target=leases, lease=consumes(leases), release=st.booleans())
    def restore(self, lease, release):
        i, version = lease.member.id, lease.member.version
        earlier = [entry for entry in self.history if entry[0] == i and 0 < entry[1] < version]
        found = self.random_store().previous_version(i, version)
        if not earlier:
            assert found is None
            return lease
        assert (found.member, found.version, found.kind, found.agent_steps) == earlier[-1][:4]
        return self.commit(
            lease,
            release,
            kind="restore",
            parent=(i, found.version),
            agent_steps=found.agent_steps,
            state="active",
        )

    @rule(target=leases, lease=consumes(leases), release=st.booleans())
    def decide_not_to_copy(self, lease, release):
        member = lease.member
        event = Event("no-exploit", member.id, member.version, member.agent_steps)
        return self.commit(
            lease, release, events=[event], last_ready_steps=lease.member.agent_steps
        )

    @rule(target=leases, lease=consumes(leases), release=st.booleans())
    def diverge(self, lease, release):
        return self.commit(lease, release, state="diverged")

    @rule(lease=leases)
    def renew(self, lease):
        if self.stands(lease):
            self.model[lease.member.id]["expires"] = self.clock + LEASE
        self.write(lease, lambda run_store: (run_store.renew(lease), True))

    @rule(lease=leases)
    def release(self, lease):
        held = self.stands(lease)
        self.write(lease, lambda run_store: (run_store.release(lease), True))
        if held:
            mine = self.model[lease.member.id]
            mine.update(owner=None, expires=None, tries=max(0, mine["tries"] - 1))

    @rule(lease=leases)
    def crash(self, lease):
        held = self.stands(lease)
        failed = self.write(lease, lambda run_store: run_store.crash(lease, "traceback"))
        if held:
            self.told.append(("crashed", lease.member.id))
            self.note_crash(lease.member.id)
            assert failed == self.end_attempt(lease.member.id)

    @rule(dead=st.sampled_from(OWNERS), live=st.sets(st.sampled_from(OWNERS), max_size=1))
    def relaunch(self, dead, live):
        alone = not any(
            mine["owner"] not in (None, dead)
            and (mine["owner"] in live or self.clock <= mine["expires"])
            for mine in self.model
        )
        changed = set()
        for i, mine in enumerate(self.model):
            if mine["owner"] == dead:
                mine.update(owner=None, expires=None, tries=max(0, mine["tries"] - 1))
                mine["fence"] += 1
                changed.add(i)
                self.told.append(("takeover", i))
            stopped = mine["state"] in ("failed", "lost") or mine["tries"] > 0
            if alone and stopped and mine["steps"] < TOTAL:
                if mine["state"] != "diverged":
                    mine["state"] = "active"
                mine.update(owner=None, expires=None, tries=0, first=None)
                changed.add(i)
                self.told.append(("revived", i))
        assert self.random_store().forgive([dead], live - {dead}) == sorted(changed)

    @rule(seconds=st.sampled_from([1.0, 5.0, 30.0, 61.0, 200.0]))
    def wait(self, seconds):
        self.clock += seconds

    @precondition(lambda self: hasattr(self, "model"))
    @invariant()
    def the_store_says_what_the_model_says(self):
        run_store = self.random_store()
        found = [
            {
                "version": member.version,
                "steps": member.agent_steps,
                "state": member.state,
                "owner": member.owner,
                "fence": member.fence,
                "expires": member.lease_expires_s,
                "tries": member.attempts,
                "lr": member.hyperparameters["lr"],
            }
            for member in run_store.members()
        ]
        model = [{k: mine[k] for k in mine if k != "first"} for mine in self.model]
        assert found == model
        everyone = range(len(model))
        going_on = [i for i in everyone if self.may_go_on(i)]
        hope = any(
            self.may_be_copied(i) or (self.model[i]["state"] == "active" and i in going_on)
            for i in everyone
        )
        going_on = going_on if hope else []
        assert [member.id for member in run_store.unfinished()] == going_on
        tried = [model[i]["tries"] - (model[i]["owner"] is not None) for i in going_on]
        assert run_store.all_crash_alike() == (
            min(tried, default=0) >= TRIES + 2 and not any(map(self.is_own_fault, going_on))
        )
        versions = run_store.versions()
        assert [
            (v.member, v.version, v.kind, v.agent_steps, v.parent, v.score) for v in versions
        ] == self.history
        assert [(r.member, r.version) for _, r in run_store.reports()] == self.reported
        # Several members may fail in one claim, in no order that matters.
        assert sorted((e.kind, e.member) for e in run_store.events()) == sorted(self.told)
        keep = set()
        for i in range(len(self.model)):
            names = [v.checkpoint for v in versions if v.member == i and v.checkpoint]
            all_finished = all(one["state"] == "finished" for one in model)
            keep |= set(names[-1:] if all_finished else names[-2:])
        scored = [v for v in versions if v.score is not None]
        if scored:
            best = max(v.score for v in scored)
            keep.add(next(v.checkpoint for v in scored if v.score == best))
        assert run_store.referenced_checkpoints() == keep


@pytest.mark.parametrize("sequences", [12, pytest.param(100, marks=pytest.mark.slow)])
def test_random_sequences_match_the_model(databases, sequences):
    machine = type("Machine", (Machine,), {"databases": databases})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=sequences if databases.is_sqlite else sequences // 3,
            stateful_step_count=40 if databases.is_sqlite else 25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )


def small_run(directory, population):
    config = run.RunConfig(
        task="learner:make",
        space=space.Space({"lr": space.Uniform(0, 1)}, adapt=("lr",)),
        population=population,
        total_steps=TOTAL,
        report_interval=SLICE,
        ready_interval=SLICE,
    )
    first = [Member(i, 0, 0, {"lr": 0.5}) for i in range(population)]
    return store.Store.create(Path(directory) / "run", config, first, durable=False)


def train_slice(run_store, lease):
    old = lease.member
    new = replace(
        old,
        version=old.version + 1,
        agent_steps=old.agent_steps + SLICE,
        checkpoint=f"{old.id}/{old.version + 1}-x",
        state="finished" if old.agent_steps + SLICE == TOTAL else "active",
    )
    report = Report(new.id, new.version, new.agent_steps, SLICE, 1.0, {"lr": 0.5}, (), {})
    run_store.commit(lease, new, kind="slice", report=report, release=True)
    return new


@given(
    population=st.integers(1, 5),
    turns=st.lists(st.integers(0, 2), min_size=10, max_size=60),
    limit=st.integers(0, 5),
)
@settings(max_examples=10, deadline=None)
def test_no_member_starves(population, turns, limit):
    """Three workers take turns in any order, each with some tasks in memory."""
    with tempfile.TemporaryDirectory() as directory:
        run_store = small_run(directory, population)
        held, in_memory, slices = {}, {0: {}, 1: {}, 2: {}}, 0
        for worker in itertools.chain(turns, itertools.cycle(range(3))):
            tasks = in_memory[worker]
            if worker in held:
                new = train_slice(run_store, held.pop(worker))
                slices += 1
                tasks.pop(new.id, None)
                tasks[new.id] = new.version
                while len(tasks) > limit:
                    del tasks[next(iter(tasks))]
            elif lease := run_store.claim(f"worker {worker}", tasks):
                held[worker] = lease
                waiting = [m.agent_steps for m in run_store.members() if m.owner is None]
                assert lease.member.agent_steps <= min(waiting, default=TOTAL) + 2 * SLICE
            elif not held:
                break
        assert {member.agent_steps for member in run_store.members()} == {TOTAL}
        assert slices == population * TOTAL // SLICE


@pytest.mark.parametrize("population", [2, 3, 5])
def test_no_member_is_always_first(tmp_path, population):
    """Who comes first in a round has been compared with the fewest others."""
    run_store = small_run(tmp_path, population)
    rounds = [
        [train_slice(run_store, run_store.claim("me")).id for _ in range(population)]
        for _ in range(population)
    ]
    assert all(sorted(order) == list(range(population)) for order in rounds)
    assert {order[0] for order in rounds} == set(range(population))
