import json
import math
import os
import re
import threading
import time
from dataclasses import replace

import pytest

from pbt import owner, run, space, storage, store
from pbt.claim import Context
from pbt.records import Event, Lease, Member, Report, mean
from pbt.store import schema, statements
from pbt.task import Episode

SPACE = space.Space({"lr": space.LogUniform(1e-5, 1.0)}, adapt=("lr",))
SLICE = 10


class Clock:
    """The database's clock, moved by hand."""

    def __init__(self):
        self.seconds = 1_000_000.0

    def __call__(self):
        return self.seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def new(tmp_path, clock, databases):
    """Make a store of small members: new(population, **settings)."""
    made = []

    def make(population=3, members=None, **settings):
        first = members or [Member(i, 0, 0, {"lr": 0.1}) for i in range(population)]
        made.append(
            databases.create(
                databases.file(tmp_path),
                config(population, **settings),
                first,
                durable=False,
                clock=clock,
            )
        )
        return made[-1]

    yield make
    for run_store in made:
        run_store.close()


def config(population=3, **settings):
    values = {"space": SPACE, "total_steps": 100, "report_interval": SLICE, "ready_interval": 40}
    return run.RunConfig(
        task="learner:make", population=population, **(values | {"lease_seconds": 60} | settings)
    )


def trained(member, steps=SLICE, **changes):
    """The member after one more slice."""
    version = member.version + 1
    changes.setdefault("checkpoint", f"{member.id}/{version}-{version:016x}")
    return replace(member, version=version, agent_steps=member.agent_steps + steps, **changes)


def report(before, after, episodes=(), **changes):
    values = {
        "member": after.id,
        "version": after.version,
        "agent_steps": after.agent_steps,
        "slice_steps": after.agent_steps - before.agent_steps,
        "seconds": 1.5,
        "hyperparameters": before.hyperparameters,
        "episodes": tuple(episodes),
        "metrics": {"loss": 0.5},
    }
    return Report(**(values | changes))


def train(run_store, lease, release=False, **changes):
    """Commit one slice."""
    after = trained(lease.member, **changes)
    return run_store.commit(
        lease, after, kind="slice", report=report(lease.member, after), release=release
    )


def train_some(run_store, slices, owner="someone"):
    """Train members in turn: `slices[i]` slices of member i."""
    for member, count in enumerate(slices):
        for _ in range(count):
            lease = claim(run_store, member, owner)
            train(run_store, lease, release=True)


def claim(run_store, member, owner="someone"):
    """Claim this member: hold back all that would come before it."""
    held = []
    while True:
        lease = run_store.claim(owner)
        assert lease is not None
        if lease.member.id == member:
            break
        held.append(lease)
    for other in held:
        run_store.release(other)
    return lease


# Round trips.


def test_what_was_created_is_what_is_opened(tmp_path, databases):
    first = [
        Member(0, 0, 0, {"lr": 0.1}),
        Member(1, 0, 0, {"lr": 1e-5}, checkpoint="1/0-0123456789abcdef"),
    ]
    events = [Event("forked", 1, 0, 0, {"from": "elsewhere", "version": [3, 4]})]
    created = databases.create(databases.file(tmp_path), config(2), first, events=events)
    opened = store.Store.open(created.path)
    assert opened.members() == created.members() == first
    assert opened.config == config(2)
    assert [(e.kind, e.details) for e in opened.events()] == [("forked", events[0].details)]
    assert [(v.kind, v.version, v.checkpoint) for v in opened.versions(1)] == [
        ("initial", 0, "1/0-0123456789abcdef")
    ]


def test_a_commit_comes_back_as_it_was(new, clock):
    run_store = new()
    lease = run_store.claim("me")
    after = trained(
        lease.member,
        window=(0.1 + 0.2, -21.0, 1e-300, 1e300, -0.0, 3.0, 4.0, 5.0, 6.0, 7.0),
        counted_episodes=12,
        last_ready_steps=5,
        score=0.1,
    )
    wanted = report(
        lease.member,
        after,
        [Episode(3, 0.1 + 0.2, 7, True), Episode(10, -1e308, 2, False)],
        metrics={"entropy": 1 / 3},
    )
    event = Event("no-exploit", after.id, after.version, after.agent_steps, {"p": None, "t": [1.5]})
    clock.seconds += 5
    lease = run_store.commit(lease, after, kind="slice", report=wanted, events=[event])
    assert run_store.member(after.id) == lease.member
    kept = {"owner": "me", "fence": 1, "attempts": 1, "lease_expires_s": clock.seconds + 60}
    assert lease.member == replace(after, **kept)
    assert [pair[1] for pair in run_store.reports()] == [replace(wanted, created_s=clock.seconds)]
    assert run_store.events() == [replace(event, id=1, created_s=clock.seconds)]
    version = run_store.version(after.id, after.version)
    assert version == run_store.versions()[-1]
    assert (version.kind, version.parent, version.created_s) == ("slice", None, clock.seconds)
    assert version.score == pytest.approx(1e299)
    assert all(isinstance(episode, Episode) for episode in run_store.reports()[0][1].episodes)


ODD_NAMES = [
    "'; DROP TABLE member; --",
    'a"b',
    "ünröll ∂ 🙂",
    "%s :x ?",
    "\x00\x1f",
    "\ud800",
    " ",
    "lr\n",
]


