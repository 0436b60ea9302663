"""What must hold after any fault: the promise, as a function."""

import dataclasses
import itertools
import json
import math
from pathlib import Path

from pbt import storage, store
from pbt.records import Lease


def check(run_store: store.Store, checkpoints: storage.Storage) -> None:
    """Assert I1 to I4 and I6 to I9 (I5: `repeated_steps`). Nobody may be at work on the run."""
    config = run_store.config
    members = run_store.members()
    versions = {(v.member, v.version): v for v in run_store.versions()}
    reports = [report for _, report in run_store.reports()]
    events = run_store.events()

    # I8: the population is whole, its hyperparameters are what they may be.
    assert [member.id for member in members] == list(range(config.population))
    for version in versions.values():
        config.space.validate(version.hyperparameters)
        assert all(type(value) is float for value in version.hyperparameters.values())
        assert version.score is None or math.isfinite(version.score)

    # I1, and the first half of I9: whatever is named is there and whole.
    names = {version.checkpoint: version for version in versions.values() if version.checkpoint}
    assert len(names) == sum(version.checkpoint is not None for version in versions.values())
    kept = run_store.referenced_checkpoints()
    assert {member.checkpoint for member in members if member.checkpoint} <= kept
    for name in kept:
        version = names[name]
        directory = checkpoints.open_verified(name, version.member, version.version)
        # I7: what was in force when the learner was saved is what the store says.
        state = directory / "state.json"
        if state.exists() and version.kind == "slice":
            assert json.loads(state.read_text())["rate"] == version.hyperparameters["rate"]

    # I2: versions by one, agent steps never back but in a restore; the member is its last version.
    for member in members:
        own = [version for version in versions.values() if version.member == member.id]
        assert [version.version for version in own] == list(range(member.version + 1))
        assert own[0].kind == "initial"
        for before, after in itertools.pairwise(own):
            if after.kind == "restore":
                assert after.agent_steps == versions[after.parent].agent_steps
            elif after.kind == "slice":
                assert after.agent_steps > before.agent_steps
            else:
                assert after.agent_steps == before.agent_steps
        for name in ("version", "agent_steps", "checkpoint", "hyperparameters"):
            assert getattr(member, name) == getattr(own[-1], name), name
        assert member.agent_steps <= config.total_steps
        assert (member.state == "finished") == (member.agent_steps == config.total_steps)

    # I3: a commit with an old fence changes nothing.
    for member in members:
        for stale in (
            Lease(member, member.owner or "nobody", member.fence - 1),
            Lease(member, "somebody else", member.fence),
        ):
            try:
                run_store.commit(stale, dataclasses.replace(member, window=()))
            except store.LostLease:
                continue
            raise AssertionError(f"a stale lease could commit member {member.id}")
    assert run_store.members() == members

    # I4: each slice has one report, nothing else has any; each return is counted once.
    slices = [key for key, version in versions.items() if version.kind == "slice"]
    assert sorted((report.member, report.version) for report in reports) == sorted(slices)
    for report in reports:
        before = versions[report.member, report.version - 1]
        assert report.agent_steps - before.agent_steps == report.slice_steps
        assert report.hyperparameters == before.hyperparameters
        ends = [episode.agent_steps for episode in report.episodes]
        assert all(before.agent_steps < end <= report.agent_steps for end in ends)
        assert ends == sorted(ends)

    # I6: who copies names whom, why, and what.
    dead: set[tuple[int, int]] = set()
    copies = 0
    for event in events:
        if event.kind in ("diverged", "failed"):
            dead.add((event.member, event.version))
        if event.kind == "revived":
            dead.discard((event.member, event.version))
        if event.kind not in ("exploit", "reseed"):
            continue
        copies += 1
        child = versions[event.member, event.version]
        donor = versions[event.details["donor"], event.details["donor_version"]]
        assert child.kind == event.kind
        assert child.parent == (donor.member, donor.version)
        assert donor.member != child.member
        assert donor.checkpoint is not None
        assert (donor.member, donor.version) not in dead
        copied = event.details["hyperparameters_after_copy"]
        if event.details["copy"] in ("both", "hyperparameters"):
            assert copied == donor.hyperparameters
        assert event.details["hyperparameters_after_explore"] == child.hyperparameters
        if event.kind == "exploit":
            assert len(event.details["own_returns"]) == config.window
            assert len(event.details["opponent_returns"]) == config.window
    assert copies == sum(v.kind in ("exploit", "reseed") for v in versions.values())
    assert sum(v.kind == "restore" for v in versions.values()) == sum(
        event.kind == "restored" for event in events
    )

    # The second half of I9: after one collection nothing is left that nobody names.
    checkpoints.collect(run_store.referenced_checkpoints, 0.0)
    left = {f"{path.parent.name}/{path.name}" for path in checkpoints.local.glob("*/*-*")}
    assert left == kept


def repeated_steps(run_store: store.Store, log: Path) -> int:
    """I5: steps that were trained (as the toy wrote down) and are in no report."""
    trained = sum(
        int(words[3])
        for words in map(str.split, log.read_text().splitlines())
        if words[2] == "steps"
    )
    return trained - sum(report.slice_steps for _, report in run_store.reports())
