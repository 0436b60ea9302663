import json

import numpy as np
import pytest

from pbt import lineage, records
from pbt.records import Event, Member, Report, Version
from pbt.task import Episode


def version(member, number, kind, steps, rate=1.0, parent=None, score=None):
    return Version(member, number, kind, steps, f"{member}/{number}", {"rate": rate}, parent, score)


# Member 0 trains on; member 1 loses to it at 20 steps and copies its version 3, which has 30.
HAND_MADE = [
    version(0, 0, "initial", 0, 0.1),
    version(0, 1, "slice", 10, 0.1, score=1.0),
    version(0, 2, "explore", 10, 0.2),
    version(0, 3, "slice", 30, 0.2, score=5.0),
    version(1, 0, "initial", 0, 0.7),
    version(1, 1, "slice", 20, 0.7, score=2.0),
    version(1, 2, "exploit", 20, 0.16, parent=(0, 3)),
    version(1, 3, "slice", 35, 0.16, score=6.0),
    version(1, 4, "slice", 40, 0.16, score=7.0),
    # The checkpoints of 4 and 3 are lost: back to the copy.
    version(1, 5, "restore", 20, 0.16, parent=(1, 2)),
    version(1, 6, "slice", 32, 0.16, score=6.5),
]


def test_a_lineage_follows_the_weights_through_donor_and_restore():
    steps = lineage.Tree(HAND_MADE).lineage(1)
    path = [(s.version.member, s.version.version, s.training) for s in steps]
    assert path == [
        (0, 0, 0),
        (0, 1, 10),
        (0, 2, 10),
        (0, 3, 30),
        (1, 2, 30),
        (1, 5, 30),
        (1, 6, 42),  # 30 of the donor's and 12 of its own
    ]
    cut = lineage.segments(steps)
    assert [(s.member, s.first_version, s.last_version, s.start, s.end) for s in cut] == [
        (0, 0, 3, 0, 30),
        (1, 2, 2, 30, 30),
        (1, 5, 6, 30, 42),
    ]
    assert [s.kind for s in cut] == ["initial", "exploit", "restore"]


def test_a_score_is_known_with_the_version_that_earned_it():
    tree = lineage.Tree(HAND_MADE)
    assert (tree.scores[0, 0], tree.earned[0, 0]) == (None, None)
    assert (tree.scores[0, 2], tree.earned[0, 2]) == (1.0, (0, 1))  # its own, before it explored
    assert (tree.scores[1, 2], tree.earned[1, 2]) == (5.0, (0, 3))  # its donor's
    assert (tree.scores[1, 5], tree.earned[1, 5]) == (5.0, (0, 3))
    assert (tree.scores[1, 6], tree.earned[1, 6]) == (6.5, (1, 6))


def test_a_schedule_has_a_row_per_change_and_one_at_the_end():
    rows = lineage.schedule(lineage.Tree(HAND_MADE).lineage(1, 4))
    assert [(r.agent_steps, r.hyperparameters["rate"], r.member, r.version) for r in rows] == [
        (0, 0.1, 0, 0),
        (10, 0.2, 0, 2),
        (30, 0.16, 1, 2),
        (50, 0.16, 1, 4),
    ]


def test_a_member_that_was_never_trained_has_a_schedule_of_one_row():
    rows = lineage.schedule(lineage.Tree(HAND_MADE[:1]).lineage(0))
    assert [(row.agent_steps, row.version) for row in rows] == [(0, 0)]


@pytest.mark.parametrize("copy", ["hyperparameters", "none"])
def test_without_copied_weights_a_lineage_stays_in_its_member(copy):
    steps = lineage.Tree(HAND_MADE, copy).lineage(1, 4)
    assert {step.version.member for step in steps} == {1}
    assert [step.training for step in steps] == [0, 20, 20, 35, 40]


def test_episodes_stand_on_the_lineage_s_own_axis():
    reports = [
        Report(0, 1, 10, 10, 1.0, {}, (Episode(4, 0.5, 4, True),), {}),
        Report(1, 1, 20, 20, 1.0, {}, (Episode(9, -9.0, 9, True),), {}),  # replaced
        Report(1, 3, 35, 15, 1.0, {}, (Episode(25, 2.5, 3, False), Episode(35, 3.5, 3, True)), {}),
    ]
    found = lineage.episodes(lineage.Tree(HAND_MADE).lineage(1, 4), reversed(reports))
    assert found == [
        Episode(4, 0.5, 4, True),
        Episode(35, 2.5, 3, False),
        Episode(45, 3.5, 3, True),
    ]


def test_a_fork_begins_with_the_training_it_took_over():
    tree = lineage.Tree([version(0, 0, "initial", 500), version(0, 1, "slice", 510)])
    assert tree.training[0, 1] == 510


def test_branches_are_the_edges_of_the_family_tree():
    branches = lineage.Tree(HAND_MADE).branches()
    shape = [(b.member, b.kind, b.keys[0][1], b.keys[-1][1], b.parent, b.alive) for b in branches]
    assert shape == [
        (0, "initial", 0, 3, None, True),
        (1, "initial", 0, 1, None, False),
        (1, "exploit", 2, 4, (0, 3), False),
        (1, "restore", 5, 6, (1, 2), True),
    ]
    assert [[c.keys[0] for c in b.children] for b in branches] == [[(1, 2)], [], [(1, 5)], []]


