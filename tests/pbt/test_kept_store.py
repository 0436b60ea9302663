"""A run that older code wrote: it is read, and goes on.

`schema-1-164d5a9.sqlite3` was made through the store of commit 164d5a9, whose schema is 1: four
members, truncation, `max_attempts` 2, 60 agent steps. Member 0 finished. Member 1 trained, was
compared without a copy, trained, copied member 0, and is held by a process that was killed. Member
2 diverged. Member 3 failed, and failed again while it was replaced: state "failed" with 3 attempts.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pbt import records, run, space, store
from pbt.records import Report, Version
from pbt.task import Episode

KEPT = Path(__file__).parent / "assets" / "schema-1-164d5a9.sqlite3"
KILLED = "host/boot/2/2"


@pytest.fixture
def kept(tmp_path):
    shutil.copy(KEPT, tmp_path / store.FILE_NAME)
    return store.Store.open(tmp_path, clock=lambda: 1_700_000_100.0)


def test_settings_are_read(kept):
    assert kept.config == run.RunConfig(
        task="learner:make_task",
        space=space.Space(
            {
                "learning_rate": space.LogUniform(1e-5, 1e-2),
                "unroll_length": space.IntUniform(5, 50),
            },
            adapt=("learning_rate",),
        ),
        population=4,
        total_steps=60,
        report_interval=10,
        ready_interval=20,
        window=2,
        min_episodes=2,
        max_attempts=2,
        lease_seconds=60,
        exploit="truncation",
        task_config={"env": "CartPole-v1", "sizes": [64, 64]},
    )


def test_members_are_read(kept):
    members = kept.members()
    assert [(m.state, m.version, m.agent_steps, m.score) for m in members] == [
        ("finished", 6, 60, 16.5),
        ("active", 4, 30, 16.5),
        ("diverged", 1, 10, 8.5),
        ("lost", 1, 10, 7.5),
    ]
    assert [m.checkpoint for m in members] == [
        "0/6-0000000000000006",
        "1/4-00000000000000aa",
        "2/1-0000000000000001",
        "3/1-0000000000000001",
    ]
    assert (members[0].window, members[0].counted_episodes) == ((16.0, 17.0), 12)
    assert members[1].parent == (0, 6)
    assert members[1].hyperparameters == {"learning_rate": 0.008, "unroll_length": 20.5}
    assert (members[1].owner, members[1].fence, members[1].attempts) == (KILLED, 9, 1)
    assert members[1].last_ready_steps == 30
    assert (members[3].attempts, members[3].error) == (3, "Traceback: crash 3")
    assert [member.id for member in kept.unfinished()] == [1, 2]
    assert kept.owners() == {KILLED}


def test_versions_are_read(kept):
    assert [(v.version, v.kind, v.agent_steps, v.score) for v in kept.versions(1)] == [
        (0, "initial", 0, None),
        (1, "slice", 10, 9.5),
        (2, "slice", 20, 8.5),
        (3, "slice", 30, 3.5),
        (4, "exploit", 30, None),
    ]
    copied = kept.version(1, 4)
    assert copied == Version(
        1, 4, "exploit", 30, "1/4-00000000000000aa", copied.hyperparameters, (0, 6), None,
        copied.created_s,
    )  # fmt: skip
    assert len(kept.versions()) == 16
    assert kept.referenced_checkpoints() == {
        "0/5-0000000000000005",
        "0/6-0000000000000006",
        "1/3-0000000000000003",
        "1/4-00000000000000aa",
        "2/1-0000000000000001",
        "3/1-0000000000000001",
    }


def test_reports_are_read(kept):
    reports = kept.reports()
    assert len(reports) == 11
    last_id, last = reports[-1]
    assert last == Report(
        member=1,
        version=3,
        agent_steps=30,
        slice_steps=10,
        seconds=0.25,
        hyperparameters={"learning_rate": 0.001, "unroll_length": 20.5},
        episodes=(Episode(25, 3.0, 5, True), Episode(26, 4.0, 5, True)),
        metrics={"loss": 0.5 / 3},
        created_s=last.created_s,
    )
    assert kept.reports(after_id=last_id) == []


def test_events_are_read(kept):
    assert [(event.id, event.kind, event.member) for event in kept.events()] == [
        (1, "no-exploit", 1),
        (2, "exploit", 1),
        (3, "explore", 1),
        (4, "diverged", 2),
        (5, "crashed", 3),
        (6, "crashed", 3),
        (7, "failed", 3),
        (8, "crashed", 3),
        (9, "crashed", 3),
        (10, "failed", 3),
    ]
    exploit = kept.events()[1]
    assert exploit.details["donor"] == 0
    assert records.event_record(exploit)["details"] == exploit.details
    assert [event.details["for_good"] for event in kept.events() if event.kind == "failed"] == [
        False,
        True,
    ]


def test_the_run_goes_on(kept):
    """A worker replaces member 2, takes member 1 over, and nobody claims member 3."""
    lease = kept.claim("me", dead_owners={KILLED})
    assert (lease.member.id, lease.member.state) == (2, "diverged")
    reseeded = replace(
        lease.member, version=2, checkpoint="2/2-x", parent=(0, 6), state="active", score=16.5
    )
    assert kept.commit(lease, reseeded, kind="reseed", release=True).member.state == "active"

    held = kept.claim("me", dead_owners={KILLED})
    assert held.member.id == 2  # it has the fewest steps
    lease = kept.claim("me", dead_owners={KILLED})
    assert (lease.member.id, lease.fence, lease.member.attempts) == (1, 10, 2)
    assert kept.events()[-1].details["from"] == KILLED
    assert kept.claim("me", dead_owners={KILLED}) is None

    trained = replace(lease.member, version=5, agent_steps=40, checkpoint="1/5-x")
    report = Report(1, 5, 40, 10, 0.5, trained.hyperparameters, (), {"loss": 0.1})
    committed = kept.commit(lease, trained, kind="slice", report=report, release=True).member
    assert (committed.version, committed.attempts, committed.owner) == (5, 0, None)
    assert [pair[1].version for pair in kept.reports(after_id=11)] == [5]
    assert kept.member(3).state == "lost"

    again = store.Store.open(kept.path)
    assert again.members() == kept.members()
    assert again.version(2, 2).parent == (0, 6)
