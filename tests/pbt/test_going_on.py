"""Which members may go on: the predicate, and that the store and its claims agree with it."""

import sqlite3
from dataclasses import replace
from typing import get_args

import pytest

from pbt import records, run, space, store
from pbt.records import Member

TOTAL, TRIES = 60, 2


def config(population, exploit):
    return run.RunConfig(
        task="learner:make",
        space=space.Space({"rate": space.Uniform(0, 1)}, adapt=("rate",)),
        population=population,
        total_steps=TOTAL,
        report_interval=10,
        ready_interval=10,
        exploit=exploit,
        max_attempts=TRIES,
    )


def member(number, state, steps):
    return Member(number, 0, steps, {"rate": 0.5}, checkpoint=f"{number}/0-x", state=state)


class Clock:
    """The database's clock, moved by hand."""

    def __init__(self):
        self.seconds = 1_000_000.0

    def __call__(self):
        return self.seconds


def create(tmp_path, exploit, *members, clock=None):
    settings = config(len(members), exploit)
    path = tmp_path / store.FILE_NAME
    return store.Store.create(path, settings, members, durable=False, clock=clock)


def expected(state, exploit, steps):
    """Read the truth table: who has steps left goes on, the dead only as copies."""
    table = {
        "active": True,
        "finished": True,  # the run was extended while its worker knew the old total
        "diverged": exploit != "none",
        "failed": exploit != "none",
        "lost": False,
    }
    return table[state] and steps < TOTAL


STATES = get_args(records.MemberState)


@pytest.mark.parametrize("exploit", get_args(run.Exploit))
@pytest.mark.parametrize("state", STATES)
def test_who_may_go_on(state, exploit):
    for steps in (0, TOTAL - 10, TOTAL):
        goes_on = records.may_go_on(member(0, state, steps), config(1, exploit))
        assert goes_on is expected(state, exploit, steps)


@pytest.mark.parametrize("donor", [True, False])
@pytest.mark.parametrize("steps", [TOTAL - 10, TOTAL])
@pytest.mark.parametrize("exploit", ["truncation", "none"])
@pytest.mark.parametrize("state", STATES)
def test_the_store_and_its_claims_agree(tmp_path, state, exploit, steps, donor):
    """Beside a finished member that may be copied, or a lost one that may not."""
    other = member(1, "finished" if donor else "lost", TOTAL)
    run_store = create(tmp_path, exploit, member(0, state, steps), other)
    goes_on = expected(state, exploit, steps) and (donor or state in ("active", "finished"))
    assert [found.id for found in run_store.unfinished()] == [0] * goes_on
    lease = run_store.claim("me")
    assert (lease is not None) is goes_on
    if goes_on:
        assert lease.member.id == 0
        assert run_store.claim("you") is None
        assert [found.id for found in run_store.unfinished()] == [0]


def test_the_dead_wait_for_a_donor_to_come(tmp_path):
    """An active member without a checkpoint is no donor yet, so the run goes on."""
    young = replace(member(1, "active", 0), checkpoint=None)
    run_store = create(tmp_path, "t-test", member(0, "diverged", 10), young)
    assert [found.id for found in run_store.unfinished()] == [0, 1]
    assert run_store.claim("me").member.id == 1
    assert run_store.claim("me") is None


def test_a_failed_member_that_fails_again_is_lost(tmp_path):
    """Until a new launcher gives it fresh attempts."""
    clock = Clock()
    members = member(0, "active", 10), member(1, "finished", TOTAL)
    run_store = create(tmp_path, "t-test", *members, clock=clock)
    states = []
    for attempt in range(2 * TRIES):
        lease = run_store.claim("me")
        states.append((lease.member.state, lease.member.attempts))
        last = attempt % TRIES == TRIES - 1
        assert run_store.crash(lease, f"Traceback: {attempt}") is last
        clock.seconds += 61
    assert states == [("active", 1), ("active", 2), ("failed", 1), ("failed", 2)]
    lost = run_store.member(0)
    assert (lost.state, lost.attempts, lost.owner, lost.error) == ("lost", 0, None, "Traceback: 3")
    failures = [event for event in run_store.events() if event.kind == "failed"]
    assert [event.details["for_good"] for event in failures] == [False, True]

    assert records.is_dead(lost)
    assert not records.is_donor(lost)
    assert run_store.unfinished() == []
    run_store.extend(2 * TOTAL)
    assert run_store.member(0) == lost
    assert [found.id for found in run_store.unfinished()] == [1]
    assert run_store.claim("me").member.id == 1
    assert run_store.claim("me") is None
    assert run_store.forgive({"me"}) == [0, 1]
    assert [found.id for found in run_store.unfinished()] == [0, 1]
    assert run_store.claim("me").member.id == 0


@pytest.mark.parametrize(
    ("attempts", "state"), [(0, "failed"), (TRIES, "failed"), (TRIES + 1, "lost")]
)
def test_an_old_row_is_read_as_lost(tmp_path, attempts, state):
    """Before the state had a name, it was written as failed with too many attempts."""
    run_store = create(tmp_path, "t-test", member(0, "failed", 10), member(1, "finished", TOTAL))
    with sqlite3.connect(run_store.path) as connection:
        connection.execute("UPDATE member SET attempts = ? WHERE id = 0", (attempts,))
    connection.close()
    found = run_store.member(0)
    assert (found.state, found.attempts) == (state, attempts)
    assert run_store.members()[0] == found
    assert records.may_go_on(found, run_store.config) is (state == "failed")
    assert bool(run_store.unfinished()) is (state == "failed")
    lease = run_store.claim("me")
    if state == "failed":  # and it does not look lost while it is held
        assert (lease.member.id, lease.member.state) == (0, "failed")
        assert run_store.member(0) == lease.member
    else:
        assert lease is None
        assert run_store.forgive() == [0]
        assert run_store.claim("me").member.state == "active"