def test_odd_names_come_back(tmp_path, databases):
    odd = space.Space({name: space.Uniform(0, 1) for name in ODD_NAMES}, adapt=tuple(ODD_NAMES))
    values = {name: 0.1 * i for i, name in enumerate(ODD_NAMES)}
    directory = tmp_path / "a b?c#d%20e 'ü"
    directory.mkdir()
    path = databases.file(directory, "odd ?#%41")
    run_store = databases.create(
        path,
        config(1, space=odd, task_config={name: name for name in ODD_NAMES}),
        [Member(0, 0, 0, values)],
    )
    lease = run_store.claim("o'wner; --")
    after = trained(lease.member)
    run_store.commit(
        lease,
        after,
        kind="slice",
        report=report(lease.member, after, metrics=values),
        events=[Event("explore", 0, 1, SLICE, {name: [name] for name in ODD_NAMES})],
    )
    again = store.Store.open(run_store.path)
    assert list(directory.iterdir()) == [path]
    assert again.config == run_store.config
    assert again.config.task_config == {name: name for name in ODD_NAMES}
    assert again.member(0).hyperparameters == values
    assert again.member(0).owner == "o'wner; --"
    assert again.reports()[0][1].metrics == values
    escaped = {"\x00\x1f": "\\0\x1f", "\ud800": "\\ud800"}  # in events, which quote tracebacks
    told = [escaped.get(name, name) for name in ODD_NAMES]
    assert again.events()[0].details == {name: [name] for name in told}
    assert again.acquire("'; --", "me", 1)
    assert not again.acquire("'; --", "you", 1)


def test_readers_get_what_came_after(new):
    run_store = new()
    train_some(run_store, [2, 1])
    ids = [number for number, _ in run_store.reports()]
    assert ids == sorted(ids)
    assert [pair[0] for pair in run_store.reports(after_id=ids[0])] == ids[1:]
    assert run_store.reports(after_id=ids[-1]) == []
    assert [(v.member, v.version) for v in run_store.versions()][3:] == [(0, 1), (0, 2), (1, 1)]


def test_unknown_things_are_key_errors(new):
    run_store = new()
    with pytest.raises(KeyError, match="no member 9"):
        run_store.member(9)
    with pytest.raises(KeyError, match="no version 5"):
        run_store.version(0, 5)


# Numbers at the door.


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "where",
    ["window", "score", "hyperparameters", "return", "metric", "seconds", "details", "used"],
)
def test_numbers_that_are_not_finite_are_refused(new, bad, where):
    run_store = new()
    lease = run_store.claim("me")
    before = run_store.members()
    changes = {
        "window": {"window": (1.0, bad)},
        "score": {"score": bad},
        "hyperparameters": {"hyperparameters": {"lr": bad}},
    }.get(where, {})
    after = trained(lease.member, **changes)
    reported = {
        "return": {"episodes": (Episode(1, bad, 1, True),)},
        "metric": {"metrics": {"loss": bad}},
        "seconds": {"seconds": bad},
        "used": {"hyperparameters": {"lr": bad}},
    }.get(where, {})
    details = {"p": bad} if where == "details" else {}
    with pytest.raises(ValueError, match=r"finite|nan|inf"):
        run_store.commit(
            lease,
            after,
            kind="slice",
            report=replace(report(lease.member, after), **reported),
            events=[Event("no-exploit", after.id, after.version, after.agent_steps, details)],
        )
    assert run_store.members() == before
    assert run_store.reports() == []
    assert len(run_store.versions()) == 3
    train(run_store, lease)


def test_initial_numbers_are_checked_too(tmp_path, databases):
    for bad in ({"lr": math.nan}, {"lr": 2.0}, {}, {"lr": 0.1, "lrr": 0.1}):
        with pytest.raises(ValueError, match=r"member 0.*lr"):
            databases.create(databases.file(tmp_path), config(1), [Member(0, 0, 0, bad)])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "kind", "problem"),
    [
        (lambda m: {"version": m.version + 2}, "slice", "does not follow"),
        (lambda m: {"version": m.version - 1}, "slice", "does not follow"),
        (lambda m: {"id": 2}, "slice", "does not follow"),
        (lambda m: {"checkpoint": None}, "slice", "checkpoint of its own"),
        (lambda m: {"agent_steps": m.agent_steps + 1}, "slice", "agent steps"),
        (lambda m: {"agent_steps": 110}, "slice", "not 0 to 100"),
        (lambda m: {"state": "asleep"}, "slice", "unknown state"),
        (lambda m: {"window": (1.0,) * 11}, "slice", "window has 11"),
        (lambda m: {}, "exploit", "slice needs a report"),
        (lambda m: {}, "initial", "no kind that can be committed"),
        (lambda m: {}, "mutation", "no kind that can be committed"),
    ],
)
def test_states_that_do_not_follow_are_refused(new, change, kind, problem):
    run_store = new()
    lease = run_store.claim("me")
    after = trained(lease.member)
    with pytest.raises(ValueError, match=problem):
        run_store.commit(
            lease, replace(after, **change(after)), kind=kind, report=report(lease.member, after)
        )
    assert run_store.member(0) == lease.member


@pytest.mark.parametrize(
    "change",
    [{"agent_steps": 10}, {"checkpoint": "0/1-0123456789abcdef"}, {"hyperparameters": {"lr": 0.2}}],
)
def test_without_a_kind_what_a_checkpoint_holds_cannot_change(new, change):
    run_store = new()
    lease = run_store.claim("me")
    with pytest.raises(ValueError, match="changes only with a version"):
        run_store.commit(lease, replace(lease.member, **change))


def test_a_slice_has_exactly_one_report_and_no_other_kind_has_any(new):
    run_store = new()
    lease = run_store.claim("me")
    after = trained(lease.member)
    with pytest.raises(ValueError, match="needs a report"):
        run_store.commit(lease, after, kind="slice")
    for changes in ({"member": 1}, {"version": 5}, {"agent_steps": 11}):
        with pytest.raises(ValueError, match="report is of another"):
            run_store.commit(
                lease, after, kind="slice", report=report(lease.member, after, **changes)
            )
    with pytest.raises(ValueError, match="needs a report"):
        run_store.commit(lease, lease.member, report=report(lease.member, after))