def random_history(seed, members=5, commits=200):
    """Versions, and for each of them what a member that writes down all it goes through knows."""
    rng = np.random.default_rng(seed)
    history = [version(m, 0, "initial", 0) for m in range(members)]
    # Each member's diary, carried along with its weights: (path so far, steps trained).
    diary = {(m, 0): ([(m, 0)], 0) for m in range(members)}
    newest = {m: history[m] for m in range(members)}
    for _ in range(commits):
        me = newest[int(rng.integers(members))]
        key = (me.member, me.version + 1)
        kind = str(
            rng.choice(["slice", "slice", "slice", "exploit", "reseed", "explore", "restore"])
        )
        source, steps, worked = (me.member, me.version), me.agent_steps, 0
        if kind == "slice":
            worked = int(rng.integers(1, 50))
            steps += worked
        elif kind in ("exploit", "reseed"):
            donor = newest[int((me.member + rng.integers(1, members)) % members)]
            source = (donor.member, donor.version)
        elif kind == "restore":
            if me.version == 0:
                continue
            source = (me.member, int(rng.integers(0, me.version)))
            steps = next(v.agent_steps for v in history if (v.member, v.version) == source)
        parent = source if kind in ("exploit", "reseed", "restore") else None
        made = version(*key, kind, steps, parent=parent)
        history.append(made)
        newest[me.member] = made
        path, trained = diary[source]
        diary[key] = ([*path, key], trained + worked)
    return history, diary


@pytest.mark.parametrize("seed", range(20))
def test_against_diaries_that_travel_with_the_weights(seed):
    history, diary = random_history(seed)
    shuffled = [history[i] for i in np.random.default_rng(seed).permutation(len(history))]
    tree = lineage.Tree(shuffled)
    for key, (path, trained) in diary.items():
        steps = tree.lineage(*key)
        assert [(s.version.member, s.version.version) for s in steps] == path
        assert steps[-1].training == trained == tree.training[key]
    # Every version is in exactly one branch, and each branch but the first draws hangs on another.
    branches = tree.branches()
    keys = [key for branch in branches for key in branch.keys]
    assert sorted(keys) == sorted(diary)
    children = [child.keys[0] for branch in branches for child in branch.children]
    assert sorted(children) == sorted(b.keys[0] for b in branches if b.parent is not None)
    assert sum(branch.alive for branch in branches) == 5


def test_long_lineages_need_no_deep_recursion():
    history = [version(0, 0, "initial", 0)]
    history += [version(0, n, "slice", n) for n in range(1, 20_000)]
    tree = lineage.Tree(reversed(history))
    assert len(tree.lineage(0)) == 20_000


def test_the_best_member_is_the_one_whose_present_weights_scored_best():
    tree = lineage.Tree(
        [
            version(0, 0, "initial", 0),
            version(0, 1, "slice", 10, score=3.0),
            version(1, 0, "initial", 0),
            version(1, 1, "slice", 10, score=9.0),
            version(
                1, 2, "reseed", 10, parent=(0, 1)
            ),  # it diverged: the 9 belongs to dead weights
            version(2, 0, "initial", 0),
        ]
    )
    members = [
        Member(0, 1, 10, {}, score=3.0),
        Member(1, 2, 10, {}, score=9.0),
        Member(2, 0, 0, {}),
    ]
    best = lineage.best_member(members, tree)
    assert best is not None
    assert best.id == 0
    assert lineage.best_member(members[2:], tree) is None


def test_a_broken_history_is_named():
    with pytest.raises(ValueError, match="version 2 of member 0 comes from version 7 of member 1"):
        lineage.Tree([version(0, 0, "initial", 0), version(0, 2, "exploit", 0, parent=(1, 7))])
    with pytest.raises(ValueError, match="its own descendant"):
        lineage.Tree(
            [
                version(0, 1, "exploit", 0, parent=(1, 1)),
                version(1, 1, "exploit", 0, parent=(0, 1)),
            ]
        )
    with pytest.raises(ValueError, match="no version 9 of member 0"):
        lineage.Tree(HAND_MADE).lineage(0, 9)


def test_an_event_record_is_json_with_everything_in_it():
    event = Event("exploit", 1, 2, 20, {"p": 0.01, "donor": 0}, 7, 1e9)
    record = json.loads(json.dumps(records.event_record(event), allow_nan=False))
    assert Event(**record) == event


def test_values_that_nothing_was_trained_with_are_not_in_the_schedule():
    tree = lineage.Tree(
        [
            version(0, 0, "initial", 0, 0.1),
            version(0, 1, "slice", 10, 0.1),
            version(0, 2, "explore", 10, 0.2),
            version(1, 0, "initial", 0, 0.5),
            version(1, 1, "exploit", 0, 0.3, parent=(0, 2)),
            version(1, 2, "slice", 5, 0.3),
        ]
    )
    rows = lineage.schedule(tree.lineage(1))
    assert [(row.agent_steps, row.hyperparameters["rate"]) for row in rows] == [
        (0, 0.1),
        (10, 0.3),
        (15, 0.3),
    ]
