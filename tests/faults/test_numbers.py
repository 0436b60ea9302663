"""Divergence, and hyperparameters that must be in force."""

import json

import pytest

from pbt import verdict


@pytest.mark.parametrize("how", ["diverge_above", "nan_return_above"])
def test_a_diverged_member_is_replaced_by_a_live_one(how, toy_run):
    """D1, D2: the step is not applied, the last finite checkpoint stands, never a parent."""
    run = toy_run(task_config={how: 0.8}, population=6, seed=2)
    rates = [member.hyperparameters["rate"] for member in run.store.members()]
    assert 0 < sum(rate > 0.8 for rate in rates) < 6
    assert run.work().exit_code == 0
    run.assert_complete()
    diverged = run.events("diverged")
    assert diverged
    for event in diverged:
        assert event.details["hyperparameters"]["rate"] > 0.8
        assert "nan" in event.details["error"]
        following = run.store.version(event.member, event.version + 1)
        assert following.kind == "reseed"
        assert following.agent_steps == event.agent_steps
    # Finite numbers only, everywhere: json refuses the others.
    for event in run.store.events():
        json.dumps(dict(event.details), allow_nan=False)


def test_without_exploitation_a_diverged_member_stays_dead(toy_run):
    run = toy_run(task_config={"diverge_above": 0.8}, population=6, exploit="none", seed=2)
    doomed = [m.id for m in run.store.members() if m.hyperparameters["rate"] > 0.8]
    outcome = run.work()
    assert outcome.exit_code == verdict.EXIT_UNSPENT == 3
    assert {m.id for m in run.store.members() if m.state == "diverged"} == set(doomed)
    assert f"left {400 * len(doomed):,} steps unspent" in outcome.message
    assert f"finished: {6 - len(doomed)} of 6 members" in outcome.message
    assert not run.events("reseed", "exploit")
    run.check()


def test_when_all_diverged_the_run_stops_and_names_the_first(toy_run):
    """D3."""
    run = toy_run(task_config={"diverge_above": 0.0})
    said = []
    assert run.launch(2, say=said.append) == verdict.EXIT_DEAD == 1
    first = run.events("diverged")[0]
    [message] = [line for line in said if line.startswith("all 4 members diverged or failed")]
    assert f"the first was member {first.member}, diverged at 0 steps" in message
    assert f'"rate": {first.details["hyperparameters"]["rate"]}' in message
    assert len(run.events("diverged")) == 4
    # Saying it again costs no process.
    assert run.launch(2, say=said.append) == 1
    assert said[-1] == message
    run.check()


def test_a_member_that_crashes_whatever_it_copies_is_given_up(toy_run, tmp_path):
    """Else the run would never end."""
    fault = {"member": 3, "times": 100, "marks": str(tmp_path)}
    run = toy_run(max_attempts=2, task_config={"crash": fault}, lease_seconds=0.2)
    outcome = run.work()
    assert outcome.exit_code == verdict.EXIT_UNSPENT
    assert "left 400 steps unspent" in outcome.message
    assert "the same command tries those that failed again" in outcome.message
    assert "finished: 3 of 4 members" in outcome.message
    assert "the environment fell over" in outcome.message
    member = run.store.member(3)
    assert (member.state, member.agent_steps) == ("lost", 0)
    assert 1 <= len(run.events("reseed")) <= 2
    run.check()


def test_what_is_in_force_after_an_exploit_is_what_the_store_says(toy_run):
    """D8, I7: the donor's checkpoint brings the donor's rate back; it must not win."""
    run = toy_run(total_steps=1_000)
    assert run.work().exit_code == 0
    run.assert_complete()
    in_force: dict[str, list[float]] = {}
    for line in run.log.read_text().splitlines():
        _, member, what, *rest = line.split()
        if what == "train":
            in_force.setdefault(member, []).append(float(rest[0]))
    changed = 0
    for member in run.store.members():
        reports = [r for _, r in run.store.reports() if r.member == member.id]
        assert in_force[str(member.id)] == [r.hyperparameters["rate"] for r in reports]
        changed += len({r.hyperparameters["rate"] for r in reports}) - 1
    exploits = run.events("exploit")
    assert exploits
    assert changed >= len(exploits) - 4  # those at the very end trained no more
    for event in exploits:
        details = event.details
        assert details["hyperparameters_after_explore"] != details["hyperparameters_after_copy"]


def test_a_learner_that_ignores_its_hyperparameters_is_refused(toy_run):
    run = toy_run(task_config={"deaf": True}, lease_seconds=0.2)
    outcome = run.work()
    assert outcome.exit_code == verdict.EXIT_DEAD
    assert "but nan is in force" in outcome.message
    assert run.repeated_steps() == 0