def test_events_are_of_the_member_and_of_a_known_kind(new):
    run_store = new()
    lease = run_store.claim("me")
    for event in (Event("exploit", 1, 0, 0), Event("exploit", 0, 2, 0), Event("party", 0, 0, 0)):
        with pytest.raises(ValueError, match="event"):
            run_store.commit(lease, lease.member, events=[event])
    assert run_store.events() == []


@pytest.mark.parametrize(
    ("kind", "parent", "problem"),
    [
        ("exploit", (1, 1), None),
        ("exploit", (1, 2), "never existed"),
        ("exploit", None, "needs a parent"),
        ("exploit", (0, 0), "cannot have the parent"),
        ("restore", (1, 1), "cannot have the parent"),
        ("restore", (0, 1), None),
        ("explore", None, None),
    ],
)
def test_parents_must_have_existed(new, kind, parent, problem):
    run_store = new()
    train_some(run_store, [1, 1])
    lease = claim(run_store, 0)
    after = trained(lease.member, steps=0, parent=parent)
    if problem:
        with pytest.raises(ValueError, match=problem):
            run_store.commit(lease, after, kind=kind)
        assert run_store.member(0) == lease.member
    else:
        run_store.commit(lease, after, kind=kind)
        expected = parent if kind != "explore" else None
        assert run_store.versions()[-1].parent == expected


def test_only_a_restore_may_lose_steps(new):
    run_store = new()
    train_some(run_store, [2])
    lease = claim(run_store, 0)
    back = trained(lease.member, steps=-SLICE, parent=(0, 1))
    with pytest.raises(ValueError, match="agent steps"):
        run_store.commit(lease, back, kind="explore")
    assert run_store.commit(lease, back, kind="restore").member.agent_steps == SLICE


# Claims.


def test_the_least_advanced_comes_first_and_then_the_lowest_id(new):
    run_store = new(4)
    train_some(run_store, [2, 1, 1, 3])
    claimed = [run_store.claim("me").member.id for _ in range(4)]
    assert claimed == [1, 2, 0, 3]
    assert run_store.claim("me") is None


@pytest.mark.parametrize(
    ("slices", "residents", "chosen"),
    [
        ([1, 3, 6], {1: 3}, 1),  # exactly two slices ahead: it stays
        ([1, 4, 6], {1: 4}, 0),  # three: the least advanced must not be left behind
        ([1, 3, 3], {1: 2, 2: 3}, 2),  # 1 was trained by somebody else since
        ([1, 3, 2], {1: 3, 2: 2}, 2),  # the less advanced of two residents
        ([0, 0, 0], {1: 0, 2: 0}, 1),
        ([1, 0, 0], {0: 1}, 1),  # everybody begins before anybody goes on
        ([1, 0, 0], {0: 1, 2: 0}, 2),
        ([1, 0, 0], {}, 1),
    ],
)
def test_a_worker_prefers_what_it_has_in_memory_up_to_two_slices(new, slices, residents, chosen):
    run_store = new()
    train_some(run_store, slices)
    assert run_store.claim("me", residents).member.id == chosen


def test_members_with_all_their_steps_are_not_claimed(new):
    run_store = new(2, total_steps=20)
    train_some(run_store, [2])
    assert run_store.claim("me").member.id == 1
    assert run_store.claim("me") is None
    assert [member.id for member in run_store.unfinished()] == [1]


def test_a_live_lease_is_respected_and_a_lapsed_one_taken_over(new, clock):
    run_store = new(1)
    first = run_store.claim("slow")
    clock.seconds += 59.9
    assert run_store.claim("quick") is None
    run_store.renew(first)
    clock.seconds += 59.9
    assert run_store.claim("quick") is None
    clock.seconds += 0.2
    second = run_store.claim("quick")
    # It may have been slow, so it is no attempt.
    assert (second.fence, second.owner, second.member.attempts) == (2, "quick", 1)
    (event,) = run_store.events()
    assert event.kind == "takeover"
    assert (event.details["from"], event.details["to"]) == ("slow", "quick")
    assert event.details["because"] == "its lease lapsed"
    assert event.details["late_s"] == pytest.approx(0.1)


def test_a_released_member_is_no_takeover(new):
    run_store = new(1)
    run_store.release(run_store.claim("one"))
    assert run_store.claim("two").member.attempts == 1
    assert run_store.events() == []


def test_the_dead_hold_nothing(new):
    run_store = new(1)
    run_store.claim("dead/1")
    assert run_store.owners() == {"dead/1"}
    assert run_store.claim("me", {}, dead_owners={"dead/2"}) is None
    assert run_store.claim("me", {}, dead_owners={"dead/1"}).owner == "me"
    assert run_store.events()[0].details["because"] == "its process is gone"


@pytest.mark.parametrize("days", [-1, 1])
def test_a_clock_that_jumps_costs_at_most_a_takeover(new, clock, days):
    """Set back by a day, a lease would else last a day longer."""
    run_store = new(1)
    lease = run_store.claim("one")
    clock.seconds += days * 86400
    second = run_store.claim("two")
    assert second is not None
    with pytest.raises(store.LostLease):
        train(run_store, lease)
    train(run_store, second)


def test_leases_expire_by_the_real_clock_of_the_database(tmp_path, databases):
    first = [Member(0, 0, 0, {"lr": 0.1})]
    run_store = databases.create(databases.file(tmp_path), config(1, lease_seconds=0.05), first)
    assert abs(run_store.now() - time.time()) < 1
    first = run_store.claim("one")
    deadline = time.monotonic() + 10
    while (second := run_store.claim("two")) is None:
        assert time.monotonic() < deadline
    assert second.fence == first.fence + 1


# The cost of a turn.


def test_a_claim_is_flat_in_the_population(new, monkeypatch, databases):
    """All members were read and parsed twice per claim, so a round cost the population squared."""
    run_store = new(300)
    train_some(run_store, [1, 1])
    parsed = []
    to_member = schema.to_member
    monkeypatch.setattr(
        schema, "to_member", lambda row, config: parsed.append(row.id) or to_member(row, config)
    )
    owners, versions = run_store.owners_and_versions([0, 1, 7])
    assert (owners, versions) == (set(), {0: 1, 1: 1, 7: 0})
    lease = run_store.claim("me", versions)
    assert lease.member.id == 7
    train(run_store, lease)
    assert run_store.pin(run_store.member(0).checkpoint, "me", 10)
    assert len(parsed) <= 4
    if not databases.is_sqlite:  # PostgreSQL plans by its statistics, and keeps them by itself
        databases.execute(run_store.path, "ANALYZE member")
    statement, _ = statements._ready_queries(300)
    values = statements._values(run_store.config, statements.Circumstances(run_store.now()))
    with run_store._database.transaction() as connection:
        query = statement.params(**values).compile(
            connection, compile_kwargs={"literal_binds": True}
        )
        if databases.is_sqlite:
            plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all()
        else:
            plan = connection.exec_driver_sql(f"EXPLAIN {query}").all()
    assert "member_next" in str(plan)
    assert not re.search("TEMP B-TREE|Sort", str(plan))


def test_members_that_did_not_change_are_not_parsed_again(new, monkeypatch):
    run_store = new(50)
    before = run_store.members()
    parsed = []
    to_member = schema.to_member
    monkeypatch.setattr(
        schema, "to_member", lambda row, config: parsed.append(row.id) or to_member(row, config)
    )
    with store.Store.open(run_store.path, durable=False) as other:
        train_some(other, [0, 0, 1])
    del parsed[:]
    after = run_store.members()
    assert parsed == [0, 1, 2]  # two were claimed and given back
    assert after[3:] == before[3:]
    assert after[2].agent_steps == SLICE


# Fences.


@pytest.mark.parametrize("write", ["commit", "commit-without-kind", "renew", "release", "crash"])
@pytest.mark.parametrize("how", ["held", "released", "committed", "forgiven", "same-owner"])
def test_whoever_lost_the_lease_changes_nothing(new, clock, write, how):
    run_store = new(1)
    old = run_store.claim("old")
    clock.seconds += 61
    if how == "forgiven":
        assert run_store.forgive({"old"}) == [0]
    else:
        lease = run_store.claim("old" if how == "same-owner" else "new")
        if how == "released":
            run_store.release(lease)
        elif how == "committed":
            train(run_store, lease, release=True)
    everything = (
        run_store.members(),
        run_store.versions(),
        run_store.reports(),
        run_store.events(),
    )
    with pytest.raises(store.LostLease, match="old no longer holds member 0"):
        {
            "commit": lambda: train(run_store, old),
            "commit-without-kind": lambda: run_store.commit(old, old.member),
            "renew": lambda: run_store.renew(old),
            "release": lambda: run_store.release(old),
            "crash": lambda: run_store.crash(old, "traceback"),
        }[write]()
    assert everything == (
        run_store.members(),
        run_store.versions(),
        run_store.reports(),
        run_store.events(),
    )


def test_a_lease_that_expired_unnoticed_is_still_good(new, clock):
    run_store = new(1)
    lease = run_store.claim("slow")
    clock.seconds += 1000
    lease = train(run_store, lease)
    assert run_store.claim("other") is None
    clock.seconds += 1000
    run_store.renew(lease)
    assert run_store.claim("other") is None


def test_a_commit_cannot_be_repeated(new):
    run_store = new(1)
    lease = run_store.claim("me")
    train(run_store, lease)
    with pytest.raises(store.LostLease):
        train(run_store, lease)
    assert len(run_store.reports()) == 1


def test_a_forged_lease_is_worth_nothing(new):
    run_store = new(1)
    lease = run_store.claim("me")
    for forged in (
        replace(lease, fence=2),
        replace(lease, owner="you"),
        replace(lease, member=replace(lease.member, version=1, checkpoint="x")),
        Lease(replace(lease.member, id=7), "me", 1),
    ):
        with pytest.raises(store.LostLease):
            run_store.renew(forged)


# Attempts.


def crash(run_store, member, times=1, clock=None):
    """Let a member crash, after its rest if there is a clock; returns whether it has failed."""
    for number in range(times):
        if clock is not None and number:
            clock.seconds += 61
        failed = run_store.crash(claim(run_store, member), f"Traceback: {number}")
    return failed


def test_three_kills_at_one_version_fail_the_member(new, clock):
    run_store = new(2, max_attempts=3)
    train_some(run_store, [1, 3])
    for attempt, rest in ((1, 0), (2, 4), (3, 15)):
        lease = run_store.claim("killed", dead_owners={"killed"})
        assert (lease.member.id, lease.member.attempts) == (0, attempt)
        if attempt == 2:  # it is not the machine that has trouble
            train(run_store, run_store.claim("me"), release=True)
        if attempt > 1 and rest == 4:
            assert run_store.claim("me", dead_owners={"killed"}).member.id == 1
            clock.seconds += rest + 0.1
            lease = None
    lease = run_store.claim("me", dead_owners={"killed"})
    assert lease.member.id == 0
    assert (lease.member.state, lease.member.attempts) == ("failed", 1)
    failed = [event for event in run_store.events() if event.kind == "failed"]
    assert len(failed) == 1
    assert failed[0].details["attempts"] == 3
    assert failed[0].details["owner"] == "killed"
    assert "killed" in failed[0].details["error"]
    healed = trained(lease.member, steps=0, state="active", parent=(1, 4))
    lease = run_store.commit(lease, healed, kind="reseed")
    assert (lease.member.state, lease.member.attempts) == ("active", 1)


def test_a_new_version_and_a_clean_release_forget_and_forgive(new, clock):
    run_store = new(2, max_attempts=3)
    for _ in range(2):
        claim(run_store, 0, "killed")
        held = run_store.claim("me", dead_owners={"killed"})
        run_store.release(held)
        clock.seconds += 61
    for _ in range(5):
        lease = claim(run_store, 0, "me")
        assert lease.member.attempts == 3
        run_store.release(lease)
    lease = train(run_store, claim(run_store, 0, "me"))
    assert lease.member.attempts == 1
    lease = run_store.commit(lease, replace(lease.member, last_ready_steps=10))
    assert lease.member.attempts == 1
    lease = run_store.commit(lease, lease.member, release=True)
    assert lease.member.attempts == 0
    lease = train(run_store, claim(run_store, 0, "me"), release=True)
    assert run_store.member(0).attempts == 0
    assert run_store.member(0).owner is None


def test_crashes_are_told_with_their_tracebacks(new, clock):
    run_store = new(2, max_attempts=2)
    train_some(run_store, [0, 1])
    assert run_store.crash(run_store.claim("one"), "Traceback: first") is False
    assert run_store.member(0).error == "Traceback: first"
    train_some(run_store, [0, 1])
    clock.seconds += 1.1
    assert run_store.crash(run_store.claim("two"), "Traceback: second") is True
    member = run_store.member(0)
    assert (member.state, member.attempts, member.owner) == ("failed", 0, None)
    assert [(e.kind, e.details["error"], e.details["owner"]) for e in run_store.events()] == [
        ("crashed", "Traceback: first", "one"),
        ("crashed", "Traceback: second", "two"),
        ("failed", "Traceback: second", "two"),
    ]


def test_a_crash_then_a_kill_fail_with_the_traceback_there_was(new, clock):
    run_store = new(2, max_attempts=2)
    train_some(run_store, [0, 1])
    run_store.crash(run_store.claim("one"), "Traceback: x")
    train_some(run_store, [0, 1])
    clock.seconds += 61
    run_store.claim("killed")
    run_store.claim("me", dead_owners={"killed"})
    failed = [event for event in run_store.events() if event.kind == "failed"]
    assert [event.details["error"] for event in failed] == ["Traceback: x"]


def test_a_member_rests_after_a_crash_and_longer_after_each(new, clock):
    """A fault of a few seconds used up all attempts of all members at once."""
    run_store = new(1, max_attempts=100)
    run_store.claim("me")
    run_store.forgive({"me"})
    for rest in (1, 4, 15, 60, 60):
        run_store.crash(run_store.claim("me"), "Traceback: x")
        clock.seconds += rest - 0.1
        assert run_store.claim("me") is None
        assert run_store.unfinished()
        clock.seconds += 0.2
    assert run_store.claim("me").member.attempts == 6


def test_a_rest_is_no_longer_than_a_lease_and_ends_if_the_clock_is_set_back(new, clock):
    run_store = new(1, max_attempts=100, lease_seconds=0.5)
    run_store.crash(run_store.claim("me"), "Traceback: x")
    clock.seconds += 0.6
    run_store.crash(run_store.claim("me"), "Traceback: x")
    clock.seconds -= 3600
    assert run_store.claim("me") is not None


def test_what_all_members_crash_of_fails_none_of_them(new, clock):
    run_store = new(3, max_attempts=2, exploit="none")
    for _ in range(4):
        for _ in range(3):
            assert not run_store.all_crash_alike()
            assert run_store.crash(run_store.claim("me"), "Traceback: no memory") is False
        clock.seconds += 61
    assert run_store.all_crash_alike()
    assert {member.state for member in run_store.members()} == {"active"}
    # One that trains after all shows that the others have faults of their own.
    lease = train(run_store, run_store.claim("me"))
    assert not run_store.all_crash_alike()
    assert run_store.crash(run_store.claim("me"), "Traceback: own") is True
    train(run_store, lease, release=True)


def test_who_crashes_alone_fails(new, clock):
    run_store = new(2, max_attempts=2, exploit="none", total_steps=20)
    assert crash(run_store, 0) is False
    train_some(run_store, [0, 2])  # and is finished, so nobody is left to compare with
    clock.seconds += 61
    assert crash(run_store, 0) is True
    assert run_store.unfinished() == []


def test_crashes_before_a_revival_say_nothing_of_those_after_it(new, clock):
    """Else a fault of all would fail all that once crashed alone."""
    run_store = new(3, max_attempts=2, exploit="none")
    assert crash(run_store, 0) is False
    train_some(run_store, [0, 1, 0])
    assert run_store.forgive() == [0]
    for _ in range(3):
        assert crash(run_store, 0) is False
        clock.seconds += 61


def test_a_new_launcher_gives_failed_and_lost_members_fresh_attempts(new, clock):
    """A typo in the learner, once mended, must not have cost a run its members."""
    run_store = new(4, max_attempts=2, total_steps=20)
    train_some(run_store, [1, 1, 1, 2])
    lease = claim(run_store, 2)
    run_store.commit(lease, replace(lease.member, state="diverged"), release=True)
    lost = [run_store.crash(claim(run_store, 0), "Traceback: x")]
    train_some(run_store, [0, 1])
    lease = claim(run_store, 2)  # held, so that it does not come first
    for _ in range(3):
        clock.seconds += 59
        run_store.renew(lease)
        clock.seconds += 2
        lost.append(run_store.crash(claim(run_store, 0), "Traceback: x"))
    assert lost == [False, True, False, True]
    run_store.release(lease)
    states = [member.state for member in run_store.members()]
    assert states == ["lost", "active", "diverged", "active"]
    assert run_store.forgive() == [0]
    states = [member.state for member in run_store.members()]
    assert states == ["active", "active", "diverged", "active"]
    assert (run_store.member(0).attempts, run_store.member(0).agent_steps) == (0, 10)
    revived = run_store.events()[-1]
    assert (revived.kind, revived.member, revived.details["state"]) == ("revived", 0, "lost")
    assert run_store.forgive() == []


@pytest.mark.parametrize("who", ["unknown", "alive", "dead", "lapsed"])
def test_a_second_launcher_revives_nobody_while_another_one_is_at_work(new, clock, who):
    run_store = new(3, max_attempts=1, exploit="none")
    train_some(run_store, [0, 1, 1])
    assert crash(run_store, 0) is False
    train_some(run_store, [0, 1, 0])
    clock.seconds += 61
    assert crash(run_store, 0) is True
    run_store.claim("worker")
    if who in ("alive", "lapsed"):
        clock.seconds += 61
    worker = {"worker"}
    changed = run_store.forgive(worker if who == "dead" else (), worker if who == "alive" else ())
    assert (0 in changed) is (who in ("dead", "lapsed"))
    assert run_store.member(0).state == ("active" if 0 in changed else "failed")


def test_a_live_holder_is_given_more_time_than_one_that_may_be_gone(new, clock):
    """A slow update is no hang, and two workers that steal from each other never end."""
    run_store = new(1)
    run_store.claim("slow")
    clock.seconds += 61
    assert run_store.claim("quick", live_owners={"slow"}) is None
    clock.seconds += 180
    lease = run_store.claim("quick", live_owners={"slow"})
    assert (lease.member.id, lease.member.attempts) == (0, 1)


def test_a_worker_may_ask_for_longer_leases(new, clock):
    run_store = new(1, lease_seconds=10)
    lease = run_store.claim("slow", lease_seconds=30)
    clock.seconds += 29
    assert run_store.claim("quick") is None
    run_store.renew(lease, 50)
    clock.seconds += 49
    assert run_store.claim("quick") is None
    lease = run_store.commit(lease, lease.member, lease_seconds=1e9)
    clock.seconds += 89
    assert run_store.claim("quick") is None
    clock.seconds += 2  # nine leases are the longest
    assert run_store.claim("quick") is not None


def test_a_killed_run_is_no_members_fault(new):
    run_store = new(2, max_attempts=1)
    for launch in range(5):
        assert run_store.claim(f"worker {launch} a") is not None
        assert run_store.claim(f"worker {launch} b") is not None
        assert run_store.forgive({f"worker {launch} a", f"worker {launch} b"}) == [0, 1]
        assert run_store.forgive({f"worker {launch} a"}) == []
    assert [member.attempts for member in run_store.members()] == [0, 0]
    assert {event.kind for event in run_store.events()} == {"takeover"}


def test_the_dead_are_claimed_only_when_somebody_can_be_copied(new):
    run_store = new(2)
    lease = run_store.claim("me")
    run_store.commit(lease, replace(lease.member, state="diverged"), release=True)
    other = run_store.claim("me")
    assert other.member.id == 1
    assert run_store.claim("me") is None  # 1 has no checkpoint yet
    assert [member.id for member in run_store.unfinished()] == [0, 1]
    train(run_store, other)
    lease = run_store.claim("me")
    assert (lease.member.id, lease.member.state, lease.member.attempts) == (0, "diverged", 1)


def test_when_all_are_dead_there_is_nothing_left(new):
    run_store = new(2)
    train_some(run_store, [1, 1])
    for lease in [run_store.claim("me"), run_store.claim("me")]:
        run_store.commit(lease, replace(lease.member, state="diverged"), release=True)
    assert run_store.claim("me") is None
    assert run_store.unfinished() == []


def test_random_search_leaves_the_dead_alone(new, clock):
    run_store = new(2, exploit="none", max_attempts=1)
    train_some(run_store, [1, 1])
    lease = run_store.claim("me")
    run_store.commit(lease, replace(lease.member, state="diverged"), release=True)
    run_store.claim("killed")
    assert run_store.claim("me", dead_owners={"killed"}) is None
    assert run_store.unfinished() == []
    assert {member.state for member in run_store.members()} == {"diverged", "failed"}
    assert run_store.events()[-1].details["for_good"] is True
    events = run_store.events()
    assert run_store.claim("me") is None
    assert run_store.events() == events


def test_re_seeding_is_not_tried_for_ever(new, clock):
    run_store = new(2, max_attempts=2)
    train_some(run_store, [0, 10])
    states = []
    for _ in range(20):
        lease = run_store.claim("killed", dead_owners={"killed"})
        if lease is not None:
            states.append((lease.member.state, lease.member.attempts))
        clock.seconds += 61
    assert states == [("active", 1), ("active", 2), ("failed", 1), ("failed", 2)]
    failed = [event.details["for_good"] for event in run_store.events() if event.kind == "failed"]
    assert failed == [False, True]
    assert run_store.unfinished() == []


# Scores, references and pins.


def commit_window(run_store, member, window, counted):
    lease = claim(run_store, member)
    return train(run_store, lease, release=True, window=window, counted_episodes=counted).member


def test_only_a_valid_window_gives_a_version_a_score(new):
    run_store = new(2, window=2, min_episodes=4, total_steps=1000)
    commit_window(run_store, 0, (), 0)
    commit_window(run_store, 0, (9.0, 9.0), 3)
    commit_window(run_store, 0, (1.0, 2.0), 4)
    assert [version.score for version in run_store.versions(0)] == [None, None, None, 1.5]
    assert run_store.referenced_checkpoints() >= {run_store.version(0, 3).checkpoint}
    lease = claim(run_store, 1)
    child = trained(
        lease.member, steps=0, parent=(0, 3), window=(7.0, 7.0), counted_episodes=4, score=7.0
    )
    run_store.commit(lease, child, kind="exploit", release=True)
    assert run_store.versions(1)[-1].score is None


def test_kept_are_the_newest_two_of_each_the_best_ever_and_what_is_pinned(new, clock):
    run_store = new(2, window=1, min_episodes=1, total_steps=1000)
    assert run_store.referenced_checkpoints() == set()
    names = {}
    for score in (1.0, 5.0, 5.0, 2.0, 3.0):
        member = commit_window(run_store, 0, (score,), 1)
        names[member.version] = member.checkpoint
    other = commit_window(run_store, 1, (4.0,), 1).checkpoint
    kept = {names[2], names[4], names[5], other}
    assert run_store.referenced_checkpoints() == kept
    assert not run_store.pin(names[3], "me", 10)  # it may be deleted already
    assert run_store.pin(names[4], "me", 10)
    assert run_store.pin(names[4], "you", 20)
    commit_window(run_store, 0, (0.0,), 1)
    newest = commit_window(run_store, 0, (0.0,), 1)
    assert names[4] in run_store.referenced_checkpoints()
    run_store.unpin(names[4], "you")
    run_store.unpin(names[4], "nobody")
    assert names[4] in run_store.referenced_checkpoints()
    clock.seconds += 10.1
    assert names[4] not in run_store.referenced_checkpoints()
    assert not run_store.pin(names[4], "me", 10)
    assert newest.checkpoint in run_store.referenced_checkpoints()


def test_a_finished_run_keeps_the_newest_of_each_and_the_best_ever(new):
    run_store = new(2, window=1, min_episodes=1, total_steps=30)
    scores = {0: (5.0, 1.0, 2.0), 1: (1.0, 2.0, 3.0)}
    names = {}
    for member, own in scores.items():
        for index, score in enumerate(own):
            state = "finished" if index == 2 else "active"
            lease = claim(run_store, member)
            changes = {"window": (score,), "counted_episodes": 1, "state": state}
            lease = train(run_store, lease, release=True, **changes)
            names[member, index] = lease.member.checkpoint
    assert names[1, 1] not in run_store.referenced_checkpoints()
    assert {member.state for member in run_store.members()} == {"finished"}
    assert run_store.referenced_checkpoints() == {names[0, 0], names[0, 2], names[1, 2]}
    run_store.extend(60)
    assert {names[0, 2], names[1, 2]} < run_store.referenced_checkpoints()


def test_previous_versions_lead_back_to_the_last_checkpoint(new):
    run_store = new(1)
    train_some(run_store, [3])
    assert run_store.previous_version(0, 3).version == 2
    assert run_store.previous_version(0, 2).version == 1
    assert run_store.previous_version(0, 1) is None  # version 0 has no checkpoint


def test_means_neither_overflow_nor_round_twice():
    assert mean([1e308] * 10) == pytest.approx(1e308)
    assert mean([0.1] * 10) == 0.1
    assert mean([-21.0] * 10) == -21.0
    assert math.isnan(mean([]))


# Named leases, extension.


def test_a_named_lease_is_one_owners_at_a_time(new, clock):
    run_store = new()
    assert run_store.acquire("projector", "one", 30)
    assert not run_store.acquire("projector", "two", 30)
    assert run_store.acquire("other", "two", 30)
    clock.seconds += 20
    assert run_store.acquire("projector", "one", 30)
    clock.seconds += 29
    assert not run_store.acquire("projector", "two", 30)
    clock.seconds += 2
    assert run_store.acquire("projector", "two", 30)
    run_store.give_up("projector", "one")  # not its own any more
    assert not run_store.acquire("projector", "one", 30)
    assert run_store.acquire("projector", "one", 30, dead_owners={"two"})
    run_store.give_up("projector", "one")
    assert run_store.acquire("projector", "two", 30)


def test_one_worker_of_each_machine_collects_checkpoints(new, clock, tmp_path):
    run_store, seen = new(), []
    place = storage.Directory(tmp_path / "checkpoints")
    place.mark(run_store.identity())
    own = owner.machine(owner.current())

    def look():  # as a worker that has never collected does
        Context(run_store, tmp_path, place, seen.append, 40.0).collect_if_due()

    another, elsewhere = f"{own}/1/0", "other/boot/namespace/1/0"
    assert owner.machine(another) == own
    assert run_store.acquire(f"collector of {own}", another, 10)
    assert run_store.acquire(f"collector of {owner.machine(elsewhere)}", elsewhere, 10)
    look()
    assert seen == []
    clock.seconds += 11  # a quarter of the 40 seconds of grace
    look()
    assert seen == ["collecting"]
    assert not run_store.acquire(f"collector of {own}", another, 10)


def test_a_finished_run_can_be_extended(new):
    run_store = new(1, total_steps=20)
    lease = train(run_store, run_store.claim("me"))
    train(run_store, lease, release=True, state="finished")
    assert run_store.claim("me") is None
    with pytest.raises(ValueError, match="cannot be taken back"):
        run_store.extend(10)
    run_store.extend(40)
    assert run_store.config.total_steps == 40
    assert store.Store.open(run_store.path).config == config(1, total_steps=40)
    assert run_store.claim("me").member.state == "active"
    assert run_store.events()[-1].kind == "extended"


def test_a_member_that_a_worker_finished_at_the_old_total_goes_on_to_the_new_one(new):
    old = new(1, total_steps=20)
    lease = train(old, old.claim("me"))
    with store.Store.open(old.path) as other_terminal:
        other_terminal.extend(40)
        train(old, lease, release=True, state="finished")  # our worker knows of 20 only
        assert [member.id for member in other_terminal.unfinished()] == [0]
        assert other_terminal.claim("another").member.agent_steps == 20
        with pytest.raises(ValueError, match="less than the run's 40"):
            old.extend(30)  # also through a store that was opened before


# Files that are no runs, or damaged ones.


def test_a_run_can_be_opened_by_its_directory(new):
    run_store = new()
    assert store.Store.open(run_store.path.parent).members() == run_store.members()


def test_another_schema_is_refused(new, databases):
    path = new().path
    databases.execute(path, "UPDATE run SET schema = 99")
    with pytest.raises(store.StoreError, match=r"newer code.*99.*update"):
        store.Store.open(path)
    databases.execute(path, "UPDATE run SET schema = 0")
    with pytest.raises(store.StoreError, match="older code"):
        store.Store.open(path)
    databases.execute(path, "UPDATE run SET schema = 1")
    databases.execute(path, "UPDATE run SET config = '{}'")
    with pytest.raises(store.StoreError, match="configuration that is not valid"):
        store.Store.open(path)
    databases.execute(path, "DELETE FROM run")
    with pytest.raises(store.NotARun):
        store.Store.open(path)


# Creation.


def test_what_is_there_is_never_replaced(tmp_path, new, databases):
    run_store = new()
    content = run_store.path.read_bytes()
    with pytest.raises(store.RunExists, match="exists already"):
        new()
    assert run_store.path.read_bytes() == content
    mine, dangling = (databases.file(tmp_path, name) for name in ("mine", "dangling"))
    mine.write_text("mine")
    dangling.symlink_to(tmp_path / "nowhere")
    for path in (mine, dangling):
        with pytest.raises(store.RunExists):
            databases.create(path, config(1), [Member(0, 0, 0, {"lr": 0.1})])
    assert mine.read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize(
    "members",
    [[], [(0, 0)], [(0, 0), (0, 0)], [(0, 0), (2, 0)], [(0, 0), (1, 1)]],
)
def test_the_first_population_must_be_complete(tmp_path, databases, members):
    first = [Member(i, version, 0, {"lr": 0.1}) for i, version in members]
    with pytest.raises(ValueError, match=r"ids 0 to 1|begins at version"):
        databases.create(databases.file(tmp_path), config(2), first)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_of_many_creators_exactly_one_wins(tmp_path, monkeypatch, databases, links):
    """And whoever looks meanwhile sees nothing or all of it."""
    if not links:

        def link(*_):
            raise PermissionError("no hard links on this file system")

        monkeypatch.setattr("os.link", link)
    trials = 5 if databases.is_sqlite else 1
    for trial in range(trials):
        path = databases.file(tmp_path, f"run-{trial}")
        outcomes, seen, half_made = [], [], []
        barrier = threading.Barrier(9)

        def create(number, path=path, barrier=barrier, outcomes=outcomes):
            settings = config(3, seed=number)
            members = [Member(i, 0, 0, {"lr": 0.1}) for i in range(3)]
            barrier.wait()
            try:
                outcomes.append(databases.create(path, settings, members, durable=False))
            except store.RunExists:
                outcomes.append(None)

        def look(path=path, barrier=barrier, seen=seen, half_made=half_made):
            barrier.wait()
            while not seen:
                try:
                    seen.append(len(store.Store.open(path).members()))
                except store.NotARun as error:
                    half_made.extend([] if "does not exist" in str(error) else [error])

        threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
        threads.append(threading.Thread(target=look))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        winners = [outcome for outcome in outcomes if outcome is not None]
        assert (len(outcomes), len(winners), seen, half_made) == (8, 1, [3], [])
        assert store.Store.open(path).config == winners[0].config
    assert len(list(tmp_path.iterdir())) == trials


def test_remains_of_killed_creators_are_removed_when_they_are_old(tmp_path, new, databases):
    path = databases.file(tmp_path)
    old, young = (tmp_path / f".{path.name}.creating-{name}" for name in ("old", "young"))
    old.write_bytes(b"")
    young.write_bytes(b"")
    os.utime(old, (0, 0))
    new()
    assert sorted(path.name for path in tmp_path.iterdir()) == [young.name, path.name]


def test_nothing_in_a_store_is_not_json(new):
    """Python's own "NaN" is not JSON: other readers would stop at it."""
    run_store = new()
    train_some(run_store, [2, 1])
    for table, column in (("member", "hyperparameters"), ("report", "episodes"), ("run", "config")):
        with run_store._database.transaction() as connection:
            texts = connection.exec_driver_sql(f"SELECT {column} FROM {table}").scalars().all()
        for text in texts:
            json.loads(text, parse_constant=pytest.fail)


def test_counts_have_64_bits(new):
    """A member of a long run takes more agent steps than 32 bits count."""
    steps = 3 * 10**9
    run_store = new(1, total_steps=2 * steps, report_interval=steps, ready_interval=steps)
    lease = train(run_store, run_store.claim("me"), steps=steps, counted_episodes=steps)
    assert run_store.member(0) == lease.member
    assert run_store.reports()[0][1].slice_steps == steps
    train(run_store, lease, release=True, steps=steps, state="finished")
    assert run_store.claim("me") is None


def test_tracebacks_may_hold_any_character(new):
    run_store = new(1)
    run_store.crash(run_store.claim("me"), "Traceback: \0 \ud800 ü 🙂")
    assert run_store.member(0).error == "Traceback: \\0 \\ud800 ü 🙂"
